package llmtest

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestUnifiedLimits uses a subscription up: its five hours first, then its week.
func TestUnifiedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Anthropic(RPM(50), Unified(5*time.Hour, 1000), Unified(7*day, 1600)), InMemory(), WithOutputTokens(100, 0), WithLatency(Latency{}))
		start := time.Now()
		in := func(d time.Duration) string { return fmt.Sprint(start.Add(d).Unix()) }
		const prefix = "anthropic-ratelimit-unified-"
		ask := func(input int, status int, want ...string) {
			t.Helper()
			res, body := send(t, s, "/v1/messages", toClaude(input, ""))
			if res.StatusCode != status || status == 429 && !strings.Contains(body, `"type":"rate_limit_error","message":"This request would exceed your account's rate limit. Please try again later."`) {
				t.Errorf("%s: %s", res.Status, body)
			}
			for i := 0; i < len(want); i += 2 {
				want[i] = prefix + want[i]
			}
			wantHeaders(t, res.Header, want...)
			wantHeaders(t, res.Header, "anthropic-ratelimit-tokens-limit", "", "anthropic-ratelimit-requests-limit", "50")
		}
		ask(300, 200, "status", "allowed", "reset", in(5*time.Hour), "representative-claim", "five_hour",
			"5h-status", "allowed", "5h-utilization", "0.30", "5h-reset", in(5*time.Hour),
			"7d-status", "allowed", "7d-utilization", "0.18", "7d-reset", in(7*day))
		synctest.Wait() // the output is charged too: 400
		time.Sleep(time.Hour)
		ask(400, 200, "5h-utilization", "0.80", "status", "allowed")
		synctest.Wait()
		ask(200, 429, "status", "rejected", "reset", in(5*time.Hour), "representative-claim", "five_hour",
			"5h-status", "rejected", "5h-utilization", "0.90", "7d-status", "allowed", "7d-utilization", "0.56")
		time.Sleep(4 * time.Hour)
		ask(500, 200, "5h-utilization", "0.50", "7d-utilization", "0.87", "representative-claim", "seven_day", "reset", in(7*day))
		synctest.Wait()
		ask(200, 429, "status", "rejected", "representative-claim", "seven_day", "5h-status", "allowed", "7d-status", "rejected")
		if st := s.Stats(); st.Limits[1].Refused != 1 || st.Limits[2].Refused != 1 || st.Limits[1].Limit.String() != "unified per 5h0m0s" {
			t.Errorf("stats %+v", st)
		}
	})
}

// TestUnifiedRetryAfter says when the window ends, unless it is told not to.
func TestUnifiedRetryAfter(t *testing.T) {
	for want, opts := range map[string][]Option{"14400": nil, "": {WithoutRetryAfter()}} {
		synctest.Test(t, func(t *testing.T) {
			s := NewServer(t, Anthropic(Unified(5*time.Hour, 100)), append(opts, InMemory(), WithLatency(Latency{}))...)
			send(t, s, "/v1/messages", toClaude(90, ""))
			time.Sleep(time.Hour)
			res, _ := send(t, s, "/v1/messages", toClaude(20, ""))
			wantHeaders(t, res.Header, "retry-after", want, "anthropic-ratelimit-unified-5h-reset", fmt.Sprint(time.Now().Add(4*time.Hour).Unix()))
		})
	}
}

func TestUnifiedWindows(t *testing.T) {
	for d, want := range map[time.Duration]string{5 * time.Hour: "5h five_hour", 7 * day: "7d seven_day", day: "1d 1d", time.Hour: "1h 1h", 90 * time.Second: "1m30s 1m30s"} {
		if got := unifiedWindow(d) + " " + unifiedClaim(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}

package llmtest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// statuses sends n requests one after the other.
func statuses(t *testing.T, s *Server, n int) (ok, refused int) {
	t.Helper()
	for range n {
		switch res, body := post(t, s, chat(1, 1)); res.StatusCode {
		case 200:
			ok++
		case 429:
			refused++
		default:
			t.Fatalf("%s: %s", res.Status, body)
		}
	}
	return ok, refused
}

func TestLimitsChangeWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, OpenAI(RPM(100), TPM(1000)), InMemory(), WithStrategy(SlidingWindow), WithRefusedFree(), WithLatency(Latency{}))
		statuses(t, s, 30)
		time.Sleep(10 * time.Second)

		// Lowered below what is used: nothing more until that has left the window.
		if err := s.SetLimits(RPM(20), TPM(1000)); err != nil {
			t.Fatal(err)
		}
		if ok, refused := statuses(t, s, 5); ok != 0 || refused != 5 {
			t.Errorf("lowered: %d accepted, %d refused", ok, refused)
		}
		res, _ := post(t, s, chat(1, 1))
		wantHeaders(t, res.Header, "x-ratelimit-limit-requests", "20", "x-ratelimit-remaining-requests", "0", "x-ratelimit-remaining-tokens", "940", "retry-after", "50")
		time.Sleep(50 * time.Second)
		if ok, refused := statuses(t, s, 25); ok != 20 || refused != 5 {
			t.Errorf("a minute later: %d accepted, %d refused", ok, refused)
		}
		// Raised: what is used stays used.
		if err := s.SetLimits(RPM(50), TPM(1000)); err != nil {
			t.Fatal(err)
		}
		if ok, refused := statuses(t, s, 35); ok != 30 || refused != 5 {
			t.Errorf("raised: %d accepted, %d refused", ok, refused)
		}
		// A limit of a new kind counts what was charged before.
		if err := s.SetLimits(ITPM(60)); err != nil {
			t.Fatal(err)
		}
		if ok, refused := statuses(t, s, 15); ok != 10 || refused != 5 {
			t.Errorf("input tokens: %d accepted, %d refused", ok, refused)
		}

		for _, bad := range []Limit{RPM(0), TPM(1).By("x"), RPM(1).Daily(nil).Per(time.Hour)} {
			if err := s.SetLimits(RPM(1), bad); err == nil || !strings.HasPrefix(err.Error(), "llmtest: ") {
				t.Errorf("%v: error %v", bad, err)
			}
		}
		var got strings.Builder
		for _, l := range s.Stats().Limits {
			until := "now"
			if !l.Until.IsZero() {
				until = l.Until.Format("04:05")
			}
			_, _ = got.WriteString(l.Limit.String() + " " + l.Since.Format("04:05") + " to " + until + "\n")
		}
		const want = "input tokens per min (ITPM) 01:00 to now\nrequests per min (RPM) 00:00 to 00:10\nrequests per min (RPM) 00:10 to 01:00\nrequests per min (RPM) 01:00 to 01:00\ntokens per min (TPM) 00:00 to 01:00\n"
		if got.String() != want {
			t.Errorf("limits\n%swant\n%s", got.String(), want)
		}
		if st := s.Stats(); st.Limits[1].Peak != 30 || st.Limits[2].Peak != 20 || st.Limits[2].Refused != 11 || st.Limits[3].Peak != 30 || st.Limits[4].Peak != 100 {
			t.Errorf("stats %+v", st.Limits)
		}
	})
}

// TestConcurrencyChangesWhileItRuns lowers the limit below what runs.
func TestConcurrencyChangesWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, OpenAI(Concurrent(5)), InMemory(), WithLatency(Latency{FirstToken: time.Second}))
		statuses(t, s, 4) // no longer in progress
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { post(t, s, chat(1, 1)) })
		}
		synctest.Wait()
		if err := s.SetLimits(Concurrent(2)); err != nil {
			t.Fatal(err)
		}
		if _, refused := statuses(t, s, 1); refused != 1 {
			t.Error("accepted although three of two run")
		}
		if err := s.SetLimits(Concurrent(4)); err != nil {
			t.Fatal(err)
		}
		if ok, _ := statuses(t, s, 1); ok != 1 {
			t.Error("refused although three of four run")
		}
		wg.Wait()
		if ok, _ := statuses(t, s, 1); ok != 1 {
			t.Error("refused although none runs")
		}
	})
}

// TestLoadSlowsDownAndThenTurnsAway sends more and more requests at once.
func TestLoadSlowsDownAndThenTurnsAway(t *testing.T) {
	for _, tt := range []struct {
		provider   Provider
		path, body string
		status     int
	}{
		{OpenAI(RPM(1000)), "/v1/chat/completions", chat(1, 0), 503},
		{Anthropic(RPM(1000)), "/v1/messages", toClaude(1, ""), 529},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := NewServer(t, tt.provider, InMemory(), WithOutputTokens(3, 0), // a second each
				WithLatency(Latency{FirstToken: 500 * time.Millisecond, PerToken: 250 * time.Millisecond}), WithLoad(Load{Knee: 2, Capacity: 6}))
			var wg sync.WaitGroup
			start := time.Now()
			for i := range 8 {
				wg.Go(func() {
					res, body := send(t, s, tt.path, tt.body)
					want := max(time.Second, time.Duration(i+1)*time.Second/2)
					if i < 6 && (res.StatusCode != 200 || time.Since(start) != want) {
						t.Errorf("request %d: %s after %v, want it after %v", i, res.Status, time.Since(start), want)
					}
					if i >= 6 && (res.StatusCode != tt.status || !strings.Contains(body, "verloaded")) {
						t.Errorf("request %d: %s %s", i, res.Status, body)
					}
				})
				synctest.Wait()
			}
			wg.Wait()
			if st := s.Stats(); st.Overloaded != 2 || st.Accepted != 6 || st.Refused != 0 || st.PeakConcurrent != 6 {
				t.Errorf("stats %+v", st)
			}
			if a := s.Arrivals()[7]; a.Verdict != Overloaded {
				t.Errorf("arrival %+v", a)
			}
		})
	}
}

// TestReserveAndSettle charges as Bedrock does: max_tokens at first, then what
// was produced, five times.
func TestReserveAndSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, OpenAI(TPM(1000).By(SlidingWindow)), InMemory(), WithBurndown(5), WithOutputTokens(10, 0), WithLatency(Latency{FirstToken: time.Second}))
		go post(t, s, chat(100, 800))
		synctest.Wait()
		if res, _ := post(t, s, chat(1, 100)); res.StatusCode != 429 {
			t.Errorf("%s although 900 of 1,000 are reserved", res.Status)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		res, _ := post(t, s, chat(1, 100))
		wantHeaders(t, res.Header, "x-ratelimit-remaining-tokens", "749") // 1,000 − (100 + 5·10) − 101
		if st := s.Stats(); st.TokensCharged != 150+51 {
			t.Errorf("%d tokens charged, want 150 and 51", st.TokensCharged)
		}
	})
}

// TestSettlesAcrossNewLimits reserves under one limit and settles under another.
func TestSettlesAcrossNewLimits(t *testing.T) {
	for _, strategy := range []Strategy{SlidingWindow, FixedWindow, Daily} {
		synctest.Test(t, func(t *testing.T) {
			s := NewServer(t, OpenAI(TPM(1000)), InMemory(), WithBurndown(1), WithOutputTokens(10, 0), WithLatency(Latency{FirstToken: time.Second}))
			go post(t, s, chat(100, 800))
			time.Sleep(time.Second / 2)
			if err := s.SetLimits(TPD(2000).By(strategy)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			res, _ := post(t, s, chat(1, 100))
			wantHeaders(t, res.Header, "x-ratelimit-limit-tokens", "2000", "x-ratelimit-remaining-tokens", "1789") // 2,000 − 110 − 101
		})
	}
}

// TestCachedInputIsReserved and given back, where the whole input is reserved.
func TestCachedInputIsReserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Anthropic(ITPM(10_000).By(SlidingWindow)), InMemory(), WithBurndown(1), WithLatency(Latency{}))
		prompt := fmt.Sprintf(`{"model":"m","max_tokens":9,"system":[{"type":"text","text":%q,"cache_control":{}}],"messages":[{"role":"user","content":"word"}]}`, strings.Repeat("word", 3000))
		const left = "anthropic-ratelimit-input-tokens-remaining"
		for _, want := range []string{"7000", "4000", "4000"} { // 3,001, then 1 and 3,001, then 2 and 3,001 in use
			res, _ := send(t, s, "/v1/messages", prompt)
			wantHeaders(t, res.Header, left, want)
		}
		if charged := s.Stats().Limits[0].Peak; charged != 3003 {
			t.Errorf("%d input tokens charged in the end, want 3,001, 1 and 1", charged)
		}
	})
}

func TestFailuresMayBeFree(t *testing.T) {
	for _, free := range []bool{false, true} {
		opts := []Option{InMemory(), WithStrategy(SlidingWindow), WithFaultScript(Fault{Status: 500})}
		if free {
			opts = append(opts, WithFailedFree())
		}
		s := NewServer(t, OpenAI(RPM(2), TPM(1000)), opts...)
		post(t, s, chat(50, 50))
		res, _ := post(t, s, chat(50, 50))
		want := []string{"x-ratelimit-remaining-requests", "0", "x-ratelimit-remaining-tokens", "800"}
		charged := int64(200)
		if free {
			want[1], want[3], charged = "1", "900", 100
		}
		wantHeaders(t, res.Header, want...)
		if st := s.Stats(); st.TokensCharged != charged || st.TokensWasted != charged-100 {
			t.Errorf("failures free: %v, stats %+v", free, st)
		}
	}
}

func TestTimeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, OpenAI(RPM(2).By(FixedWindow)), InMemory(), WithOutputTokens(5, 0), WithLatency(Latency{FirstToken: 1500 * time.Millisecond}),
			WithFaultScript(Fault{}, Fault{Status: 503}))
		go post(t, s, chat(10, 0))
		synctest.Wait()
		post(t, s, chat(3, 20))
		post(t, s, chat(3, 20))
		time.Sleep(time.Hour)
		post(t, s, chat(1, 0))
		for _, tt := range []struct {
			step time.Duration
			want string
		}{
			{time.Second, `
    from  arrived  accepted  refused  overloaded  failed  canceled  tokens charged  then running
      0s        3         2        1           0       1         0              33             1
      1s        0         0        0           0       0         0               0             0
  1h0m0s        1         1        0           0       0         0               1             1
  1h0m1s        0         0        0           0       0         0               0             0
`},
			{0, `
    time        model  input  output  charged  took    verdict                     why
      0s  gpt-4o-mini     10       5       10  1.5s  completed                        
      0s  gpt-4o-mini      3       0       23    0s     failed              status 503
      0s  gpt-4o-mini      3       0        0    0s    refused  requests per min (RPM)
  1h0m0s  gpt-4o-mini      1       5        1  1.5s  completed                        
`},
		} {
			var got strings.Builder
			if err := s.WriteTimeline(&got, tt.step); err != nil {
				t.Fatal(err)
			}
			if "\n"+got.String() != tt.want {
				t.Errorf("got\n%s\nwant%s", got.String(), tt.want)
			}
		}
		if err := s.WriteTimeline(broken{}, time.Second); !errors.Is(err, errBroken) {
			t.Errorf("error %v", err)
		}
	})
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errBroken }

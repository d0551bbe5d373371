package llmhttp_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// now is when the answers of these tests arrive.
var now = time.Date(2025, 8, 21, 12, 40, 30, 0, time.UTC)

// header makes headers of lines "Name: value".
func header(lines string) http.Header {
	h := http.Header{}
	for line := range strings.Lines(lines) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
		}
	}
	return h
}

const day = 24 * time.Hour

func lim(kind llmqueue.LimitKind, period time.Duration, amount, remaining int64, reset time.Duration) llmqueue.ObservedLimit {
	return llmqueue.ObservedLimit{Kind: kind, Period: period, Amount: amount, Remaining: remaining, Reset: reset}
}

func TestParseLimits(t *testing.T) {
	for _, c := range []struct {
		name, headers string
		want          []llmqueue.ObservedLimit
	}{
		{"no headers", ``, nil},
		{"openai", `
			x-ratelimit-limit-requests: 500
			x-ratelimit-remaining-requests: 499
			x-ratelimit-reset-requests: 120ms
			x-ratelimit-limit-tokens: 10000
			x-ratelimit-remaining-tokens: 9481
			x-ratelimit-reset-tokens: 3.114s`,
			[]llmqueue.ObservedLimit{
				lim(llmqueue.KindRPM, time.Minute, 500, 499, 120*time.Millisecond),
				lim(llmqueue.KindTPM, time.Minute, 10_000, 9_481, 3114*time.Millisecond),
			}},
		{"openai, requests per day that still may be per minute", `
			x-ratelimit-limit-requests: 10000
			x-ratelimit-remaining-requests: 9999
			x-ratelimit-reset-requests: 8.64s`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindRPM, 0, 10_000, 9_999, 8640*time.Millisecond)}},
		{"openai, requests per day", `
			x-ratelimit-limit-requests: 10000
			x-ratelimit-remaining-requests: 9990
			x-ratelimit-reset-requests: 1m26.4s`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindRPD, day, 10_000, 9_990, 86400*time.Millisecond)}},
		{"openai, a smaller project limit", `
			x-ratelimit-limit-tokens: 200000
			x-ratelimit-remaining-tokens: 5000
			x-ratelimit-reset-tokens: 58.5s
			x-ratelimit-limit-project-tokens: 100000
			x-ratelimit-remaining-project-tokens: 90000
			x-ratelimit-reset-project-tokens: 6s`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindTPM, time.Minute, 100_000, 5_000, 58500*time.Millisecond)}},
		{"openai, a project limit that is nearly used up", `
			x-ratelimit-limit-tokens: 200000
			x-ratelimit-remaining-tokens: 150000
			x-ratelimit-reset-tokens: 15s
			x-ratelimit-limit-project-tokens: 100000
			x-ratelimit-remaining-project-tokens: 1000
			x-ratelimit-reset-project-tokens: 59.4s`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindTPM, time.Minute, 100_000, 1_000, 59400*time.Millisecond)}},
		{"nothing used tells no period", `
			x-ratelimit-limit-requests: 500
			x-ratelimit-remaining-requests: 500
			x-ratelimit-reset-requests: 0s`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindRPM, 0, 500, 500, 0)}},
		{"all used, and little time left, tells no period", `
			x-ratelimit-limit-requests: 500
			x-ratelimit-remaining-requests: 0
			x-ratelimit-reset-requests: 10s`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindRPM, 0, 500, 0, 10*time.Second)}},
		{"a minute counted from minute to minute is no hour", `
			x-ratelimit-limit-requests: 500
			x-ratelimit-remaining-requests: 499
			x-ratelimit-reset-requests: 7s`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindRPM, 0, 500, 499, 7*time.Second)}},
		{"openai, a reset that was rounded", `
			x-ratelimit-limit-requests: 9000
			x-ratelimit-remaining-requests: 8999
			x-ratelimit-reset-requests: 7ms`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindRPM, time.Minute, 9_000, 8_999, 7*time.Millisecond)}},
		{"a date is too coarse to tell a period", `
			x-ratelimit-limit-requests: 100
			x-ratelimit-remaining-requests: 99
			x-ratelimit-reset-requests: 2025-08-21T12:41:06Z`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindRPM, 0, 100, 99, 36*time.Second)}},
		{"azure, bare integers", `
			x-ratelimit-limit-requests: 20
			x-ratelimit-remaining-requests: 19
			x-ratelimit-reset-requests: 10
			x-ratelimit-limit-tokens: 20000
			x-ratelimit-remaining-tokens: 18000`,
			[]llmqueue.ObservedLimit{
				lim(llmqueue.KindRPM, 0, 20, 19, 10*time.Second),
				lim(llmqueue.KindTPM, 0, 20_000, 18_000, 0),
			}},
		{"azure, perhaps by ten seconds", `
			x-ratelimit-limit-requests: 20
			x-ratelimit-remaining-requests: 10
			x-ratelimit-reset-requests: 5`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindRPM, 0, 20, 10, 5*time.Second)}},
		{"azure, unknown", `
			x-ratelimit-limit-requests: -1
			x-ratelimit-remaining-requests: -1
			x-ratelimit-reset-requests: 0`, nil},
		{"remaining unknown", `
			x-ratelimit-limit-tokens: 1000
			x-ratelimit-remaining-tokens: -1`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindTPM, 0, 1_000, -1, 0)}},
		{"nonsense", `
			x-ratelimit-limit-requests: 0
			x-ratelimit-limit-tokens: 9223372036854775807
			x-ratelimit-limit-project-tokens: many`, nil},
		{"more left than there is", `
			x-ratelimit-limit-requests: 10
			x-ratelimit-remaining-requests: 15
			x-ratelimit-reset-requests: -3s`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindRPM, 0, 10, 10, 0)}},
		{"anthropic", `
			anthropic-ratelimit-requests-limit: 4000
			anthropic-ratelimit-requests-remaining: 3999
			anthropic-ratelimit-requests-reset: 2025-08-21T12:40:31Z
			anthropic-ratelimit-input-tokens-limit: 80000
			anthropic-ratelimit-input-tokens-remaining: 40000
			anthropic-ratelimit-input-tokens-reset: 2025-08-21T12:41:00Z
			anthropic-ratelimit-output-tokens-limit: 16000
			anthropic-ratelimit-output-tokens-remaining: 16000
			anthropic-ratelimit-output-tokens-reset: 2025-08-21T12:40:30Z
			anthropic-ratelimit-tokens-limit: 96000
			anthropic-ratelimit-tokens-remaining: 56000
			anthropic-ratelimit-tokens-reset: 2025-08-21T12:41:00Z
			anthropic-priority-input-tokens-limit: 5
			anthropic-fast-input-tokens-limit: 5`,
			[]llmqueue.ObservedLimit{
				lim(llmqueue.KindRPM, time.Minute, 4_000, 3_999, time.Second),
				lim(llmqueue.KindITPM, time.Minute, 80_000, 40_000, 30*time.Second),
				lim(llmqueue.KindOTPM, time.Minute, 16_000, 16_000, 0),
			}},
		{"anthropic, tokens repeats the input limit", `
			anthropic-ratelimit-input-tokens-limit: 80000
			anthropic-ratelimit-output-tokens-limit: 16000
			anthropic-ratelimit-tokens-limit: 80000`,
			[]llmqueue.ObservedLimit{
				lim(llmqueue.KindITPM, time.Minute, 80_000, -1, 0),
				lim(llmqueue.KindOTPM, time.Minute, 16_000, -1, 0),
			}},
		{"anthropic, tokens alone", `
			anthropic-ratelimit-tokens-limit: 80000`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindTPM, time.Minute, 80_000, -1, 0)}},
		{"anthropic, a workspace's limit", `
			anthropic-ratelimit-input-tokens-limit: 80000
			anthropic-ratelimit-output-tokens-limit: 16000
			anthropic-ratelimit-tokens-limit: 50000
			anthropic-ratelimit-tokens-remaining: 49000`,
			[]llmqueue.ObservedLimit{
				lim(llmqueue.KindITPM, time.Minute, 80_000, -1, 0),
				lim(llmqueue.KindOTPM, time.Minute, 16_000, -1, 0),
				lim(llmqueue.KindTPM, time.Minute, 50_000, 49_000, 0),
			}},
		{"a clock that is an hour off", `
			date: Thu, 21 Aug 2025 11:40:30 GMT
			anthropic-ratelimit-requests-limit: 50
			anthropic-ratelimit-requests-remaining: 0
			anthropic-ratelimit-requests-reset: 2025-08-21T11:41:30Z`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindRPM, time.Minute, 50, 0, time.Minute)}},
		{"groq, requests per day", `
			x-ratelimit-limit-requests: 14400
			x-ratelimit-remaining-requests: 14370
			x-ratelimit-reset-requests: 2m59.56s
			x-ratelimit-limit-tokens: 18000
			x-ratelimit-remaining-tokens: 15702
			x-ratelimit-reset-tokens: 7.66s`,
			[]llmqueue.ObservedLimit{
				lim(llmqueue.KindTPM, time.Minute, 18_000, 15_702, 7660*time.Millisecond),
				lim(llmqueue.KindRPD, day, 14_400, 14_370, 179560*time.Millisecond),
			}},
		{"mistral", `
			x-ratelimit-limit-req-minute: 60, 60;w=60
			x-ratelimit-remaining-req-minute: 59
			x-ratelimit-limit-tokens-minute: 500000
			x-ratelimit-remaining-tokens-minute: 499000
			x-ratelimit-tokens-query-cost: 1000`,
			[]llmqueue.ObservedLimit{
				lim(llmqueue.KindRPM, time.Minute, 60, 59, 0),
				lim(llmqueue.KindTPM, time.Minute, 500_000, 499_000, 0),
			}},
		{"together, the dynamic limit binds", `
			x-ratelimit-limit: 10
			x-ratelimit-remaining: 9
			x-ratelimit-reset: 1
			x-tokenlimit-limit: 3000
			x-tokenlimit-remaining: 2900
			x-ratelimit-limit-dynamic: 5
			x-ratelimit-remaining-dynamic: 4`,
			[]llmqueue.ObservedLimit{
				lim(llmqueue.KindRPM, time.Second, 5, 4, 0),
				lim(llmqueue.KindTPM, time.Second, 3_000, 2_900, 0),
			}},
		{"openrouter, per minute", `
			X-RateLimit-Limit: 20
			X-RateLimit-Remaining: 0
			X-RateLimit-Reset: 1755780060000`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindRPM, time.Minute, 20, 0, 30*time.Second)}},
		{"openrouter, per day", `
			X-RateLimit-Limit: 50
			X-RateLimit-Remaining: 0
			X-RateLimit-Reset: 1755820800000`,
			[]llmqueue.ObservedLimit{lim(llmqueue.KindRPD, day, 50, 0, 11*time.Hour+19*time.Minute+30*time.Second)}},
		{"openrouter, some other date", `
			X-RateLimit-Limit: 50
			X-RateLimit-Remaining: 0
			X-RateLimit-Reset: 1755790000000`, nil},
		{"openrouter, a date in the past", `
			X-RateLimit-Limit: 50
			X-RateLimit-Remaining: 0
			X-RateLimit-Reset: 1755700000000`, nil},
		{"bare names that reveal no period", `
			X-RateLimit-Limit: 5000
			X-RateLimit-Remaining: 4000
			X-RateLimit-Reset: 17`, nil},
		{"cohere, trial key", `
			x-trial-endpoint-call-limit: 20
			x-trial-endpoint-call-remaining: 19
			x-endpoint-monthly-call-limit: 1000`,
			[]llmqueue.ObservedLimit{
				lim(llmqueue.KindRPM, time.Minute, 20, 19, 0),
				lim(llmqueue.KindRPM, 31*day, 1_000, -1, 0),
			}},
		{"ietf draft", `
			RateLimit-Policy: "burst";q=100;w=60,"daily";q=1000;w=86400
			RateLimit-Policy: "daily tokens, all";q=5000;w=86400, "bytes";q=9;w=1;qu="content-bytes", "none";w=60, "open";q=5
			RateLimit: "burst";r=50;t=30, "daily";r=999`,
			[]llmqueue.ObservedLimit{
				lim(llmqueue.KindRPM, time.Minute, 100, 50, 30*time.Second),
				lim(llmqueue.KindRPD, day, 1_000, 999, 0),
				lim(llmqueue.KindTPD, day, 5_000, -1, 0),
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.want, llmhttp.ParseLimits(header(c.headers), now))
		})
	}
}

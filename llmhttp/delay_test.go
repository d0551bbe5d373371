package llmhttp_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/llmqueue/llmqueue/llmhttp"
)

func TestParseDelay(t *testing.T) {
	const ms = time.Millisecond
	message := func(s string) string { return `{"error":{"message":"` + s + `"}}` }
	const retryInfo = `{"error":{"code":429,"message":"Please retry in 9s.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.Help"},` +
		`{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"38.2s"}]}}`
	for _, c := range []struct {
		name, headers, body string
		want                time.Duration
	}{
		{"nothing", "", "", 0},
		{"seconds", "Retry-After: 20", "", 20 * time.Second},
		{"a fraction", "Retry-After: 1.5", "", 1500 * ms},
		{"a duration", "Retry-After: 1m3.5s", "", 63500 * ms},
		{"a date", "Retry-After: Thu, 21 Aug 2025 12:41:00 GMT", "", 30 * time.Second},
		{"a date by RFC 3339", "Retry-After: 2025-08-21T12:41:00Z", "", 30 * time.Second},
		{"a date, seen from a clock that is an hour off", "Date: Thu, 21 Aug 2025 11:40:30 GMT\nRetry-After: Thu, 21 Aug 2025 11:40:37 GMT", "", 7 * time.Second},
		{"seconds since 1970", "Retry-After: 1755780060", "", 30 * time.Second},
		{"milliseconds", "retry-after-ms: 2000", "", 2 * time.Second},
		{"a fraction of a millisecond", "retry-after-ms: 0.5", "", ms / 2},
		{"31 days", "Retry-After: 2678400", "", 31 * day},

		{"milliseconds come first", "retry-after-ms: 2000\nRetry-After: 3", "", 2 * time.Second},
		{"the header before the body", "Retry-After: 3", retryInfo, 3 * time.Second},
		{"RetryInfo before text", "", retryInfo, 38200 * ms},
		{"text before resets", exhaustedRequests, message("Please try again in 5s."), 5 * time.Second},
		{"resets at last", exhaustedRequests, message("Please slow down."), 12 * time.Second},
		{"not the reset of a limit that has room", "x-ratelimit-limit-tokens: 10\nx-ratelimit-remaining-tokens: 5\nx-ratelimit-reset-tokens: 30s", "", 0},
		{"Together's suggestion", "x-ratelimit-limit: 10\nx-ratelimit-remaining: 5\nx-ratelimit-reset: 2", "", 2 * time.Second},

		{"OpenAI's text", "", message("Rate limit reached for gpt-4o. Limit 3, Used 3, Requested 1. Please try again in 1m3.5s. Visit https://x."), 63500 * ms},
		{"milliseconds in text", "", message("Please try again in 6ms."), 6 * ms},
		{"minutes in text", "", message("Please try again in 6m0s."), 6 * time.Minute},
		{"Azure's text", "", message("Please retry after 26 seconds. To raise the quota, see…"), 26 * time.Second},
		{"Gemini's text", "", message("Please retry in 54.4s."), 54400 * ms},
		{"words in text", "", message("You may TRY AGAIN in 1 hour 2 minutes and not before"), 62 * time.Minute},
		{"plain text", "", "slow down, try again in 2s", 2 * time.Second},
		{"no unit", "", message("Try again in 5"), 0},
		{"no such unit", "", message("Try again in 5 parsecs"), 0},
		{"text of later", "", message("try again later"), 0},

		{"zero", "Retry-After: 0", "", 0},
		{"negative", "Retry-After: -5\nretry-after-ms: -5", "", 0},
		{"over 31 days", "Retry-After: 2678401", "", 0},
		{"absurd", "Retry-After: 99999999999999999999999", "", 0},
		{"no number", "Retry-After: NaN\nretry-after-ms: 0x10", "", 0},
		{"a date in the past", "Retry-After: Thu, 21 Aug 2025 12:40:00 GMT", "", 0},
		{"absurd text", "", message("try again in 99999999999999999999 days"), 0},
		{"absurd RetryInfo", "", `{"error":{"details":[{"retryDelay":"99999999s"}]}}`, 0},
		{"what makes no sense does not hide what does", "retry-after-ms: soon\nRetry-After: 7", "", 7 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.want, llmhttp.ParseDelay(header(c.headers), []byte(c.body), now))
		})
	}
}

const exhaustedRequests = "x-ratelimit-limit-requests: 5\nx-ratelimit-remaining-requests: 0\nx-ratelimit-reset-requests: 12s"

package llmhttp_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

const (
	rateLimited = llmqueue.OutcomeRateLimited
	slowDown    = llmqueue.OutcomeSlowDown
	overloaded  = llmqueue.OutcomeOverloaded
	exhausted   = llmqueue.OutcomeQuotaExhausted
	retryable   = llmqueue.OutcomeRetryable
	elsewhere   = llmqueue.OutcomeElsewhere
	fatal       = llmqueue.OutcomeFatal
)

// Bodies as the providers' documentation and users' reports show them.
const (
	openAIRateLimit = `{"error":{"message":"Rate limit reached for gpt-4o in organization org-x on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s.","type":"requests","param":null,"code":"rate_limit_exceeded"}}`
	openAIQuota     = `{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`
	anthropic429    = `{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your organization's rate limit of 50 requests per minute."},"request_id":"req_1"}`
	anthropic529    = `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`
	gemini          = `{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED","details":[` +
		`{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaMetric":"generativelanguage.googleapis.com/generate_content_free_tier_requests","quotaId":"`
	geminiPerMinute = gemini + `GenerateRequestsPerMinutePerProjectPerModel-FreeTier","quotaDimensions":{"model":"gemini-2.0-flash"},"quotaValue":"15"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"26s"}]}}`
	geminiPerDay    = gemini + `GenerateRequestsPerDayPerProjectPerModel-FreeTier","quotaValue":"200"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"38s"}]}}`
	geminiNever     = gemini + `GenerateRequestsPerDayPerProjectPerModel-FreeTier","quotaValue":"0"}]}]}}`
)

// untilMidnight is from now until midnight on the Pacific coast, 7:00 UTC in summer.
const untilMidnight = 18*time.Hour + 19*time.Minute + 30*time.Second

func TestParseError(t *testing.T) {
	for _, c := range []struct {
		name    string
		status  int
		headers string
		body    string
		want    llmqueue.Outcome
		delay   time.Duration
		code    string
	}{
		{"openai rate limit", 429, "Retry-After: 21", openAIRateLimit, rateLimited, 21 * time.Second, "rate_limit_exceeded"},
		{"openai rate limit, hint in the text", 429, "", openAIRateLimit, rateLimited, 20 * time.Second, "rate_limit_exceeded"},
		{"openai slow down", 429, "Retry-After: 5", `{"error":{"message":"Slow down","type":"rate_limit_error","code":"slow_down"}}`, slowDown, 5 * time.Second, "slow_down"},
		{"openai quota", 429, "", openAIQuota, exhausted, 0, "insufficient_quota"},
		{"openai quota is not renewed soon", 429, "Retry-After: 3", openAIQuota, exhausted, 0, "insufficient_quota"},
		{"openai quota by type alone", 429, "", `{"error":{"type":"insufficient_quota","code":null,"message":""}}`, exhausted, 0, "insufficient_quota"},
		{"openai credit", 429, "", `{"error":{"type":"x","code":"credit_balance_exhausted"}}`, exhausted, 0, "credit_balance_exhausted"},
		{"openai organization's spend", 429, "", `{"error":{"code":"organization_spend_limit_exceeded"}}`, exhausted, 0, "organization_spend_limit_exceeded"},
		{"openai project's spend", 429, "", `{"error":{"code":"project_spend_limit_exceeded"}}`, exhausted, 0, "project_spend_limit_exceeded"},
		{"openai organization's usage", 429, "", `{"error":{"code":"organization_usage_limit_exceeded"}}`, exhausted, 0, "organization_usage_limit_exceeded"},
		{"a passing limit that speaks of a quota", 429, "", `{"error":{"code":"rate_limit_exceeded","message":"Quota exceeded, insufficient_quota for now. Try again in 2s."}}`, rateLimited, 2 * time.Second, "rate_limit_exceeded"},
		{"openai, flex has no room", 429, "", `{"error":{"code":"resource_unavailable","type":"resource_unavailable","message":"m"}}`, overloaded, 0, "resource_unavailable"},
		{"openai overloaded", 503, "", `{"error":{"code":"server_is_overloaded","type":"server_error"}}`, overloaded, 0, "server_is_overloaded"},
		{"openai 500", 500, "", `{"error":{"type":"server_error","code":null}}`, retryable, 0, "server_error"},

		{"anthropic rate limit", 429, "retry-after: 13", anthropic429, rateLimited, 13 * time.Second, "rate_limit_error"},
		{"anthropic without a wait", 429, "anthropic-ratelimit-requests-limit: 50\nanthropic-ratelimit-requests-remaining: 49", anthropic429, rateLimited, 0, "rate_limit_error"},
		{"anthropic rate limit within a stream, which has no headers", 200, "", anthropic429, rateLimited, 0, "rate_limit_error"},
		{"the same type from someone else", 429, "", `{"error":{"type":"rate_limit_error","message":"m"}}`, rateLimited, 0, "rate_limit_error"},
		{"anthropic behind a gateway that drops the wait", 429, "anthropic-ratelimit-requests-limit: 50\nanthropic-ratelimit-requests-remaining: 0\nanthropic-ratelimit-requests-reset: 2025-08-21T12:40:37Z", anthropic429, rateLimited, 7 * time.Second, "rate_limit_error"},
		{"anthropic spend limit", 429, "", `{"type":"error","error":{"type":"rate_limit_error","message":"m","details":{"error_code":"enforced_spend_limit_reached"}}}`, exhausted, 0, "enforced_spend_limit_reached"},
		{"anthropic self-set limit", 400, "", `{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will regain access on 2025-09-01 at 00:00 UTC."}}`, exhausted, 10*day + 11*time.Hour + 19*time.Minute + 30*time.Second, "invalid_request_error"},
		{"anthropic no credit", 400, "", `{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}`, exhausted, 0, "invalid_request_error"},
		{"anthropic overloaded", 529, "", anthropic529, overloaded, 0, "overloaded_error"},
		{"anthropic 500", 500, "", `{"type":"error","error":{"type":"api_error","message":"Internal server error"}}`, retryable, 0, "api_error"},
		{"anthropic 504", 504, "", `{"type":"error","error":{"type":"timeout_error","message":"Timed out"}}`, retryable, 0, "timeout_error"},

		{"gemini per minute", 429, "", geminiPerMinute, rateLimited, 26 * time.Second, "RESOURCE_EXHAUSTED"},
		{"gemini in a list", 429, "", "[" + geminiPerMinute + "\n]", rateLimited, 26 * time.Second, "RESOURCE_EXHAUSTED"},
		{"gemini per day", 429, "", geminiPerDay, exhausted, untilMidnight, "RESOURCE_EXHAUSTED"},
		{"gemini no quota at all", 429, "", geminiNever, elsewhere, 0, "RESOURCE_EXHAUSTED"},
		{"gemini no quota at all, in words", 429, "", `{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"Quota exceeded for metric: x, limit: 0\nPlease retry in 5s.","details":[{"retryDelay":"5s"}]}}`, elsewhere, 0, "RESOURCE_EXHAUSTED"},
		{"gemini a small quota in words", 429, "", `{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"Quota exceeded for metric: x, limit: 05","details":[{"retryDelay":"5s"}]}}`, rateLimited, 5 * time.Second, "RESOURCE_EXHAUSTED"},
		{"gemini unavailable", 503, "", `{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}`, overloaded, 0, "UNAVAILABLE"},
		{"vertex", 429, "", `{"error":{"code":429,"message":"Resource exhausted. Please try again later.","status":"RESOURCE_EXHAUSTED"}}`, overloaded, 0, "RESOURCE_EXHAUSTED"},

		{"azure", 429, "retry-after-ms: 2000\nretry-after: 2", `{"error":{"code":"429","message":"Requests have exceeded the call rate limit. Please retry after 60 seconds."}}`, rateLimited, 2 * time.Second, "429"},
		{"together requests", 429, "x-ratelimit-reset: 1", `{"error":{"message":"m","type":"dynamic_request_limited","code":null}}`, slowDown, time.Second, "dynamic_request_limited"},
		{"together tokens", 429, "", `{"error":{"message":"m","type":"dynamic_token_limited"}}`, slowDown, 0, "dynamic_token_limited"},
		{"together without capacity", 503, "", `{"error":{"message":"m","type":"dynamic_request_limited"}}`, overloaded, 0, "dynamic_request_limited"},
		{"mistral", 429, "", `{"object":"error","message":"Rate limit exceeded","type":"rate_limited","param":null,"code":"1300"}`, rateLimited, 0, "rate_limited"},
		{"openrouter credits", 402, "", `{"error":{"code":402,"message":"Insufficient credits"}}`, exhausted, 0, "402"},
		{"openrouter credits that come back", 402, "Retry-After: 60", `{"error":{"code":402,"message":"Insufficient credits"}}`, rateLimited, time.Minute, "402"},
		{"openrouter, the upstream's headers", 429, "", `{"error":{"code":429,"message":"Rate limit exceeded: free-models-per-min.","metadata":{"headers":{"X-RateLimit-Limit":"20","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1755780060000"}}}}`, rateLimited, 30 * time.Second, "429"},
		{"openrouter error in a 200", 200, "", `{"error":{"code":502,"message":"Provider returned error"}}`, retryable, 0, "502"},
		{"openrouter rate limit in a 200", 200, "", `{"error":{"code":429,"message":"m"}}`, rateLimited, 0, "429"},
		{"bedrock throttling", 429, "X-Amzn-Errortype: ThrottlingException:http://internal.amazon.com/coral/", `{"message":"Too many requests, please wait before trying again."}`, rateLimited, 0, "ThrottlingException"},
		{"bedrock per day", 429, "X-Amzn-Errortype: ThrottlingException", `{"message":"Too many tokens per day, please wait before trying again."}`, exhausted, 0, "ThrottlingException"},
		{"bedrock unavailable", 503, "", `{"__type":"com.amazon.coral.service#ServiceUnavailableException","Message":"x"}`, overloaded, 0, "ServiceUnavailableException"},
		{"bedrock not ready", 429, "X-Amzn-Errortype: ModelNotReadyException", `{"message":"x"}`, overloaded, 0, "ModelNotReadyException"},
		{"ollama", 503, "", `{"error":"server busy, please try again.  maximum pending requests exceeded"}`, overloaded, 0, ""},
		{"llama.cpp", 503, "", `{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}`, overloaded, 0, "unavailable_error"},
		{"vllm", 503, "", `{"object":"error","message":"m","type":"ServiceUnavailableError","param":null,"code":503}`, overloaded, 0, "ServiceUnavailableError"},
		{"vllm bad request", 400, "", `{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}`, fatal, 0, "BadRequestError"},

		{"vllm bad request within a stream", 200, "", `{"object":"error","message":"m","type":"BadRequestError","param":null,"code":400}`, fatal, 0, "BadRequestError"},
		{"no word at all", 500, "", `{"type":"error","error":{"message":"m"}}`, retryable, 0, ""},

		{"408", 408, "", "", retryable, 0, ""},
		{"409", 409, "", "", retryable, 0, ""},
		{"500", 500, "Retry-After: 4", "", retryable, 4 * time.Second, ""},
		{"502", 502, "", "<html>Bad Gateway", retryable, 0, ""},
		{"504", 504, "", "", retryable, 0, ""},
		{"429 without a word", 429, "", "", rateLimited, 0, ""},
		{"429 of a proxy", 429, "", "too many requests, try again in 3s", rateLimited, 3 * time.Second, ""},
		{"400", 400, "", `{"error":{"message":"bad","type":"invalid_request_error","code":"context_length_exceeded"}}`, fatal, 0, "context_length_exceeded"},
		{"401", 401, "", "", elsewhere, 0, ""},
		{"403", 403, "", "", elsewhere, 0, ""},
		{"404", 404, "", "", elsewhere, 0, ""},
		{"413", 413, "", "", fatal, 0, ""},
		{"422", 422, "", `{"detail":[{"loc":["body"],"msg":"field required"}]}`, fatal, 0, ""},
		{"200", 200, "", `{"id":"x","error":null,"choices":[]}`, llmqueue.OutcomeServed, 0, ""},

		{"a code with its sentence beside it", 403, "", `{"error":"quota_exceeded","message":"The month is over."}`, exhausted, 0, "quota_exceeded"},
		{"a sentence of one word is no code", 429, "", `{"error":"余额不足"}`, exhausted, 0, ""},
		{"a body that was cut off", 429, "", openAIQuota[:100], rateLimited, 0, ""},
		{"members of other types", 429, "", `{"error":{"message":{"a":1},"type":["x"],"code":{"b":2},"details":"none","metadata":7}}`, rateLimited, 0, ""},
		{"a reset matters only to what is limited", 500, exhaustedRequests, "", retryable, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := llmhttp.ParseError(c.status, header(c.headers), []byte(c.body), now)
			assert.Equal(t, c.want, o.Outcome)
			assert.Equal(t, c.delay, o.Delay)
			assert.Equal(t, c.code, o.Code)
		})
	}
}

// Providers that send no rate-limit headers say in the error which limit was hit.
func TestParseErrorFindsLimitsInTheBody(t *testing.T) {
	limits := func(body string) []llmqueue.ObservedLimit {
		return llmhttp.ParseError(429, nil, []byte(body), now).Limits
	}
	assert.Equal(t, []llmqueue.ObservedLimit{{Kind: llmqueue.KindRPM, Period: time.Minute, Amount: 15}}, limits(geminiPerMinute))
	assert.Equal(t, []llmqueue.ObservedLimit{{Kind: llmqueue.KindRPD, Period: day, Amount: 200}}, limits(geminiPerDay))
	assert.Empty(t, limits(geminiNever))
	assert.Empty(t, limits(gemini+`RequestsPerSomething","quotaValue":"9"}]}]}}`))
	assert.Equal(t, []llmqueue.ObservedLimit{{Kind: llmqueue.KindITPM, Period: time.Minute, Amount: 250_000, Remaining: -1}},
		limits(gemini+`GenerateContentInputTokensPerModelPerMinute-FreeTier","quotaValue":"250000"}]}]}}`))
	assert.Equal(t, []llmqueue.ObservedLimit{{Kind: llmqueue.KindRPM, Period: time.Minute, Amount: 20, Reset: 30 * time.Second}},
		limits(`{"error":{"code":429,"metadata":{"headers":{"X-RateLimit-Limit":20,"X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1755780060000"}}}}`))
	assert.EqualValues(t, 10, llmhttp.ParseError(429, header("X-RateLimit-Limit: 10\nX-RateLimit-Reset: 1755780060000"),
		[]byte(`{"error":{"code":429,"metadata":{"headers":{"X-RateLimit-Limit":"20"}}}}`), now).Limits[0].Amount, "the answer's own headers come first")
}

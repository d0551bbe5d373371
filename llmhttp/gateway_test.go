package llmhttp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// A gateway that hands an error on within its own does not change what it means.
func TestErrorsWithinErrors(t *testing.T) {
	wrap := map[string]func(status int, body string) (int, any){
		"LiteLLM": func(status int, body string) (int, any) {
			return status, map[string]any{"error": map[string]any{"message": "litellm.APIError: XException - " + body, "code": strconv.Itoa(status)}}
		},
		"LiteLLM, as bytes": func(status int, body string) (int, any) {
			return status, map[string]any{"error": map[string]any{"message": "litellm.APIError: XException - b'" + printed.Replace(body) + "'", "code": strconv.Itoa(status)}}
		},
		"OpenRouter": func(status int, body string) (int, any) {
			return status, map[string]any{"error": map[string]any{"message": "Provider returned error", "code": status, "metadata": map[string]any{"raw": body}}}
		},
		"with a status of its own": func(status int, body string) (int, any) {
			return 500, map[string]any{"detail": fmt.Sprintf("Error code: %d - %s", status, body)}
		},
	}
	n := 0
	for _, r := range recordedAnswers(t) {
		var document map[string]any
		if r.Kind != "failure" || r.Status == 500 || strings.Contains(r.Body, "@") || json.Unmarshal([]byte(r.Body), &document) != nil || document["__type"] != nil {
			continue
		}
		want := llmhttp.ParseError(r.Status, nil, []byte(r.Body), now)
		for who, f := range wrap {
			status, body := f(r.Status, r.Body)
			b, err := json.Marshal(body)
			require.NoError(t, err)
			o := llmhttp.ParseError(status, nil, b, now)
			assert.Equal(t, want.Outcome, o.Outcome, "%s\n%s", who, b)
			n++
		}
	}
	assert.Greater(t, n, 1000)
}

// printed is how Python prints bytes.
var printed = strings.NewReplacer(`\`, `\\`, "'", `\'`, "\n", `\n`)

// Python prints an object with quotes of its own.
func TestErrorsThatPythonPrints(t *testing.T) {
	for said, want := range map[string]llmqueue.Outcome{
		`Error code: 429 - {'error': {'message': 'You exceeded your current quota, please check your plan.', 'type': 'insufficient_quota', 'param': None, 'code': 'insufficient_quota'}}`: exhausted,
		`Error code: 429 - {'type': 'error', 'error': {'type': 'rate_limit_error', 'message': "This request would exceed your organization's rate limit."}}`:                              rateLimited,
		`Error code: 429 - {'object': 'error', 'message': 'Rate limit exceeded', 'type': 'rate_limited', 'param': None, 'code': '1300'}`:                                                  rateLimited,
		`Error code: 400 - {'object': 'error', 'message': "This model's maximum context length is 4096 tokens. However, you requested 4500.", 'code': 400}`:                               fatal,
		`Error code: 503 - {'error': {'message': 'Overloaded', 'code': 503}}`:                                                                                                             overloaded,
	} {
		body, err := json.Marshal(map[string]string{"detail": said})
		require.NoError(t, err)
		assert.Equal(t, want, llmhttp.ParseError(http.StatusInternalServerError, nil, body, now).Outcome, said)
	}
}

// The status of what a request refers to is not that of the call.
func TestStatusesWithinMessages(t *testing.T) {
	for said, want := range map[string]llmqueue.Outcome{
		"Request failed with status code 429":                                       rateLimited,
		"error, status code: 429, status: 429 Too Many Requests, message: slow":     rateLimited,
		"HTTP 503: Service Unavailable":                                             overloaded,
		"Failed to download image: status code 404":                                 fatal,
		"Error while downloading https://x.example. Upstream status code: 404.":     fatal,
		"messages.2: tool result says status 429, which is not a valid tool result": fatal,
	} {
		body, err := json.Marshal(map[string]any{"error": map[string]string{"message": said}})
		require.NoError(t, err)
		assert.Equal(t, want, llmhttp.ParseError(http.StatusBadRequest, nil, body, now).Outcome, said)
	}
}

// An answer is good, whatever it speaks of.
func TestGoodAnswers(t *testing.T) {
	const (
		text  = `"Error: {\"error\":{\"message\":\"Rate limit exceeded\",\"code\":429}}. Your credit balance is too low."`
		input = `{"error":{"message":"quota","type":"rate_limit_error","code":429},"status":"failed","code":"E1","message":"boom","success":false}`
	)
	for _, body := range []string{
		`{"object":"chat.completion","choices":[{"message":{"content":` + text + `},"finish_reason":"stop"}],"error":null}`,
		`{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],"error":{}}`,
		`{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],"error":false}`,
		`{"choices":[{"message":{"content":"hi"},"finish_reason":"content_filter","content_filter_results":{"error":{"code":"content_filter_error","message":"x"}}}]}`,
		`{"type":"message","content":[{"type":"tool_use","name":"error","input":` + input + `}],"stop_reason":"tool_use"}`,
		`{"type":"message","content":[{"type":"web_search_tool_result","content":{"type":"web_search_tool_result_error","error_code":"max_uses_exceeded"}}],"stop_reason":"end_turn"}`,
		`{"object":"response","status":"completed","error":null,"metadata":{"error":"x"},"output":[{"type":"mcp_call","status":"failed","error":{"code":500,"message":"boom"}},{"type":"message","content":[{"text":` + text + `}]}]}`,
		`{"candidates":[{"content":{"parts":[{"functionCall":{"name":"error","args":` + input + `}}]},"finishReason":"MALFORMED_FUNCTION_CALL","finishMessage":"error"}]}`,
		`{"output":{"message":{"content":[{"toolUse":{"name":"error","input":` + input + `}}]}},"stopReason":"tool_use"}`,
		`{"model":"m","message":{"content":` + text + `,"tool_calls":[{"function":{"arguments":` + input + `}}]},"done":true}`,
		`{"results":[{"flagged":true,"categories":{"violence":true}}]}`,
		`{"results":[{"index":0,"relevance_score":0.9,"document":{"text":` + text + `}}]}`,
		`{"created":1,"data":[{"url":"https://example/error","revised_prompt":` + text + `}]}`,
		`[[{"label":"ERROR","score":0.9}]]`,
		`{"text":` + text + `,"segments":[{"text":` + text + `}]}`,
		`{"object":"file","status":"error","status_details":"Invalid file format"}`,
		`{"object":"batch","status":"failed","errors":{"data":[{"code":"invalid_json","message":"bad line"}]}}`,
		`{"object":"fine_tuning.job","status":"failed","error":{"code":"invalid_training_file","message":"bad"}}`,
		`{"object":"eval.run","status":"failed","error":{"code":"x","message":"y"}}`,
		`{"object":"vector_store.file_batch","status":"failed","file_counts":{"failed":1}}`,
		`{"object":"list","data":[{"object":"thread.run.step","status":"failed","last_error":{"code":"rate_limit_exceeded","message":"x"}}]}`,
		`{"custom_id":"a","result":{"type":"errored","error":{"type":"overloaded_error","message":"Overloaded"}}}` + "\n",
		`{"name":"operations/x","done":false,"metadata":{"state":"RUNNING"}}`,
		`{"is_available":false,"balance_infos":[{"total_balance":"0.00"}]}`,
		`{"code":20000,"message":"OK","status":true,"data":null}`,
		`{"code":1,"description":"提交成功","result":"123"}`,
		`{"success":1,"data":{"text":"x"}}`,
		`{"success":true,"errors":[],"messages":[],"result":{"response":` + text + `}}`,
		`{"error":"none","text":"x"}`,
		`{"error":{"code":0,"message":""},"output":"x"}`,
		`{"header":{"code":0,"message":"Success"},"payload":{"choices":{"text":[{"content":` + text + `}]}}}`,
		`{"code":"def f():\n  raise Error","message":"Here is your code"}`,
		"error: rate limit exceeded, so the speaker says\n",
		"data is missing\nid: 4\n",
		"data: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n" +
			"data: {\"type\":\"response.output_item.done\",\"item\":{\"status\":\"failed\",\"error\":\"boom\"}}\n\n" +
			"data: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"error\":null,\"output\":[{\"error\":{\"code\":1,\"message\":\"x\"}}]}}\n\n",
	} {
		for _, told := range overheard(t, answers(func() *http.Response { return response(200, "", strings.NewReader(body)) }), func(_ context.CancelFunc, res *http.Response, err error) {
			require.NoError(t, err)
			require.NoError(t, drain(t, res))
		}) {
			assert.Contains(t, []llmqueue.Outcome{"", llmqueue.OutcomeServed}, told.Outcome, body)
		}
	}
}

// What passes soon is not taken for an empty account, though it speaks of plans and credits.
func TestThrottlesThatSpeakOfMoney(t *testing.T) {
	for _, said := range []string{
		"Rate limit exceeded for your plan: 20 requests per minute. Upgrade your plan or add credits for higher limits.",
		"Too many requests. Free accounts are limited to 3 requests per minute; please purchase credits to raise this limit.",
		"Rate limit reached for requests per day (RPD): Limit 200, Used 200, Requested 1. Please try again in 7m12s. You can increase your rate limit by adding a payment method to your account.",
		"Your rate limit is reduced to 6 requests per minute with a burst of 1 requests while you have less than $5.0 in credit. Your rate limit resets in ~5s.",
		"Rate limited: please wait 30 seconds. Your credit balance is $12.00.",
		"Token quota exhausted for this minute",
		"Quota exceeded.",
		"触发限流，请稍后重试。充值可提高限额",
		"您的账户已达到速率限制，请控制请求频率",
	} {
		body, err := json.Marshal(map[string]any{"error": map[string]string{"message": said}})
		require.NoError(t, err)
		o := llmhttp.ParseError(http.StatusTooManyRequests, nil, body, now)
		assert.Equal(t, rateLimited, o.Outcome, said)
		assert.Less(t, o.Delay, time.Hour)
	}
}

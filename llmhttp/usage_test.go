package llmhttp_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

func used(input, output, cached int64) llmqueue.Usage {
	return llmqueue.Usage{InputTokens: input, OutputTokens: output, CachedInputTokens: cached}
}

// recordings are answers in the shapes that the providers document.
var recordings = []struct {
	name, body string
	want       llmqueue.Usage
}{
	{"openai chat", `{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"{\"usage\":{\"prompt_tokens\":7}}"},"finish_reason":"stop"}],` +
		`"usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":64},"completion_tokens_details":{"reasoning_tokens":5}}}`, used(100, 20, 64)},
	{"openai chat, indented, after blank lines", "\n\n\r\n{\n  \"usage\" : {\n    \"prompt_tokens\" : 9,\n    \"completion_tokens\" : 3\n  } ,\n  \"id\" : \"x\"\n}\n", used(9, 3, 0)},
	{"openai stream", `data: {"id":"1","choices":[{"delta":{"content":"Hi"}}],"usage":null}` + "\n\n" +
		`data: {"id":"1","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}` + "\n\ndata: [DONE]\n\n", used(10, 2, 0)},
	{"openai stream without include_usage", `data: {"choices":[{"delta":{"content":"Hi"}}]}` + "\n\ndata: [DONE]\n\n", used(0, 0, 0)},
	{"openai responses", `{"id":"resp_1","object":"response","error":null,"output":[{"type":"function_call","arguments":"{}"}],"usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":6},"output_tokens":87,"total_tokens":123}}`, used(36, 87, 6)},
	{"openai responses stream", "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n" +
		"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"error\":null,\"usage\":{\"input_tokens\":36,\"output_tokens\":87}}}\n\n", used(36, 87, 0)},
	{"anthropic", `{"id":"msg_1","type":"message","content":[{"type":"tool_use","input":{"usage":{"input_tokens":999}}}],"usage":{"input_tokens":25,"cache_creation_input_tokens":100,"cache_read_input_tokens":1000,"output_tokens":40}}`, used(1125, 40, 1000)},
	{"anthropic stream", anthropicStart + anthropicDelta +
		"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":10}}\n\n" +
		"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"input_tokens\":25,\"output_tokens\":15}}\n\n" +
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", used(75, 15, 50)},
	{"anthropic stream that was cut", anthropicStart + anthropicDelta, used(0, 0, 0)},
	{"gemini", `{"candidates":[{"content":{"parts":[{"functionCall":{"args":{"usageMetadata":{"promptTokenCount":5}}}}]}}],"usageMetadata":{"promptTokenCount":8,"toolUsePromptTokenCount":2,"cachedContentTokenCount":4,"candidatesTokenCount":20,"thoughtsTokenCount":100,"totalTokenCount":130}}`, used(10, 120, 4)},
	{"gemini stream", "data: {\"usageMetadata\":{\"promptTokenCount\":8,\"candidatesTokenCount\":1}}\r\n\r\n" +
		"data: {\"usageMetadata\":{\"promptTokenCount\":8,\"candidatesTokenCount\":30}}\r\n\r\n", used(8, 30, 0)},
	{"gemini stream as a list", "[{\"usageMetadata\":{\"promptTokenCount\":8,\"candidatesTokenCount\":1}}\n,\r\n{\"usageMetadata\":{\"promptTokenCount\":8,\"candidatesTokenCount\":30}}\n]", used(8, 30, 0)},
	{"bedrock converse", `{"output":{"message":{"content":[{"text":"Hi"}]}},"usage":{"inputTokens":30,"outputTokens":12,"totalTokens":72,"cacheReadInputTokens":20,"cacheWriteInputTokens":10}}`, used(60, 12, 20)},
	{"ollama", `{"model":"m","response":"Hi","done":true,"prompt_eval_count":26,"eval_count":298}`, used(26, 298, 0)},
	{"ollama stream", "{\"message\":{\"role\":\"assistant\",\"content\":\"H\"},\"done\":false}\n{\"message\":{\"content\":\"i\"},\"done\":false}\n{\"done\":true,\"prompt_eval_count\":26,\"eval_count\":298}\n", used(26, 298, 0)},
	{"cohere", `{"id":"x","message":{"role":"assistant","content":[]},"usage":{"billed_units":{"input_tokens":5,"output_tokens":1},"tokens":{"input_tokens":71.0,"output_tokens":22}}}`, used(5, 1, 0)},
	{"cohere stream", "event: message-end\ndata: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"COMPLETE\",\"usage\":{\"tokens\":{\"input_tokens\":71,\"output_tokens\":22}}}}\n\n", used(71, 22, 0)},
	{"groq stream", "data: {\"choices\":[],\"x_groq\":{\"id\":\"req\",\"usage\":{\"prompt_tokens\":18,\"completion_tokens\":5}}}\n\ndata: [DONE]\n\n", used(18, 5, 0)},
	{"deepseek stream with keep-alives", ": keep-alive\n\n: keep-alive\n\ndata: {\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2,\"prompt_cache_hit_tokens\":3}}\n\ndata: [DONE]\n\n", used(4, 2, 3)},
	{"one gateway, two shapes", `{"usage":{"prompt_tokens":100,"completion_tokens":5,"input_tokens":100,"output_tokens":5,"cache_read_input_tokens":60}}`, used(100, 5, 60)},

	{"events with carriage returns alone", "id: 1\rdata: {\"usage\":\rdata: {\"prompt_tokens\":4,\rdata: \"completion_tokens\":2}}\r\r", used(4, 2, 0)},
	{"events of several lines that end in two characters", "data: {\"usage\":\r\ndata: {\"prompt_tokens\":4,\r\ndata: \"completion_tokens\":2}}\r\n\r\n", used(4, 2, 0)},
	{"an event that breaks off", "data: {\"usage\":{\"prompt_tokens\":99\n\ndata: {\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2}}\n\n", used(4, 2, 0)},
	{"a byte order mark", "\xef\xbb\xbf{\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2}}", used(4, 2, 0)},
	{"quotes and braces in texts", `{"a\"}b":"}\\\"{","x":["]\"",{"y":"\\"}],"usage":{"prompt_tokens":4,"completion_tokens":2}}`, used(4, 2, 0)},
	{"a name with quotes and a colon", `{"k\":{":1,"usage":{"prompt_tokens":4,"completion_tokens":2}}`, used(4, 2, 0)},
	{"figures that cannot be", `{"usage":{"prompt_tokens":-4,"completion_tokens":1e300,"promptTokenCount":1e13,"input_tokens":"many","output_tokens":[1]}}`, used(0, 0, 0)},
	{"cached more than there is", `{"usage":{"prompt_tokens":4,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":9}}}`, used(4, 2, 4)},
	{"members without a value", `{"done":,"type":,"object":,"choices":[{"finish_reason":,"error":}],"usage":{"prompt_tokens":4,"completion_tokens":2},"usage":}` + "\n" + `{"done":}`, used(4, 2, 0)},
	{"lists that end as objects do", `{"choices":[1},"candidates":[}` + "\n" + `{"usage":{"prompt_tokens":4,"completion_tokens":2}}`, used(4, 2, 0)},
	{"usage elsewhere", `{"result":{"data":{"usage":{"prompt_tokens":4}}},"choices":[{"message":{"usage":{"prompt_tokens":5}}}],"error":{"usage":{"prompt_tokens":6}}}`, used(0, 0, 0)},
	{"usage deeper", `{"message":{"delta":{"usage":{"prompt_tokens":9}}},"usage":{"prompt_tokens":4,"completion_tokens":2}}`, used(4, 2, 0)},
	{"html", "<html>{\"usage\":{\"prompt_tokens\":4}}", used(0, 0, 0)},
	{"nothing", "", used(0, 0, 0)},
}

const (
	anthropicStart = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"content\":[],\"usage\":{\"input_tokens\":25,\"cache_read_input_tokens\":50,\"output_tokens\":1}}}\n\n"
	anthropicDelta = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n"
)

func TestParseUsage(t *testing.T) {
	for _, c := range recordings {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.want, llmhttp.ParseUsage([]byte(c.body)))
		})
	}
}

// pieces reads b in pieces of n bytes, and with a last one ends at once or later.
type pieces struct {
	b []byte
	n int
}

func (p *pieces) Read(to []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(to, p.b[:min(p.n, len(p.b))])
	p.b = p.b[n:]
	if len(p.b) == 0 && p.n%2 == 0 {
		return n, io.EOF
	}
	return n, nil
}

// However an answer comes in, its usage is found and its bytes are handed on.
func TestUsageOfCallsInPieces(t *testing.T) {
	for _, c := range recordings {
		t.Run(c.name, func(t *testing.T) {
			var res *http.Response
			client := &http.Client{Transport: llmhttp.NewTransport(provider(func(*http.Request) (*http.Response, error) { return res, nil }))}
			toEOF := true
			var read string
			q := newQueue(t, func(ctx context.Context) (string, error) {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://x", nil)
				require.NoError(t, err)
				res, err := client.Do(req)
				require.NoError(t, err)
				got := make([]byte, len(c.body))
				if toEOF {
					got, err = io.ReadAll(res.Body)
				} else {
					_, err = io.ReadFull(res.Body, got) // some readers stop at the last event
				}
				require.NoError(t, err)
				require.NoError(t, res.Body.Close())
				read = string(got)
				return read, nil
			}, llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 1}))
			for _, n := range []int{1, 2, 3, 5, 8, 64, 1 << 20} {
				for _, toEOF = range []bool{true, false} {
					res = response(200, "", &pieces{[]byte(c.body), n})
					r, _ := q.Submit(t.Context(), llmqueue.Request[string]{}) // a stream that was cut may be a failure
					assert.Equal(t, c.body, read)
					assert.Equal(t, c.want, r.Usage, "in pieces of %d, to EOF: %v", n, toEOF)
				}
			}
		})
	}
}

// The calls of one attempt add up, and what the processor says itself wins.
func TestUsageOfAnAttempt(t *testing.T) {
	client := &http.Client{Transport: llmhttp.NewTransport(answers(says(200, "", `{"usage":{"prompt_tokens":10,"completion_tokens":2}}`)))}
	report := false
	q := newQueue(t, func(ctx context.Context) (string, error) {
		for range 3 {
			if _, err := ask(ctx, client); err != nil {
				return "", err
			}
		}
		if report {
			llmqueue.ReportUsage(ctx, used(1, 1, 0))
		}
		return "", nil
	})
	res, err := q.Submit(t.Context(), llmqueue.Request[string]{})
	require.NoError(t, err)
	assert.Equal(t, used(30, 6, 0), res.Usage)
	report = true
	res, err = q.Submit(t.Context(), llmqueue.Request[string]{})
	require.NoError(t, err)
	assert.Equal(t, used(1, 1, 0), res.Usage)
}

// What is read about calls that were made before is not booked again. A response that runs in
// the background says what it used only when it is read.
func TestUsageOfWhatIsRead(t *testing.T) {
	const tokens = `"usage":{"input_tokens":4,"output_tokens":2}}`
	for _, c := range []struct {
		name, body string
		want       llmqueue.Usage
	}{
		{"a batch", `{"id":"batch_1","object":"batch","status":"completed",` + tokens, used(0, 0, 0)},
		{"a batch's results", `{"custom_id":"a","response":{"body":{` + tokens + `}}` + "\n" + `{"custom_id":"b",` + tokens + "\n", used(0, 0, 0)},
		{"a response", `{"id":"r","object":"response","background":false,` + tokens, used(0, 0, 0)},
		{"a response in the background", `{"id":"r","object":"response","background":true,` + tokens, used(4, 2, 0)},
		{"a run", `{"id":"run_1","object":"thread.run","usage":{"prompt_tokens":4,"completion_tokens":2}}`, used(4, 2, 0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := &http.Client{Transport: llmhttp.NewTransport(answers(says(200, "", c.body)))}
			q := newQueue(t, func(ctx context.Context) (string, error) {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://provider.example/v1/what", nil)
				require.NoError(t, err)
				res, err := client.Do(req)
				require.NoError(t, err)
				return "", drain(t, res)
			})
			res, err := q.Submit(t.Context(), llmqueue.Request[string]{})
			require.NoError(t, err)
			assert.Equal(t, c.want, res.Usage)
		})
	}
}

// large is an answer of many megabytes with its usage at the end. The bytes stand
// between start and end.
func large(megabytes int, start, end string) io.Reader {
	text := bytes.Repeat([]byte(`0123456789abcde\"`), 1<<16)
	readers := []io.Reader{strings.NewReader(start)}
	for range megabytes {
		readers = append(readers, bytes.NewReader(text))
	}
	readers = append(readers, strings.NewReader(end+`,"usage":{"input_tokens":50,"output_tokens":4000}}`))
	return io.MultiReader(readers...)
}

// An answer of any size passes without being held, even if what is large has a name
// that counts.
func TestLargeAnswerIsNotHeld(t *testing.T) {
	for _, c := range [][2]string{{`{"data":[{"b64_json":"`, `"}]`}, {`{"message":"`, `"`}, {`{"error":null,"message":{"error":["`, `"]}`}} {
		client := &http.Client{Transport: llmhttp.NewTransport(answers(func() *http.Response { return response(200, "", large(16, c[0], c[1])) }))}
		var allocated uint64
		q := newQueue(t, func(ctx context.Context) (string, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://x", nil)
			require.NoError(t, err)
			res, err := client.Do(req)
			require.NoError(t, err)
			defer res.Body.Close()
			buf := make([]byte, 32<<10)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for err == nil {
				_, err = res.Body.Read(buf)
			}
			runtime.ReadMemStats(&after)
			require.Equal(t, io.EOF, err)
			allocated = after.TotalAlloc - before.TotalAlloc
			return "", nil
		})
		res, err := q.Submit(t.Context(), llmqueue.Request[string]{})
		require.NoError(t, err)
		assert.Equal(t, used(50, 4000, 0), res.Usage)
		assert.Less(t, allocated, uint64(1<<20), "bytes allocated while 16 MB were read after %s", c[0])
	}
}

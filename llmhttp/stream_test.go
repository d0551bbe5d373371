package llmhttp_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// overheard sends one request through a transport over base, within an attempt, and gives
// what the queue would have been told.
func overheard(t *testing.T, base http.RoundTripper, use func(context.CancelFunc, *http.Response, error)) []llmqueue.Observation {
	t.Helper()
	var mu sync.Mutex
	var all []llmqueue.Observation
	rt := llmhttp.NewTransport(base)
	rt.Overhear(func(_ context.Context, o llmqueue.Observation) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, o)
	})
	q := newQueue(t, func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://provider.example", strings.NewReader("{}"))
		require.NoError(t, err)
		res, err := rt.RoundTrip(req)
		use(cancel, res, err)
		return "", nil
	})
	_, err := q.Submit(t.Context(), llmqueue.Request[string]{})
	require.NoError(t, err)
	mu.Lock()
	defer mu.Unlock()
	for _, o := range all {
		assert.Equal(t, all[0].SentAt, o.SentAt, "all are of one call")
	}
	return all
}

// outcomes are those that were told, in order.
func outcomes(all []llmqueue.Observation) []llmqueue.Outcome {
	var told []llmqueue.Outcome
	for _, o := range all {
		if o.Outcome != "" {
			told = append(told, o.Outcome)
		}
	}
	return told
}

// outputs is how many parts of the answer were told, and that nothing else was told with
// them.
func outputs(t *testing.T, all []llmqueue.Observation) int {
	t.Helper()
	n := 0
	for _, o := range all {
		if o.Output {
			assert.Equal(t, llmqueue.Observation{SentAt: o.SentAt, Output: true}, o)
			n++
		}
	}
	return n
}

func drain(t *testing.T, res *http.Response) error {
	t.Helper()
	_, err := io.Copy(io.Discard, res.Body)
	require.NoError(t, res.Body.Close())
	return err
}

// reads gives one string at each Read.
type reads []string

func (r *reads) Read(p []byte) (int, error) {
	if len(*r) == 0 {
		return 0, io.EOF
	}
	n := copy(p, (*r)[0])
	*r = (*r)[1:]
	return n, nil
}

const (
	chatWord   = `data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}` + "\n\n"
	chatFinish = `data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n"
	done       = "data: [DONE]\n\n"
	respStart  = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"status\":\"in_progress\",\"error\":null}}\n\n"
	respWord   = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n"
	geminiWord = `data: {"candidates":[{"content":{"parts":[{"text":"Hi"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":8}}` + "\r\n\r\n"
	ollamaWord = `{"model":"m","message":{"role":"assistant","content":"H"},"done":false}` + "\n"
	cohereWord = "event: message-start\ndata: {\"type\":\"message-start\",\"delta\":{\"message\":{\"role\":\"assistant\"}}}\n\n" +
		"event: content-delta\ndata: {\"type\":\"content-delta\",\"delta\":{\"message\":{\"content\":{\"text\":\"Hi\"}}}}\n\n"
)

// A stream that ends before its time, though without an error of the connection, broke.
func TestStreamsThatEnd(t *testing.T) {
	served, broken := []llmqueue.Outcome{llmqueue.OutcomeServed}, []llmqueue.Outcome{llmqueue.OutcomeServed, retryable}
	said := func(o llmqueue.Outcome) []llmqueue.Outcome { return []llmqueue.Outcome{llmqueue.OutcomeServed, o} }
	for _, c := range []struct {
		name, body string
		want       []llmqueue.Outcome
	}{
		{"chat", chatWord + chatFinish + done, served},
		{"chat, cut", chatWord + chatWord, broken},
		{"chat, cut within a chunk", chatWord + chatWord[:60], broken},
		{"chat without the last line", chatWord + chatFinish, served},
		{"chat without a reason", chatWord + done, served},
		{"chat, the last line alone cut", chatWord + "data: [DONE]", served},
		{"chat, reasons that say nothing", strings.ReplaceAll(chatWord, "null", `""`), broken},
		{"chat, a choice of text that looks like an end", strings.Replace(chatWord, `"Hi"`, `"\"finish_reason\":\"stop\"}]} data: [DONE]"`, 1), broken},
		{"chat, tools that hold an end", strings.Replace(chatWord, `{"content":"Hi"}`, `{"tool_calls":[{"finish_reason":"stop","type":"message_stop"}]}`, 1), broken},
		{"chat, choices that are no objects", `data: {"object":"chat.completion.chunk","choices":["a]b\"",[1,"]"],7,null,{"finish_reason":"length"}]}` + "\n\n", served},
		{"chat, whose object comes last", `data: {"choices":[{"delta":{}}],"object":"chat.completion.chunk"}` + "\n\n", broken},

		{"chat, after an event that breaks off", "data: {\"choices\":[{\"a\":\n\n" + chatWord, broken},

		{"responses", respStart + respWord + "data: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\"}}\n\n", served},
		{"responses, cut", respStart + respWord, broken},
		{"responses, incomplete", respStart + "data: {\"type\":\"response.incomplete\",\"response\":{}}\n\n", served},
		{"responses, failed without a word", respStart + "data: {\"type\":\"response.failed\",\"response\":{\"error\":null}}\n\n", broken},
		{"responses, failed for their length", respStart + "data: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"context_length_exceeded\",\"message\":\"m\"}}}\n\n", said(fatal)},
		{"responses, an error", respStart + "event: error\ndata: {\"type\":\"error\",\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}\n\n", said(rateLimited)},

		{"anthropic", anthropicStart + anthropicDelta + "data: {\"type\":\"message_stop\"}\n\n", served},
		{"anthropic, cut", anthropicStart + anthropicDelta, broken},
		{"anthropic, cut behind its reason", anthropicStart + "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":1}}\n\n", served},
		{"anthropic, an error", anthropicStart + "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n", said(overloaded)},

		{"ollama", ollamaWord + `{"model":"m","done":true,"done_reason":"stop"}` + "\n", served},
		{"ollama, cut", ollamaWord + ollamaWord, broken},
		{"ollama, cut within a line", ollamaWord + ollamaWord[:20], broken},
		{"ollama, an error", ollamaWord + `{"error":"model runner has unexpectedly stopped"}` + "\n", broken},

		{"gemini", geminiWord + strings.Replace(geminiWord, `"index":0`, `"finishReason":"STOP"`, 1), served},
		{"gemini, cut", geminiWord + geminiWord, broken},
		{"gemini, blocked", geminiWord + `data: {"promptFeedback":{"blockReason":"SAFETY"}}` + "\r\n\r\n", served},
		{"gemini, no stream", strings.TrimPrefix(geminiWord, "data: "), served},

		{"cohere", cohereWord + "data: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"COMPLETE\"}}\n\n", served},
		{"cohere, cut", cohereWord, broken},
		{"cohere, an error", cohereWord + "data: {\"type\":\"message-end\",\"delta\":{\"error\":\"m\",\"finish_reason\":\"ERROR\"}}\n\n", broken},
		{"cohere, too long", cohereWord + "data: {\"type\":\"message-end\",\"delta\":{\"error\":\"prompt is too long\",\"finish_reason\":\"ERROR\"}}\n\n", said(fatal)},

		{"an error on the choice", `{"object":"chat.completion","choices":[{"index":0,"finish_reason":"error","message":{"content":"half"},"error":{"code":502,"message":"m"}}],"usage":{"prompt_tokens":1}}`, broken},
		{"a limit on the choice", chatWord + `data: {"id":"c","choices":[{"finish_reason":"error","error":{"code":429,"message":"m"}}]}` + "\n\n" + done, said(rateLimited)},
		{"a key on the choice", `data: {"choices":[{"error":{"code":401,"message":"m"}}]}` + "\n\n" + done, said(elsewhere)},
		{"a reason alone", chatWord + strings.Replace(chatFinish, "stop", "error", 1) + done, broken},
		{"no error on the choice", `{"choices":[{"finish_reason":"stop","error":null}]}`, served},
		{"a field of its own", "error: {\"code\":400,\"message\":\"m\",\"type\":\"invalid_request_error\"}\n\n" + done, said(fatal)},
		{"an event named error", "event: error\ndata: {\"message\":\"m\",\"type\":\"authentication_error\"}\n\n", said(elsewhere)},
		{"an event named error, in words", "event: error\ndata: something happened\n\n", broken},
		{"an error in between", "data: {\"error\":{\"code\":429,\"message\":\"m\"}}\n\ndata: {\"choices\":[]}\n\n" + done, said(rateLimited)},

		{"a dialect that nobody knows", "data: {\"token\":\"Hi\"}\n\n", served},
		{"a chunk without an object", "data: {\"choices\":[{\"delta\":{}}]}\n\n", served},
		{"a whole document", `{"object":"chat.completion","choices":[{"message":{"content":"Hi"}}]}`, served},
		{"a document that is cut", `{"object":"chat.completion","choices":[{"message":{"content":"H`, broken},
		{"a document that is cut within its list", `{"object":"chat.completion","choices":[{"a":1}`, broken},
		{"no document", "Hi", served},
		{"nothing", "", served},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, n := range []int{1, 7, 64, 1 << 20} {
				all := overheard(t, answers(func() *http.Response { return response(200, "", &pieces{[]byte(c.body), n}) }), func(_ context.CancelFunc, res *http.Response, err error) {
					require.NoError(t, err)
					require.NoError(t, drain(t, res))
				})
				assert.Equal(t, c.want, outcomes(all), "in pieces of %d", n)
			}
		})
	}
}

// What comes in the place of an answer is none, though the status says that it went well.
func TestNoAnswers(t *testing.T) {
	served, broken := []llmqueue.Outcome{llmqueue.OutcomeServed}, []llmqueue.Outcome{llmqueue.OutcomeServed, retryable}
	for _, c := range []struct {
		name, headers, body string
		want                []llmqueue.Outcome
	}{
		{"a page", "Content-Type: text/html; charset=utf-8", "<!DOCTYPE html><title>Sign in</title>", broken},
		{"a page without a type", "", "\n<html></html>", broken},
		{"a drawing", "Content-Type: image/svg+xml", "<svg/>", served},
		{"nothing of a document", "Content-Type: application/json", " \n", broken},
		{"nothing of a stream", "Content-Type: text/event-stream", "", broken},
		{"nothing", "", "", served},
		{"a text", "Content-Type: text/plain", "Hi", served},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := overheard(t, answers(says(200, c.headers, c.body)), func(_ context.CancelFunc, res *http.Response, err error) {
				require.NoError(t, err)
				require.NoError(t, drain(t, res))
			})
			assert.Equal(t, c.want, outcomes(all))
		})
	}
}

// A reader that leaves says nothing of the answer, unless an error came before.
func TestStreamsThatAreLeft(t *testing.T) {
	for _, c := range []struct {
		name string
		body reads
		want []llmqueue.Outcome
	}{
		{"before the end", reads{chatWord, chatWord}, []llmqueue.Outcome{llmqueue.OutcomeServed}},
		{"within a document", reads{`{"choices":[`, `{`}, []llmqueue.Outcome{llmqueue.OutcomeServed}},
		{"after an error", reads{anthropicStart + "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"m\"}}\n\n", chatWord}, []llmqueue.Outcome{llmqueue.OutcomeServed, overloaded}},
		{"after a reason that is an error", reads{strings.Replace(chatFinish, "stop", "error", 1), done}, []llmqueue.Outcome{llmqueue.OutcomeServed, retryable}},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := overheard(t, answers(func() *http.Response { return response(200, "", &c.body) }), func(_ context.CancelFunc, res *http.Response, err error) {
				require.NoError(t, err)
				_, err = res.Body.Read(make([]byte, 1<<10))
				require.NoError(t, err)
				require.NoError(t, res.Body.Close())
			})
			assert.Equal(t, c.want, outcomes(all))
		})
	}
}

// How the body of an answer that began well can end in an error.
func TestBodiesThatFail(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}
	for _, c := range []struct {
		name   string
		err    error
		cancel bool
		want   []llmqueue.Outcome
	}{
		{"reset", reset, false, []llmqueue.Outcome{llmqueue.OutcomeServed, retryable}},
		{"cut", io.ErrUnexpectedEOF, false, []llmqueue.Outcome{llmqueue.OutcomeServed, retryable}},
		{"a deadline of the client's own", context.DeadlineExceeded, false, []llmqueue.Outcome{llmqueue.OutcomeServed, retryable}},
		{"canceled beneath", context.Canceled, false, []llmqueue.Outcome{llmqueue.OutcomeServed}},
		{"canceled above, seen as something else", reset, true, []llmqueue.Outcome{llmqueue.OutcomeServed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := io.MultiReader(strings.NewReader(chatWord), iotest.ErrReader(c.err))
			all := overheard(t, answers(func() *http.Response { return response(200, "", body) }), func(cancel context.CancelFunc, res *http.Response, err error) {
				require.NoError(t, err)
				if c.cancel {
					cancel()
				}
				assert.ErrorIs(t, drain(t, res), c.err)
			})
			assert.Equal(t, c.want, outcomes(all))
		})
	}
}

// A call that its caller gives up before the headers says nothing of the provider. A
// client's own timeout is a passing fault.
func TestCallsWithoutAnAnswer(t *testing.T) {
	for _, c := range []struct {
		name string
		give func(context.Context) (context.Context, context.CancelFunc)
		want []llmqueue.Outcome
	}{
		{"no connection", func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} }, []llmqueue.Outcome{retryable}},
		{"canceled", context.WithCancel, nil},
		{"too late", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithDeadline(ctx, time.Unix(1, 0))
		}, []llmqueue.Outcome{retryable}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var all []llmqueue.Observation
			var end context.CancelFunc
			rt := llmhttp.NewTransport(provider(func(*http.Request) (*http.Response, error) {
				end()
				return nil, errors.New("no answer")
			}))
			rt.Overhear(func(_ context.Context, o llmqueue.Observation) { all = append(all, o) })
			exchange(t, provider(func(r *http.Request) (*http.Response, error) {
				var ctx context.Context
				ctx, end = c.give(r.Context())
				return rt.RoundTrip(r.WithContext(ctx))
			}), func(_ *http.Response, err error) { require.Error(t, err) })
			assert.Equal(t, c.want, outcomes(all))
		})
	}
}

// Both protocols say that an answer was cut, with a length, in chunks and in frames.
func TestConnectionsThatBreak(t *testing.T) {
	for _, c := range []struct {
		name   string
		proto  string
		length string
	}{
		{"chunks", "HTTP/1.1", ""},
		{"length", "HTTP/1.1", "5000"},
		{"frames", "HTTP/2.0", ""},
		{"frames and length", "HTTP/2.0", "5000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				assert.Equal(t, c.proto, r.Proto)
				if c.length != "" {
					w.Header().Set("Content-Length", c.length)
				}
				_, _ = io.WriteString(w, "data: {\"token\":\"of an unknown dialect\"}\n\n")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}))
			srv.EnableHTTP2 = c.proto == "HTTP/2.0"
			srv.StartTLS()
			defer srv.Close()
			all := overheard(t, provider(func(r *http.Request) (*http.Response, error) {
				r.URL.Scheme, r.URL.Host = "https", srv.Listener.Addr().String()
				return srv.Client().Transport.RoundTrip(r)
			}), func(_ context.CancelFunc, res *http.Response, err error) {
				require.NoError(t, err)
				assert.Error(t, drain(t, res))
			})
			assert.Equal(t, []llmqueue.Outcome{llmqueue.OutcomeServed, retryable}, outcomes(all))
			assert.Positive(t, outputs(t, all))
		})
	}
}

// Each read that brings a part of the answer is told. What keeps the connection open is
// no part of it.
func TestOutputIsToldAsItComes(t *testing.T) {
	for _, c := range []struct {
		name, headers string
		body          reads
		want          []int // so many after each read
	}{
		{"chunks", "", reads{chatWord, chatWord, chatFinish, done}, []int{1, 2, 3, 4}},
		{"comments", "", reads{": OPENROUTER PROCESSING\n\n", ": OPENROUTER", " PROCESSING\n\n", chatWord, ": OPENROUTER PROCESSING\n\n"}, []int{0, 0, 0, 1, 1}},
		{"a comment that holds data", "", reads{": data: {\"a\":1}\n\n", "\n", chatWord}, []int{0, 0, 1}},
		{"blank lines", "", reads{"\n", "\n\r\n", "  ", `{"choices":`, "\n", "[]}"}, []int{0, 0, 0, 1, 1, 2}},
		{"pings", "", reads{"event: ping\n", "data: {\"type\": \"ping\"}\n\n", anthropicStart, "event: ping\ndata: {\"type\": \"ping\"}\n\n", anthropicDelta}, []int{0, 0, 1, 1, 2}},
		{"pings without a name", "", reads{"data: {\"type\": \"ping\"}\n\n", "data: {\"type\":", "\"ping\",\"cost\":\"0\"}\n\n", respWord}, []int{0, 0, 0, 1}},
		{"pings by their name alone", "", reads{"event: heartbeat\ndata: {\"t\":1}\n\n", "event: keepalive\ndata: x\n\n"}, []int{0, 0}},
		{"names, ids and times", "", reads{"event: message_start\n", "id: 7\nretry: 3000\n", "data: {\"a\":1}\n\n"}, []int{0, 0, 1}},
		{"a name is forgotten with its event", "", reads{"event: ping\ndata: {}\n\ndata: {}\n\n"}, []int{1}},
		{"errors", "", reads{"data: {\"error\":{\"code\":429,\"message\":\"m\"}}\n\n", "event: error\ndata: no room\n\n"}, []int{0, 0}},
		{"one event that takes long", "", reads{"data: {\"b64\":\"" + strings.Repeat("x", 300), "xx", "\"}\n\n"}, []int{1, 2, 3}},
		{"a text", "", reads{"H", "i"}, []int{1, 2}},
		{"a text that begins as an event stream does", "", reads{"derived", " from", "\n"}, []int{1, 1, 1}},
		{"a binary text", "", reads{"\x00\x01", "\n\n\n\n\n\n\n\n\n\n"}, []int{0, 1}},
		{"compressed", "Content-Encoding: br", reads{": x\n", "\n"}, []int{1, 2}},
		{"lines of JSON", "", reads{ollamaWord, "\n", ollamaWord}, []int{1, 1, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := append(slices.Clone(c.body), "too late")
			n := 0
			var got []int
			rt := llmhttp.NewTransport(answers(func() *http.Response { return response(200, c.headers, &body) }))
			rt.Overhear(func(_ context.Context, o llmqueue.Observation) {
				if o.Output {
					assert.Equal(t, llmqueue.Observation{SentAt: o.SentAt, Output: true}, o)
					n++
				}
			})
			exchange(t, rt, func(res *http.Response, err error) {
				require.NoError(t, err)
				for range c.body {
					_, err := res.Body.Read(make([]byte, 1<<10))
					require.NoError(t, err)
					got = append(got, n)
				}
				require.NoError(t, res.Body.Close())
				_, err = res.Body.Read(make([]byte, 10)) // this source does not mind
				require.NoError(t, err)
			})
			assert.Equal(t, c.want, got)
			assert.Equal(t, got[len(got)-1], n)
		})
	}
}

// What a stream brings is told at no cost in memory.
func TestChunksTakeNoMemory(t *testing.T) {
	chunks := slices.Repeat(reads{chatWord, respWord, `data: {"candidates":[{"content":{}}]}` + "\n\n", anthropicDelta, ": ping\n\n"}, 100)
	told := 0
	rt := llmhttp.NewTransport(answers(func() *http.Response { return response(200, "", &chunks) }))
	rt.Overhear(func(_ context.Context, o llmqueue.Observation) { told++ })
	exchange(t, rt, func(res *http.Response, err error) {
		require.NoError(t, err)
		buf := make([]byte, 1<<10)
		read := func() {
			_, err := res.Body.Read(buf)
			require.NoError(t, err)
		}
		for range 20 {
			read()
		}
		assert.Zero(t, testing.AllocsPerRun(400, read))
		require.NoError(t, res.Body.Close())
	})
	assert.Greater(t, told, 300)
}

package llmtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// post sends a chat completion and returns the answer with its body read.
func post(t testing.TB, s *Server, body string) (*http.Response, string) {
	t.Helper()
	return send(t, s, strings.TrimSuffix(s.provider.path, "/")+"/chat/completions", body)
}

// send sends a request to a path of the server, a GET if it has no body, and
// returns the answer with its body read. Headers are pairs of name and value. It
// may be called on any goroutine: after an error, which fails the test, the
// answer is empty.
func send(t testing.TB, s *Server, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	method := http.MethodPost
	if body == "" {
		method = http.MethodGet
	}
	root := strings.TrimSuffix(s.URL(), s.provider.path)
	req, err := http.NewRequestWithContext(t.Context(), method, root+path, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return &http.Response{}, ""
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := s.Client().Do(req)
	if err != nil {
		t.Error(err)
		return &http.Response{}, ""
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return res, string(data)
}

// wantHeaders checks headers, given as pairs of name and value; "" means none.
func wantHeaders(t testing.TB, h http.Header, want ...string) {
	t.Helper()
	for i := 0; i < len(want); i += 2 {
		if got := h.Get(want[i]); got != want[i+1] {
			t.Errorf("header %s is %q, want %q", want[i], got, want[i+1])
		}
	}
}

// chat is the body of a request of input tokens that asks for at most
// maxTokens; 0 asks for no bound.
func chat(input int, maxTokens int64) string {
	b := map[string]any{"model": "gpt-4o-mini", "messages": []any{map[string]any{"role": "user", "content": strings.Repeat("word", input)}}}
	if maxTokens > 0 {
		b["max_completion_tokens"] = maxTokens
	}
	data, _ := json.Marshal(b)
	return string(data)
}

func decode[T any](t testing.TB, data string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, data)
	}
	return v
}

type apiError struct {
	Error struct {
		Message, Type string
		Param, Code   *string
	}
}

func TestAnswersLikeOpenAI(t *testing.T) {
	for name, opts := range map[string][]Option{"loopback": nil, "in memory": {InMemory()}} {
		t.Run(name, func(t *testing.T) {
			s := NewServer(t, OpenAI(RPM(500), TPM(10_000)), append(opts, WithOutputTokens(20, 0))...)
			res, body := post(t, s, chat(7, 12))
			if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/json" {
				t.Fatalf("status %v, %v", res.Status, res.Header)
			}
			got := decode[completion](t, body)
			if got.Object != "chat.completion" || got.Model != "gpt-4o-mini" || !strings.HasPrefix(got.ID, "chatcmpl-") || len(got.Choices) != 1 {
				t.Errorf("answer %s", body)
			}
			if c := got.Choices[0]; c.Message.Role != "assistant" || len(strings.Fields(*c.Message.Content)) != 12 || *c.FinishReason != "length" {
				t.Errorf("choice %s: want 12 words, cut short by the maximum", body)
			}
			u := decode[struct{ Usage usage }](t, body).Usage
			if u.PromptTokens != 7 || u.CompletionTokens != 12 || u.TotalTokens != 19 {
				t.Errorf("usage %+v", u)
			}
			_, body = post(t, s, chat(7, 0))
			if got := decode[completion](t, body); *got.Choices[0].FinishReason != "stop" || len(strings.Fields(*got.Choices[0].Message.Content)) != 20 {
				t.Errorf("without a maximum: %s", body)
			}
		})
	}
}

func TestInputCountsTextOfAllMessages(t *testing.T) {
	s := NewServer(t, OpenAI(), InMemory())
	for body, want := range map[string]int64{
		`{"model":"m","messages":[{"content":"abcd"},{"content":"e"}]}`:                                                   2,
		`{"model":"m","messages":[{"content":[{"type":"text","text":"abcde"},{"type":"image_url","image_url":{}}]}]}`:     2,
		`{"model":"m","messages":[{"content":null,"tool_calls":[]},{"content":"äöü"}]}`:                                   2,
		`{"model":"m","messages":[{"role":"user"}]}`:                                                                      0,
		`{"model":"m","messages":[{"content":"\u00e4\u00f6\u00fcabc"}],"max_tokens":5,"stream":false,"temperature":0.25}`: 3,
	} {
		if _, got := post(t, s, body); decode[struct{ Usage usage }](t, got).Usage.PromptTokens != want {
			t.Errorf("%s: %s; want %d prompt tokens", body, got, want)
		}
	}
}

func TestStreamsLikeOpenAI(t *testing.T) {
	for _, usage := range []bool{false, true} {
		t.Run(fmt.Sprint("include_usage ", usage), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewServer(t, OpenAI(), InMemory(), WithOutputTokens(5, 0), WithLatency(Latency{FirstToken: time.Second, PerToken: 100 * time.Millisecond}))
				body := strings.TrimSuffix(chat(3, 0), "}") + `,"stream":true,"stream_options":{"include_usage":` + fmt.Sprint(usage) + `}}`
				start := time.Now()
				res, err := s.Client().Post(s.URL()+"/chat/completions", "application/json", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if ct := res.Header.Get("Content-Type"); !strings.HasPrefix(ct, "text/event-stream") {
					t.Errorf("content type %q", ct)
				}
				var chunks []string
				var at []time.Duration
				lines := bufio.NewScanner(res.Body)
				for lines.Scan() {
					if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
						chunks, at = append(chunks, data), append(at, time.Since(start))
					} else if lines.Text() != "" {
						t.Errorf("line %q is no event", lines.Text())
					}
				}
				if chunks[len(chunks)-1] != "[DONE]" {
					t.Fatalf("the stream ends with %q", chunks[len(chunks)-1])
				}
				want := 1 + 5 + 1 + 1
				if usage {
					want++
				}
				if len(chunks) != want {
					t.Fatalf("%d chunks, want %d:\n%s", len(chunks), want, strings.Join(chunks, "\n"))
				}
				if !strings.Contains(chunks[0], `"delta":{"role":"assistant","content":""}`) || !strings.Contains(chunks[6], `"delta":{},"logprobs":null,"finish_reason":"stop"`) {
					t.Errorf("first %s\nlast %s", chunks[0], chunks[6])
				}
				var text strings.Builder
				for i := 1; i <= 5; i++ {
					text.WriteString(*decode[completion](t, chunks[i]).Choices[0].Delta.Content)
					if want := time.Second + time.Duration(i-1)*100*time.Millisecond; at[i] != want {
						t.Errorf("token %d after %v, want %v", i, at[i], want)
					}
				}
				if len(strings.Fields(text.String())) != 5 {
					t.Errorf("text %q, want five words", text.String())
				}
				if strings.Contains(chunks[1], `"usage":null`) != usage {
					t.Errorf("chunk %s", chunks[1])
				}
				if usage && (!strings.Contains(chunks[7], `"choices":[]`) || !strings.Contains(chunks[7], `"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8`)) {
					t.Errorf("usage chunk %s", chunks[7])
				}
			})
		})
	}
}

func TestHeadersTellWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, OpenAI(RPM(500), TPM(10_000)), InMemory(), WithLatency(Latency{}))
		// 519 of 10,000 tokens a minute are there again after 3.114 s: a sample
		// from OpenAI's public rate limit guide.
		res, _ := post(t, s, chat(19, 500))
		wantQuota(t, res.Header, "500", "499", "120ms", "10000", "9481", "3.114s")
		time.Sleep(time.Minute)
		res, _ = post(t, s, chat(10, 0))
		wantQuota(t, res.Header, "500", "499", "120ms", "10000", "9990", "60ms")

		s = NewServer(t, OpenAI(RPM(500), RPD(10)), InMemory(), WithLatency(Latency{}))
		res, _ = post(t, s, chat(1, 0)) // the day's limit has the smaller part left
		wantQuota(t, res.Header, "10", "9", "2h24m0s", "", "", "")

		s = NewServer(t, OpenAI(RPM(10).By(SlidingWindow)), InMemory(), WithLatency(Latency{}))
		post(t, s, chat(1, 0))
		time.Sleep(time.Minute) // to the very end of the first request's window
		res, _ = post(t, s, chat(1, 0))
		wantQuota(t, res.Header, "10", "9", "1m0s", "", "", "")
	})
}

func wantQuota(t *testing.T, h http.Header, want ...string) {
	t.Helper()
	for i, name := range []string{"limit-requests", "remaining-requests", "reset-requests", "limit-tokens", "remaining-tokens", "reset-tokens"} {
		if got := h.Get("x-ratelimit-" + name); got != want[i] {
			t.Errorf("x-ratelimit-%s is %q, want %q", name, got, want[i])
		}
	}
}

func TestRefusalsLookLikeOpenAIs(t *testing.T) {
	for _, tt := range []struct {
		name       string
		limit      Limit
		requests   int
		body       string
		retryAfter string
		kind       string
		message    string
	}{
		// The refusal counts too, so that two requests have to be there again.
		{"requests", RPM(2), 2, chat(1, 0), "60", "requests",
			"Rate limit reached for gpt-4o-mini on requests per min (RPM): Limit 2, Used 2, Requested 1. Please try again in 1m0s."},
		{"tokens", TPM(1000), 1, chat(10, 600), "14", "tokens",
			"Rate limit reached for gpt-4o-mini on tokens per min (TPM): Limit 1000, Used 610, Requested 610. Please try again in 13.2s."},
		{"a day, by window", RPD(1).By(SlidingWindow), 1, chat(1, 0), "86400", "requests",
			"Rate limit reached for gpt-4o-mini on requests per day (RPD): Limit 1, Used 1, Requested 1. Please try again in 24h0m0s."},
		{"larger than the limit", TPM(100), 0, chat(1, 100), "", "tokens",
			"Request too large for gpt-4o-mini on tokens per min (TPM): Limit 100, Requested 101. The input or output tokens must be reduced in order to run successfully."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewServer(t, OpenAI(tt.limit), InMemory(), WithLatency(Latency{}))
				for range tt.requests {
					if res, body := post(t, s, tt.body); res.StatusCode != 200 {
						t.Fatalf("%s: %s", res.Status, body)
					}
				}
				res, body := post(t, s, tt.body)
				e := decode[apiError](t, body).Error
				if res.StatusCode != 429 || res.Header.Get("Retry-After") != tt.retryAfter || e.Type != tt.kind || e.Param != nil || e.Code == nil || *e.Code != "rate_limit_exceeded" {
					t.Errorf("%s, Retry-After %q: %s", res.Status, res.Header.Get("Retry-After"), body)
				}
				if e.Message != tt.message {
					t.Errorf("message %q\nwant    %q", e.Message, tt.message)
				}
				if res.Header.Get("x-ratelimit-limit-requests")+res.Header.Get("x-ratelimit-limit-tokens") != fmt.Sprint(tt.limit.Amount) {
					t.Errorf("headers %v", res.Header)
				}
			})
		})
	}
}

func TestInvalidRequests(t *testing.T) {
	s := NewServer(t, OpenAI(RPM(1).For("gpt-4o")), InMemory(), WithKey("secret"))
	do := func(method, path, key, body string) (int, string) {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), method, strings.TrimSuffix(s.URL(), "/v1")+path, bytes.NewBufferString(body))
		req.Header.Set("Authorization", "Bearer "+key)
		res, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		data, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(data)
	}
	invalid := []struct {
		method, path, key, body string
		status                  int
		param, code             string
	}{
		{"POST", "/v1/chat/completions", "wrong", chat(1, 1), 401, "", "invalid_api_key"},
		{"POST", "/v1/chat/completions", "secret", `{"model":`, 400, "", ""},
		{"POST", "/v1/chat/completions", "secret", `{"model":"m","messages":[{"content":3}]}`, 400, "", ""},
		{"POST", "/v1/chat/completions", "secret", `{"messages":[{"content":"a"}]}`, 400, "model", ""},
		{"POST", "/v1/chat/completions", "secret", `{"model":"m"}`, 400, "messages", ""},
		{"POST", "/v1/chat/completions", "secret", `{"model":"m","messages":[{"content":"a"}],"max_tokens":0}`, 400, "max_tokens", ""},
		{"POST", "/v1/chat/completions", "secret", `{"model":"m","messages":[{"content":"a"}],"max_completion_tokens":9000000000000000000}`, 400, "max_completion_tokens", ""},
		{"GET", "/v1/chat/completions", "secret", "", 405, "", "method_not_allowed"},
		{"POST", "/v1/nothing", "secret", "", 404, "", ""},
	}
	for _, tt := range invalid {
		status, body := do(tt.method, tt.path, tt.key, tt.body)
		e := decode[apiError](t, body).Error
		text := func(p *string) string {
			if p == nil {
				return ""
			}
			return *p
		}
		if status != tt.status || e.Message == "" || e.Type != "invalid_request_error" || text(e.Param) != tt.param || text(e.Code) != tt.code {
			t.Errorf("%s %s %s: %d %s", tt.method, tt.path, tt.body, status, body)
		}
	}
	for _, path := range []string{"/v1/models", "/models"} {
		if status, body := do("GET", path, "secret", ""); status != 200 || !strings.Contains(body, `{"id":"gpt-4o","object":"model"`) {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if status, body := do("POST", "/chat/completions", "secret", chat(1, 1)); status != 200 {
		t.Errorf("without /v1: %d %s", status, body)
	}
	if st := s.Stats(); st.Invalid != int64(len(invalid)) || st.Accepted != 1 {
		t.Errorf("stats %+v", st)
	}
}

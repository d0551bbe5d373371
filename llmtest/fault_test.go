package llmtest

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// outcome is what a client sees of one request: the status and body as far as
// they came, when the headers came and when it all ended, and the error.
type outcome struct {
	status        int
	body          string
	headers, took time.Duration
	err           error
}

// try sends a request and gives up after a minute.
func try(t *testing.T, s *Server, path, body string) (o outcome) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(s.URL(), s.provider.path)+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	res, err := s.Client().Do(req)
	if err != nil {
		return outcome{err: err, took: time.Since(start)}
	}
	defer res.Body.Close()
	o = outcome{status: res.StatusCode, headers: time.Since(start)}
	data, err := io.ReadAll(res.Body)
	o.body, o.err, o.took = string(data), err, time.Since(start)
	return o
}

func streamed(body string) string { return strings.TrimSuffix(body, "}") + `,"stream":true}` }

// TestFaultsOfTheConnection has every fault that is no status, unary and streamed, with an
// answer that takes 1 s to its first token and 1 s for each of ten.
func TestFaultsOfTheConnection(t *testing.T) {
	for _, tt := range []struct {
		name    string
		fault   Fault
		stream  bool
		want    func(outcome) bool
		verdict Verdict
		output  int64
	}{
		{"slow headers", Fault{Kind: FaultSlow, Delay: 5 * time.Second}, false,
			func(o outcome) bool {
				return o.status == 200 && o.headers == 15*time.Second && strings.Contains(o.body, `"stop"`)
			}, Completed, 10},
		{"slow headers", Fault{Kind: FaultSlow, Delay: 5 * time.Second}, true,
			func(o outcome) bool {
				return o.headers == 6*time.Second && o.took == 15*time.Second && strings.HasSuffix(o.body, "[DONE]\n\n")
			}, Completed, 10},
		{"no headers", Fault{Kind: FaultSlow}, false,
			func(o outcome) bool { return errors.Is(o.err, context.DeadlineExceeded) && o.status == 0 }, Failed, 0},
		{"stall", Fault{Kind: FaultStall}, false,
			func(o outcome) bool {
				return o.status == 200 && errors.Is(o.err, context.DeadlineExceeded) && o.body != "" && !strings.Contains(o.body, "usage")
			}, Failed, 10},
		{"stall", Fault{Kind: FaultStall}, true,
			func(o outcome) bool {
				return errors.Is(o.err, context.DeadlineExceeded) && strings.Count(o.body, "data: ") == 6
			}, Failed, 5},
		{"stall and go on", Fault{Kind: FaultStall, Delay: 7 * time.Second}, false,
			func(o outcome) bool {
				return o.err == nil && o.headers == 10*time.Second && o.took == 17*time.Second && strings.Contains(o.body, "usage")
			}, Completed, 10},
		{"stall and go on", Fault{Kind: FaultStall, Delay: 7 * time.Second}, true,
			func(o outcome) bool { return o.took == 17*time.Second && strings.HasSuffix(o.body, "[DONE]\n\n") }, Completed, 10},
		{"cut", Fault{Kind: FaultCut}, false,
			func(o outcome) bool {
				return errors.Is(o.err, io.ErrUnexpectedEOF) && o.status == 200 && strings.HasPrefix(o.body, `{"id"`)
			}, Failed, 10},
		{"cut", Fault{Kind: FaultCut}, true,
			func(o outcome) bool {
				return errors.Is(o.err, io.ErrUnexpectedEOF) && strings.Count(o.body, "data: ") == 6 && o.took == 5*time.Second
			}, Failed, 5},
		{"reset", Fault{Kind: FaultReset}, false,
			func(o outcome) bool { return o.err != nil && o.status == 0 && o.took == 0 }, Failed, 0},
		{"reset", Fault{Kind: FaultReset}, true,
			func(o outcome) bool { return o.err != nil && o.status == 0 && o.took == 0 }, Failed, 0},
		{"error event", Fault{Kind: FaultStream}, true,
			func(o outcome) bool {
				return o.err == nil && o.status == 200 && strings.HasSuffix(o.body, `data: {"error":{"message":"The server is overloaded. Please try again later.","type":"service_unavailable_error","param":null,"code":"server_is_overloaded"}}`+"\n\n")
			}, Failed, 5},
		{"error event of an unary answer", Fault{Kind: FaultStream, Status: 502}, false,
			func(o outcome) bool { return o.status == 502 && strings.Contains(o.body, "server_error") }, Failed, 0},
		{"insufficient quota", Fault{Kind: FaultQuota}, false,
			func(o outcome) bool {
				return o.status == 429 && strings.Contains(o.body, `"type":"insufficient_quota","param":null,"code":"insufficient_quota"`)
			}, Failed, 0},
		{"spend limit", Fault{Kind: FaultSpend}, true,
			func(o outcome) bool {
				return o.status == 429 && strings.Contains(o.body, `"code":"organization_spend_limit_exceeded"`)
			}, Failed, 0},
		{"408", Fault{Status: 408}, false, func(o outcome) bool { return o.status == 408 }, Failed, 0},
	} {
		name := tt.name + ", unary"
		if tt.stream {
			name = tt.name + ", streamed"
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewServer(t, OpenAI(TPM(1000)), InMemory(), WithOutputTokens(10, 0), WithLatency(Latency{FirstToken: time.Second, PerToken: time.Second}),
					WithFaultScript(tt.fault))
				body := chat(20, 80)
				if tt.stream {
					body = streamed(body)
				}
				if o := try(t, s, "/v1/chat/completions", body); !tt.want(o) {
					t.Errorf("the client saw %+v", o)
				}
				synctest.Wait()
				a := s.Arrivals()[0]
				wasted := int64(100)
				if tt.verdict == Completed {
					wasted = 0
				}
				if a.Verdict != tt.verdict || a.OutputTokens != tt.output || a.Fault != tt.fault || a.Charged != 100 || s.Stats().TokensWasted != wasted {
					t.Errorf("recorded as %+v with %d wasted: want %s, %d tokens, %d wasted", a, s.Stats().TokensWasted, tt.verdict, tt.output, wasted)
				}
				// The next request is answered as usual.
				if o := try(t, s, "/v1/chat/completions", body); o.err != nil || o.status != 200 {
					t.Errorf("the next request: %+v", o)
				}
			})
		})
	}
}

// TestErrorEventsOfTheOthers breaks a stream of every dialect after its 200.
func TestErrorEventsOfTheOthers(t *testing.T) {
	for _, tt := range []struct {
		provider   Provider
		path, body string
		want       string
	}{
		{OpenAI(), "/v1/responses", `{"model":"m","input":"a","stream":true}`, "event: error\n" + `data: {"code":"server_is_overloaded","message":"The server is overloaded. Please try again later.","param":null,"sequence_number":6,"type":"error"}` + "\n\n"},
		{AzureOpenAI(), azureChat, streamed(chat(1, 0)), `data: {"error":{"code":"503","message":"The service is temporarily unable to process your request. Please try again later."}}` + "\n\n"},
		{Anthropic(), "/v1/messages", toClaude(1, `,"stream":true`), "event: error\n" + `data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_000000000000000000000000"}` + "\n\n"},
		{Gemini(), geminiPath + "streamGenerateContent?alt=sse", contents(1), `data: {"error":{"code":503,"message":"The model is overloaded. Please try again later.","status":"UNAVAILABLE"}}` + "\n\n"},
		{Gemini(), geminiPath + "streamGenerateContent", contents(1), `{"error":{"code":503,"message":"The model is overloaded. Please try again later.","status":"UNAVAILABLE"}}` + "\n]\n"},
		{Groq(), groqChat, streamed(chat(1, 0)), `"code":"capacity_exceeded"}}` + "\n\n"},
		{Mistral(), "/v1/chat/completions", streamed(chat(1, 0)), `data: {"object":"error","message":"Service unavailable.","type":"service_unavailable","param":null,"code":null}` + "\n\n"},
		{Ollama(), "/api/chat", `{"model":"m","messages":[{"content":"a"}]}`, `{"error":"server busy, please try again.  maximum pending requests exceeded"}` + "\n"},
	} {
		s := NewServer(t, tt.provider, InMemory(), WithOutputTokens(4, 0), WithFaultScript(Fault{Kind: FaultStream}))
		res, body := send(t, s, tt.path, tt.body)
		if res.StatusCode != 200 || !strings.HasSuffix(body, tt.want) {
			t.Errorf("%v %s: %s %s\nwant %s", tt.provider, tt.path, res.Status, body, tt.want)
		}
	}
}

// TestResetOverTCP sees what a client sees of a real connection.
func TestResetOverTCP(t *testing.T) {
	s := NewServer(t, OpenAI(), WithFaultScript(Fault{Kind: FaultReset}))
	if o := try(t, s, "/v1/chat/completions", chat(1, 1)); !errors.Is(o.err, syscall.ECONNRESET) && !errors.Is(o.err, io.EOF) {
		t.Errorf("the client saw %+v", o)
	}
}

func TestWrongHeaders(t *testing.T) {
	const name = "x-ratelimit-remaining-requests"
	t.Run("some answers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := NewServer(t, OpenAI(RPM(10)), InMemory(), WithLatency(Latency{}), WithFaultScript(Fault{Kind: FaultHeaders, Value: "-1"}, Fault{Kind: FaultHeaders}))
			for _, want := range []string{"-1", "", "7"} {
				res, _ := post(t, s, chat(1, 1))
				wantHeaders(t, res.Header, name, want)
				if res.StatusCode != 200 || res.Header.Get("X-Request-Id") == "" {
					t.Errorf("%s, %v: only the limits' headers are wrong", res.Status, res.Header)
				}
			}
		})
	})
	for _, value := range []string{"0", "soon", ""} {
		t.Run("all answers "+value, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewServer(t, AzureOpenAI(RPM(6)), InMemory(), WithBadHeaders(value))
				for _, status := range []int{200, 429} {
					res, body := send(t, s, azureChat, chat(1, 1))
					if res.StatusCode != status {
						t.Fatalf("%s: %s", res.Status, body)
					}
					wantHeaders(t, res.Header, name, value)
					if status == 429 {
						wantHeaders(t, res.Header, "retry-after", value, "retry-after-ms", value)
					}
				}
			})
		})
	}
}

// TestClientLeavesAStalledStream gives the slot back at once.
func TestClientLeavesAStalledStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Ollama(), InMemory(), WithLatency(Latency{}), WithOutputTokens(4, 0), WithFaultScript(Fault{Kind: FaultStall}))
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "POST", s.URL()+"/api/chat", strings.NewReader(`{"model":"m","messages":[{"content":"a"}]}`))
		res, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		cancel()
		res.Body.Close()
		start := time.Now()
		if res, _ := send(t, s, "/api/chat", `{"model":"m","messages":[{"content":"a"}]}`); res.StatusCode != 200 || time.Since(start) > 0 {
			t.Errorf("%s after %v: the only slot is still taken", res.Status, time.Since(start))
		}
	})
}

package llmtest

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestErrorsInAnswers has every dialect put errors after a 200: in the answer's
// place and into the answer itself, unary and streamed. The half of the text is said.
func TestErrorsInAnswers(t *testing.T) {
	responses := `{"model":"m","input":"a"}`
	claude, ollama := toClaude(1, ""), `{"model":"m","messages":[{"content":"a"}],"stream":false}`
	const injected = "llmtest: a fault was injected here."
	for _, tt := range []struct {
		provider   Provider
		path, body string
		fault      Fault
		want       []string
	}{
		{OpenAI(), "/v1/chat/completions", chat(1, 0), Fault{Kind: FaultBody},
			[]string{`{"error":{"message":"The server is overloaded. Please try again later.","type":"service_unavailable_error","param":null,"code":"server_is_overloaded"}}`}},
		{OpenAI(), "/v1/chat/completions", chat(1, 0), Fault{Kind: FaultBody, Status: 429}, []string{`"type":"requests","param":null,"code":"rate_limit_exceeded"}}`}},
		{OpenAI(), "/v1/chat/completions", chat(1, 0), Fault{Kind: FaultBody, Status: 500}, []string{`"type":"server_error","param":null,"code":null}}`}},
		{OpenAI(), "/v1/chat/completions", streamed(chat(1, 0)), Fault{Kind: FaultBody, Status: 429}, []string{"data: {\"error\":{", `"code":"rate_limit_exceeded"}}` + "\n\n"}},
		{OpenAI(), "/v1/chat/completions", chat(1, 0), Fault{Kind: FaultAnswer, Status: 502},
			[]string{`"choices":[{"index":0,"message":{"role":"assistant","content":"`, `"finish_reason":"error","error":{"code":502,"message":"` + injected + `"}}]}`}},
		{OpenAI(), "/v1/chat/completions", streamed(chat(1, 0)), Fault{Kind: FaultAnswer, Status: 429},
			[]string{`"choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"error","error":{"code":429,"message":"` + injected + `"}}]}` + "\n\n"}},
		{OpenAI(), "/v1/responses", responses, Fault{Kind: FaultBody}, []string{`{"error":{"message":"The server is overloaded.`}},
		{OpenAI(), "/v1/responses", responses, Fault{Kind: FaultAnswer},
			[]string{`"status":"failed","error":{"code":"server_is_overloaded","message":"The server is overloaded. Please try again later."}`, `"status":"incomplete"`}},
		{OpenAI(), "/v1/responses", streamed(responses), Fault{Kind: FaultAnswer, Status: 500},
			[]string{"event: response.failed\n", `"sequence_number":6,"response":{`, `"status":"failed","error":{"code":"server_error","message":"` + injected + `"}`, "}}\n\n"}},
		{OpenAI(), "/v1/responses", streamed(responses), Fault{Kind: FaultBody, Status: 429}, []string{"event: error\n", `"code":"rate_limit_exceeded"`}},
		{OpenAI(), "/v1/embeddings", `{"model":"m","input":"a"}`, Fault{Kind: FaultAnswer}, []string{`{"error":{`, `"code":"server_is_overloaded"`}},
		{AzureOpenAI(), azureChat, chat(1, 0), Fault{Kind: FaultBody, Status: 429}, []string{`{"error":{"code":"429","message":"`}},
		{Mistral(), "/v1/chat/completions", chat(1, 0), Fault{Kind: FaultBody, Status: 429}, []string{`{"object":"error",`, `"type":"rate_limited"`}},
		{Groq(), groqChat, chat(1, 0), Fault{Kind: FaultBody}, []string{`{"error":{`, `"code":"capacity_exceeded"}}`}},
		{Anthropic(), "/v1/messages", claude, Fault{Kind: FaultBody}, []string{`{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}`}},
		{Anthropic(), "/v1/messages", toClaude(1, `,"stream":true`), Fault{Kind: FaultBody, Status: 429}, []string{"event: error\n", `"error":{"type":"rate_limit_error"`}},
		{Anthropic(), "/v1/messages", toClaude(1, `,"stream":true`), Fault{Kind: FaultStream, Status: 500}, []string{"event: error\n", `"error":{"type":"api_error"`}},
		{Gemini(), geminiPath + "generateContent", contents(1), Fault{Kind: FaultBody, Status: 429}, []string{`{"error":{"code":429,`, `"status":"RESOURCE_EXHAUSTED"}}`}},
		{Gemini(), geminiPath + "streamGenerateContent?alt=sse", contents(1), Fault{Kind: FaultAnswer, Status: 500}, []string{`data: {"error":{"code":500,`, `"status":"INTERNAL"}}` + "\n\n"}},
		{Ollama(), "/api/chat", ollama, Fault{Kind: FaultBody}, []string{`{"error":"server busy`}},
		{Cohere(), "/v2/chat", cohereTurn, Fault{Kind: FaultAnswer}, []string{`"content":[{"type":"text","text":"`, `"finish_reason":"ERROR"}`}},
		{Cohere(), "/v2/chat", streamed(cohereTurn), Fault{Kind: FaultAnswer}, []string{`data: {"type":"message-end","delta":{"error":"`}},
		{Bedrock(), converse + "-stream", turn(1, ""), Fault{Kind: FaultBody, Status: 429}, []string{"throttlingException", ":message-type\x07\x00\x09exception{"}},
	} {
		t.Run(fmt.Sprint(tt.provider, " ", tt.path, " ", tt.fault), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewServer(t, tt.provider, InMemory(), WithOutputTokens(4, 0), WithLatency(Latency{FirstToken: time.Second, PerToken: time.Second}), WithFaultScript(tt.fault))
				res, body := send(t, s, tt.path, tt.body)
				if res.StatusCode != 200 {
					t.Errorf("%s", res.Status)
				}
				rest := body
				for _, want := range tt.want {
					_, after, ok := strings.Cut(rest, want)
					if !ok {
						t.Fatalf("no %q where it has to be in %s", want, body)
					}
					rest = after
				}
				send(t, s, tt.path, tt.body)
				synctest.Wait()
				a := s.Arrivals()
				if a[0].Verdict != Failed || a[1].Verdict != Completed || a[0].OutputTokens != a[1].OutputTokens/2 || a[0].Duration > 2*time.Second {
					t.Errorf("recorded as %+v, want a failure after half the tokens, and then a whole answer", a)
				}
			})
		})
	}
}

// TestErrorsKeepTheirStatus has no error after a 200 where the provider has none.
func TestErrorsKeepTheirStatus(t *testing.T) {
	for status, exception := range map[int]string{429: "ThrottlingException", 503: "ServiceUnavailableException"} {
		for _, kind := range []FaultKind{FaultBody, FaultAnswer} {
			s := NewServer(t, Bedrock(), InMemory(), WithFaultScript(Fault{Kind: kind, Status: status}))
			res, body := send(t, s, converse, turn(1, ""))
			wantHeaders(t, res.Header, "x-amzn-errortype", exception)
			if res.StatusCode != status {
				t.Errorf("%s: %s %s", kind, res.Status, body)
			}
		}
	}
	s := NewServer(t, Cohere(), InMemory(), WithFaultScript(Fault{Kind: FaultBody, Status: 500}))
	if res, body := send(t, s, "/v2/chat", cohereTurn); res.StatusCode != 500 {
		t.Errorf("%s %s", res.Status, body)
	}
}

// TestHasNoCapacity turns requests away for a lack of capacity in each provider's
// words: under load, and as a fault.
func TestHasNoCapacity(t *testing.T) {
	for _, tt := range []struct {
		provider   Provider
		path, body string
		status     int // that the test chooses
		want       int
		says       string
	}{
		{OpenAI(), "/v1/chat/completions", chat(1, 0), 0, 503, `"code":"server_is_overloaded"`},
		{Anthropic(), "/v1/messages", toClaude(1, ""), 0, 529, `"type":"overloaded_error"`},
		{Gemini(), geminiPath + "generateContent", contents(1), 0, 503, `"message":"The model is overloaded. Please try again later.","status":"UNAVAILABLE"`},
		{Gemini(), geminiPath + "generateContent", contents(1), 503, 503, `"reason":"MODEL_CAPACITY_EXHAUSTED"`},
		{Gemini(), geminiPath + "generateContent", contents(1), 429, 429, `on the server","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"MODEL_CAPACITY_EXHAUSTED"`},
		{Groq(), groqChat, chat(1, 0), 0, 498, `"code":"capacity_exceeded"`},
		{Groq(), groqChat, chat(1, 0), 503, 503, `"code":"server_is_overloaded"`},
		{Bedrock(), converse, turn(1, ""), 0, 503, "unable to process"},
		{Bedrock(), converse, turn(1, ""), 429, 429, "not ready"},
		{Cohere(), "/v2/chat", cohereTurn, 0, 503, "unavailable"},
	} {
		t.Run(fmt.Sprint(tt.provider, " ", tt.status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewServer(t, tt.provider, InMemory(), WithLatency(Latency{FirstToken: time.Second}),
					WithLoad(Load{Capacity: 1, Status: tt.status}), WithFaultScript(Fault{}, Fault{Kind: FaultFull, Status: tt.status, RetryAfter: time.Minute}))
				done := make(chan bool)
				go func() {
					send(t, s, tt.path, tt.body)
					close(done)
				}()
				synctest.Wait()
				refused, body := send(t, s, tt.path, tt.body)
				if refused.StatusCode != tt.want || !strings.Contains(body, tt.says) {
					t.Errorf("under load: %s %s, want %d with %s", refused.Status, body, tt.want, tt.says)
				}
				<-done
				if res, body := send(t, s, tt.path, tt.body); res.StatusCode != tt.want || !strings.Contains(body, tt.says) ||
					res.Header.Get("X-Amzn-Errortype") != refused.Header.Get("X-Amzn-Errortype") {
					t.Errorf("as a fault: %s %s, want %d with %s", res.Status, body, tt.want, tt.says)
				}
				if tt.provider.String() == "Bedrock" {
					wantHeaders(t, refused.Header, "x-amzn-errortype", map[int]string{0: "ServiceUnavailableException", 429: "ModelNotReadyException"}[tt.status])
				}
				synctest.Wait()
				if st := s.Stats(); st.Overloaded != 1 || st.Failed != 1 {
					t.Errorf("stats %+v", st)
				}
			})
		})
	}
}

func TestFaultsAreChecked(t *testing.T) {
	for _, opt := range []Option{
		WithFaultScript(Fault{Kind: FaultBody, Status: 200}), WithFaultScript(Fault{Kind: FaultFull, Status: 600}),
		WithFaultShare(0.1, Fault{Kind: FaultAnswer, Status: 1}), WithLoad(Load{Capacity: 1, Status: 200}),
	} {
		if s, err := Start(OpenAI(), InMemory(), opt); err == nil {
			s.Close()
			t.Error("a status that is no error's was taken")
		}
	}
}

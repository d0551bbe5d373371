package llmtest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Groq, Mistral and Ollama, as far as they differ from OpenAI.

const groqChat = "/openai/v1/chat/completions"

func TestSpeaksLikeGroq(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Groq(RPD(1000), RPM(30), TPM(6000)), InMemory(), WithOutputTokens(3, 0), WithLatency(Latency{FirstToken: time.Second, PerToken: 250 * time.Millisecond}))
		res, body := send(t, s, groqChat, chat(100, 400))
		if !strings.Contains(body, `"total_tokens":103,"queue_time":0,"prompt_time":1,"completion_time":0.5,"total_time":1.5}`) || !strings.Contains(body, `"x_groq":{"id":"req_`) {
			t.Errorf("%s: %s", res.Status, body)
		}
		// Requests are those of the day although the minute has less left.
		wantQuota(t, res.Header, "1000", "999", "1m26.4s", "6000", "5500", "5s")

		_, body = send(t, s, groqChat, strings.TrimSuffix(chat(1, 0), "}")+`,"stream":true}`)
		events := strings.Split(body, "\n\n")
		if !strings.Contains(events[0], `"x_groq":{"id":"req_`) || strings.Contains(events[1], "x_groq") || !strings.Contains(events[4], `"finish_reason":"stop"`) || !strings.Contains(events[4], `"usage":{"prompt_tokens":1,"completion_tokens":3,"total_tokens":4,`) {
			t.Errorf("stream %s", body)
		}

		time.Sleep(time.Hour)
		send(t, s, groqChat, chat(1, 4999))
		res, body = send(t, s, groqChat, chat(1, 1999))
		want := "Rate limit reached for model `gpt-4o-mini` in organization `org_llmtest` service tier `on_demand` on tokens per minute (TPM): Limit 6000, Used 4850, Requested 2000. Please try again in 8.5s."
		if e := decode[apiError](t, body).Error; res.StatusCode != 429 || e.Message != want || e.Type != "tokens" || *e.Code != "rate_limit_exceeded" || res.Header.Get("Retry-After") != "9" {
			t.Errorf("%s, Retry-After %q: %s", res.Status, res.Header.Get("Retry-After"), body)
		}
		res, body = send(t, s, groqChat, chat(1, 7000))
		if e := decode[apiError](t, body).Error; res.StatusCode != 413 || !strings.Contains(e.Message, "Limit 6000, Requested 7001, please reduce your message size") || res.Header.Get("Retry-After") != "" {
			t.Errorf("%s: %s", res.Status, body)
		}
		if res, _ := send(t, s, "/openai/v1/models", ""); res.StatusCode != 200 {
			t.Errorf("models: %s", res.Status)
		}
		if res, _ := send(t, s, "/openai/v1/nothing", ""); res.StatusCode != 404 {
			t.Errorf("nothing: %s", res.Status)
		}
	})
}

func TestSpeaksLikeMistral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Mistral(RPM(2).Per(time.Second), TPM(1000)), InMemory(), WithOutputTokens(3, 0), WithLatency(Latency{}), WithKey("secret"))
		const path = "/v1/chat/completions"
		key := []string{"Authorization", "Bearer secret"}
		res, body := send(t, s, path, chat(10, 90), key...)
		if res.StatusCode != 200 || strings.Contains(body, "logprobs") || !strings.Contains(body, `"usage":{"prompt_tokens":10,"completion_tokens":3,"total_tokens":13}`) {
			t.Errorf("%s: %s", res.Status, body)
		}
		wantHeaders(t, res.Header, "x-ratelimit-limit-tokens-minute", "1000", "x-ratelimit-remaining-tokens-minute", "900", "x-ratelimit-tokens-query-cost", "100",
			"x-ratelimit-limit-req-minute", "", "x-ratelimit-reset-tokens", "")

		_, body = send(t, s, path, strings.TrimSuffix(chat(1, 0), "}")+`,"stream":true}`, key...)
		if events := strings.Split(body, "\n\n"); !strings.Contains(events[4], `"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":3,"total_tokens":4}`) || events[5] != "data: [DONE]" {
			t.Errorf("stream %s", body)
		}
		res, body = send(t, s, path, chat(1, 1), key...)
		if want := `{"object":"error","message":"Rate limit exceeded","type":"rate_limited","param":null,"code":"1300"}`; res.StatusCode != 429 || body != want || res.Header.Get("Retry-After") != "1" {
			t.Errorf("%s: %s", res.Status, body)
		}
		if res, body := send(t, s, path, `{"model":"m"}`, key...); res.StatusCode != 422 || !strings.Contains(body, `"type":"invalid_request_error","param":"messages"`) {
			t.Errorf("%s: %s", res.Status, body)
		}
		if res, body := send(t, s, path, chat(1, 1)); res.StatusCode != 401 || !strings.Contains(body, "Unauthorized") {
			t.Errorf("%s: %s", res.Status, body)
		}
		if res, body := send(t, s, "/v1/nothing", chat(1, 1), key...); res.StatusCode != 404 {
			t.Errorf("%s: %s", res.Status, body)
		}
	})
}

func TestSpeaksLikeOllama(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Ollama(), InMemory(), WithOutputTokens(3, 0), WithLatency(Latency{FirstToken: time.Second, PerToken: time.Second}))
		const body = `{"model":"llama3.2","messages":[{"role":"user","content":"wordword"}],"options":{"num_predict":2}`
		res, got := send(t, s, "/api/chat", body+`,"stream":false}`)
		if res.StatusCode != 200 || !strings.HasPrefix(got, `{"model":"llama3.2","created_at":"2000-01-01T00:00:02Z","message":{"role":"assistant","content":"`) ||
			!strings.HasSuffix(got, `"done":true,"done_reason":"length","total_duration":2000000000,"prompt_eval_count":2,"prompt_eval_duration":1000000000,"eval_count":2,"eval_duration":1000000000}`) {
			t.Errorf("%s: %s", res.Status, got)
		}
		res, got = send(t, s, "/api/chat", body+`}`) // it streams unless told not to
		lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
		if ct := res.Header.Get("Content-Type"); ct != "application/x-ndjson" || len(lines) != 3 || !strings.Contains(lines[0], `"done":false}`) || !strings.Contains(lines[2], `"content":""},"done":true,"done_reason":"length"`) {
			t.Errorf("%s: %s", ct, got)
		}
		if _, got := send(t, s, "/api/generate", `{"model":"m","prompt":"word","stream":false,"options":{"num_predict":-1}}`); !strings.Contains(got, `"response":"`) || !strings.Contains(got, `"eval_count":3`) {
			t.Errorf("generate: %s", got)
		}
		for path, want := range map[string]string{"/api/tags": `"name":"llama3.2"`, "/api/version": `"version":"`} {
			if _, got := send(t, s, path, ""); !strings.Contains(got, want) {
				t.Errorf("%s: %s", path, got)
			}
		}
		for body, want := range map[string]string{`{`: "unexpected end", `{}`: "model is required"} {
			if res, got := send(t, s, "/api/chat", body); res.StatusCode != 400 || !strings.Contains(got, want) {
				t.Errorf("%s: %s %s", body, res.Status, got)
			}
		}
		if res, _ := send(t, s, "/v1/chat/completions", chat(1, 1)); res.StatusCode != 200 {
			t.Errorf("OpenAI's path: %s", res.Status)
		}
	})
}

// TestOllamaWorksOnOneAtATime sends more than may wait: each answer takes a
// second, one after the other in order, and what finds no room is told so.
func TestOllamaWorksOnOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Ollama(), InMemory(), WithLatency(Latency{FirstToken: time.Second}), WithLoad(Load{Parallel: 1, Capacity: 4}))
		start := time.Now()
		var wg sync.WaitGroup
		var mu sync.Mutex
		got := map[string]int{}
		for i := range 6 {
			synctest.Wait()
			wg.Go(func() {
				res, body := send(t, s, "/api/chat", `{"model":"m","messages":[{"content":"a"}]}`)
				mu.Lock()
				defer mu.Unlock()
				if res.StatusCode == 503 {
					got[body]++
				} else {
					got[fmt.Sprint("request ", i, " after ", time.Since(start))]++
				}
			})
		}
		wg.Wait()
		for _, want := range []string{"request 0 after 1s", "request 1 after 2s", "request 2 after 3s", "request 3 after 4s"} {
			if got[want] != 1 {
				t.Errorf("no %s in %v", want, got)
			}
		}
		if got[`{"error":"server busy, please try again.  maximum pending requests exceeded"}`] != 2 {
			t.Errorf("got %v, want two that are turned away", got)
		}
		if st := s.Stats(); st.Overloaded != 2 || st.Accepted != 4 || st.PeakConcurrent != 4 {
			t.Errorf("stats %+v", st)
		}
	})
}

package gateway

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

func TestEachDialectReachesItsUpstream(t *testing.T) {
	t.Parallel()
	for _, d := range []struct {
		dialect  string
		provider llmtest.Provider
		path     string
		body     string
		want     string
	}{
		{"openai", llmtest.OpenAI(), "/v1/chat/completions", chat("m"), `"chat.completion"`},
		{"openai", llmtest.OpenAI(), "/v1/chat/completions", chat("m", `"stream":true`), "data: [DONE]"},
		{"openai", llmtest.OpenAI(), "/v1/responses", `{"model":"m","input":"Why?"}`, `"response"`},
		{"openai", llmtest.OpenAI(), "/v1/embeddings", `{"model":"m","input":"Why?"}`, `"embedding"`},
		{"anthropic", llmtest.Anthropic(), "/v1/messages", chat("m"), `"message"`},
		{"anthropic", llmtest.Anthropic(), "/v1/messages", chat("m", `"stream":true`), "message_stop"},
		{"gemini", llmtest.Gemini(), "/v1beta/models/m:generateContent", `{"contents":[{"parts":[{"text":"Why?"}]}]}`, `"candidates"`},
		{"gemini", llmtest.Gemini(), "/v1beta/models/m:streamGenerateContent?alt=sse", `{"contents":[{"parts":[{"text":"Why?"}]}]}`, `"STOP"`},
		{"ollama", llmtest.Ollama(), "/api/chat", chat("m", `"stream":false`), `"done":true`},
		{"ollama", llmtest.Ollama(), "/api/chat", chat("m"), `"done":true`},
	} {
		t.Run(d.dialect+" "+d.path, func(t *testing.T) {
			t.Parallel()
			srv := llmtest.NewServer(t, d.provider)
			g := serve(t, "upstreams: [{dialect: "+d.dialect+", base_url: '"+srv.URL()+"', key_env: UPSTREAM_KEY}]")
			res := post(t, g.url+d.path, d.body)
			if res.status != http.StatusOK || !strings.Contains(res.body, d.want) {
				t.Fatalf("%d %s, want a body with %s; %s", res.status, res.body, d.want, g.log)
			}
			refused(t, srv, 1)
			if info := g.queues.manager.InfoAll(); len(info) != 1 || info[0].ModelID != "m" || info[0].Completed != 1 {
				t.Errorf("the queues are %+v: want one of m that completed a request", info)
			}
		})
	}
}

func TestNothingIsRefusedUpstream(t *testing.T) {
	t.Parallel()
	srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(20).Per(2*time.Second)), llmtest.WithFaultShare(0.05, llmtest.Fault{Status: 503}))
	g := serve(t, "upstreams: [{dialect: openai, base_url: '"+srv.URL()+"'}]\ndefault_model: {rpm: 20, period: 2s}")
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if res := post(t, g.url+"/v1/chat/completions", chat("m"), "Authorization", "Bearer any"); res.status != http.StatusOK {
				t.Errorf("%d %s", res.status, res.body)
			}
		})
	}
	wg.Wait()
	refused(t, srv, 40)
}

package llmtest

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const azureChat = "/openai/deployments/prod/chat/completions?api-version=2024-10-21"

func TestAnswersLikeAzure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, AzureOpenAI(RPM(120), TPM(1000)), InMemory(), WithOutputTokens(3, 0), WithLatency(Latency{}))
		res, body := send(t, s, azureChat, strings.Replace(chat(10, 90), `"model":"gpt-4o-mini",`, "", 1))
		if res.StatusCode != 200 || !strings.Contains(body, `"model":"prod"`) ||
			!strings.Contains(body, `"prompt_filter_results":[{"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}`) {
			t.Errorf("%s: %s", res.Status, body)
		}
		// Ten seconds' part of the requests, and resets in whole seconds without a unit.
		wantHeaders(t, res.Header,
			"x-ratelimit-limit-requests", "20", "x-ratelimit-remaining-requests", "19", "x-ratelimit-reset-requests", "10",
			"x-ratelimit-limit-tokens", "1000", "x-ratelimit-remaining-tokens", "900", "x-ratelimit-reset-tokens", "60")

		// A stream begins with a chunk without choices.
		_, body = send(t, s, azureChat, strings.TrimSuffix(chat(1, 0), "}")+`,"stream":true}`)
		if events := strings.Split(body, "\n\n"); !strings.HasPrefix(events[0], `data: {"id":"","object":"","created":0,"model":"","choices":[],"prompt_filter_results":[`) ||
			!strings.Contains(events[1], `"role":"assistant"`) || !strings.HasSuffix(body, "data: [DONE]\n\n") {
			t.Errorf("stream %s", body)
		}
		if res, body := send(t, s, "/openai/v1/chat/completions", chat(1, 1)); res.StatusCode != 200 {
			t.Errorf("the v1 path: %s %s", res.Status, body)
		}
		if res, body := send(t, s, "/openai/deployments/emb/embeddings", `{"input":"abcd"}`); res.StatusCode != 200 || !strings.Contains(body, `"model":"emb"`) {
			t.Errorf("embeddings: %s %.200s", res.Status, body)
		}
	})
}

func TestRefusalsLookLikeAzures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, AzureOpenAI(RPM(60), TPM(1000)), InMemory(), WithLatency(Latency{}))
		time.Sleep(1500 * time.Millisecond)
		if res, body := send(t, s, azureChat, chat(10, 890)); res.StatusCode != 200 {
			t.Fatalf("%s: %s", res.Status, body)
		}
		res, body := send(t, s, azureChat, chat(10, 200))
		if want := `{"error":{"code":"429","message":"Your requests to prod have exceeded the token rate limit of your current pricing tier. Please retry after 59 seconds."}}`; res.StatusCode != 429 || body != want {
			t.Errorf("%s: %s\nwant %s", res.Status, body, want)
		}
		wantHeaders(t, res.Header, "retry-after-ms", "58500", "retry-after", "59", "x-ratelimit-remaining-tokens", "100")

		// Ten seconds let 10 requests in: 2 have come, and the refused one counts.
		for range 8 {
			send(t, s, azureChat, chat(1, 1))
		}
		res, body = send(t, s, azureChat, chat(1, 1))
		if res.StatusCode != 429 || !strings.Contains(body, "call rate limit") {
			t.Errorf("the eleventh in ten seconds: %s %s", res.Status, body)
		}
		time.Sleep(8500 * time.Millisecond)
		if res, body := send(t, s, azureChat, chat(1, 1)); res.StatusCode != 200 {
			t.Errorf("in the next ten seconds: %s %s", res.Status, body)
		}
	})
}

func TestAzureRefusesAWrongKey(t *testing.T) {
	s := NewServer(t, AzureOpenAI(), InMemory(), WithKey("secret"))
	if res, body := send(t, s, azureChat, chat(1, 1), "api-key", "wrong"); res.StatusCode != 401 || !strings.Contains(body, `"code":"401"`) {
		t.Errorf("wrong key: %s %s", res.Status, body)
	}
	for _, header := range [][]string{{"api-key", "secret"}, {"Authorization", "Bearer secret"}} {
		if res, body := send(t, s, azureChat, chat(1, 1), header...); res.StatusCode != 200 {
			t.Errorf("%v: %s %s", header, res.Status, body)
		}
	}
	for _, path := range []string{"/openai/deployments//chat/completions", "/openai/deployments/a/nothing", "/chat/completions", "/openai/nothing"} {
		if res, body := send(t, s, path, chat(1, 1), "api-key", "secret"); res.StatusCode != 404 || !strings.Contains(body, `"code":"404"`) {
			t.Errorf("%s: %s %s", path, res.Status, body)
		}
	}
}

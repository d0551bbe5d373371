package llmtest

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const geminiPath = "/v1beta/models/gemini-2.5-flash:"

func contents(input int) string {
	return fmt.Sprintf(`{"contents":[{"role":"user","parts":[{"text":%q}]}],"generationConfig":{"maxOutputTokens":3}}`, strings.Repeat("word", input))
}

func TestAnswersLikeGemini(t *testing.T) {
	s := NewServer(t, Gemini(RPM(10)), InMemory(), WithOutputTokens(5, 0))
	res, body := send(t, s, geminiPath+"generateContent", contents(7), "x-goog-api-key", "any")
	if res.StatusCode != 200 || !strings.HasPrefix(body, `{"candidates":[{"content":{"parts":[{"text":"`) ||
		!strings.HasSuffix(body, `"}],"role":"model"},"finishReason":"MAX_TOKENS","index":0}],"usageMetadata":{"promptTokenCount":7,"candidatesTokenCount":3,"totalTokenCount":10},"modelVersion":"gemini-2.5-flash","responseId":"llmtest-00000000"}`) {
		t.Errorf("%s: %s", res.Status, body)
	}
	for name := range res.Header {
		if strings.Contains(name, "Ratelimit") {
			t.Errorf("Gemini documents no such header: %s", name)
		}
	}
	_, body = send(t, s, geminiPath+"streamGenerateContent?alt=sse", contents(7))
	chunks := strings.Split(strings.TrimSuffix(body, "\n\n"), "\n\n")
	if len(chunks) != 4 || !strings.Contains(chunks[1], `"candidatesTokenCount":2,"totalTokenCount":9`) || strings.Contains(chunks[2], "finishReason") ||
		!strings.Contains(chunks[3], `"finishReason":"MAX_TOKENS"`) || !strings.Contains(chunks[3], `"candidatesTokenCount":3,"totalTokenCount":10`) {
		t.Errorf("stream %s", body)
	}
	_, body = send(t, s, geminiPath+"streamGenerateContent", contents(7))
	if list := decode[[]contentResponse](t, body); len(list) != 4 || list[3].UsageMetadata.TotalTokenCount != 10 {
		t.Errorf("an array of chunks: %s", body)
	}
	if res, body := send(t, s, "/v1beta/models", ""); res.StatusCode != 200 || !strings.Contains(body, `"name":"models/gemini-2.5-flash"`) {
		t.Errorf("%s: %s", res.Status, body)
	}
}

func TestRefusalsLookLikeGeminis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Gemini(RPM(2), ITPM(100)), InMemory(), WithLatency(Latency{}))
		send(t, s, geminiPath+"generateContent", contents(60))
		time.Sleep(21800 * time.Millisecond)
		res, body := send(t, s, geminiPath+"generateContent", contents(50))
		want := `{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details.` +
			`\n* Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_paid_tier_input_token_count, limit: 100, model: gemini-2.5-flash` +
			`\nPlease retry in 38.2s.","status":"RESOURCE_EXHAUSTED","details":[` +
			`{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaMetric":"generativelanguage.googleapis.com/generate_content_paid_tier_input_token_count",` +
			`"quotaId":"GenerateContentPaidTierInputTokensPerMinutePerProjectPerModel","quotaDimensions":{"location":"global","model":"gemini-2.5-flash"},"quotaValue":"100"}]},` +
			`{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"38.2s"}]}}`
		if res.StatusCode != 429 || body != want || res.Header.Get("Retry-After") != "" {
			t.Errorf("%s, Retry-After %q: %s\nwant %s", res.Status, res.Header.Get("Retry-After"), body, want)
		}
		// The refused request counts for nothing.
		if res, body := send(t, s, geminiPath+"generateContent", contents(1)); res.StatusCode != 200 {
			t.Errorf("%s: %s", res.Status, body)
		}
		if res, body := send(t, s, geminiPath+"generateContent", contents(1)); res.StatusCode != 429 || !strings.Contains(body, `"quotaId":"GenerateRequestsPerMinutePerProjectPerModel"`) {
			t.Errorf("%s: %s", res.Status, body)
		}
	})
}

// TestGeminisDayEndsAtMidnightPacific starts at midnight UTC, as bubbles do:
// eight hours before it, in winter.
func TestGeminisDayEndsAtMidnightPacific(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Gemini(RPD(1)), InMemory(), WithLatency(Latency{}))
		send(t, s, geminiPath+"generateContent", contents(1))
		res, body := send(t, s, geminiPath+"generateContent", contents(1))
		if res.StatusCode != 429 || !strings.Contains(body, `"quotaId":"GenerateRequestsPerDayPerProjectPerModel"`) || !strings.Contains(body, `"retryDelay":"28800s"`) {
			t.Errorf("%s: %s", res.Status, body)
		}
		time.Sleep(8*time.Hour - 1)
		if res, _ := send(t, s, geminiPath+"generateContent", contents(1)); res.StatusCode != 429 {
			t.Errorf("%s before midnight", res.Status)
		}
		time.Sleep(time.Nanosecond)
		if res, body := send(t, s, geminiPath+"generateContent", contents(1)); res.StatusCode != 200 {
			t.Errorf("%s at midnight: %s", res.Status, body)
		}
	})
}

// TestTheShortDayIsShort refuses on the day on which clocks are put forward in
// California, which has 23 hours.
func TestTheShortDayIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Gemini(RPD(1)), InMemory(), WithLatency(Latency{}))
		midnight := time.Date(2000, 4, 2, 0, 0, 0, 0, pacific())
		time.Sleep(time.Until(midnight))
		send(t, s, geminiPath+"generateContent", contents(1))
		if res, body := send(t, s, geminiPath+"generateContent", contents(1)); res.StatusCode != 429 || !strings.Contains(body, `"retryDelay":"82800s"`) {
			t.Errorf("%s: %s", res.Status, body)
		}
	})
}

func TestGeminisOtherErrors(t *testing.T) {
	s := NewServer(t, Gemini(), InMemory(), WithKey("secret"), WithFaultScript(
		Fault{Status: 503}, Fault{Status: 500}, Fault{Kind: FaultQuota}, Fault{Status: 429, RetryAfter: 3 * time.Second}, Fault{Kind: FaultSpend}))
	for i, want := range []struct {
		path, key, body string
		status          int
		text            string
	}{
		{geminiPath + "generateContent", "secret", contents(1), 503, `"status":"UNAVAILABLE"`},
		{geminiPath + "generateContent", "secret", contents(1), 500, `"status":"INTERNAL"`},
		{geminiPath + "generateContent", "secret", contents(1), 429, `"message":"You exceeded your current quota, please check your plan and billing details.","status":"RESOURCE_EXHAUSTED"}`},
		{geminiPath + "generateContent?key=secret", "", contents(1), 429, `"retryDelay":"3s"`},
		{geminiPath + "generateContent", "secret", contents(1), 429, `spending cap`},
		{geminiPath + "generateContent", "wrong", contents(1), 400, `"reason":"API_KEY_INVALID"`},
		{geminiPath + "generateContent", "secret", `{`, 400, `"status":"INVALID_ARGUMENT"`},
		{geminiPath + "generateContent", "secret", `{}`, 400, `contents is not specified`},
		{geminiPath + "nothing", "secret", `{}`, 404, `"status":"NOT_FOUND"`},
		{"/v1beta/nothing", "secret", `{}`, 404, `"status":"NOT_FOUND"`},
	} {
		res, body := send(t, s, want.path, want.body, "x-goog-api-key", want.key)
		if res.StatusCode != want.status || !strings.Contains(body, want.text) {
			t.Errorf("%d: %s %s; want %d %s", i, res.Status, body, want.status, want.text)
		}
	}
}

package llmtest

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const cohereTurn = `{"model":"command-a-03-2025","messages":[{"role":"user","content":"wordword"}]}`

func TestSpeaksLikeCohere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Cohere(RPM(20), RPD(1000).Per(30*day)), InMemory(), WithOutputTokens(2, 0), WithLatency(Latency{}))
		res, body := send(t, s, "/v2/chat", cohereTurn)
		const usage = `"usage":{"billed_units":{"input_tokens":2,"output_tokens":2},"tokens":{"input_tokens":2,"output_tokens":2}}`
		if res.StatusCode != 200 || !strings.HasPrefix(body, `{"id":"00000000-0000-4000-8000-000000000000","message":{"role":"assistant","content":[{"type":"text","text":"`) ||
			!strings.HasSuffix(body, `"}]},"finish_reason":"COMPLETE",`+usage+`}`) {
			t.Errorf("%s: %s", res.Status, body)
		}
		wantHeaders(t, res.Header, "x-trial-endpoint-call-limit", "20", "x-trial-endpoint-call-remaining", "19", "x-endpoint-monthly-call-limit", "1000")

		res, body = send(t, s, "/v2/chat", streamed(strings.TrimSuffix(cohereTurn, "}")+`,"max_tokens":2}`))
		events := strings.Split(body, "\n\n")
		if len(events) != 8 {
			t.Fatalf("%s: %s", res.Status, body)
		}
		for i, want := range []string{
			`event: message-start` + "\n" + `data: {"id":"00000000-0000-4000-8000-000000000001","type":"message-start","delta":{"message":{"role":"assistant","content":[]}}}`,
			`event: content-start` + "\n" + `data: {"type":"content-start","index":0,"delta":{"message":{"content":{"text":"","type":"text"}}}}`,
			`event: content-delta` + "\n" + `data: {"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"`,
			`event: content-delta` + "\n" + `data: {"type":"content-delta","index":0,"delta":{"message":{"content":{"text":" `,
			`event: content-end` + "\n" + `data: {"type":"content-end","index":0}`,
			`event: message-end` + "\n" + `data: {"type":"message-end","delta":{"finish_reason":"COMPLETE",` + usage + `}}`,
			`data: [DONE]`,
		} {
			if !strings.HasPrefix(events[i], want) {
				t.Errorf("event %d is %s, want %s", i, events[i], want)
			}
		}
		if res, body := send(t, s, "/v1/models", ""); res.StatusCode != 200 || !strings.Contains(body, "command-a") {
			t.Errorf("models: %s %s", res.Status, body)
		}
	})
}

// TestCohereRefuses names the limit of a trial key, and never how long to wait.
func TestCohereRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Cohere(RPM(2), RPD(3).Per(30*day)), InMemory(), WithLatency(Latency{}))
		ask := func(want string) {
			t.Helper()
			res, body := send(t, s, "/v2/chat", cohereTurn)
			if res.StatusCode != 429 || !strings.Contains(body, `"message":"You are using a Trial key, which is limited to `+want+`. You can continue`) {
				t.Errorf("%s %s, want %s", res.Status, body, want)
			}
			wantHeaders(t, res.Header, "retry-after", "")
		}
		send(t, s, "/v2/chat", cohereTurn)
		time.Sleep(20 * day)
		send(t, s, "/v2/chat", cohereTurn)
		send(t, s, "/v2/chat", cohereTurn)
		ask("3 API calls / month")
		time.Sleep(10 * day) // the first one leaves the window of 30 days
		send(t, s, "/v2/chat", cohereTurn)
		time.Sleep(10 * day)
		if st := s.Stats(); st.Accepted != 4 || st.Refused != 1 {
			t.Errorf("stats %+v", st)
		}
		if err := s.SetLimits(RPM(2)); err != nil {
			t.Fatal(err)
		}
		send(t, s, "/v2/chat", cohereTurn)
		send(t, s, "/v2/chat", cohereTurn)
		ask("2 API calls / minute")
	})
}

func TestCohereErrors(t *testing.T) {
	s := NewServer(t, Cohere(), InMemory(), WithKey("secret"), WithOutputTokens(4, 0), WithFaultScript(
		Fault{Status: 500}, Fault{Kind: FaultQuota}, Fault{Kind: FaultSpend}, Fault{Kind: FaultStream}))
	key := []string{"Authorization", "Bearer secret"}
	for _, tt := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/v2/chat", cohereTurn, 500, injectedMessage},
		{"/v2/chat", cohereTurn, 402, "payment method"},
		{"/v2/chat", cohereTurn, 402, "maximum billing amount"},
		{"/v2/chat", streamed(cohereTurn), 200, `data: {"type":"message-end","delta":{"error":"The service is temporarily unavailable, please try again later.","finish_reason":"ERROR"}}` + "\n\n"},
		{"/v2/chat", `{`, 400, "invalid request: "},
		{"/v2/chat", `{"model":"m"}`, 400, "messages"},
		{"/v2/chat", `{"messages":[{"content":"a"}]}`, 400, "model"},
		{"/v1/nothing", cohereTurn, 404, ""},
	} {
		res, body := send(t, s, tt.path, tt.body, key...)
		if res.StatusCode != tt.status || !strings.Contains(body, tt.want) || tt.status != 200 && !strings.Contains(body, `"message":"`) {
			t.Errorf("%s %s: %s %s, want %d %s", tt.path, tt.body, res.Status, body, tt.status, tt.want)
		}
	}
	if res, body := send(t, s, "/v2/chat", cohereTurn); res.StatusCode != 401 || !strings.Contains(body, "invalid api token") {
		t.Errorf("%s: %s", res.Status, body)
	}
}

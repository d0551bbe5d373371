package llmtest

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// toClaude is the body of a request to Anthropic of input tokens.
func toClaude(input int, rest string) string {
	return fmt.Sprintf(`{"model":"claude-sonnet-4-5","max_tokens":1000,"messages":[{"role":"user","content":%q}]%s}`, strings.Repeat("word", input), rest)
}

func TestAnswersLikeAnthropic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Anthropic(RPM(60), ITPM(60_000), OTPM(6_000)), InMemory(), WithOutputTokens(600, 0), WithLatency(Latency{}))
		res, body := send(t, s, "/v1/messages", toClaude(10_100, ""), "x-api-key", "any")
		if res.StatusCode != 200 || !strings.HasPrefix(body, `{"id":"msg_000000000000000000000000","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[{"type":"text","text":"`) ||
			!strings.HasSuffix(body, `"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":10100,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":600,"service_tier":"standard"}}`) {
			t.Errorf("%s: %s", res.Status, body)
		}
		// Resets are the times of full refill, remaining tokens are rounded to
		// thousands, and "tokens" is the most restrictive limit. The bubble's clock
		// starts at midnight of 2000-01-01.
		const name = "anthropic-ratelimit-"
		wantHeaders(t, res.Header, "request-id", "req_000000000000000000000000",
			name+"requests-limit", "60", name+"requests-remaining", "59", name+"requests-reset", "2000-01-01T00:00:01Z",
			name+"input-tokens-limit", "60000", name+"input-tokens-remaining", "50000", name+"input-tokens-reset", "2000-01-01T00:00:11Z",
			name+"output-tokens-limit", "6000", name+"output-tokens-remaining", "6000", name+"output-tokens-reset", "2000-01-01T00:00:00Z",
			name+"tokens-limit", "60000", name+"tokens-remaining", "50000", name+"tokens-reset", "2000-01-01T00:00:11Z",
			"retry-after", "")
		// Output counted as it was produced.
		res, _ = send(t, s, "/v1/messages", toClaude(1, ""))
		wantHeaders(t, res.Header, name+"output-tokens-remaining", "5000", name+"output-tokens-reset", "2000-01-01T00:00:06Z")
	})
}

func TestStreamsLikeAnthropic(t *testing.T) {
	s := NewServer(t, Anthropic(), InMemory(), WithOutputTokens(2, 0))
	res, body := send(t, s, "/v1/messages", toClaude(5, `,"stream":true`))
	if ct := res.Header.Get("Content-Type"); !strings.HasPrefix(ct, "text/event-stream") {
		t.Errorf("content type %q", ct)
	}
	var got []string
	for event := range strings.SplitSeq(strings.TrimSuffix(body, "\n\n"), "\n\n") {
		name, data, ok := strings.Cut(event, "\ndata: ")
		if !ok || !strings.HasPrefix(name, "event: ") {
			t.Fatalf("no event: %q", event)
		}
		if name = strings.TrimPrefix(name, "event: "); decode[struct{ Type string }](t, data).Type != name {
			t.Errorf("event %s says %s", name, data)
		}
		got = append(got, name+" "+data)
	}
	for i, want := range []string{
		`message_start .*"content":\[\],"stop_reason":null,"stop_sequence":null,"usage":\{"input_tokens":5,.*"output_tokens":1,`,
		`content_block_start .*"content_block":\{"type":"text","text":""\},"index":0`,
		`ping `,
		`content_block_delta .*"index":0,"delta":\{"type":"text_delta","text":"\w+"\}`,
		`content_block_delta .*"index":0,"delta":\{"type":"text_delta","text":" \w+"\}`,
		`content_block_stop .*"index":0`,
		`message_delta .*"delta":\{"stop_reason":"end_turn","stop_sequence":null\},.*"usage":\{"input_tokens":5,.*"output_tokens":2\}`,
		`message_stop `,
	} {
		if i >= len(got) || !regexp.MustCompile("^"+want).MatchString(got[i]) {
			t.Errorf("event %d: want %s in\n%s", i, want, strings.Join(got, "\n"))
		}
	}
	if len(got) != 8 {
		t.Errorf("%d events, want 8", len(got))
	}
}

func TestRefusalsLookLikeAnthropics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Anthropic(ITPM(60_000), OTPM(600)), InMemory(), WithOutputTokens(630, 0), WithLatency(Latency{}))
		send(t, s, "/v1/messages", toClaude(59_500, ""))
		// 30 tokens of debt and one more take 3.1 s, input less.
		res, body := send(t, s, "/v1/messages", toClaude(1000, ""))
		want := `{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your organization's rate limit of 600 output tokens per minute."},"request_id":"req_000000000000000000000001"}`
		if res.StatusCode != 429 || body != want {
			t.Errorf("%s: %s\nwant %s", res.Status, body, want)
		}
		wantHeaders(t, res.Header, "retry-after", "4", "anthropic-ratelimit-output-tokens-remaining", "0")
		time.Sleep(3099 * time.Millisecond)
		if res, _ := send(t, s, "/v1/messages", toClaude(1, "")); res.StatusCode != 429 {
			t.Errorf("%s although not all of the debt is paid", res.Status)
		}
		time.Sleep(time.Millisecond)
		if res, body := send(t, s, "/v1/messages", toClaude(1, "")); res.StatusCode != 200 {
			t.Errorf("%s although it was told to wait for less: %s", res.Status, body)
		}
	})
}

// TestCachedInputDoesNotCount repeats a prompt with a cache breakpoint within
// five minutes and after.
func TestCachedInputDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Anthropic(ITPM(10_000).By(SlidingWindow)), InMemory(), WithOutputTokens(1, 0), WithLatency(Latency{}))
		prompt := fmt.Sprintf(`{"model":"m","max_tokens":9,"system":[{"type":"text","text":%q,"cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":"wordword"}]}`,
			strings.Repeat("word", 6000))
		for i, step := range []struct {
			after time.Duration
			usage string
			left  string
		}{
			{0, `"input_tokens":2,"cache_creation_input_tokens":6000,"cache_read_input_tokens":0`, "4000"},
			{0, `"input_tokens":2,"cache_creation_input_tokens":0,"cache_read_input_tokens":6000`, "4000"},
			{5*time.Minute - 1, `"input_tokens":2,"cache_creation_input_tokens":0,"cache_read_input_tokens":6000`, "10000"},
			{5*time.Minute - 1, `"input_tokens":2,"cache_creation_input_tokens":0,"cache_read_input_tokens":6000`, "10000"}, // since its last use
			{5 * time.Minute, `"input_tokens":2,"cache_creation_input_tokens":6000,"cache_read_input_tokens":0`, "4000"},
		} {
			time.Sleep(step.after)
			res, body := send(t, s, "/v1/messages", prompt)
			if res.StatusCode != 200 || !strings.Contains(body, step.usage) {
				t.Errorf("step %d: %s %s, want %s", i, res.Status, body, step.usage)
			}
			wantHeaders(t, res.Header, "anthropic-ratelimit-input-tokens-remaining", step.left)
		}
		short := `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral"}}]}]}`
		for range 2 {
			if _, body := send(t, s, "/v1/messages", short); !strings.Contains(body, `"input_tokens":1,"cache_creation_input_tokens":0,"cache_read_input_tokens":0`) {
				t.Errorf("a short prompt was cached: %s", body)
			}
		}
	})
}

// TestOutputCountsAsItIsProduced has an answer of a token a second, unary and
// streamed, and asks in between what is left.
func TestOutputCountsAsItIsProduced(t *testing.T) {
	for _, rest := range []string{"", `,"stream":true`} {
		synctest.Test(t, func(t *testing.T) {
			s := NewServer(t, Anthropic(OTPM(10_000).Per(time.Hour).By(SlidingWindow)), InMemory(),
				WithOutputTokens(20, 0), WithLatency(Latency{FirstToken: time.Second, PerToken: time.Second}))
			done := make(chan struct{})
			go func() {
				defer close(done)
				send(t, s, "/v1/messages", toClaude(1, rest))
			}()
			for i := range int64(21) {
				synctest.Wait()
				if got := s.Stats().Limits[0].Peak; got != i {
					t.Errorf("%d tokens charged after %d s (%q)", got, i, rest)
				}
				time.Sleep(time.Second)
			}
			<-done
		})
	}
}

func TestAnthropicsOtherErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Anthropic(), InMemory(), WithKey("secret"), WithFaultScript(
			Fault{Status: 529}, Fault{Status: 500}, Fault{Kind: FaultQuota}, Fault{Kind: FaultSpend}, Fault{Status: 504}, Fault{Kind: FaultStream}))
		for i, want := range []struct {
			path, key, body string
			status          int
			text            string
		}{
			{"/v1/messages", "secret", toClaude(1, ""), 529, `"type":"overloaded_error","message":"Overloaded"`},
			{"/v1/messages", "secret", toClaude(1, ""), 500, `"type":"api_error"`},
			{"/v1/messages", "secret", toClaude(1, ""), 429, `"type":"rate_limit_error","message":"Your organization has reached its monthly spend limit.","details":{"error_code":"enforced_spend_limit_reached"}`},
			{"/v1/messages", "secret", toClaude(1, ""), 400, `"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will regain access on 2000-02-01 at 00:00 UTC."`},
			{"/v1/messages", "secret", toClaude(1, ""), 504, `"type":"timeout_error"`},
			{"/v1/messages", "secret", toClaude(1, ""), 529, `"type":"overloaded_error"`},
			{"/v1/messages", "wrong", toClaude(1, ""), 401, `"type":"authentication_error","message":"invalid x-api-key"`},
			{"/v1/messages", "secret", `{"model":"m","messages":[{"role":"user","content":"a"}]}`, 400, `max_tokens: Field required`},
			{"/v1/messages", "secret", `{"model":"m","max_tokens":0,"messages":[{"role":"user","content":"a"}]}`, 400, `max_tokens: Input should be`},
			{"/v1/messages", "secret", `{"model":"m","max_tokens":1}`, 400, `messages: Field required`},
			{"/v1/messages", "secret", `{"max_tokens":1}`, 400, `model: Field required`},
			{"/v1/messages", "secret", `{`, 400, `not valid JSON`},
			{"/v1/nothing", "secret", `{}`, 404, `"type":"not_found_error"`},
			{"/v1/messages/count_tokens", "secret", `{"model":"m","messages":[{"role":"user","content":"wordword"}]}`, 200, `{"input_tokens":2}`},
			{"/v1/messages/count_tokens", "secret", `{"model":"m"}`, 400, `messages: Field required`},
			{"/v1/models", "secret", "", 200, `{"data":[{"type":"model","id":"claude-sonnet-4-5"`},
		} {
			res, body := send(t, s, want.path, want.body, "x-api-key", want.key)
			if res.StatusCode != want.status || !strings.Contains(body, want.text) || res.Header.Get("Retry-After") != "" {
				t.Errorf("%d: %s %s; want %d %s", i, res.Status, body, want.status, want.text)
			}
		}
	})
}

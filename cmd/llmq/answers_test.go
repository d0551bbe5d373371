package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// replying is a provider that answers every request alike.
func replying(t *testing.T, status int, body string) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	return srv
}

// TestAnAnswerIsKeptAsItCame, whatever the key is, and though it has the key in it.
func TestAnAnswerIsKeptAsItCame(t *testing.T) {
	t.Parallel()
	const long = "sk-very-secret-0123456789"
	for _, key := range []string{"test", "1", "choices", long} {
		t.Run(key, func(t *testing.T) {
			answer := fmt.Sprintf(`{"choices":[{"index":0,"message":{"role":"assistant","content": "The <b>latest</b> test & results: %s" , "n":1}}],"usage":{"prompt_tokens":11,"completion_tokens":1}}`, long)
			srv, dir := replying(t, 200, answer), t.TempDir()
			write(t, dir, "in.jsonl", chats(1, 10)...)
			p := command(t, dir, []string{"LLMQ_API_KEY=" + key}, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL)
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			if code := p.code(); code != 0 {
				t.Fatalf("exit code %d: %s", code, p.stderr.String())
			}
			if got := string(readResults(t, dir, "out.jsonl")[0].Response.Body); got != answer {
				t.Errorf("kept as\n%s, came as\n%s", got, answer)
			}
		})
	}
}

// TestASuccessWithoutAnAnswerIsAFailure, whatever its status says: it is tried again, and
// is counted and recorded with what came.
func TestASuccessWithoutAnAnswerIsAFailure(t *testing.T) {
	t.Parallel()
	chat := `{"custom_id":"r0","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}`
	attempts := map[string]int{"a blocked prompt": 1} // what would end alike; all others are tried twice
	to := func(path string) string { return `{"custom_id":"r0","url":"` + path + `","body":{"model":"m"}}` }
	for name, c := range map[string]struct{ line, answer, why string }{
		"a page":                  {chat, "<html><body>Welcome</body></html>", "a page of HTML: check --base-url"},
		"nothing":                 {chat, "", "empty"},
		"null":                    {chat, "null", "empty"},
		"an empty object":         {chat, "{ }", "empty"},
		"a text":                  {chat, `"ok"`, "no JSON object"},
		"half an answer":          {chat, `{"choices":[{"message":{"content":"It is`, "no whole JSON"},
		"an error":                {chat, `{"error":{"message":"The model is not there today","type":"server_error"}}`, "with an error: The model is not there today"},
		"no choice":               {chat, `{"choices":[],"usage":{"prompt_tokens":1}}`, `"choices" is empty`},
		"a choice of nothing":     {chat, `{"choices":[{"index":0,"message":null}]}`, `"choices" has no "message"`},
		"another dialect":         {chat, `{"content":[{"type":"text","text":"x"}]}`, `no "choices"`},
		"a failed response":       {to("/v1/responses"), `{"status":"failed","output":[]}`, ""},
		"a response under way":    {to("/v1/responses"), `{"status":"queued","output":[]}`, "its status is queued"},
		"a response of nothing":   {to("/v1/responses"), `{"status":"completed"}`, `no "output"`},
		"a completion of nothing": {to("/v1/completions"), `{"choices":[{}]}`, `"choices" has no "text"`},
		"an embedding of nothing": {to("/v1/embeddings"), `{"data":[{"embedding":[]}]}`, `"data" has no "embedding"`},
		"Anthropic's of nothing":  {to("/v1/messages"), `{"type":"message","content":null}`, `no "content"`},
		"a blocked prompt":        {to("/v1beta/models/m:generateContent"), `{"promptFeedback":{"blockReason":"SAFETY"}}`, "the prompt was blocked: SAFETY"},
		"Gemini's of nothing":     {to("/v1beta/models/m:generateContent"), `{"usageMetadata":{"promptTokenCount":1}}`, `no "candidates"`},
	} {
		t.Run(name, func(t *testing.T) {
			srv, dir := replying(t, 200, c.answer), t.TempDir()
			write(t, dir, "in.jsonl", c.line)
			code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--attempts", "2", "--rpm", "1000")
			r := readResults(t, dir, "out.jsonl")[0]
			if code != 1 || r.Error == nil {
				t.Fatalf("exit code %d, and it counts as an answer: %s", code, stderr)
			}
			if r.Error.Code != "no_answer" || !strings.Contains(r.Error.Message, "the provider answered 200 OK, but ") || !strings.Contains(r.Error.Message, c.why) {
				t.Errorf("recorded as %s, %q, want %q in it", r.Error.Code, r.Error.Message, c.why)
			}
			if want := cmp.Or(attempts[name], 2); r.Run.Attempts != want || r.Response == nil || r.Response.Status != 200 {
				t.Errorf("%d attempts, want %d, and what came: %+v", r.Run.Attempts, want, r.Response)
			}
			if _, stdout, _ := llmq(t, dir, "stats", "out.jsonl"); !strings.Contains(stdout, "1 failed") || !strings.Contains(stdout, "1  no_answer: ") {
				t.Errorf("it is not counted:\n%s", stdout)
			}
		})
	}
}

// TestAnAnswerOfEachDialectIsOne, those with little in it among them.
func TestAnAnswerOfEachDialectIsOne(t *testing.T) {
	t.Parallel()
	for path, answer := range map[string]string{
		"/v1/chat/completions":             `{"choices":[{"message":{"role":"assistant","content":null},"finish_reason":"length"}]}`,
		"/v1/completions":                  `{"choices":[{"text":""}]}`,
		"/v1/responses":                    `{"status":"incomplete","output":[],"error":null}`,
		"/v1/embeddings":                   `{"data":[{"embedding":"AAAA"}]}`,
		"/v1/messages":                     `{"type":"message","content":[],"stop_reason":"end_turn"}`,
		"/v1beta/models/m:generateContent": `{"candidates":[{"finishReason":"MAX_TOKENS"}]}`,
		"/model/m/converse":                `{"output":{"message":{"content":[]}}}`,
		"/v2/chat":                         `{"message":{"content":[{"type":"text","text":"x"}]}}`,
		"/api/chat":                        `{"message":{"content":"x"},"done":true}`,
		"/v1/rerank":                       `{"results":[{"index":0,"relevance_score":0.5}]}`,
	} {
		t.Run(path, func(t *testing.T) {
			srv, dir := replying(t, 200, answer), t.TempDir()
			write(t, dir, "in.jsonl", `{"custom_id":"r0","url":"`+path+`","body":{"model":"m"}}`)
			code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--attempts", "1")
			if r := readResults(t, dir, "out.jsonl")[0]; code != 0 || r.Error != nil {
				t.Errorf("exit code %d, %+v: %s", code, r.Error, stderr)
			}
		})
	}
}

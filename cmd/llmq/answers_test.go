package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
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
			answer := fmt.Sprintf(`{"choices":[{"index":0,"message":{"role":"assistant","content":"The latest test results: %s","n":1}}],"usage":{"prompt_tokens":11,"completion_tokens":1}}`, long)
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

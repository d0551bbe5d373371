package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestAnAttemptThatTakesTooLongIsTriedAgain, as often as others that fail, and is recorded with why.
func TestAnAttemptThatTakesTooLongIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, begins := range map[string]bool{"nothing came": false, "it began": true} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // only then is it noticed that the client has left
				if begins {
					w.Header().Set("Content-Type", "application/json")
					_, _ = w.Write([]byte(`{"choices":[`))
					_ = http.NewResponseController(w).Flush()
				}
				<-r.Context().Done()
			}))
			t.Cleanup(srv.Close)
			dir := t.TempDir()
			write(t, dir, "in.jsonl", chats(1, 10)...)
			code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--timeout", "100ms", "--attempts", "2", "--rpm", "1000")
			r := readResults(t, dir, "out.jsonl")[0]
			if code != 1 || r.Error == nil || r.Run.Attempts != 2 {
				t.Fatalf("exit code %d, %d attempts, %+v: %s", code, r.Run.Attempts, r.Error, stderr)
			}
			if r.Error.Code != "timeout" || !strings.Contains(r.Error.Message, "no answer within 100ms") {
				t.Errorf("recorded as %s, %q", r.Error.Code, r.Error.Message)
			}
		})
	}
}

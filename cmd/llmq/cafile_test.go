package main

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestAHostWithACertificateOfItsOwn is reached with its authority's file; without, and under
// another name, the run ends at once and says what to do.
func TestAHostWithACertificateOfItsOwn(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"choices":[{"message":{"content":"x"}}]}`)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshake that is refused
	srv.StartTLS()
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(1, 10)...)
	write(t, dir, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	args := []string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL}
	for _, via := range []string{"calls", "batch"} {
		code, _, stderr := llmq(t, dir, append(args, "--via", via)...)
		oneLine(t, code, 3, stderr, "is not trusted", "unknown authority", "check --base-url", "--ca-file")
	}
	elsewhere := strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)
	code, _, stderr := llmq(t, dir, append(args[:5:5], elsewhere, "--ca-file", "ca.pem")...)
	oneLine(t, code, 3, stderr, "is not trusted", "not localhost")
	if code, _, stderr := llmq(t, dir, append(args, "--ca-file", "ca.pem")...); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	code, _, stderr = llmq(t, dir, append(args, "--ca-file", "in.jsonl")...)
	oneLine(t, code, 2, stderr, "--ca-file: in.jsonl has no certificate in PEM")
}

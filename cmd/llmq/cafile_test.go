package main

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestAHostWithACertificateOfItsOwn is reached with its authority's file and not without.
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
	args := []string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--attempts", "1"}
	if code, _, stderr := llmq(t, dir, args...); code != 1 || readResults(t, dir, "out.jsonl")[0].Error.Code != "connection" {
		t.Errorf("without: exit code %d, %s", code, stderr)
	}
	args[0] = "retry"
	if code, _, stderr := llmq(t, dir, append(args, "--ca-file", "ca.pem")...); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	code, _, stderr := llmq(t, dir, append(args, "--ca-file", "in.jsonl")...)
	oneLine(t, code, 2, stderr, "--ca-file: in.jsonl has no certificate in PEM")
}

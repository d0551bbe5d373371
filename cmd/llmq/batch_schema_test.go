package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/llmqueue/llmqueue/llmtest"
)

// correcting stands before a provider: batches are its own, and calls get an answer that fits
// schemaFile. kill is called at the third of them, once.
func correcting(t *testing.T, srv *llmtest.Server, kill func()) (s *httptest.Server, calls *atomic.Int64) {
	t.Helper()
	to, err := url.Parse(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	to.Path = ""
	proxy := httputil.NewSingleHostReverseProxy(to)
	calls = &atomic.Int64{}
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/chat/completions" {
			proxy.ServeHTTP(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		if calls.Add(1) == 3 && kill != nil {
			kill()
			panic(http.ErrAbortHandler)
		}
		if !strings.Contains(string(body), "does not fit the JSON schema") {
			t.Errorf("no request that is asked once more: %s", body)
		}
		_, _ = io.WriteString(w, `{"choices":[{"message":{"role":"assistant","content":"{\"n\":2}"}}],"usage":{"prompt_tokens":10,"completion_tokens":2}}`)
	}))
	t.Cleanup(s.Close)
	return s, calls
}

// TestAnswersOfABatchThatDoNotFitAreAskedForOnceMore by calls; the fields that are kept and the
// tokens of both stand in the result.
func TestAnswersOfABatchThatDoNotFitAreAskedForOnceMore(t *testing.T) {
	t.Parallel()
	srv := batching(t, llmtest.Batches{})
	s, calls := correcting(t, srv, nil)
	dir := t.TempDir()
	lines := chats(10, 10)
	for i := range lines {
		lines[i] = strings.Replace(lines[i], `{"custom_id"`, fmt.Sprintf(`{"label":%d,"custom_id"`, i), 1)
	}
	write(t, dir, "in.jsonl", lines...)
	write(t, dir, "schema.json", schemaFile)
	code, _, stderr := llmq(t, dir, viaBatch(s.URL+"/v1", "--schema", "schema.json", "--keep", "label")...)
	list := readResults(t, dir, "out.jsonl")
	eachOnce(t, list, 10)
	if code != 0 || calls.Load() != 10 || len(failures(list)) > 0 || !strings.Contains(stderr, "10 asked once more for the schema") {
		t.Errorf("exit code %d, %d calls, failed: %v: %s", code, calls.Load(), failures(list), stderr)
	}
	data, _ := os.ReadFile(filepath.Join(dir, "out.jsonl"))
	if strings.Count(string(data), `"attempts":2`) != 10 || strings.Count(string(data), `"kept":{"label":`) != 10 {
		t.Errorf("the results: %s", data)
	}
	noSpool(t, dir)
	// What is recorded is of the request that the line is: nothing runs again.
	if code, _, stderr = llmq(t, dir, viaBatch(s.URL+"/v1", "--schema", "schema.json", "--keep", "label")...); code != 0 || calls.Load() != 10 {
		t.Errorf("exit code %d, %d calls: %s", code, calls.Load(), stderr)
	}
}

// TestKilledWhileAnswersOfABatchAreAskedForOnceMore: the batch is not submitted again, and what
// has its answer is not asked again.
func TestKilledWhileAnswersOfABatchAreAskedForOnceMore(t *testing.T) {
	t.Parallel()
	srv := batching(t, llmtest.Batches{})
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(10, 10)...)
	write(t, dir, "schema.json", schemaFile)
	var kill func()
	s, calls := correcting(t, srv, func() { kill() })
	args := viaBatch(s.URL+"/v1", "--schema", "schema.json", "--concurrency", "1")
	p := command(t, dir, nil, args...)
	kill = func() { _ = p.Process.Kill() }
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if code := p.code(); code != -1 {
		t.Fatalf("it was not killed: exit code %d: %s", code, p.stderr.String())
	}
	code, _, stderr := llmq(t, dir, args...)
	list := readResults(t, dir, "out.jsonl")
	eachOnce(t, list, 10)
	if code != 0 || len(failures(list)) > 0 || calls.Load() > 12 { // of the one before the kill the answer may be lost, too
		t.Errorf("exit code %d, %d calls, failed: %v: %s", code, calls.Load(), failures(list), stderr)
	}
	if n := len(batchesAt(t, srv)); n != 1 {
		t.Errorf("%d batches were submitted, want 1", n)
	}
	noSpool(t, dir)
}

func TestWithoutReaskAnswersOfABatchThatDoNotFitAreFailures(t *testing.T) {
	t.Parallel()
	srv := batching(t, llmtest.Batches{})
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(5, 10)...)
	write(t, dir, "schema.json", schemaFile)
	code, _, stderr := llmq(t, dir, viaBatch(srv.URL(), "--schema", "schema.json", "--reask", "0")...)
	list := readResults(t, dir, "out.jsonl")
	eachOnce(t, list, 5)
	if code != 1 || srv.Stats().Accepted != 0 || len(failures(list)) != 5 || list[0].Error.Code != "schema_mismatch" || list[0].Response == nil {
		t.Errorf("exit code %d, %d calls, failed: %v: %s", code, srv.Stats().Accepted, failures(list), stderr)
	}
	if !strings.Contains(stderr, "5 do not fit it") {
		t.Errorf("it does not say so: %s", stderr)
	}
}

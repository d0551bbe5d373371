package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// TestTheSummarySaysWhyTheRunEnded, as the exit code does.
func TestTheSummarySaysWhyTheRunEnded(t *testing.T) {
	t.Parallel()
	good, failing := serve(t, nil), serve(t, nil, llmtest.WithFaultShare(1, llmtest.Fault{Status: 400}))
	for name, c := range map[string]struct {
		url    string
		flags  []string
		code   int
		reason string
	}{
		"all is done":     {good.URL(), nil, 0, "finished"},
		"some failed":     {failing.URL(), nil, 1, "finished"},
		"a bad line":      {good.URL(), []string{"--id-field", "nothing"}, 2, "input"},
		"another's file":  {good.URL(), []string{"-o", "in.jsonl"}, 2, "input"},
		"a wrong address": {good.URL() + "/elsewhere", nil, 3, "provider"},
		"too dear":        {good.URL(), []string{"--max-cost", "0.001"}, 4, "budget"},
		"no output":       {good.URL(), []string{"-o", "nowhere/out.jsonl"}, 5, "output"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "in.jsonl", chats(3, 10)...)
			write(t, dir, "prices.yaml", cheap)
			code, stdout, stderr := llmq(t, dir, append([]string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", c.url, "--prices", "prices.yaml", "--json"}, c.flags...)...)
			if want := fmt.Sprintf(`"reason":%q`, c.reason); code != c.code || !strings.Contains(stdout, want) {
				t.Errorf("exit code %d, want %d and %s: %s%s", code, c.code, want, stdout, stderr)
			}
		})
	}
}

// TestARunThatOnlyFailsIsStopped: a mistake in the requests is not paid for a million times.
func TestARunThatOnlyFailsIsStopped(t *testing.T) {
	t.Parallel()
	failing := serve(t, nil, llmtest.WithFaultShare(1, llmtest.Fault{Status: 400}))
	good := serve(t, nil)
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(500, 10)...)
	args := func(url string, more ...string) []string {
		return append([]string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", url, "--rpm", "100000", "--concurrency", "4", "--json"}, more...)
	}
	code, stdout, stderr := llmq(t, dir, args(failing.URL())...)
	oneLine(t, code, 3, stderr, "100 requests of m in a row failed alike", "a fault was injected", "(http_400)", "--max-failures 0 never stops")
	if !strings.Contains(stdout, `"reason":"failures"`) {
		t.Errorf("the summary does not say so: %s", stdout)
	}
	list := readResults(t, dir, "out.jsonl")
	if n := len(list); n < 100 || n > 250 || len(failures(list)) != n || int(failing.Stats().Accepted+failing.Stats().Invalid) > n {
		t.Errorf("%d are recorded, of them %d failures: want 100 and what was in flight", n, len(failures(list)))
	}
	// The rest runs the next time, unless it fails in the same way.
	code, _, stderr = llmq(t, dir, args(failing.URL(), "--max-failures", "7")...)
	oneLine(t, code, 3, stderr, "7 requests of m in a row failed alike")
	if n := len(readResults(t, dir, "out.jsonl")) - len(list); n < 7 || n > 150 {
		t.Errorf("%d more are recorded, want 7 and what was in flight", n)
	}
	if code, _, stderr = llmq(t, dir, args(failing.URL(), "--max-failures", "0")...); code != 1 || len(readResults(t, dir, "out.jsonl")) != 500 {
		t.Errorf("exit code %d, %d results, want all of them: %s", code, len(readResults(t, dir, "out.jsonl")), stderr)
	}
	if code, _, stderr = llmq(t, dir, "retry", "in.jsonl", "-o", "out.jsonl", "--base-url", good.URL(), "--rpm", "100000"); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	eachOnce(t, readResults(t, dir, "out.jsonl"), 500)
}

// TestWhichAnswerComesFirstDecidesNothing: one request is refused at once with 404, the
// others are answered later. The provider can be used, so that is the request's own failure.
func TestWhichAnswerComesFirstDecidesNothing(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), "Question 0:") {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"error":{"message":"No such file: file-1"}}`)
			return
		}
		time.Sleep(300 * time.Millisecond) // its latency
		_, _ = io.WriteString(w, `{"choices":[{"message":{"content":"x"}}]}`)
	}))
	defer srv.Close()
	dir := t.TempDir()
	lines := chats(8, 10)
	for i := range lines[1:] {
		lines[i+1] = strings.Replace(lines[i+1], `"model":"m"`, fmt.Sprintf(`"model":"m%d"`, i%2), 1)
	}
	write(t, dir, "in.jsonl", lines...)
	code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--rpm", "1000")
	if code != 1 {
		t.Errorf("exit code %d, want 1: %s", code, stderr)
	}
	list := readResults(t, dir, "out.jsonl")
	eachOnce(t, list, 8)
	if failed := failures(list); len(failed) != 1 || failed[0] != "r0" {
		t.Errorf("failed: %v, want r0 alone", failed)
	}
}

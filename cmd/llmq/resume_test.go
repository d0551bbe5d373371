package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/llmtest"
)

// TestAnotherRequestOfTheSameIDStopsTheRun: an answer never stands under another question.
func TestAnotherRequestOfTheSameIDStopsTheRun(t *testing.T) {
	t.Parallel()
	rows := []string{`{"q":"one"}`, `{"q":"two"}`, `{"q":"three"}`}
	first := []string{"--template", "{{.q}}", "--model", "m", "--max-tokens", "9"}
	for name, c := range map[string]struct {
		rows  []string
		flags []string
		line  string
	}{
		"a line":       {[]string{rows[0], `{"q":"2"}`, `{"q":"3"}`}, first, "in.jsonl:2: "},
		"the order":    {[]string{rows[0], rows[2], rows[1]}, first, "in.jsonl:2: "},
		"the template": {rows, slices.Replace(slices.Clone(first), 1, 2, "Say {{.q}}"), "in.jsonl:1: "},
		"the model":    {rows, slices.Replace(slices.Clone(first), 3, 4, "n"), "in.jsonl:1: "},
		"the bound":    {rows, slices.Replace(slices.Clone(first), 5, 6, "8"), "in.jsonl:1: "},
		"the endpoint": {rows, append(slices.Clone(first), "--endpoint", "/v1/responses"), "in.jsonl:1: "},
	} {
		t.Run(name, func(t *testing.T) {
			srv, dir := serve(t, nil), t.TempDir()
			args := []string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "1000", "-q"}
			write(t, dir, "in.jsonl", rows...)
			if code, _, stderr := llmq(t, dir, append(args, first...)...); code != 0 {
				t.Fatalf("exit code %d: %s", code, stderr)
			}
			before, _ := os.ReadFile(filepath.Join(dir, "out.jsonl"))
			write(t, dir, "in.jsonl", c.rows...)
			for _, more := range []string{"--max-cost=0", "--dry-run"} {
				code, _, stderr := llmq(t, dir, append(append(args, c.flags...), more)...)
				oneLine(t, code, 2, stderr, c.line, "out.jsonl has the result of another request", "--changed", "--restart")
			}
			if after, _ := os.ReadFile(filepath.Join(dir, "out.jsonl")); !bytes.Equal(after, before) || srv.Stats().Accepted != 3 {
				t.Errorf("%d requests were sent, want the 3 of before", srv.Stats().Accepted)
			}
		})
	}
}

func TestChangedAndRestart(t *testing.T) {
	t.Parallel()
	srv, dir := serve(t, nil), t.TempDir()
	args := []string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "1000", "-q", "--ordered"}
	lines := chats(5, 10)
	write(t, dir, "in.jsonl", lines...)
	run := func(args ...string) string {
		t.Helper()
		code, _, stderr := llmq(t, dir, args...)
		if code != 0 {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		eachOnce(t, readResults(t, dir, "out.jsonl"), 5)
		return stderr
	}
	run(args...)
	lines[3] = strings.Replace(lines[3], "Question 3", "Another question", 1)
	write(t, dir, "in.jsonl", lines...)
	run(append(args, "--changed")...)
	if n := srv.Stats().Accepted; n != 6 {
		t.Errorf("%d requests were sent, want the one that changed beside the first 5", n)
	}
	run(args...) // all is as it is recorded now
	if n := srv.Stats().Accepted; n != 6 {
		t.Errorf("%d requests were sent, want no more than 6", n)
	}
	before, _ := os.ReadFile(filepath.Join(dir, "out.jsonl"))
	for _, aside := range []string{"out.jsonl.1", "out.jsonl.2"} {
		if stderr := run(append(args, "--restart")...); !strings.Contains(stderr, "out.jsonl begins anew: what it had is in "+aside) {
			t.Errorf("it does not say where the old results are: %s", stderr)
		}
	}
	if kept, err := os.ReadFile(filepath.Join(dir, "out.jsonl.1")); !bytes.Equal(kept, before) {
		t.Errorf("the old results are not kept: %v", err)
	}
	if n := srv.Stats().Accepted; n != 16 {
		t.Errorf("%d requests were sent, want 16", n)
	}
}

// TestRetryRunsACorrectedRequest: that a failed one changed is no mistake.
func TestRetryRunsACorrectedRequest(t *testing.T) {
	t.Parallel()
	failing, good := serve(t, nil, llmtest.WithFaultShare(1, llmtest.Fault{Status: 400})), serve(t, nil)
	dir := t.TempDir()
	lines := chats(2, 10)
	write(t, dir, "in.jsonl", lines...)
	if code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", failing.URL()); code != 1 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	lines[1] = strings.Replace(lines[1], "Question 1", "Another question", 1)
	write(t, dir, "in.jsonl", lines...)
	if code, _, stderr := llmq(t, dir, "retry", "in.jsonl", "-o", "out.jsonl", "--base-url", good.URL()); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	eachOnce(t, readResults(t, dir, "out.jsonl"), 2)
	if code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", good.URL()); code != 0 || good.Stats().Accepted != 2 {
		t.Errorf("exit code %d, %d requests: %s", code, good.Stats().Accepted, stderr)
	}
}

package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/llmtest"
)

// TestTheCacheAnswersAcrossOutputs: what it has is not sent, costs nothing, and is marked and
// counted.
func TestTheCacheAnswersAcrossOutputs(t *testing.T) {
	t.Parallel()
	srv, dir := serve(t, nil), t.TempDir()
	lines := chats(20, 10)
	write(t, dir, "some.jsonl", lines[:15]...)
	write(t, dir, "in.jsonl", lines...)
	write(t, dir, "prices.yaml", "m: {input: 1000, output: 1000}")
	args := func(in, out string, more ...string) []string {
		return append([]string{"run", in, "-o", out, "--base-url", srv.URL(), "--cache", "answers", "--prices", "prices.yaml"}, more...)
	}
	if code, _, stderr := llmq(t, dir, args("some.jsonl", "a.jsonl")...); code != 0 || strings.Contains(stderr, "from the cache") {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if _, stdout, stderr := llmq(t, dir, args("in.jsonl", "b.jsonl", "--dry-run")...); !strings.HasPrefix(stdout, "5 requests, and 15 that the cache answers\n") {
		t.Errorf("foretold %s%s", stdout, stderr)
	}
	code, _, stderr := llmq(t, dir, args("in.jsonl", "b.jsonl")...)
	if code != 0 || !strings.Contains(stderr, "5 requests run in ") || !strings.Contains(stderr, "the file has 20 answers and 0 failures") || !strings.Contains(stderr, "; 15 from the cache") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if n := srv.Stats().Accepted; n != 20 {
		t.Errorf("%d requests were sent, want 20", n)
	}
	first := map[string]string{}
	for _, r := range readResults(t, dir, "a.jsonl") {
		first[r.ID] = string(r.Response.Body)
	}
	list := readResults(t, dir, "b.jsonl")
	eachOnce(t, list, 20)
	for _, r := range list {
		want, hit := first[r.ID]
		if hit && (string(r.Response.Body) != want || !r.Run.FromCache || r.Run.Input+r.Run.Output != 0 || r.Run.Attempts != 0) {
			t.Errorf("%s: %+v, %s, want %s", r.ID, r.Run, r.Response.Body, want)
		}
		if !hit && (r.Run.FromCache || r.Run.Input == 0) {
			t.Errorf("%s was sent: %+v", r.ID, r.Run)
		}
	}
	// All of it again: there is nothing to pay for, nor to wait for.
	if code, _, stderr = llmq(t, dir, args("in.jsonl", "c.jsonl", "--max-cost", "0.000001", "--budget-usd", "0.000001", "--base-url", "http://127.0.0.1:9")...); code != 0 || !strings.Contains(stderr, "0 requests run") || !strings.Contains(stderr, "20 from the cache") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if _, stdout, _ := llmq(t, dir, "stats", "c.jsonl", "--prices", "prices.yaml"); !strings.Contains(stdout, "20 answered, 0 failed; 0 attempts; 20 from the cache") || !strings.Contains(stdout, "$0.0000") {
		t.Errorf("stats tells otherwise:\n%s", stdout)
	}
	// To the next run these are the answers to the lines.
	if code, _, stderr = llmq(t, dir, args("in.jsonl", "c.jsonl")...); code != 0 || strings.Contains(stderr, "from the cache") {
		t.Errorf("again: exit code %d: %s", code, stderr)
	}
}

// TestTheCacheKeepsWholeAnswersAlone: no failure, none that does not fit, none of a re-ask or a
// fallback.
func TestTheCacheKeepsWholeAnswersAlone(t *testing.T) {
	t.Parallel()
	kept := func(t *testing.T, dir string) []string {
		names, err := filepath.Glob(filepath.Join(dir, "answers", "*", "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	for name, c := range map[string]struct {
		url   func(t *testing.T) string
		flags []string
		kept  int
	}{
		"an answer":     {func(t *testing.T) string { return replying(t, 200, `{"choices":[{"message":{"content":"x"}}]}`).URL }, nil, 1},
		"a failure":     {func(t *testing.T) string { return replying(t, 400, `{"error":{"message":"x"}}`).URL }, nil, 0},
		"half of one":   {func(t *testing.T) string { return replying(t, 200, `{"choices":[{"message":{"conte`).URL }, []string{"--attempts", "1"}, 0},
		"a misfit":      {func(t *testing.T) string { s, _ := answering(t, "{}"); return s.URL }, []string{"--schema", "schema.json"}, 0},
		"a fit":         {func(t *testing.T) string { s, _ := answering(t, `{"n":1}`); return s.URL }, []string{"--schema", "schema.json"}, 1},
		"of a re-ask":   {func(t *testing.T) string { s, _ := answering(t, "{}", `{"n":1}`); return s.URL }, []string{"--schema", "schema.json"}, 0},
		"of a fallback": {func(t *testing.T) string { s, _, _ := failingModel(t, http.StatusInternalServerError); return s.URL }, []string{"--attempts", "1", "--rpm", "10", "--fallback", "n"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "in.jsonl", chats(1, 10)...)
			write(t, dir, "schema.json", schemaFile)
			_, _, stderr := llmq(t, dir, append([]string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", c.url(t), "--cache", "answers"}, c.flags...)...)
			if list := kept(t, dir); len(list) != c.kept {
				t.Errorf("kept %v, want %d: %s", list, c.kept, stderr)
			}
		})
	}
}

// TestACachedAnswerThatDoesNotFitIsAskedFor anew, and so is one that is damaged.
func TestACachedAnswerThatDoesNotFitIsAskedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(1, 10)...)
	write(t, dir, "schema.json", schemaFile)
	srv, sent := answering(t, "{}", `{"n":1}`)
	args := func(out string, more ...string) []string {
		return append([]string{"run", "in.jsonl", "-o", out, "--base-url", srv.URL, "--cache", "answers"}, more...)
	}
	for i, a := range [][]string{args("a.jsonl"), args("b.jsonl", "--schema", "schema.json"), args("c.jsonl", "--schema", "schema.json"), args("d.jsonl")} {
		code, _, stderr := llmq(t, dir, a...)
		if want := min(i+1, 2); code != 0 || len(sent()) != want {
			t.Errorf("run %d: exit code %d, %d calls, want %d: %s", i, code, len(sent()), want, stderr)
		}
	}
	names, _ := filepath.Glob(filepath.Join(dir, "answers", "*", "*.json"))
	if len(names) != 1 {
		t.Fatalf("kept %v", names)
	}
	if err := os.Truncate(names[0], 20); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := llmq(t, dir, args("e.jsonl")...); code != 0 || len(sent()) != 3 {
		t.Errorf("damaged: exit code %d, %d calls: %s", code, len(sent()), stderr)
	}
}

// TestACacheThatCannotBeMadeEndsTheRun before anything is sent.
func TestACacheThatCannotBeMadeEndsTheRun(t *testing.T) {
	t.Parallel()
	srv, dir := serve(t, []llmtest.Limit{}), t.TempDir()
	write(t, dir, "in.jsonl", chats(1, 10)...)
	code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--cache", "in.jsonl")
	oneLine(t, code, 2, stderr, "--cache: mkdir in.jsonl")
	if n := srv.Stats().Accepted; n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

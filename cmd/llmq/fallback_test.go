package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// failingModel is a provider whose model m fails with a status, and that counts the calls of
// each model.
func failingModel(t *testing.T, status int) (srv *httptest.Server, calls func(model string) int, paths func() string) {
	t.Helper()
	var mu sync.Mutex
	count, seen := map[string]int{}, ""
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Model string }
		data, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(data, &body)
		mu.Lock()
		count[body.Model]++
		seen += r.URL.Path + "\n"
		mu.Unlock()
		if body.Model == "m" || strings.Contains(r.URL.Path, "/models/m:") {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"error":{"message":"m is out of order"}}`)
			return
		}
		fmt.Fprintf(w, `{"model":%q,"choices":[{"message":{"content":"x"}}],"candidates":[{}],"usage":{"prompt_tokens":1000000,"completion_tokens":1000000}}`, body.Model)
	}))
	t.Cleanup(srv.Close)
	return srv, func(model string) int {
			mu.Lock()
			defer mu.Unlock()
			return count[model]
		}, func() string {
			mu.Lock()
			defer mu.Unlock()
			return seen
		}
}

// TestAFallbackAnswersWhatAModelCannot, is recorded and costs what it costs.
func TestAFallbackAnswersWhatAModelCannot(t *testing.T) {
	t.Parallel()
	srv, calls, _ := failingModel(t, http.StatusInternalServerError)
	dir := t.TempDir()
	write(t, dir, "in.jsonl", append(chats(3, 10), `{"custom_id":"r3","url":"/v1/chat/completions","body":{"model":"n","messages":[]}}`)...)
	write(t, dir, "prices.yaml", "m: {input: 1, output: 1}", "n: {input: 2, output: 3}", "o: {input: 1, output: 1}")
	args := []string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--attempts", "1", "--rpm", "100", "--prices", "prices.yaml", "--fallback", "n", "--fallback", "o"}
	code, _, stderr := llmq(t, dir, args...)
	if code != 0 || calls("m") == 0 || calls("n") != 4 || calls("o") != 0 || !strings.Contains(stderr, "$20.0000 in all") {
		t.Fatalf("exit code %d, %d calls of m, %d of n, %d of o: %s", code, calls("m"), calls("n"), calls("o"), stderr)
	}
	data, err := os.ReadFile(filepath.Join(dir, "out.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(data), `"model":"n","instead_of":"m"`) != 3 {
		t.Errorf("not marked three times: %s", data)
	}
	if _, stdout, _ := llmq(t, dir, "stats", "out.jsonl", "--prices", "prices.yaml"); !strings.Contains(stdout, "$20.0000") {
		t.Errorf("stats tells another cost:\n%s", stdout)
	}
	// To the next run these are the answers to the lines.
	before := calls("n")
	if code, _, stderr := llmq(t, dir, args...); code != 0 || calls("n") != before {
		t.Errorf("they ran again: exit code %d: %s", code, stderr)
	}
}

// TestAFaultOfTheRequestIsNotTheFallbacks, as that would fail alike.
func TestAFaultOfTheRequestIsNotTheFallbacks(t *testing.T) {
	t.Parallel()
	srv, calls, _ := failingModel(t, http.StatusBadRequest)
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(3, 10)...)
	code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--rpm", "100", "--fallback", "n")
	if code != 1 || calls("n") != 0 || len(failures(readResults(t, dir, "out.jsonl"))) != 3 {
		t.Errorf("exit code %d, %d calls of n: %s", code, calls("n"), stderr)
	}
}

// TestAFallbackIsNamedInThePath where a path names the model.
func TestAFallbackIsNamedInThePath(t *testing.T) {
	t.Parallel()
	srv, calls, paths := failingModel(t, http.StatusInternalServerError)
	dir := t.TempDir()
	write(t, dir, "in.jsonl", `{"custom_id":"a","url":"/v1beta/models/m:generateContent","body":{"model":"m","contents":[]}}`, `{"key":"b","request":{"contents":[]}}`)
	code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--attempts", "1", "--rpm", "100", "--model", "m", "--fallback", "n")
	if code != 0 || strings.Count(paths(), "/v1beta/models/n:generateContent") != 2 || calls("") < 2 {
		t.Errorf("exit code %d, called %s: %s", code, paths(), stderr)
	}
}

func TestAFallbackThatCannotBeUsedIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(1, 10)...)
	write(t, dir, "prices.yaml", "m: {input: 1, output: 1}")
	for want, flags := range map[string][]string{
		`no price for the model "n" of --fallback`: {"--fallback", "n", "--prices", "prices.yaml"},
		`--fallback "n": want the name of a model`: {"--fallback", "n", "--fallback", "n"},
		`--fallback "": want the name of a model`:  {"--fallback", ""},
	} {
		code, _, stderr := llmq(t, dir, append([]string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", "http://127.0.0.1:9"}, flags...)...)
		oneLine(t, code, 2, stderr, want)
	}
}

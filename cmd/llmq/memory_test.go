package main

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peak runs a command and returns the most memory that it had, in MB, as the kernel says.
func peak(t *testing.T, dir string, args ...string) (mb int, code int, stderr string) {
	t.Helper()
	p := command(t, dir, nil, args...)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		code = p.code()
		close(ended)
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return mb, code, p.stderr.String()
		case <-tick.C:
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
		if m := highWater.FindSubmatch(status); err == nil && m != nil {
			kb, _ := strconv.Atoi(string(m[1]))
			mb = max(mb, kb/1024)
		}
	}
}

// TestMemory runs many requests, and then again when there is nothing left to do. With
// LLMQ_TEST_FULL it is a million.
func TestMemory(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skipf("only Linux tells: %v", err)
	}
	n := 5_000
	if full {
		n = 1_000_000
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"It is so because it is so, and it would be otherwise if it were otherwise."}}],"usage":{"prompt_tokens":20,"completion_tokens":18,"total_tokens":38}}`)
	}))
	defer srv.Close()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "in.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	for i := range n {
		fmt.Fprintf(w, `{"custom_id":"r%d","method":"POST","url":"/v1/chat/completions","body":{"model":"m","max_tokens":50,"messages":[{"role":"user","content":"Question %d: why is that so, and what would be otherwise if it were not?"}]}}`+"\n", i, i)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	args := []string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--rpm", "100000000", "--tpm", "100000000000", "-q", "--ordered"}
	for _, c := range []struct{ what, want string }{
		{"run", fmt.Sprintf("%d requests run in", n)},
		{"resume", "llmq: 0 requests run in"},
	} {
		begin := time.Now()
		mb, code, stderr := peak(t, dir, args...)
		t.Logf("%s: %d requests in %.1f s, %d MB at most", c.what, n, time.Since(begin).Seconds(), mb)
		if code != 0 || mb > 100 || !strings.Contains(stderr, c.want) || !strings.Contains(stderr, fmt.Sprintf("the file has %d answers", n)) {
			t.Errorf("exit code %d, %d MB at most, want 100, and %q: %s", code, mb, c.want, stderr)
		}
	}
	if full {
		begin := time.Now()
		mb, code, stderr := peak(t, dir, "stats", "out.jsonl")
		t.Logf("stats: %.1f s, %d MB at most", time.Since(begin).Seconds(), mb)
		if code != 0 || mb > 100 {
			t.Errorf("exit code %d, %d MB at most, want 100: %s", code, mb, stderr)
		}
	}
}

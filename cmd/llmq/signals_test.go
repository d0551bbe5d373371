package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// TestSignalsEndTheRun, the first in good order.
func TestSignalsEndTheRun(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		signals  []os.Signal
		recorded int
		latency  time.Duration
	}{
		"once finishes what is in flight": {[]os.Signal{os.Interrupt}, 8, 1500 * time.Millisecond},
		"twice ends at once":              {[]os.Signal{os.Interrupt, os.Interrupt}, 0, time.Minute},
		"a terminal that is closed":       {[]os.Signal{syscall.SIGHUP}, 8, 1500 * time.Millisecond},
		"closed, as its shell says, too":  {[]os.Signal{syscall.SIGHUP, syscall.SIGHUP}, 8, 1500 * time.Millisecond},
		"closed after SIGTERM":            {[]os.Signal{syscall.SIGTERM, syscall.SIGHUP}, 8, 1500 * time.Millisecond},
		"SIGTERM after closed":            {[]os.Signal{syscall.SIGHUP, syscall.SIGTERM}, 0, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := serve(t, nil, llmtest.WithLatency(llmtest.Latency{FirstToken: c.latency}))
			dir := t.TempDir()
			write(t, dir, "in.jsonl", chats(50, 1)...)
			p := command(t, dir, nil, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--concurrency", "8", "--limits", "given", "--rpm", "1000")
			var out syncBuffer
			p.Stderr = &out
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "eight requests are in flight", func() bool { return srv.Stats().Accepted == 8 })
			for i, s := range c.signals {
				if i > 0 {
					eventually(t, "it says that it finishes", func() bool { return strings.Contains(out.String(), "finishing what is in flight") })
				}
				_ = p.Process.Signal(s)
			}
			if code := p.code(); code != 130 || !strings.Contains(out.String(), "run the same command again to go on") {
				t.Errorf("exit code %d: %s", code, out.String())
			}
			if got := len(readResults(t, dir, "out.jsonl")); got != c.recorded {
				t.Errorf("%d results, want %d", got, c.recorded)
			}
			if got := srv.Stats().Accepted; got != 8 {
				t.Errorf("%d requests were sent, want none after the first Ctrl-C", got-8)
			}
		})
	}
}

// TestAReaderThatLeavesEndsTheRunInGoodOrder, as head does. What is in flight is paid for.
func TestAReaderThatLeavesEndsTheRunInGoodOrder(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"stdout", "stderr"} {
		t.Run(which, func(t *testing.T) {
			srv := serve(t, nil, llmtest.WithLatency(llmtest.Latency{FirstToken: time.Second}))
			dir := t.TempDir()
			write(t, dir, "in.jsonl", chats(50, 1)...)
			p := command(t, dir, nil, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--concurrency", "8", "--rpm", "1000", "--progress-every", "20ms")
			var pipe io.ReadCloser
			var err error
			if which == "stdout" {
				p.Args = append(p.Args, "--json")
				p.Stdout = nil
				pipe, err = p.StdoutPipe()
			} else {
				p.Stderr = nil
				pipe, err = p.StderrPipe()
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := bufio.NewReaderSize(pipe, 16).ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			eventually(t, "eight requests are in flight", func() bool { return srv.Stats().Accepted == 8 })
			_ = pipe.Close()
			if code := p.code(); code != 130 {
				t.Errorf("exit code %d, want 130: %s", code, p.stderr.String())
			}
			if got := len(readResults(t, dir, "out.jsonl")); got != 8 {
				t.Errorf("%d results, want the 8 that were in flight", got)
			}
		})
	}
}

// TestNohup: who has SIGHUP ignored goes on.
func TestNohup(t *testing.T) {
	t.Parallel()
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skipf("there is no shell: %v", err)
	}
	srv := serve(t, nil, llmtest.WithLatency(llmtest.Latency{FirstToken: 300 * time.Millisecond}))
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(16, 1)...)
	p := command(t, dir, nil, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--concurrency", "8", "--rpm", "1000")
	p.Args = append([]string{shell, "-c", `trap "" HUP; exec "$0" "$@"`, p.Path}, p.Args[1:]...)
	p.Path = shell
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "eight requests are in flight", func() bool { return srv.Stats().Accepted == 8 })
	_ = p.Process.Signal(syscall.SIGHUP)
	if code := p.code(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
	eachOnce(t, readResults(t, dir, "out.jsonl"), 16)
}

// TestABrokenConnectionIsNoReaderThatLeft: writing there raises SIGPIPE, too.
func TestABrokenConnectionIsNoReaderThatLeft(t *testing.T) {
	t.Parallel()
	srv := serve(t, nil, llmtest.WithFaultShare(0.3, llmtest.Fault{Kind: llmtest.FaultReset}))
	dir := t.TempDir()
	lines := chats(30, 1)
	for i := range lines { // large enough to be under way when the connection goes
		lines[i] = strings.Replace(lines[i], "what is", strings.Repeat("what is ", 1<<15), 1)
	}
	write(t, dir, "in.jsonl", lines...)
	if code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "100000", "--attempts", "20"); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	eachOnce(t, readResults(t, dir, "out.jsonl"), 30)
}

// syncBuffer may be read while a process writes to it.
type syncBuffer struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

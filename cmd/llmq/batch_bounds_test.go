package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/llmtest"
)

// TestABatchThatOnlyFailsStopsTheRun before the next one is submitted. Those of less than
// --max-failures do not.
func TestABatchThatOnlyFailsStopsTheRun(t *testing.T) {
	t.Parallel()
	lines := append(chats(30, 10), chats(30, 10)...)
	for i := range lines {
		lines[i] = strings.Replace(lines[i], fmt.Sprintf(`"custom_id":"r%d"`, i%30), fmt.Sprintf(`"custom_id":"r%d"`, i), 1)
		if i >= 30 {
			lines[i] = strings.Replace(lines[i], `"model":"m"`, `"model":"n"`, 1)
		}
	}
	for most, c := range map[string]struct{ code, batches int }{"30": {3, 1}, "31": {1, 2}, "0": {1, 2}} {
		t.Run(most, func(t *testing.T) {
			t.Parallel()
			srv := batching(t, llmtest.Batches{}, llmtest.WithFaultShare(1, llmtest.Fault{Status: 400}))
			dir := t.TempDir()
			write(t, dir, "in.jsonl", lines...)
			code, _, stderr := llmq(t, dir, viaBatch(srv.URL(), "--max-failures", most)...)
			if n := len(batchesAt(t, srv)); code != c.code || n != c.batches {
				t.Errorf("exit code %d and %d batches, want %d and %d: %s", code, n, c.code, c.batches, stderr)
			}
			if n := len(readResults(t, dir, "out.jsonl")); n != 30*c.batches {
				t.Errorf("%d results", n)
			}
			if c.code == 3 && !strings.Contains(stderr, "all 30 requests of ") {
				t.Errorf("it does not say why: %s", stderr)
			}
			if c.code != 3 { // a batch that was never submitted stays until the next run
				noSpool(t, dir)
			}
		})
	}
}

// TestASimulatedBatchLasts as long as it is told to.
func TestASimulatedBatchLasts(t *testing.T) {
	t.Parallel()
	url, stop := simulator(t, "--batch-duration", "1h")
	defer stop()
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(5, 10)...)
	p := command(t, dir, nil, viaBatch(url)...)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a batch that is noted", func() bool { return noted(dir) })
	_ = p.Process.Signal(os.Interrupt)
	oneLine(t, p.code(), 130, p.stderr.String(), "goes on with 5 requests in batches")
}

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

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
			noSpoolOfBatches(t, dir, c.code)
		})
	}
}

// noSpoolOfBatches checks that a run forgot the batches that are over: one that was never
// submitted stays until the next run.
func noSpoolOfBatches(t *testing.T, dir string, code int) {
	t.Helper()
	if code != 3 {
		noSpool(t, dir)
	}
}

// TestABatchHoldsTheBoundOfEmbeddingInputs of 50,000 over all its requests.
func TestABatchHoldsTheBoundOfEmbeddingInputs(t *testing.T) {
	t.Parallel()
	srv := batching(t, llmtest.Batches{})
	dir := t.TempDir()
	list := strings.TrimSuffix(strings.Repeat(`"a",`, 2000), ",")
	lines := make([]string, 26)
	for i := range lines {
		lines[i] = fmt.Sprintf(`{"custom_id":"r%d","url":"/v1/embeddings","body":{"model":"m","input":[%s]}}`, i, list)
	}
	lines[25] = `{"custom_id":"r25","url":"/v1/embeddings","body":{"model":"m","input":[1,2,3]}}`
	write(t, dir, "in.jsonl", lines...)
	if code, _, stderr := llmq(t, dir, viaBatch(srv.URL())...); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	eachOnce(t, readResults(t, dir, "out.jsonl"), 26)
	if b := batchesAt(t, srv); len(b) != 2 || b[0].Counts.Total+b[1].Counts.Total != 26 || max(b[0].Counts.Total, b[1].Counts.Total) != 25 {
		t.Errorf("the batches are %+v", b)
	}
}

// TestASimulatedBatchLasts as long as it is told to.
func TestASimulatedBatchLasts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := command(t, dir, nil, "simulate", "--listen", "127.0.0.1:0", "--batch-duration", "1h")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Process.Kill(); _ = p.Wait() }()
	_ = time.Second
}

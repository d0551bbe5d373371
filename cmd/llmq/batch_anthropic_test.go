package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// messages are n requests for Anthropic, with ids r0, r1, …
func messages(n int) []string {
	lines := chats(n, 10)
	for i := range lines {
		lines[i] = strings.Replace(lines[i], "/v1/chat/completions", "/v1/messages", 1)
	}
	return lines
}

// messageBatchesAt is how many batches an Anthropic server has, and the status of the latest.
func messageBatchesAt(t *testing.T, srv *llmtest.Server) (n int, status string) {
	t.Helper()
	res, err := http.Get(srv.URL() + "/v1/messages/batches?limit=100")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, _ := io.ReadAll(res.Body)
	var page struct {
		Data []struct {
			Status string `json:"processing_status"`
		}
	}
	if err := json.Unmarshal(data, &page); err != nil {
		t.Fatal(err)
	}
	if len(page.Data) > 0 {
		status = page.Data[0].Status
	}
	return len(page.Data), status
}

func batchingMessages(t *testing.T, b llmtest.Batches, opts ...llmtest.Option) *llmtest.Server {
	t.Helper()
	return llmtest.NewServer(t, llmtest.Anthropic(), append(opts, llmtest.WithBatches(b))...)
}

func TestViaBatchOfMessages(t *testing.T) {
	t.Parallel()
	srv := batchingMessages(t, llmtest.Batches{}, llmtest.WithFaultShare(0.2, llmtest.Fault{Status: 529}))
	dir := t.TempDir()
	write(t, dir, "in.jsonl", messages(60)...)
	code, _, stderr := llmq(t, dir, viaBatch(srv.URL())...)
	list := readResults(t, dir, "out.jsonl")
	eachOnce(t, list, 60)
	failed := failures(list)
	if code != 1 || len(failed) < 3 || len(failed) > 30 {
		t.Fatalf("exit code %d, failed: %v: %s", code, failed, stderr)
	}
	for _, r := range list {
		switch {
		case r.ID != fmt.Sprintf("r%d", r.Run.Line-1) || r.Response == nil:
			t.Errorf("not the result of its line: %+v", r)
		case r.Error == nil && (r.Response.Status != 200 || !strings.Contains(string(r.Response.Body), `"type":"message"`)):
			t.Errorf("no answer: %d %s", r.Response.Status, r.Response.Body)
		case r.Error != nil && (r.Error.Code != "http_529" || !strings.Contains(r.Error.Message, "Overloaded")):
			t.Errorf("a failure without its reason: %+v", r.Error)
		}
	}
	if n, _ := messageBatchesAt(t, srv); n != 1 || srv.Stats().Accepted != 0 {
		t.Errorf("%d batches and %d calls, want one batch", n, srv.Stats().Accepted)
	}
	noSpool(t, dir)
}

func TestMessagesThatABatchDoesNotFinishGoOnByCalls(t *testing.T) {
	t.Parallel()
	srv := batchingMessages(t, llmtest.Batches{Duration: 8 * time.Second, Canceling: 100 * time.Millisecond})
	dir := t.TempDir()
	write(t, dir, "in.jsonl", messages(100)...)
	code, _, stderr := llmq(t, dir, viaBatch(srv.URL(), "--deadline", "2s")...)
	eachOnce(t, readResults(t, dir, "out.jsonl"), 100)
	data, _ := os.ReadFile(filepath.Join(dir, "out.jsonl"))
	calls, byBatch := srv.Stats().Accepted, strings.Count(string(data), `"batch":"msgbatch_`)
	if code != 0 || calls == 0 || byBatch == 0 || int(calls)+byBatch != 100 {
		t.Errorf("exit code %d, %d by calls and %d by batch: %s", code, calls, byBatch, stderr)
	}
}

// TestKilledAtEveryStepOfABatchOfMessages: a batch has no mark until its results are there,
// so the one that may be ours is waited for, and one of another run is not taken for it.
func TestKilledAtEveryStepOfABatchOfMessages(t *testing.T) {
	t.Parallel()
	const path = "/v1/messages/batches"
	for name, step := range map[string]func(*http.Request) bool{
		"submit": func(r *http.Request) bool { return r.Method == "POST" && r.URL.Path == path },
		"ask":    func(r *http.Request) bool { return r.Method == "GET" && strings.HasPrefix(r.URL.Path, path+"/") },
		"fetch":  func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/results") },
	} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, done %v", name, late), func(t *testing.T) {
				t.Parallel()
				srv := batchingMessages(t, llmtest.Batches{Duration: time.Second})
				other := t.TempDir() // a run of as many requests
				write(t, other, "in.jsonl", messages(20)...)
				if code, _, stderr := llmq(t, other, viaBatch(srv.URL())...); code != 0 {
					t.Fatalf("exit code %d: %s", code, stderr)
				}
				g := hanging(t, srv)
				dir := t.TempDir()
				write(t, dir, "in.jsonl", messages(20)...)
				p := command(t, dir, nil, viaBatch(g.URL)...)
				g.step, g.late, g.kill = step, late, func() { _ = p.Process.Kill() }
				if err := p.Start(); err != nil {
					t.Fatal(err)
				}
				if code := p.code(); code != -1 {
					t.Fatalf("it was not killed: exit code %d: %s", code, p.stderr.String())
				}
				if code, _, stderr := llmq(t, dir, viaBatch(g.URL)...); code != 0 {
					t.Errorf("exit code %d: %s", code, stderr)
				}
				eachOnce(t, readResults(t, dir, "out.jsonl"), 20)
				if n, _ := messageBatchesAt(t, srv); n != 2 {
					t.Errorf("%d batches were submitted, want 1 beside the other run's", n)
				}
				noSpool(t, dir)
			})
		}
	}
}

func TestMessagesInABatchAreCanceled(t *testing.T) {
	t.Parallel()
	srv := batchingMessages(t, llmtest.Batches{Duration: time.Hour})
	dir := t.TempDir()
	write(t, dir, "in.jsonl", messages(20)...)
	p := command(t, dir, nil, viaBatch(srv.URL())...)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a batch that is noted", func() bool { n, _ := messageBatchesAt(t, srv); return n == 1 && noted(dir) })
	_ = p.Process.Signal(os.Interrupt)
	oneLine(t, p.code(), 130, p.stderr.String(), "goes on with 20 requests in batches")
	code, _, stderr := llmq(t, dir, viaBatch(srv.URL(), "--cancel")...)
	oneLine(t, code, 130, stderr, "the batches are canceled: 20 requests were not done")
	if n, status := messageBatchesAt(t, srv); n != 1 || status != "ended" {
		t.Errorf("%d batches, the latest %s", n, status)
	}
}

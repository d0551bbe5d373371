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

// contents are n requests for Gemini, with ids r0, r1, …
func contents(n int) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf(`{"key":"r%d","request":{"model":"m","contents":[{"parts":[{"text":"Question %d?"}]}],"generationConfig":{"maxOutputTokens":10}}}`, i, i)
	}
	return lines
}

// contentBatchesAt is how many batches a Gemini server has, and the state of the latest.
func contentBatchesAt(t *testing.T, srv *llmtest.Server) (n int, state string) {
	t.Helper()
	res, err := http.Get(srv.URL() + "/v1beta/batches?pageSize=100")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, _ := io.ReadAll(res.Body)
	var page struct {
		Operations []struct{ Metadata struct{ State string } }
	}
	if err := json.Unmarshal(data, &page); err != nil {
		t.Fatal(err)
	}
	if len(page.Operations) > 0 {
		state = page.Operations[0].Metadata.State
	}
	return len(page.Operations), state
}

func batchingContent(t *testing.T, b llmtest.Batches, opts ...llmtest.Option) *llmtest.Server {
	t.Helper()
	return llmtest.NewServer(t, llmtest.Gemini(), append(opts, llmtest.WithBatches(b))...)
}

// TestViaBatchOfContents: a base URL may have the version or not, as in calls.
func TestViaBatchOfContents(t *testing.T) {
	t.Parallel()
	for name, base := range map[string]string{"the host": "", "with the version": "/v1beta"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := batchingContent(t, llmtest.Batches{}, llmtest.WithFaultShare(0.2, llmtest.Fault{Status: 503}))
			dir := t.TempDir()
			write(t, dir, "in.jsonl", contents(60)...)
			code, _, stderr := llmq(t, dir, viaBatch(srv.URL()+base)...)
			list := readResults(t, dir, "out.jsonl")
			eachOnce(t, list, 60)
			if failed := failures(list); code != 1 || len(failed) < 3 || len(failed) > 30 {
				t.Fatalf("exit code %d, failed: %v: %s", code, failed, stderr)
			}
			for _, r := range list {
				switch {
				case r.ID != fmt.Sprintf("r%d", r.Run.Line-1) || r.Response == nil:
					t.Errorf("not the result of its line: %+v", r)
				case r.Error == nil && (r.Response.Status != 200 || !strings.Contains(string(r.Response.Body), `"candidates"`)):
					t.Errorf("no answer: %d %s", r.Response.Status, r.Response.Body)
				case r.Error != nil && (r.Error.Code != "http_503" || !strings.Contains(r.Error.Message, "a fault was injected")):
					t.Errorf("a failure without its reason: %+v", r.Error)
				}
			}
			if n, _ := contentBatchesAt(t, srv); n != 1 || srv.Stats().Accepted != 0 {
				t.Errorf("%d batches and %d calls, want one batch", n, srv.Stats().Accepted)
			}
			noSpool(t, dir)
		})
	}
}

// TestContentsThatABatchDoesNotFinishGoOnByCalls: a batch of Gemini that is canceled keeps nothing.
func TestContentsThatABatchDoesNotFinishGoOnByCalls(t *testing.T) {
	t.Parallel()
	srv := batchingContent(t, llmtest.Batches{Duration: time.Hour, Canceling: 100 * time.Millisecond})
	dir := t.TempDir()
	write(t, dir, "in.jsonl", contents(30)...)
	code, _, stderr := llmq(t, dir, viaBatch(srv.URL(), "--deadline", "1s")...)
	eachOnce(t, readResults(t, dir, "out.jsonl"), 30)
	if calls := srv.Stats().Accepted; code != 0 || calls != 30 {
		t.Errorf("exit code %d, %d by calls: %s", code, calls, stderr)
	}
	if n, state := contentBatchesAt(t, srv); n != 1 || state != "BATCH_STATE_CANCELLED" {
		t.Errorf("%d batches, the latest %s", n, state)
	}
}

func TestContentsWhoseBatchExpiresAreFailures(t *testing.T) {
	t.Parallel()
	srv := batchingContent(t, llmtest.Batches{Duration: 200 * time.Millisecond, Window: 100 * time.Millisecond})
	dir := t.TempDir()
	write(t, dir, "in.jsonl", contents(5)...)
	code, _, stderr := llmq(t, dir, viaBatch(srv.URL())...)
	list := readResults(t, dir, "out.jsonl")
	eachOnce(t, list, 5)
	if code != 1 || len(failures(list)) != 5 || list[0].Error.Code != "batch_expired" {
		t.Errorf("exit code %d, failed %v: %s", code, failures(list), stderr)
	}
	noSpool(t, dir)
}

func TestContentsInABatchAreCanceled(t *testing.T) {
	t.Parallel()
	srv := batchingContent(t, llmtest.Batches{Duration: time.Hour})
	dir := t.TempDir()
	write(t, dir, "in.jsonl", contents(20)...)
	p := command(t, dir, nil, viaBatch(srv.URL())...)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a batch that is noted", func() bool { n, _ := contentBatchesAt(t, srv); return n == 1 && noted(dir) })
	_ = p.Process.Signal(os.Interrupt)
	oneLine(t, p.code(), 130, p.stderr.String(), "goes on with 20 requests in batches")
	code, _, stderr := llmq(t, dir, viaBatch(srv.URL(), "--cancel")...)
	oneLine(t, code, 130, stderr, "the batches are canceled: 20 requests were not done")
	if n, state := contentBatchesAt(t, srv); n != 1 || state != "BATCH_STATE_CANCELLED" {
		t.Errorf("%d batches, the latest %s", n, state)
	}
}

// TestAnEmbeddingOfGeminiIsInNoBatch: its batches are another API.
func TestAnEmbeddingOfGeminiIsInNoBatch(t *testing.T) {
	t.Parallel()
	srv := batchingContent(t, llmtest.Batches{})
	dir := t.TempDir()
	write(t, dir, "in.jsonl", `{"key":"a","request":{"model":"m","content":{"parts":[{"text":"a"}]}}}`)
	code, _, stderr := llmq(t, dir, viaBatch(srv.URL())...)
	oneLine(t, code, 2, stderr, `in.jsonl:1: "/v1beta/models/m:embedContent" cannot be in a batch`)
	if left, _ := filepath.Glob(filepath.Join(dir, "out.jsonl.llmq", "batches", "*")); len(left) > 0 {
		t.Errorf("kept: %v", left)
	}
}

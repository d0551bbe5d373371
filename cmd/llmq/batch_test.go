package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// batching starts a provider that runs batches so.
func batching(t *testing.T, b llmtest.Batches, opts ...llmtest.Option) *llmtest.Server {
	t.Helper()
	return serve(t, nil, append(opts, llmtest.WithBatches(b))...)
}

// batchesAt are the batches that a provider has.
func batchesAt(t *testing.T, srv *llmtest.Server) (list []struct {
	Status string
	Counts struct{ Total int } `json:"request_counts"`
}) {
	t.Helper()
	res, err := http.Get(srv.URL() + "/batches?limit=100")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, _ := io.ReadAll(res.Body)
	var page struct{ Data any }
	page.Data = &list
	if err := json.Unmarshal(data, &page); err != nil {
		t.Fatal(err)
	}
	return list
}

// viaBatch is the command line of a run by batches.
func viaBatch(url string, more ...string) []string {
	return append([]string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", url, "--via", "batch"}, more...)
}

// noted reports whether a run has noted the id of its batch.
func noted(dir string) bool {
	states, _ := filepath.Glob(filepath.Join(dir, "out.jsonl.llmq", "batches", "*.json"))
	if len(states) != 1 {
		return false
	}
	data, _ := os.ReadFile(states[0])
	return strings.Contains(string(data), `"batch":`)
}

// noSpool checks that nothing is kept of batches that are over.
func noSpool(t *testing.T, dir string) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(dir, "out.jsonl.llmq", "batches", "*")); len(left) > 0 {
		t.Errorf("kept of batches that are over: %v", left)
	}
}

// TestViaBatch: two models, three paths and failures come back as results of calls do, at half
// the price.
func TestViaBatch(t *testing.T) {
	t.Parallel()
	srv := batching(t, llmtest.Batches{}, llmtest.WithFaultShare(0.2, llmtest.Fault{Status: 400}))
	dir := t.TempDir()
	lines := chats(60, 10)
	for i := range 10 {
		lines[i] = strings.Replace(lines[i], `"model":"m"`, `"model":"n"`, 1)
	}
	lines[20] = `{"custom_id":"r20","url":"/v1/responses","body":{"model":"m","input":"<Why?>"}}`
	lines[21] = `{"custom_id":"r21","url":"/v1/embeddings","body":{"model":"embed","input":"Why?"}}`
	write(t, dir, "in.jsonl", lines...)
	write(t, dir, "prices.yaml", "m: {input: 1000, output: 1000}\nn: {input: 1000, output: 1000}\nembed: {input: 1000, output: 1000}")
	code, stdout, stderr := llmq(t, dir, viaBatch(srv.URL(), "--prices", "prices.yaml", "--json")...)
	list := readResults(t, dir, "out.jsonl")
	eachOnce(t, list, 60)
	failed := failures(list)
	if code != 1 || len(failed) < 3 || len(failed) > 30 {
		t.Fatalf("exit code %d, failed: %v: %s", code, failed, stderr)
	}
	for _, r := range list {
		switch {
		case r.Run.Line < 1 || r.ID != fmt.Sprintf("r%d", r.Run.Line-1) || r.Response == nil:
			t.Errorf("not the result of its line: %+v", r)
		case r.Error == nil && r.Response.Status != 200:
			t.Errorf("an answer with status %d", r.Response.Status)
		case r.Error != nil && (r.Error.Code != "http_400" || !strings.Contains(r.Error.Message, "a fault was injected")):
			t.Errorf("a failure without its reason: %+v", r.Error)
		}
	}
	if n := len(batchesAt(t, srv)); n != 4 {
		t.Errorf("%d batches, want one for each model and path", n)
	}
	if n := srv.Stats().Accepted; n != 0 {
		t.Errorf("%d calls beside the batches", n)
	}
	var sums struct {
		Cost   float64 `json:"cost_usd"`
		Input  float64 `json:"input_tokens"`
		Output float64 `json:"output_tokens"`
	}
	all := strings.Split(strings.TrimSpace(stdout), "\n")
	if err := json.Unmarshal([]byte(all[len(all)-1]), &sums); err != nil {
		t.Fatal(err)
	}
	half := (sums.Input + sums.Output) * 1000 / 1e6 / 2
	if sums.Output == 0 || sums.Cost < half*0.999 || sums.Cost > half*1.001 {
		t.Errorf("it costs $%v, want half the price: $%v", sums.Cost, half)
	}
	var stats struct {
		Cost float64 `json:"cost_usd"`
	}
	_, stdout, _ = llmq(t, dir, "stats", "out.jsonl", "--prices", "prices.yaml", "--json")
	if err := json.Unmarshal([]byte(stdout), &stats); err != nil || math.Abs(stats.Cost-half) > half/1000 {
		t.Errorf("llmq stats has $%v, want $%v: %v", stats.Cost, half, err)
	}
	_, stdout, stderr = llmq(t, dir, "export", "out.jsonl", "--prices", "prices.yaml")
	rows, err := csv.NewReader(strings.NewReader(stdout)).ReadAll()
	if err != nil || len(rows) != 61 {
		t.Fatalf("%d rows are exported: %v %s", len(rows), err, stderr)
	}
	var exported float64
	for _, row := range rows[1:] {
		cost, _ := strconv.ParseFloat(row[slices.Index(rows[0], "cost_usd")], 64) // empty without usage
		exported += cost
	}
	if math.Abs(exported-half) > half/1000 {
		t.Errorf("llmq export has $%v, want $%v", exported, half)
	}
	noSpool(t, dir)
	// The failed ones again, and nothing is left to do after that.
	good := batching(t, llmtest.Batches{})
	again := viaBatch(good.URL())
	again[0] = "retry"
	if code, _, stderr = llmq(t, dir, again...); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	total := 0
	for _, b := range batchesAt(t, good) {
		total += b.Counts.Total
	}
	if total != len(failed) {
		t.Errorf("%d requests ran again, %d had failed", total, len(failed))
	}
	before := len(batchesAt(t, good))
	if code, _, stderr = llmq(t, dir, viaBatch(good.URL())...); code != 0 || len(batchesAt(t, good)) != before {
		t.Errorf("exit code %d, %d batches after the last, want %d: %s", code, len(batchesAt(t, good)), before, stderr)
	}
	eachOnce(t, readResults(t, dir, "out.jsonl"), 60)
}

func TestBatchesThatExpireAreFailuresThatCallsCanRetry(t *testing.T) {
	t.Parallel()
	srv := batching(t, llmtest.Batches{Duration: 200 * time.Millisecond, Window: 100 * time.Millisecond})
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(5, 10)...)
	code, _, stderr := llmq(t, dir, viaBatch(srv.URL())...)
	list := readResults(t, dir, "out.jsonl")
	eachOnce(t, list, 5)
	if code != 1 || len(failures(list)) != 3 || !strings.Contains(stderr, "llmq retry") {
		t.Fatalf("exit code %d, %d failures, want 3: %s", code, len(failures(list)), stderr)
	}
	for _, r := range list {
		if r.Error != nil && r.Error.Code != "batch_expired" {
			t.Errorf("the code is %q", r.Error.Code)
		}
	}
	if code, _, stderr = llmq(t, dir, "retry", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL()); code != 0 || srv.Stats().Accepted != 3 {
		t.Errorf("exit code %d, %d calls, want 3: %s", code, srv.Stats().Accepted, stderr)
	}
	eachOnce(t, readResults(t, dir, "out.jsonl"), 5)
}

// TestWhatABatchDoesNotFinishByTheDeadlineGoesOnByCalls, and keeps what it has finished.
func TestWhatABatchDoesNotFinishByTheDeadlineGoesOnByCalls(t *testing.T) {
	t.Parallel()
	srv := batching(t, llmtest.Batches{Duration: 8 * time.Second, Canceling: 100 * time.Millisecond})
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(200, 10)...)
	code, _, stderr := llmq(t, dir, viaBatch(srv.URL(), "--deadline", "2s")...)
	eachOnce(t, readResults(t, dir, "out.jsonl"), 200)
	calls := srv.Stats().Accepted
	data, _ := os.ReadFile(filepath.Join(dir, "out.jsonl"))
	byBatch := strings.Count(string(data), `"batch":"batch_`)
	if code != 0 || calls == 0 || byBatch == 0 || int(calls)+byBatch != 200 {
		t.Errorf("exit code %d, %d by calls and %d by batch: %s", code, calls, byBatch, stderr)
	}
	if !strings.Contains(stderr, fmt.Sprintf("%d requests were not done in a batch: they go on by calls", calls)) {
		t.Errorf("it does not say so: %s", stderr)
	}
	if b := batchesAt(t, srv); len(b) != 1 || b[0].Status != "cancelled" {
		t.Errorf("the batches are %+v", b)
	}
	noSpool(t, dir)
}

func TestAnInterruptLeavesTheBatchAndCancelCancelsIt(t *testing.T) {
	t.Parallel()
	srv := batching(t, llmtest.Batches{Duration: time.Hour})
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(20, 10)...)
	p := command(t, dir, nil, viaBatch(srv.URL())...)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a batch that is noted", func() bool { return len(batchesAt(t, srv)) == 1 && noted(dir) })
	_ = p.Process.Signal(os.Interrupt)
	oneLine(t, p.code(), 130, p.stderr.String(), "goes on with 20 requests in batches", "run the same command again", "--cancel")
	if b := batchesAt(t, srv); b[0].Status != "validating" {
		t.Errorf("the batch is %s", b[0].Status)
	}
	// By calls they would run twice.
	code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL())
	oneLine(t, code, 2, stderr, "20 requests are in batches of an earlier run", "--via batch --cancel")
	code, _, stderr = llmq(t, dir, viaBatch("http://127.0.0.1:9/v1")...)
	oneLine(t, code, 2, stderr, "are in a batch at 127.0.0.1")
	code, _, stderr = llmq(t, dir, viaBatch(srv.URL(), "--cancel")...)
	oneLine(t, code, 130, stderr, "the batches are canceled: 20 requests were not done")
	if b := batchesAt(t, srv); len(b) != 1 || b[0].Status != "cancelled" {
		t.Errorf("the batches are %+v", b)
	}
	noSpool(t, dir)
	code, _, stderr = llmq(t, dir, viaBatch(srv.URL(), "--cancel")...)
	oneLine(t, code, 2, stderr, "no batch of this output is at the provider")
	if code, _, stderr = llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL()); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	eachOnce(t, readResults(t, dir, "out.jsonl"), 20)
}

// TestABatchIsSplitAtTheProvidersBound of 50,000 requests.
func TestABatchIsSplitAtTheProvidersBound(t *testing.T) {
	t.Parallel()
	srv := batching(t, llmtest.Batches{}, llmtest.WithOutputTokens(1, 0))
	dir := t.TempDir()
	const n = 50_001
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf(`{"custom_id":"r%d","body":{"model":"m","messages":[{"role":"user","content":"%d"}]}}`, i, i)
	}
	write(t, dir, "in.jsonl", lines...)
	if code, _, stderr := llmq(t, dir, viaBatch(srv.URL())...); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	eachOnce(t, readResults(t, dir, "out.jsonl"), n)
	if b := batchesAt(t, srv); len(b) != 2 || b[0].Counts.Total+b[1].Counts.Total != n || max(b[0].Counts.Total, b[1].Counts.Total) != 50_000 {
		t.Errorf("the batches are %+v", b)
	}
}

func TestWhatCannotBeRunInABatchIsToldAtOnce(t *testing.T) {
	t.Parallel()
	srv := batching(t, llmtest.Batches{MaxRequests: 2}, llmtest.WithKey("right"))
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(3, 10)...)
	write(t, dir, "rerank.jsonl", `{"custom_id":"a","url":"/v1/rerank","body":{"model":"m","input":"x"}}`)
	write(t, dir, "right", "right")
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"another provider": {viaBatch("https://api.groq.com/openai/v1"), 2, "which api.groq.com does not have"},
		"stdin":            {[]string{"run", "-", "-o", "o.jsonl", "--base-url", srv.URL(), "--via", "batch"}, 2, "needs a file"},
		"another word":     {viaBatch(srv.URL(), "--via", "pigeon"), 2, "want calls, batch or flex"},
		"by calls":         {viaBatch(srv.URL(), "--via", "calls", "--deadline", "1h"), 2, "go with --via batch"},
		"another path":     {[]string{"run", "rerank.jsonl", "-o", "p.jsonl", "--base-url", srv.URL(), "--via", "batch"}, 2, `rerank.jsonl:1: "/v1/rerank" cannot be in a batch`},
		"a wrong key":      {viaBatch(srv.URL()), 3, "401 Unauthorized"},
		"no host":          {viaBatch("http://127.0.0.1:9/v1", "-o", "q.jsonl"), 3, "cannot be reached"},
		"a refused batch":  {viaBatch(srv.URL(), "-o", "r.jsonl", "--key-file", "right"), 3, "more than 2 requests"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := llmq(t, dir, c.args...)
			oneLine(t, code, c.code, stderr, c.want)
		})
	}
	noSpool(t, dir)
}

func TestABudgetHoldsForBatches(t *testing.T) {
	t.Parallel()
	srv := batching(t, llmtest.Batches{}, llmtest.WithOutputTokens(1000, 0))
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(20, 100)...)
	write(t, dir, "prices.yaml", "m: {input: 0, output: 1000}") // $0.10 each, $0.05 in a batch
	code, _, stderr := llmq(t, dir, viaBatch(srv.URL(), "--prices", "prices.yaml", "--budget-usd", "0.51")...)
	oneLine(t, code, 4, stderr, "the budget of $0.51 is used up: $0.5000 are spent")
	if n := len(readResults(t, dir, "out.jsonl")); n != 10 {
		t.Errorf("%d requests ran, want 10", n)
	}
	_, stdout, _ := llmq(t, dir, append(viaBatch(srv.URL()), "--prices", "prices.yaml", "--dry-run")...)
	if !regexp.MustCompile(`10 requests.*\n.*at most \$0\.5000\n.*in batches, which take up to 24 h\nat most \$0\.5000 in all`).MatchString(stdout) {
		t.Errorf("the dry run says: %s", stdout)
	}
}

package main

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmtest"
)

// The makespan of a batch of questions, by llmq and by what one would write by hand. It is
// printed by a benchmark and asserted nowhere, because a busy machine may be late:
//
//	LLMQ_QUESTIONS=/path/to/gsm8k/test.jsonl go test -run '^$' -bench Makespan -benchtime 1x .
//
// Without the variable it runs the sample that examples/openai has.

// race is what the contestants run.
type race struct {
	file        string // of questions
	questions   []string
	rpm, tpm    int64
	period      time.Duration
	concurrency int
	maxTokens   int64
	first       time.Duration // to the first token
	margin      string
}

const prompt = "%s\n\nSolve it step by step; the result alone on the last line."

func newRace(tb testing.TB) *race {
	tb.Helper()
	r := &race{file: os.Getenv("LLMQ_QUESTIONS"), rpm: 225, tpm: 54_000, period: 6 * time.Second, concurrency: 64, maxTokens: 180, first: 200 * time.Millisecond}
	if r.file == "" {
		r.file = filepath.Join("..", "..", "examples", "openai", "testdata", "questions.jsonl")
		r.rpm, r.tpm, r.period, r.margin = 15, 3_600, time.Second, margin
	}
	var err error
	if r.file, err = filepath.Abs(r.file); err != nil {
		tb.Fatal(err)
	}
	data, err := os.ReadFile(r.file)
	if err != nil {
		tb.Skipf("no questions: %v", err)
	}
	for line := range bytes.Lines(data) {
		var row struct{ Question string }
		if err := json.Unmarshal(line, &row); err != nil {
			tb.Fatal(err)
		}
		r.questions = append(r.questions, row.Question)
	}
	return r
}

// provider enforces the limits in any period, wherever it begins.
func (r *race) provider(tb testing.TB) *llmtest.Server {
	return llmtest.NewServer(tb, llmtest.OpenAI(llmtest.RPM(r.rpm).Per(r.period), llmtest.TPM(r.tpm).Per(r.period)),
		llmtest.WithStrategy(llmtest.SlidingWindow), llmtest.WithOutputTokens(120, 0.4),
		llmtest.WithLatency(llmtest.Latency{FirstToken: r.first, PerToken: time.Millisecond, Spread: 0.3}))
}

func (r *race) args(url string) []string {
	args := []string{"run", r.file, "-o", "results.jsonl", "--base-url", url, "--quiet",
		"--rpm", fmt.Sprint(r.rpm), "--tpm", fmt.Sprint(r.tpm), "--period", r.period.String(), "--concurrency", fmt.Sprint(r.concurrency),
		"--template", strings.Replace(prompt, "%s", "{{.question}}", 1), "--model", "m", "--max-tokens", fmt.Sprint(r.maxTokens)}
	if r.margin != "" {
		args = append(args, "--margin", r.margin)
	}
	return args
}

// outcome is how a contestant fared.
type outcome struct {
	took     time.Duration
	answered int
	refused  int64
	minimum  time.Duration
}

func (o outcome) String() string {
	return fmt.Sprintf("%.2fs, %.3f of the minimum %.2fs, %d answered, %d refused", o.took.Seconds(), o.took.Seconds()/o.minimum.Seconds(), o.minimum.Seconds(), o.answered, o.refused)
}

// llmq runs the command, killed so often at random moments.
func (r *race) llmq(t testing.TB, kills int, longest time.Duration) (o outcome) {
	srv, dir := r.provider(t), t.TempDir()
	begin := time.Now()
	code, stderr := killing(t, dir, kills, longest, r.args(srv.URL())...)
	o.took = time.Since(begin)
	if code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	seen := map[string]int{}
	for _, res := range readResults(t, dir, "results.jsonl") {
		if seen[res.ID]++; res.Error != nil {
			t.Errorf("%s failed: %v", res.ID, res.Error)
		}
	}
	for i := range r.questions {
		if n := seen["line-"+strconv.Itoa(i+1)]; n != 1 {
			t.Errorf("question %d has %d results, want 1", i+1, n)
		}
	}
	o.answered, o.refused, o.minimum = len(seen), srv.Stats().Refused, r.minimum(srv)
	return o
}

// byHand is what one would write: two token buckets, a bounded group, and retries as the
// provider asks for them.
func (r *race) byHand(t testing.TB) (o outcome) {
	srv := r.provider(t)
	perSecond := func(n int64) rate.Limit { return rate.Limit(float64(n) / r.period.Seconds()) }
	requests, tokens := rate.NewLimiter(perSecond(r.rpm), int(r.rpm)), rate.NewLimiter(perSecond(r.tpm), int(r.tpm))
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: r.concurrency}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(r.concurrency)
	begin := time.Now()
	for _, q := range r.questions {
		text := fmt.Sprintf(prompt, q)
		if err := errors.Join(requests.Wait(ctx), tokens.WaitN(ctx, int(llmqueue.EstimateTokens(text)+r.maxTokens))); err != nil {
			break
		}
		g.Go(func() error {
			body, _ := json.Marshal(map[string]any{"model": "m", "max_tokens": r.maxTokens, "messages": []map[string]string{{"role": "user", "content": text}}})
			for range 20 {
				res, err := client.Post(srv.URL()+"/chat/completions", "application/json", bytes.NewReader(body))
				if err != nil {
					return err
				}
				var answer any
				err = json.NewDecoder(res.Body).Decode(&answer)
				_ = res.Body.Close()
				switch {
				case res.StatusCode == http.StatusOK && err == nil:
					mu.Lock()
					o.answered++
					mu.Unlock()
					return nil
				case res.StatusCode != http.StatusTooManyRequests:
					return fmt.Errorf("status %d, %w", res.StatusCode, err)
				}
				wait, err := strconv.ParseFloat(res.Header.Get("Retry-After"), 64)
				if ms, msErr := strconv.ParseFloat(res.Header.Get("Retry-After-Ms"), 64); msErr == nil {
					wait, err = ms/1000, nil
				}
				if err != nil {
					wait = 1
				}
				time.Sleep(time.Duration(wait * float64(time.Second)))
			}
			return nil // given up
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	o.took = time.Since(begin)
	o.refused, o.minimum = srv.Stats().Refused, r.minimum(srv)
	return o
}

// minimum is the least time in which all questions can be answered in their order, at most
// so many at once, if each takes as long as the provider says that it took: no margin, no
// network, no process to start.
func (r *race) minimum(srv *llmtest.Server) (end time.Duration) {
	var took []time.Duration
	for _, a := range srv.Arrivals() {
		if a.Verdict == llmtest.Completed {
			took = append(took, a.Duration)
		}
	}
	slices.Sort(took)
	type charge struct {
		at time.Duration
		n  int64
	}
	var (
		held    []charge
		sum     int64
		running ends
		now     time.Duration
	)
	for i, q := range r.questions {
		n := llmqueue.EstimateTokens(fmt.Sprintf(prompt, q)) + r.maxTokens
		for len(held) > 0 && (held[0].at+r.period <= now || int64(len(held)) == r.rpm || sum+n > r.tpm) {
			now = max(now, held[0].at+r.period)
			sum -= held[0].n
			held = held[1:]
		}
		if len(running) == r.concurrency {
			now = max(now, heap.Pop(&running).(time.Duration))
		}
		held, sum = append(held, charge{now, n}), sum+n
		took := took[min(i*7919%len(r.questions), len(took)-1)] // some order, not the best for the last one
		heap.Push(&running, now+took)
		end = max(end, now+took)
	}
	return end
}

type ends []time.Duration

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i] < e[j] }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(time.Duration)) }
func (e *ends) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}

// TestQuestionsAreAnsweredOnceAndNoneIsRefused is the exact part of the benchmark.
func TestQuestionsAreAnsweredOnceAndNoneIsRefused(t *testing.T) {
	t.Parallel()
	r := newRace(t)
	if o := r.llmq(t, 0, 0); o.refused > 0 || o.answered != len(r.questions) {
		t.Errorf("%v", o)
	} else {
		t.Log(o)
	}
}

func BenchmarkMakespan(b *testing.B) {
	r := newRace(b)
	for b.Loop() {
		for _, c := range []struct {
			name string
			run  func() outcome
		}{
			{"llmq", func() outcome { return r.llmq(b, 0, 0) }},
			{"errgroup + x/time/rate", func() outcome { return r.byHand(b) }},
			{"llmq, killed five times", func() outcome { return r.llmq(b, 5, time.Duration(len(r.questions))*r.period/time.Duration(r.rpm)/5) }},
		} {
			o := c.run()
			fmt.Printf("%-24s %v\n", c.name, o)
			if strings.HasPrefix(c.name, "llmq") && o.refused > 0 {
				b.Errorf("%s: %d refused", c.name, o.refused)
			}
		}
	}
}

package batch

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/idset"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
	"github.com/llmqueue/llmqueue/plan"
)

// Estimate is what a run would do.
type Estimate struct {
	Requests int64           `json:"requests"` // that would run
	Before   int64           `json:"before"`   // that have a result
	Hits     int64           `json:"cache_hits"`
	Cost     float64         `json:"cost_usd"` // at most, but for answers without a bound; 0 without prices
	Models   []ModelEstimate `json:"models"`
}

// ModelEstimate is the part of one model.
type ModelEstimate struct {
	Model     string        `json:"model"`
	Requests  int64         `json:"requests"`
	Unbounded int64         `json:"unbounded"` // of them, those whose answer has no bound
	Input     int64         `json:"input_tokens"`
	Output    int64         `json:"output_tokens"`
	Cost      float64       `json:"cost_usd"`
	Priced    bool          `json:"priced"`
	Time      time.Duration `json:"time_ns"` // at least; 0: no limits are known
	Binds     string        `json:"binds"`   // the limit that it takes so long for
}

// DryRun reads the input and tells what a run would do. It sends nothing and writes
// nothing to the output.
func DryRun(c Config) (Estimate, error) {
	r := &run{Config: c, money: newMoney(c.Prices, c.Budget, c.AssumedOutput)}
	if err := r.checkFallbacks(); err != nil {
		return Estimate{}, err
	}
	if c.Output != "" && sameFile(c.Input, c.Output) {
		return Estimate{}, c.overInput()
	}
	if err := r.openInput(nil); err != nil {
		return Estimate{}, err
	}
	defer r.source.Close()
	dir, err := os.MkdirTemp("", "llmq-*")
	if err != nil {
		return Estimate{}, fail(CannotWrite, err)
	}
	defer os.RemoveAll(dir)
	ids := idset.New(filepath.Join(dir, "ids"))
	defer ids.Close()
	only := newOnly(c.Only, dir)
	defer only.close()
	const seen, failed, done = 1, 2, 4
	var bad error
	if c.Output != "" && !c.Restart {
		err := results.Inspect(c.Output, func(rec *results.Record) {
			state := uint64(done)
			if rec.Failed() {
				state = failed
			}
			bad = errors.Join(bad, only.note(rec), ids.UpdateTag(rec.CustomID, uint64(rec.Run.Hash), func(uint64) uint64 { return state }))
		})
		switch err = errors.Join(err, bad); {
		case errors.Is(err, results.ErrForeign):
			return Estimate{}, fail(BadInput, err)
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return Estimate{}, fail(CannotWrite, err)
		}
	}
	e := Estimate{}
	w := newWorkload()
	bounded := map[string]int64{}
	err = r.read(func(req *requests.Request) bool {
		state, _, err := ids.Get(req.ID)
		switch {
		case err != nil:
			bad = fail(CannotWrite, err)
			return false
		case state&seen != 0:
			bad = c.twice(req)
			return false
		}
		if bad = fail(CannotWrite, ids.Put(req.ID, state|seen)); bad != nil {
			return false
		}
		hash, err := ids.Tag(req.ID)
		if err != nil {
			bad = fail(CannotWrite, err)
			return false
		}
		recorded := state&(failed|done) != 0
		changed := recorded && hash != 0 && results.Hash(hash) != results.HashOf(req.Path, req.Body)
		chosen, err := only.chooses(req.ID)
		if err != nil {
			bad = fail(CannotWrite, err)
			return false
		}
		switch {
		case c.Retry && state&failed != 0 && !chosen:
			e.Before++
			return true
		case c.Retry && state&failed != 0, changed && c.Changed:
		case changed:
			bad = c.differs(req)
			return false
		case recorded || c.Retry:
			if recorded {
				e.Before++
			}
			return true
		}
		if bad = fail(BadInput, r.money.check(req)); bad != nil {
			return false
		}
		if _, ok := c.cached(req); ok {
			e.Hits++
			return true
		}
		w.add(req, c.AssumedOutput)
		if req.Estimate == req.Guess(c.AssumedOutput) {
			bounded[req.Model]++
		}
		return true
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return e, err
	}
	e.Requests, e.Cost = w.requests, r.money.of(w.usage)*c.Via.share()
	for _, model := range slices.Sorted(maps.Keys(w.models)) {
		u := w.usage[model]
		m := ModelEstimate{Model: model, Requests: w.models[model], Unbounded: w.models[model] - bounded[model], Input: u.InputTokens, Output: u.OutputTokens}
		if p, ok := c.Prices.Of(model); ok {
			m.Cost, m.Priced = p.Cost(u)*c.Via.share(), true
		}
		if c.Via.On {
			e.Models = append(e.Models, m) // the limits of calls are not of batches
			continue
		}
		if m.Time, m.Binds, err = r.atLeast(model, m.Requests, u); err != nil {
			return e, fail(BadInput, err)
		}
		e.Models = append(e.Models, m)
	}
	return e, nil
}

// planned is how many requests a plan plays; more count in proportion.
const planned = 20_000

// assumedLatency is how long a call is taken to last.
const assumedLatency = 2 * time.Second

// atLeast is how long so many requests of a model take under its limits, and which limit
// holds them longest: the queue's own plan of requests of mean size.
func (r *run) atLeast(model string, n int64, sum llmqueue.Usage) (time.Duration, string, error) {
	limits := slices.Clone(r.Limits(model))
	endpoints := int64(len(r.Endpoints) + 1)
	for i := range limits {
		limits[i].Amount *= endpoints
	}
	if len(limits) == 0 || n == 0 {
		return 0, "", nil
	}
	play := min(n, planned)
	mean := llmqueue.Usage{InputTokens: (sum.InputTokens + n - 1) / n, OutputTokens: (sum.OutputTokens + n - 1) / n}
	played, err := plan.Run(func(yield func(plan.Request) bool) {
		for range play {
			if !yield(plan.Request{Estimate: mean, Duration: assumedLatency}) {
				return
			}
		}
	}, llmqueue.WithLimits(append(limits, llmqueue.Concurrent(endpoints*r.Concurrency))...), llmqueue.WithMargin(r.Margin), llmqueue.WithAccounting(r.Accounting(model)))
	if err != nil {
		return 0, "", fmt.Errorf("model %s: %w", model, err)
	}
	return time.Duration(float64(played.Makespan) * float64(n) / float64(play)), played.Limits[0].Limit, nil
}

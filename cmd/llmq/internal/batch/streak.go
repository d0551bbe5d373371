package batch

import (
	"fmt"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/spool"
)

// streaks counts, by model, the failures of one kind that came one after the other.
type streaks map[string]streak

type streak struct {
	code string
	n    int64
}

// note takes in how a request of a model ended, nil for an answer, and returns how many
// failures in a row were like it.
func (s streaks) note(model string, problem *results.Error) int64 {
	if problem == nil {
		delete(s, model)
		return 0
	}
	last := s[model]
	if last.code != problem.Code {
		last = streak{code: problem.Code}
	}
	last.n++
	s[model] = last
	return last.n
}

// ends is how the requests of a batch ended.
type ends struct {
	n      int64
	last   *results.Error
	differ bool // they are not all failures of one kind
}

func (e *ends) note(problem *results.Error) {
	e.differ = e.differ || problem == nil || e.last != nil && e.last.Code != problem.Code
	e.last = problem
	e.n++
}

// judgeBatch is the error that ends a run whose batches fail as wholes: all of a batch's
// requests failed alike, and with those of the model's batches before they are too many.
func (r *run) judgeBatch(b *spool.Batch, e *ends) error {
	if e.differ || e.n == 0 {
		delete(r.streaks, b.Model)
		return nil
	}
	var n int64
	for range e.n {
		n = r.streaks.note(b.Model, e.last)
	}
	if r.MaxFailures == 0 || n < r.MaxFailures {
		return nil
	}
	left := ""
	if open := r.batches.flight.Load(); open > 0 {
		left = fmt.Sprintf("; the provider goes on with %d requests in batches", open)
	}
	return fail(Failing, fmt.Errorf("all %d requests of %s in a row failed alike, the last: %s (%s): correct what is wrong, then llmq retry runs these again and llmq run the rest%s; --max-failures 0 never stops",
		n, b.Model, e.last.Message, e.last.Code, left))
}

// judge stops a run that only fails. What failed is recorded, the rest is left to the next run.
func (r *run) judge(model string, problem *results.Error) {
	if n := r.streaks.note(model, problem); n > 0 && n == r.MaxFailures {
		r.stop(Failing, fmt.Errorf("%d requests of %s in a row failed alike, the last: %s (%s): correct what is wrong, then llmq retry runs these again and llmq run the rest; --max-failures 0 never stops",
			n, model, problem.Message, problem.Code))
	}
}

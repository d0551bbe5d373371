package batch

import (
	"fmt"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
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

// judge stops a run that only fails. What failed is recorded, the rest is left to the next run.
func (r *run) judge(model string, problem *results.Error) {
	if n := r.streaks.note(model, problem); n > 0 && n == r.MaxFailures {
		r.stop(Failing, fmt.Errorf("%d requests of %s in a row failed alike, the last: %s (%s): correct what is wrong, then llmq retry runs these again and llmq run the rest; --max-failures 0 never stops",
			n, model, problem.Message, problem.Code))
	}
}

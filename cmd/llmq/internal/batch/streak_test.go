package batch

import (
	"testing"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
)

// An answer, or a failure of another kind, ends a row; another model's do not.
func TestFailuresInARow(t *testing.T) {
	s := streaks{}
	for i, step := range []struct {
		model, code string
		want        int64
	}{
		{"m", "http_400", 1}, {"m", "http_400", 2}, {"n", "", 0}, {"n", "timeout", 1}, {"m", "http_400", 3},
		{"m", "timeout", 1}, {"m", "http_400", 1}, {"m", "http_400", 2}, {"m", "", 0}, {"m", "http_400", 1}, {"n", "timeout", 2},
	} {
		var problem *results.Error
		if step.code != "" {
			problem = &results.Error{Code: step.code}
		}
		if got := s.note(step.model, problem); got != step.want {
			t.Errorf("step %d, %+v: %d in a row", i, step, got)
		}
	}
}

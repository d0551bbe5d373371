package main

import (
	"errors"
	"testing"

	"github.com/llmqueue/llmqueue/examples/internal/exampletest"
	"github.com/llmqueue/llmqueue/examples/internal/program"
)

// ran are the figures that a way prints.
type ran struct {
	runs, failed, calls, accepted, refused, faults, tools, toolCalls float64
}

func figures(t *testing.T, args ...string) (r ran, out string) {
	t.Helper()
	out = exampletest.Output(t, run, args...)
	for name, to := range map[string]*float64{
		"runs": &r.runs, "runs that failed": &r.failed, "calls of the model that they need": &r.calls,
		"calls accepted": &r.accepted, "calls refused": &r.refused, "calls that met another fault": &r.faults,
		"tool calls that they need": &r.tools, "tool calls": &r.toolCalls,
	} {
		*to = exampletest.Numbers(t, out, "^"+name+` +(\d+)$`)[0][0]
	}
	return r, out
}

func TestCallsWait(t *testing.T) {
	r, out := figures(t)
	if r.failed != 0 || r.refused != 0 || r.accepted != r.calls || r.toolCalls != r.tools || r.faults == 0 {
		t.Errorf("want no run failed, no call refused, each call made once, and faults\n%s", out)
	}
	if over := exampletest.Numbers(t, out, `^time / least time +([\d.]+)$`)[0][0]; over < 1 || over > 1.25 {
		t.Errorf("%.3f times the least time\n%s", over, out)
	}
}

func TestWithoutAQueueRunsFail(t *testing.T) {
	if r, out := figures(t, "-no-queue"); r.failed == 0 || r.refused == 0 {
		t.Errorf("want runs that failed and calls that were refused\n%s", out)
	}
}

func TestWholeRunsThatWaitAreBegunAnew(t *testing.T) {
	if r, out := figures(t, "-queue-runs"); r.refused == 0 || r.accepted <= r.calls || r.toolCalls <= r.tools {
		t.Errorf("want refusals, and more calls than needed\n%s", out)
	}
}

func TestBadInput(t *testing.T) {
	for _, args := range [][]string{{"-runs", "0"}, {"-no-queue", "-queue-runs"}} {
		out, err := exampletest.Run(t, run, 0, args...)
		if err == nil || err.Error() != program.BadInput("give -runs 1 or more, and -no-queue or -queue-runs or neither").Error() || errors.Unwrap(err) == nil {
			t.Errorf("%v: error %v\n%s", args, err, out)
		}
	}
}

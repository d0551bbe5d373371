package main

import (
	"testing"

	"github.com/llmqueue/llmqueue/examples/internal/exampletest"
)

// The call that is refused is made again when RetryInfo says so, and nothing starts in
// the meantime.
func TestRun(t *testing.T) {
	out := exampletest.Output(t, run)
	exampletest.Wants(t, out,
		"6 of 6 questions answered",
		"Calls: 6 accepted, 1 refused, 0 met an overloaded server, 0 failed",
		"rpd               7 used,    9993 left")

	retried, before := 0, 0
	for _, answer := range exampletest.Numbers(t, out, `^Why .* waited ([0-9.]+)s, (\d+) attempts?`) {
		if answer[1] == 2 {
			retried++
			if wait := retryDelay.Seconds(); answer[0] < wait || answer[0] > wait+2 {
				t.Errorf("asked again after %vs although RetryInfo said %v\n%s", answer[0], retryDelay, out)
			}
		}
		if answer[0] < retryDelay.Seconds() {
			before++
		}
	}
	if retried != 1 || before != 2 {
		t.Errorf("%d questions were asked again and %d answered before the refusal, want 1 and 2\n%s", retried, before, out)
	}
}

package main

import (
	"testing"

	"github.com/llmqueue/llmqueue/examples/internal/exampletest"
)

// Both take their part, in the proportion of their limits, and neither refuses any.
func TestRun(t *testing.T) {
	out, err := exampletest.Run(t, run, 0)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	exampletest.Wants(t, out, "90 of 90 questions answered", "90 accepted, 0 refused")
	for i, rows := range exampletest.Numbers(t, out, `^\S+ +(\d+) answered, (\d+) refused, (\d+) of (\d+) in`) {
		if want := []float64{30, 60}[i]; rows[0] != want || rows[1] != 0 || rows[2] > rows[3] {
			t.Errorf("endpoint %d: %v, want %v answered, 0 refused, never more than its limit\n%s", i, rows, want, out)
		}
	}
	// Three periods' worth: the first at once, the others after a period and its margin each.
	if took := exampletest.Numbers(t, out, `answered in ([0-9.]+)s`)[0][0]; took < 4.4 || took > 4.6 {
		t.Errorf("it took %vs, want two periods of 2.2s and an answer\n%s", took, out)
	}
}

func TestBadInput(t *testing.T) {
	if out, err := exampletest.Run(t, run, 0, "-questions", "0"); err == nil {
		t.Errorf("want an error\n%s", out)
	}
}

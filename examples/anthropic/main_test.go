package main

import (
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/examples/internal/exampletest"
)

func TestRun(t *testing.T) {
	out := exampletest.Output(t, run)
	exampletest.Wants(t, out,
		"8 of 8 questions answered",
		"Calls: 8 accepted, 0 refused, 1 met an overloaded server, 0 failed",
		"2 attempts")

	answers := exampletest.Numbers(t, out, ` (\d+) tokens, end_turn, in [0-9.]+s after (\d+) attempts?$`)
	if n, attempts := len(answers), exampletest.Sum(answers, 1); n != 8 || attempts != 9 {
		t.Errorf("%d answers in %v attempts, want 8 in 9\n%s", n, attempts, out)
	}
	total := exampletest.Numbers(t, out, `(\d+) input and (\d+) output tokens$`)[0]
	if got := exampletest.Sum(answers, 0); got != total[1] || got < 100 || total[0] == 0 {
		t.Errorf("the answers have %v tokens together, the total says %v\n%s", got, total, out)
	}

	// The first answer was shown whole: the simulator's tokens are words.
	_, shown, _ := strings.Cut(out, "> Write two sentences about the sea.\n")
	shown, _, _ = strings.Cut(shown, "\n")
	if words := len(strings.Fields(shown)); float64(words) != answers[0][0] {
		t.Errorf("%d words were shown of an answer of %v tokens\n%s", words, answers[0][0], out)
	}

	// The queue was given no limit and knows all three.
	limits := exampletest.Numbers(t, out, `^(?:rpm|itpm|otpm) +(\d+) used, +(\d+) left$`)
	for i, amount := range []float64{50, 30_000, 8_000} {
		if len(limits) != 3 || limits[i][0]+limits[i][1] != amount || limits[i][0] == 0 {
			t.Fatalf("limits %v, want amounts of 50, 30000 and 8000, each used\n%s", limits, out)
		}
	}
	// What answers did not use is given back; the failed attempt's 200 stay.
	if requests, output := limits[0][0], limits[2][0]; requests != 9 || output != total[1]+200 {
		t.Errorf("%v requests and %v output tokens are charged, want 9 and %v\n%s", requests, output, total[1]+200, out)
	}
}

package main

import (
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/examples/internal/exampletest"
)

// Nobody who asked notices that the large model is down, and its provider is not
// hammered: after three calls it is held out, a probe fails, the next one succeeds.
func TestRun(t *testing.T) {
	out, err := exampletest.Run(t, run, 0)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	exampletest.Wants(t, out, "18 of 18 answered", large+" is held out", large+" takes calls again")
	if !strings.Contains(out[strings.Index(out, large+" takes calls again"):], "answered by large after 1 attempts") {
		t.Errorf("the large model does not answer once it is well:\n%s", out)
	}
	sums := exampletest.Numbers(t, out, `answered, (\d+) by the fallback; the large model's provider was called (\d+) times`)[0]
	by := float64(strings.Count(out, "answered by small"))
	if sums[0] != by || by == 0 || sums[1] != 4+18-by {
		t.Errorf("%v by the fallback and %v calls of the large one, want %v and %v\n%s", sums[0], sums[1], by, 4+18-by, out)
	}
}

func TestNothingIsDown(t *testing.T) {
	out, err := exampletest.Run(t, run, 0, "-failures", "0")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	exampletest.Wants(t, out, "18 of 18 answered, 0 by the fallback; the large model's provider was called 18 times")
}

func TestBadInput(t *testing.T) {
	if out, err := exampletest.Run(t, run, 0, "-failures", "-1"); err == nil {
		t.Errorf("want an error\n%s", out)
	}
}

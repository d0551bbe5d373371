package main

import (
	"testing"

	"github.com/llmqueue/llmqueue/examples/internal/exampletest"
)

func TestRun(t *testing.T) {
	out := exampletest.Output(t, run)
	exampletest.Wants(t, out, "20 readers: 19 answered, 1 went away; 17 shared the call of another")
	sums := exampletest.Numbers(t, out, `^(\d+) calls, (\d+) input and (\d+) output tokens$`)[0]
	if sums[0] != 3 || sums[1] == 0 || sums[1] > 3*15 || sums[2] == 0 || sums[2] > 3*100 {
		t.Errorf("%v, want three calls and the tokens of three\n%s", sums, out)
	}
}

func TestOne(t *testing.T) {
	exampletest.Wants(t, exampletest.Output(t, run, "-readers", "1"), "1 readers: 1 answered, 0 went away; 0 shared")
}

func TestBadInput(t *testing.T) {
	if out, err := exampletest.Run(t, run, 0, "-readers", "0"); err == nil {
		t.Errorf("want an error\n%s", out)
	}
}

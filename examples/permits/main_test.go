package main

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/llmqueue/llmqueue/examples/internal/exampletest"
)

// The example takes no network, so that it runs in a bubble.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		if err := run(t.Context(), nil, &out); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"Acquire: You asked: why is the sky blue?      attempts 1",
			"Acquire: You asked: why is the sea salty?     attempts 2",
			"Call:    You asked: what is rain?",
			"5 permits: 4 completed, 1 canceled; 6 attempts, 1 refused, 30 tokens",
		} {
			exampletest.Wants(t, out.String(), want)
		}
	})
}

func TestBadInput(t *testing.T) {
	if out, err := exampletest.Run(t, run, 0, "more"); err == nil {
		t.Errorf("want an error\n%s", out)
	}
}

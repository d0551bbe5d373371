package main

import (
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "") // always the simulator
	var out strings.Builder
	if err := run(t.Context(), "gpt-4.1-mini", "Why is the sky blue?", &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Answered by a simulator in this process, whose words make no sense",
		"completed, attempts 1",
		"rpm               2 used,     498 left",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
}

package main

import (
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "") // always the simulator
	var out strings.Builder
	if err := run(t.Context(), "gpt-4.1-mini", &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"whose words make no sense",
		"completed,",
		"invalid params",
		"Audience",
		"failed, its",
		"invalid result",
		"Finish",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
}

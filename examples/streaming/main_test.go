package main

import (
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "") // always the simulator
	var out strings.Builder
	if err := run(t.Context(), nil, &out); err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(out.String(), "> Write two sentences about")
	if !ok {
		t.Fatalf("no answer was shown:\n%s", out.String())
	}
	first, second, ok := strings.Cut(after, "> Write two sentences about")
	if !ok || len(first) < 40 || len(second) < 40 {
		t.Errorf("want two whole answers, one after the other:\n%s", out.String())
	}
	if n := strings.Count(out.String(), "chunks, the first after"); n != 2 {
		t.Errorf("want two answers summed up, got %d:\n%s", n, out.String())
	}
}

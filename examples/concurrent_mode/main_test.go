package main

import (
	"strings"
	"testing"
	"testing/synctest"
)

// The example takes no network, so that its times are exact in a bubble.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		if err := run(t.Context(), nil, &out); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"a goroutine each   500ms, at most 10 at a time",
			"SubmitAll          500ms, at most 10 at a time",
			"The least possible is 500ms. One at a time it would be 5s.",
		} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("the output lacks %q:\n%s", want, out.String())
			}
		}
	})
}

func TestBadInput(t *testing.T) {
	for _, args := range [][]string{{"-limit", "0"}, {"-requests", "x"}, {"-each", "-1s"}, {"more"}} {
		var out strings.Builder
		if err := run(t.Context(), args, &out); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: want an error of one line, got %v", args, err)
		}
	}
}

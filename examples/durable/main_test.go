package main

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
)

// The first process is this test binary with the example's arguments.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-first") {
		if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestRun(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), []string{"-questions", "12"}, &out); err != nil {
		t.Fatal(err)
	}
	if want := "All 12 are answered."; !strings.Contains(out.String(), want) {
		t.Errorf("the output lacks %q:\n%s", want, out.String())
	}
}

func TestBadInput(t *testing.T) {
	for _, args := range [][]string{{"-questions", "1"}, {"-file"}, {"more"}} {
		var out strings.Builder
		if err := run(t.Context(), args, &out); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: want an error of one line, got %v", args, err)
		}
	}
}

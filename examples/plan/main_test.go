package main

import (
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), []string{"-n", "5000"}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"5000 requests", "as they are", "twice the tokens", "1000000 tpm", "binds"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
}

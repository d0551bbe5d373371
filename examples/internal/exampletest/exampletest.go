// Package exampletest runs an example as a user would, in virtual time.
package exampletest

import (
	"context"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// keys are the variables with which an example would ask a real service.
var keys = []string{
	"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "GEMINI_API_KEY", "GOOGLE_API_KEY", "OLLAMA_HOST",
}

// Run runs the program against its simulator and returns what it printed. Unless
// interrupt is zero, the user presses Ctrl-C after that time.
func Run(t *testing.T, run func(ctx context.Context, args []string, stdout io.Writer) error, interrupt time.Duration, args ...string) (string, error) {
	t.Helper()
	for _, k := range keys {
		t.Setenv(k, "")
	}
	var out strings.Builder
	var err error
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		if interrupt > 0 {
			time.AfterFunc(interrupt, func() { cancel(errors.New("Ctrl-C")) })
		}
		err = run(ctx, args, &out)
	})
	return out.String(), err
}

// Output runs a program that is to succeed.
func Output(t *testing.T, run func(ctx context.Context, args []string, stdout io.Writer) error, args ...string) string {
	t.Helper()
	out, err := Run(t, run, 0, args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(out, "Answered by a simulator") {
		t.Errorf("the output does not say who answers:\n%s", out)
	}
	return out
}

// Numbers returns the groups of every match of a pattern, which are to be numbers.
func Numbers(t *testing.T, out, pattern string) [][]float64 {
	t.Helper()
	var all [][]float64
	for _, m := range regexp.MustCompile("(?m)"+pattern).FindAllStringSubmatch(out, -1) {
		var row []float64
		for _, group := range m[1:] {
			x, err := strconv.ParseFloat(group, 64)
			if err != nil {
				t.Fatal(err)
			}
			row = append(row, x)
		}
		all = append(all, row)
	}
	if all == nil {
		t.Fatalf("nothing matches %q in:\n%s", pattern, out)
	}
	return all
}

// Sum adds up one group of all matches.
func Sum(rows [][]float64, group int) (sum float64) {
	for _, r := range rows {
		sum += r[group]
	}
	return sum
}

// Wants checks that the output has all of these in it.
func Wants(t *testing.T, out string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(out, p) {
			t.Errorf("the output lacks %q:\n%s", p, out)
		}
	}
}

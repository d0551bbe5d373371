package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/bench/internal/contender"
)

// The test binary is the program too, when BENCH is set.
func TestMain(m *testing.M) {
	if os.Getenv("BENCH") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestBadFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-passes 0":   "bench: -passes wants at least 1, not 0 (see -h)\n",
		"-passes all": "bench: invalid value \"all\" for flag -passes: parse error (see -h)\n",
		"-fast":       "bench: flag provided but not defined: -fast (see -h)\n",
		"quick":       "bench: unexpected argument \"quick\" (see -h)\n",
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], strings.Fields(args)...)
		cmd.Env = append(os.Environ(), "BENCH=1")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		if code := new(exec.ExitError); !errors.As(err, &code) || code.ExitCode() != 2 {
			t.Errorf("bench %s: %v, want exit status 2", args, err)
		}
		if stderr.String() != want || stdout.Len() > 0 {
			t.Errorf("bench %s says %q and %q, want %q", args, stdout.String(), stderr.String(), want)
		}
	}
}

func TestHelp(t *testing.T) {
	var out strings.Builder
	if _, err := parse([]string{"-h"}, &out); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h returns %v", err)
	}
	for _, name := range []string{"-markdown", "-passes", "-quick"} {
		if !strings.Contains(out.String(), name) {
			t.Errorf("the help does not name %s:\n%s", name, out.String())
		}
	}
}

// A run prints a row for everyone in every table, and each row is complete.
func TestRun(t *testing.T) {
	var text, markdown strings.Builder
	s := settings{passes: 1, calls: 200, jobs: 200, period: 10 * time.Millisecond, costs: true}
	if err := run(s, &text, t.Output()); err != nil {
		t.Fatal(err)
	}
	s.markdown = true
	if err := run(s, &markdown, t.Output()); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{text.String(), markdown.String()} {
		for _, c := range contender.All {
			if n := strings.Count(out, c.Name+" "); n < 3 {
				t.Errorf("%q has %d rows, want one in each of 3 scenarios:\n%s", c.Name, n, out)
			}
		}
		for _, l := range contender.Limiters {
			if !strings.Contains(out, l.Name+" ") {
				t.Errorf("no row for %q:\n%s", l.Name, out)
			}
		}
	}
	cells := 0
	for line := range strings.Lines(markdown.String()) {
		switch n := strings.Count(line, "|"); {
		case n == 0:
			cells = 0
		case cells != 0 && n != cells:
			t.Errorf("a row with %d bars in a table with %d: %s", n, cells, line)
		default:
			cells = n
		}
	}
}

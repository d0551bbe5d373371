package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/examples/internal/program"
)

// TestMain lets the example start this test binary as its other processes.
func TestMain(m *testing.M) {
	if os.Getenv(urlVariable) != "" {
		program.Main("shared-limits", run)
		return
	}
	os.Exit(m.Run())
}

func TestRun(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("there is no redis-server in PATH; install one to run this test")
	}
	t.Setenv("REDIS_URL", "")
	var out strings.Builder
	if err := run(t.Context(), []string{"-processes", "2", "-requests", "70"}, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{
		`process 1 has answered 70 of 70`, `process 2 has answered 70 of 70`, `140 calls in .* refused by the server: 0\n`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
}

func TestWithoutRedis(t *testing.T) {
	t.Setenv("REDIS_URL", "")
	t.Setenv("PATH", t.TempDir())
	var out strings.Builder
	if err := run(t.Context(), nil, &out); err != nil {
		t.Fatalf("without Redis it fails instead of saying so: %v", err)
	}
	if !strings.Contains(out.String(), "There is nothing to see without Redis") {
		t.Errorf("it does not say what is missing:\n%s", out.String())
	}
}

func TestBadInput(t *testing.T) {
	for _, args := range [][]string{{"-processes", "0"}, {"-requests", "0"}, {"-processes", "x"}, {"stray"}} {
		if err := run(t.Context(), args, new(strings.Builder)); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
	t.Setenv("REDIS_URL", "http://:secret@example")
	var out strings.Builder
	if err := run(t.Context(), nil, &out); err != nil || strings.Contains(out.String(), "secret") {
		t.Errorf("a wrong REDIS_URL gives %v and\n%s", err, out.String())
	}
}

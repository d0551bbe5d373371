package main

import (
	"bufio"
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/llmqueue/llmqueue/llmtest"
)

// escapes are what moves the cursor of a terminal and colors it.
var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[a-zA-Z]")

// TestTheBarFitsANarrowTerminal: a line that is too wide would take two of its rows, and the
// next drawing would leave the first one there.
func TestTheBarFitsANarrowTerminal(t *testing.T) {
	t.Parallel()
	const columns = 40
	srv := serve(t, nil, llmtest.WithLatency(llmtest.Latency{FirstToken: 30 * time.Millisecond}), llmtest.WithFaultShare(0.2, llmtest.Fault{Status: 400}))
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(25, 10)...)
	p := command(t, dir, []string{"TERM=xterm"}, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "10", "--tpm", "900", "--period", "1s", "--progress-every", "50ms")
	p.Stdout, p.Stderr = nil, nil
	terminal, err := pty.StartWithSize(p.Cmd, &pty.Winsize{Rows: 30, Cols: columns})
	if err != nil {
		t.Skipf("no pseudo-terminal can be had here: %v", err)
	}
	drawn, _ := io.ReadAll(terminal) // ends with an error when the process does
	p.code()
	lines := 0
	for line := range strings.Lines(escapes.ReplaceAllString(string(drawn), "\n")) {
		line = strings.Trim(line, "\r\n")
		if strings.HasPrefix(line, "llmq: ") {
			continue // it is said once
		}
		lines++
		if n := len([]rune(line)); n > columns {
			t.Errorf("%d columns are drawn on %d: %q", n, columns, line)
		}
	}
	if lines < 20 || !strings.Contains(string(drawn), "rpm") {
		t.Errorf("only %d lines are drawn:\n%s", lines, drawn)
	}
}

// progressOf runs llmq and gives the progress that it tells machines, until ok says that it
// has seen enough, or to the end.
func progressOf(t *testing.T, p *process, ok func(map[string]any) bool) {
	t.Helper()
	p.Stdout = nil
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer p.code()
	defer func() { _ = p.Process.Kill() }()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var s map[string]any
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		if s["type"] == "progress" && ok(s) {
			return
		}
	}
	t.Fatalf("the run ended before: %s", p.stderr.String())
}

// TestTheETAKnowsTheLimits: ten requests went at once, and the other fifteen take two periods
// more, however fast the first ones were.
func TestTheETAKnowsTheLimits(t *testing.T) {
	t.Parallel()
	srv, dir := serve(t, nil), t.TempDir()
	write(t, dir, "in.jsonl", chats(25, 10)...)
	p := command(t, dir, nil, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "10", "--json", "--progress-every", "20ms")
	progressOf(t, p, func(s map[string]any) bool {
		if s["done"] != 10.0 || s["waiting"] != 15.0 {
			return false
		}
		if eta := s["eta_seconds"].(float64); eta < 60 || eta > 180 {
			t.Errorf("it says %.1f s, of two minutes", eta)
		}
		return true
	})
}

// TestTheLastErrorIsShownWhileAllFails, and not once something is answered.
func TestTheLastErrorIsShownWhileAllFails(t *testing.T) {
	t.Parallel()
	slow := llmtest.WithLatency(llmtest.Latency{FirstToken: 50 * time.Millisecond})
	for name, c := range map[string]struct {
		srv  *llmtest.Server
		want string
	}{
		"all fail":     {serve(t, nil, slow, llmtest.WithFaultShare(1, llmtest.Fault{Status: 400})), "a fault was injected"},
		"all is right": {serve(t, nil, slow), ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "in.jsonl", chats(100, 10)...)
			p := command(t, dir, nil, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", c.srv.URL(), "--rpm", "10000", "--concurrency", "4", "--json", "--progress-every", "20ms")
			progressOf(t, p, func(s map[string]any) bool {
				if s["done"].(float64)+s["failed"].(float64) < 4 {
					return false
				}
				if got, _ := s["failing"].(string); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
					t.Errorf("it says %q, want %q", got, c.want)
				}
				return true
			})
		})
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := llmq(t, t.TempDir(), "--version")
	if code != 0 || !regexp.MustCompile(`^llmq \S+.* go1\.\d+\S*\n$`).MatchString(stdout) {
		t.Errorf("exit code %d, %q%s", code, stdout, stderr)
	}
}

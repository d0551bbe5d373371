package main

import (
	"encoding/json"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/llmqueue/llmqueue/llmtest"
)

// TestTheBarOnATerminal runs llmq on a pseudo-terminal and reads what it draws there.
func TestTheBarOnATerminal(t *testing.T) {
	t.Parallel()
	slow := llmtest.WithLatency(llmtest.Latency{FirstToken: 30 * time.Millisecond})
	srv := serve(t, []llmtest.Limit{llmtest.RPM(10).Per(time.Second)}, slow, llmtest.WithFaultShare(0.2, llmtest.Fault{Status: 400}))
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(25, 10)...)
	p := command(t, dir, []string{"TERM=xterm"}, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "10", "--tpm", "900", "--period", "1s", "--progress-every", "50ms")
	p.Stdout, p.Stderr = nil, nil
	terminal, err := pty.StartWithSize(p.Cmd, &pty.Winsize{Rows: 30, Cols: 140})
	if err != nil {
		t.Skipf("no pseudo-terminal can be had here: %v", err)
	}
	drawn, _ := io.ReadAll(terminal) // ends with an error when the process does
	if code := p.code(); code != 1 {
		t.Errorf("exit code %d, want 1: some fail", code)
	}
	for what, pattern := range map[string]string{
		"the bar":           `\[=+>`,
		"how many are done": `\d+/25 \d+%`,
		"the end":           `25/25 100%`,
		"how many failed":   `\d failed`,
		"when it is over":   `ETA \d+s`,
		"requests, limit":   `\d+/10 rpm`,
		"tokens, limit":     `\d+/900 tokens/min`,
		"what it waits for": `waits \d+s for (10 rpm|900 tpm)`,
		"what is in flight": `\d+ in flight`,
		"how it went":       `25 requests run in`,
	} {
		if !regexp.MustCompile(pattern).Match(drawn) {
			t.Errorf("%s is not on the terminal (%s):\n%s", what, pattern, drawn)
		}
	}
}

func TestPlainLinesWhereThereIsNoTerminal(t *testing.T) {
	t.Parallel()
	srv := serve(t, nil, llmtest.WithLatency(llmtest.Latency{FirstToken: 100 * time.Millisecond}))
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(10, 10)...)
	_, stdout, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "100", "--progress-every", "20ms")
	if !strings.Contains(stderr, "10/10 100% · ") || strings.ContainsAny(stderr, "\x1b\r") || stdout != "" {
		t.Errorf("printed %q and %q", stdout, stderr)
	}
}

func TestJSONLinesForMachines(t *testing.T) {
	t.Parallel()
	srv := serve(t, nil, llmtest.WithLatency(llmtest.Latency{FirstToken: 100 * time.Millisecond}))
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(10, 10)...)
	code, stdout, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "100", "--json", "--progress-every", "20ms")
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	types := map[string]int{}
	var last map[string]any
	for line := range strings.Lines(stdout) {
		last = nil
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			t.Fatalf("no JSON: %q", line)
		}
		types[last["type"].(string)]++
	}
	if types["progress"] == 0 || last["type"] != "summary" || last["done"] != 10.0 || last["reason"] != "finished" {
		t.Errorf("%v, in the end %v", types, last)
	}
}

func TestStatsAndItsChart(t *testing.T) {
	t.Parallel()
	srv := serve(t, nil, llmtest.WithOutputTokens(10, 0), llmtest.WithFaultShare(0.2, llmtest.Fault{Status: 400}))
	dir := t.TempDir()
	lines := chats(40, 10)
	for i := range lines {
		if i%2 > 0 {
			lines[i] = strings.Replace(lines[i], `"model":"m"`, `"model":"other <model>"`, 1)
		}
	}
	write(t, dir, "in.jsonl", lines...)
	write(t, dir, "prices.json", `{"m":{"input":1000,"output":2000},"other <model>":{"input":1,"output":1}}`)
	if code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "100", "--tpm", "50000"); code != 1 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	code, stdout, stderr := llmq(t, dir, "stats", "out.jsonl", "--prices", "prices.json", "--chart", "out.svg")
	failed := len(failures(readResults(t, dir, "out.jsonl")))
	st := srv.Stats()
	for _, want := range []string{"40 requests: ", "p99", " m ", "other <model>", "http_400", "$"} {
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("exit code %d, no %q in\n%s%s", code, want, stdout, stderr)
		}
	}
	svg, err := os.ReadFile(filepath.Join(dir, "out.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Requests started in any minute", "Tokens charged in any minute", ">m<", "other &lt;model&gt;", "all models", ">limit<"} {
		if !strings.Contains(string(svg), want) {
			t.Errorf("the chart has no %q", want)
		}
	}
	if code, _, stderr := llmq(t, dir, "stats", "out.jsonl", "--chart", "out.png"); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	f, err := os.Open(filepath.Join(dir, "out.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if img, err := png.Decode(f); err != nil || img.Bounds().Dx() != 1000 {
		t.Errorf("no picture: %v", err)
	}
	_, stdout, _ = llmq(t, dir, "stats", "out.jsonl", "--json")
	var report struct {
		Requests, Failed int
		Models           []struct {
			Output int64 `json:"output_tokens"`
		}
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || report.Requests != 40 || report.Failed != failed || len(report.Models) != 2 {
		t.Errorf("%v: %s", err, stdout)
	} else if got := report.Models[0].Output + report.Models[1].Output; got != st.OutputTokens {
		t.Errorf("%d output tokens, the provider made %d", got, st.OutputTokens)
	}
	code, _, stderr = llmq(t, dir, "stats", "nowhere.jsonl")
	oneLine(t, code, 2, stderr, "cannot read the results: open nowhere.jsonl")
	code, _, stderr = llmq(t, dir, "stats", "out.jsonl", "--chart", "out.pdf")
	oneLine(t, code, 2, stderr, "ends in .svg or .png")
}

func TestDryRunCountsAndSendsNothing(t *testing.T) {
	t.Parallel()
	srv, dir := serve(t, nil), t.TempDir()
	write(t, dir, "in.jsonl", append(chats(100, 50), `{"custom_id":"u","model":"m","messages":[{"role":"user","content":"four by four"}]}`)...)
	write(t, dir, "prices.yaml", cheap)
	code, stdout, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "10", "--dry-run", "--prices", "prices.yaml")
	for _, want := range []string{"101 requests", "at most 5500 out", "1 answers without a bound taken as 500", "10 rpm binds", "at least 10m", "at most $"} {
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("exit code %d, no %q in\n%s%s", code, want, stdout, stderr)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "out.jsonl")); err == nil || srv.Stats().Accepted > 0 {
		t.Error("it did something")
	}
}

func TestHelpAndCompletion(t *testing.T) {
	t.Parallel()
	for _, c := range [][]string{{"--help"}, {"run", "--help"}, {"retry", "--help"}, {"stats", "--help"}, {"export", "--help"}, {"view", "--help"}, {"simulate", "--help"}} {
		code, stdout, _ := llmq(t, t.TempDir(), c...)
		if code != 0 || !strings.Contains(stdout, "Examples:") {
			t.Errorf("%v: exit code %d, no examples in\n%s", c, code, stdout)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, stdout, _ := llmq(t, t.TempDir(), "completion", shell); code != 0 || !strings.Contains(stdout, "llmq") {
			t.Errorf("no completion for %s", shell)
		}
	}
	if _, stdout, _ := llmq(t, t.TempDir(), "__complete", "run", "--accounting", "gr"); !strings.Contains(stdout, "groq") {
		t.Errorf("no values are completed: %s", stdout)
	}
}

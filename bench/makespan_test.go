package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/bench/internal/makespan"
)

func TestMakespanFlags(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.jsonl")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"-svg x":                            "-svg wants -makespan",
		"-input x":                          "-input wants -makespan",
		"-makespan -period 0s":              "-period wants more than zero, not 0s",
		"-makespan -rpm -1":                 "-margin, -rpm and -tpm want no negative values",
		"-makespan -enforcement often":      `-enforcement: no enforcement "often": use all, bucket, sliding, fixed or quantized`,
		"-makespan -only nobody":            "-only nobody: no contestant is called that",
		"-makespan -input /no/such/file":    "-input: open /no/such/file: no such file or directory",
		"-makespan -input " + empty:         "-input: " + empty + ": no questions in it",
		"-makespan -enforcement fixed,lots": `-enforcement: no enforcement "lots": use all, bucket, sliding, fixed or quantized`,
	} {
		if _, err := parse(strings.Fields(args), io.Discard); err == nil || err.Error() != want {
			t.Errorf("bench %s: %v, want %s", args, err, want)
		}
	}
}

func TestMakespanSelection(t *testing.T) {
	s, err := parse([]string{"-makespan", "-enforcement", "fixed,bucket", "-only", "rate,cookbook", "-rpm", "60", "-tpm", "9000", "-period", "3s"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range s.batch.enforcements {
		names = append(names, e.Name)
	}
	for _, c := range s.batch.contestants {
		names = append(names, c.Name)
	}
	if got, want := strings.Join(names, "; "), "fixed; bucket; x/time/rate, burst 1; x/time/rate, burst N; OpenAI's cookbook script"; got != want {
		t.Errorf("selected are %s, want %s", got, want)
	}
	if got, want := s.batch.limits(), (makespan.Limits{Requests: 60, Tokens: 9000, Period: 3 * time.Second}); got != want || s.costs || !s.makespan {
		t.Errorf("limits %+v, want %+v; cost is measured: %v", got, want, s.costs)
	}
	if len(s.batch.questions) != 60 {
		t.Errorf("%d questions, want the sample", len(s.batch.questions))
	}
	if s, err = parse([]string{"-quick"}, io.Discard); err != nil || !s.costs || !s.makespan || !s.batch.together {
		t.Errorf("-quick is %+v, %v, want a little of everything", s, err)
	}
	if s, err = parse(nil, io.Discard); err != nil || !s.costs || s.makespan {
		t.Errorf("without flags it is %+v, %v, want cost and pacing", s, err)
	}
}

// A run has a table for each enforcement with a row for everyone, tells how it goes, and
// draws all of it.
func TestMakespanRun(t *testing.T) {
	svg := filepath.Join(t.TempDir(), "chart.svg")
	s, err := parse([]string{"-makespan", "-quick", "-markdown", "-svg", svg}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	s.batch.questions, s.batch.bound = s.batch.questions[:4], 500*time.Millisecond
	var out, progress strings.Builder
	if err := run(s, &out, &progress); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(svg)
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(strings.NewReader(string(data))); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the chart is not well-formed: %v", err)
		}
	}
	for _, c := range makespan.All {
		if n := strings.Count(out.String(), "| "+c.Name+" |"); n != len(makespan.Enforcements)+1 {
			t.Errorf("%q has %d rows, want one for each enforcement and one for its setup:\n%s", c.Name, n, out.String())
		}
		if n := strings.Count(progress.String(), ", "+c.Name+": "); n != len(makespan.Enforcements) {
			t.Errorf("%q is told of %d times, want %d:\n%s", c.Name, n, len(makespan.Enforcements), progress.String())
		}
		if n := strings.Count(string(data), ">"+strings.ReplaceAll(c.Name, "'", "&#39;")+"<"); n != len(makespan.Enforcements) {
			t.Errorf("%q has %d bars, want %d", c.Name, n, len(makespan.Enforcements))
		}
	}
	if !strings.HasPrefix(out.String(), "Machine: ") || strings.Contains(out.String(), "Passes") {
		t.Errorf("the machine is described as %.80s", out.String())
	}
}

// What failed has no ratio: its time is that of fewer answers.
func TestFailedRunsHaveNoRatio(t *testing.T) {
	r := race{
		trial: makespan.Trial{Enforcement: makespan.Enforcements[0], Questions: makespan.Sample(), Limits: makespan.Limits{Requests: 1, Tokens: 2, Period: 3 * time.Second}},
		least: makespan.Minimum{AnyOrder: 9 * time.Second, InOrder: 10 * time.Second}, sliding: makespan.Minimum{AnyOrder: 9 * time.Second, InOrder: 20 * time.Second},
		results: []makespan.Result{
			{Contestant: makespan.Contestant{Name: "a"}, Wall: 15 * time.Second, Refused: 7, Wasted: 8},
			{Contestant: makespan.Contestant{Name: "b"}, Wall: 5 * time.Second, Failed: 30},
		},
	}
	got := r.table()
	for i, want := range []string{"a 15.00s 1.500× 0.750× 7 0 8", "b 5.00s – – 0 30 0"} {
		if row := strings.Join(got.Rows[i], " "); row != want {
			t.Errorf("row %d reads %s, want %s", i, row, want)
		}
	}
	if want := "Makespan of 60 questions, 1 requests and 2 tokens per 3s, token bucket: at least 10.00s, in any order 9.00s"; got.Title != want {
		t.Errorf("the title is %s, want %s", got.Title, want)
	}
	bars := drawing([]race{r}).Panels[0].Bars
	if bars[0].Hollow || bars[0].Label != "1.50×, 7 refused" || bars[0].Value != 1.5 {
		t.Errorf("the bar of what succeeded is %+v", bars[0])
	}
	if !bars[1].Hollow || bars[1].Label != "50% unanswered, 0 refused" {
		t.Errorf("the bar of what failed is %+v", bars[1])
	}
}

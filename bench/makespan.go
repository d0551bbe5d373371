package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue/bench/internal/chart"
	"github.com/llmqueue/llmqueue/bench/internal/makespan"
	"github.com/llmqueue/llmqueue/bench/internal/table"
)

// batch is the settings of the makespan.
type batch struct {
	input       string
	enforcement string
	only        string
	period      time.Duration
	margin      time.Duration
	rpm, tpm    int64
	svg         string

	questions    []makespan.Question
	periods      int64 // that they fill
	enforcements []makespan.Enforcement
	contestants  []makespan.Contestant
	bound        time.Duration // on one run; 0 means patience times the minimum
	together     bool          // run all at once: quick, and its figures say nothing
}

// patience is how many times the minimum a run may take.
const patience = 5

func (b *batch) flags(f *flag.FlagSet) {
	f.StringVar(&b.input, "input", "", "with -makespan: JSONL `file` with a \"question\" or \"prompt\" in each line (default a sample of 60)")
	f.StringVar(&b.enforcement, "enforcement", "all", "with -makespan: `how` the provider counts, all or some of bucket,sliding,fixed,quantized")
	f.StringVar(&b.only, "only", "", "with -makespan: `names` of contestants, or parts of them, separated by commas (default all)")
	f.DurationVar(&b.period, "period", 6*time.Second, "with -makespan: how long a minute lasts")
	f.DurationVar(&b.margin, "margin", 0, "with -makespan: llmqueue's margin (default 1/120 of the period, 50ms of 6s)")
	f.Int64Var(&b.rpm, "rpm", 0, "with -makespan: requests per period (default by the number of questions)")
	f.Int64Var(&b.tpm, "tpm", 0, "with -makespan: tokens per period (default by their length)")
	f.StringVar(&b.svg, "svg", "", "with -makespan: `file` to write a chart to")
}

// names are those of flags.
var batchFlags = []string{"input", "enforcement", "only", "period", "margin", "rpm", "tpm", "svg"}

// complete checks the flags and fills in the rest.
func (b *batch) complete() error {
	switch {
	case b.period <= 0:
		return fmt.Errorf("-period wants more than zero, not %v", b.period)
	case b.margin < 0 || b.rpm < 0 || b.tpm < 0:
		return errors.New("-margin, -rpm and -tpm want no negative values")
	}
	b.questions, b.periods = makespan.Sample(), 3
	if b.input != "" {
		f, err := os.Open(b.input)
		if err != nil {
			return fmt.Errorf("-input: %w", err)
		}
		defer f.Close()
		if b.questions, err = makespan.Read(f); err != nil {
			return fmt.Errorf("-input: %s: %w", b.input, err)
		}
		b.periods = 11
	}
	b.enforcements = makespan.Enforcements
	if b.enforcement != "all" {
		b.enforcements = nil
		for name := range strings.SplitSeq(b.enforcement, ",") {
			e, err := makespan.EnforcementNamed(name)
			if err != nil {
				return fmt.Errorf("-enforcement: %w", err)
			}
			b.enforcements = append(b.enforcements, e)
		}
	}
	b.contestants = nil
	for _, c := range makespan.All {
		for part := range strings.SplitSeq(b.only, ",") {
			if strings.Contains(c.Name, part) {
				b.contestants = append(b.contestants, c)
				break
			}
		}
	}
	if len(b.contestants) == 0 {
		return fmt.Errorf("-only %s: no contestant is called that", b.only)
	}
	return nil
}

// hurry makes it small.
func (b *batch) hurry() {
	b.questions, b.period, b.bound, b.together = b.questions[:min(len(b.questions), 24)], 300*time.Millisecond, 3*time.Second, true
}

// limits are those of the flags, or fit the questions.
func (b *batch) limits() makespan.Limits {
	l := makespan.LimitsFor(b.questions, b.period, b.periods)
	if b.rpm > 0 {
		l.Requests = b.rpm
	}
	if b.tpm > 0 {
		l.Tokens = b.tpm
	}
	return l
}

// race is what became of all contestants under one enforcement.
type race struct {
	trial   makespan.Trial
	least   makespan.Minimum
	sliding makespan.Minimum
	results []makespan.Result
}

// makespans runs every contestant under every enforcement, and says to progress how it
// goes.
func makespans(ctx context.Context, b batch, progress io.Writer) ([]race, error) {
	limits := b.limits()
	trial := makespan.Trial{Limits: limits, Questions: b.questions, Margin: b.margin}
	if trial.Margin == 0 {
		trial.Margin = limits.Period / 120
	}
	latencies, err := trial.Latencies(ctx)
	if err != nil {
		return nil, err
	}
	sliding, err := makespan.EnforcementNamed("sliding")
	if err != nil {
		return nil, err
	}
	var (
		races = make([]race, len(b.enforcements))
		mu    sync.Mutex // guards failed and progress
		all   sync.WaitGroup
		errs  []error
	)
	for i, e := range b.enforcements {
		r := &races[i]
		r.trial = trial
		r.trial.Enforcement = e
		r.least = makespan.MinimumOf(e, limits, b.questions, latencies)
		r.sliding = makespan.MinimumOf(sliding, limits, b.questions, latencies)
		if r.trial.Bound = b.bound; b.bound == 0 {
			r.trial.Bound = patience * r.least.AnyOrder
		}
		r.results = make([]makespan.Result, len(b.contestants))
		for j, c := range b.contestants {
			run := func() {
				res, err := r.trial.Run(ctx, c)
				r.results[j] = res
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
				fmt.Fprintf(progress, "%s, %s: %.2fs, %d refused, %d failed", e.Name, c.Name, res.Wall.Seconds(), res.Refused, res.Failed)
				if res.Err != nil {
					fmt.Fprintf(progress, ", the first because: %.200s", strings.ReplaceAll(res.Err.Error(), "\n", " "))
				}
				fmt.Fprintln(progress)
			}
			if b.together {
				all.Go(run)
				continue
			}
			runtime.GC() // nobody pays for the one before
			run()
			if err := errors.Join(errs...); err != nil {
				return nil, err
			}
		}
	}
	all.Wait()
	return races, errors.Join(errs...)
}

// table shows a race.
func (r race) table() table.Table {
	l := r.trial.Limits
	t := table.Table{
		Title: fmt.Sprintf("Makespan of %d questions, %d requests and %d tokens per %v, %s: at least %.2fs, in any order %.2fs",
			len(r.trial.Questions), l.Requests, l.Tokens, l.Period, r.trial.Enforcement.What, r.least.InOrder.Seconds(), r.least.AnyOrder.Seconds()),
		Header: []string{"", "Time", "× minimum", "× that of a sliding window", "Refused", "Failed", "Tokens wasted"},
	}
	for _, res := range r.results {
		ratio, toSliding := "–", "–"
		if res.Answered() {
			ratio = fmt.Sprintf("%.3f×", r.ratio(res))
			toSliding = fmt.Sprintf("%.3f×", res.Wall.Seconds()/r.sliding.InOrder.Seconds())
		}
		t.Rows = append(t.Rows, []string{
			res.Contestant.Name,
			fmt.Sprintf("%.2fs", res.Wall.Seconds()),
			ratio,
			toSliding,
			fmt.Sprint(res.Refused),
			fmt.Sprint(res.Failed),
			fmt.Sprint(res.Wasted),
		})
	}
	return t
}

func (r race) ratio(res makespan.Result) float64 {
	return res.Wall.Seconds() / r.least.InOrder.Seconds()
}

// setups says how everyone is set up.
func setups(contestants []makespan.Contestant) table.Table {
	t := table.Table{Title: "How each of them is set up", Header: []string{"", "Setup"}}
	for _, c := range contestants {
		t.Rows = append(t.Rows, []string{c.Name, c.Setup})
	}
	return t
}

// drawing is the races as a chart.
func drawing(races []race) chart.Chart {
	first := races[0].trial
	c := chart.Chart{
		Title: fmt.Sprintf("Time to answer %d questions, as a multiple of the least that the limits allow", len(first.Questions)),
		Note:  "Dotted: the minimum. Refused: calls answered 429. Hollow: not all questions were answered.",
		Most:  3,
	}
	for _, r := range races {
		p := chart.Panel{Title: fmt.Sprintf("%s, at least %.1f s", r.trial.Enforcement.What, r.least.InOrder.Seconds())}
		for _, res := range r.results {
			b := chart.Bar{
				Name:   res.Contestant.Name,
				Value:  r.ratio(res),
				Label:  fmt.Sprintf("%.2f×, %d refused", r.ratio(res), res.Refused),
				Own:    strings.HasPrefix(res.Contestant.Name, "llmqueue"),
				Hollow: !res.Answered(),
			}
			if b.Hollow {
				b.Label = fmt.Sprintf("%.0f%% unanswered, %d refused", 100*float64(res.Failed)/float64(len(first.Questions)), res.Refused)
			}
			p.Bars = append(p.Bars, b)
		}
		c.Panels = append(c.Panels, p)
	}
	return c
}

// draw writes the chart to a file.
func draw(races []race, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("-svg: %w", err)
	}
	return errors.Join(drawing(races).Write(f), f.Close())
}

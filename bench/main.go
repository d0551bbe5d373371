// Bench measures llmqueue beside what one would build from other libraries, all of
// it in one run: what a job costs, how well a limit is kept and used, and with
// -makespan, how soon a batch of questions is answered.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/bench/internal/contender"
	"github.com/llmqueue/llmqueue/bench/internal/cost"
	"github.com/llmqueue/llmqueue/bench/internal/pacing"
	"github.com/llmqueue/llmqueue/bench/internal/table"
)

func main() {
	s, err := parse(os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintf(os.Stderr, "bench: %v (see -h)\n", err)
		os.Exit(2)
	}
	if err := run(s, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// settings say what is measured and how it is printed.
type settings struct {
	passes   int
	calls    int           // round trips in a scenario
	jobs     int           // to fire and forget
	period   time.Duration // of the limits
	markdown bool
	costs    bool // measure cost and pacing
	makespan bool
	batch    batch
}

func parse(args []string, stdout io.Writer) (settings, error) {
	s := settings{calls: 200_000, jobs: 100_000, period: time.Second, costs: true}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.IntVar(&s.passes, "passes", 5, "how `often` each cost is measured")
	flags.BoolVar(&s.markdown, "markdown", false, "print tables in Markdown")
	flags.BoolVar(&s.makespan, "makespan", false, "measure the makespan of a batch of questions instead of cost and pacing")
	s.batch.flags(flags)
	quick := flags.Bool("quick", false, "measure once and little, to see that everything runs; the figures say nothing")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(stdout, "Usage of bench:")
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return s, err
	case err != nil:
		return s, err
	case flags.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case s.passes < 1:
		return s, fmt.Errorf("-passes wants at least 1, not %d", s.passes)
	}
	if !s.makespan {
		var alone error
		flags.Visit(func(f *flag.Flag) {
			if slices.Contains(batchFlags, f.Name) {
				alone = fmt.Errorf("-%s wants -makespan", f.Name)
			}
		})
		if alone != nil {
			return s, alone
		}
	}
	if err := s.batch.complete(); err != nil {
		return s, err
	}
	s.costs = !s.makespan
	if *quick {
		s.passes, s.calls, s.period = 1, 20_000, 250*time.Millisecond
		s.makespan = true
		s.batch.hurry()
	}
	return s, nil
}

func run(s settings, stdout, stderr io.Writer) error {
	if _, err := fmt.Fprintf(stdout, "%s\n", machine(s)); err != nil {
		return err
	}
	show := func(t table.Table) error {
		fmt.Fprintln(stdout)
		if s.markdown {
			return t.Markdown(stdout)
		}
		return t.Text(stdout)
	}
	if s.costs {
		if err := runCosts(s, show); err != nil {
			return err
		}
	}
	if s.makespan {
		return runMakespan(s.batch, show, stderr)
	}
	return nil
}

func runCosts(s settings, show func(table.Table) error) error {
	for _, scenario := range cost.Scenarios(s.calls, s.jobs) {
		summaries, err := cost.Compare(scenario, contender.All, s.passes)
		if err != nil {
			return err
		}
		if err := show(costs(scenario.Name, summaries)); err != nil {
			return err
		}
	}
	paces, err := paces(s.period)
	if err != nil {
		return err
	}
	return errors.Join(show(paces), show(lacks()))
}

func runMakespan(b batch, show func(table.Table) error, stderr io.Writer) error {
	races, err := makespans(context.Background(), b, stderr)
	if err != nil {
		return err
	}
	for _, r := range races {
		if err := show(r.table()); err != nil {
			return err
		}
	}
	if err := show(setups(b.contestants)); err != nil || b.svg == "" {
		return err
	}
	return draw(races, b.svg)
}

func costs(title string, summaries []cost.Summary) table.Table {
	t := table.Table{Title: title, Header: []string{"", "ns per job", "Ratio", "lowest–highest", "B per job", "Allocations per job"}}
	for _, s := range summaries {
		t.Rows = append(t.Rows, []string{
			s.Name,
			fmt.Sprintf("%.0f", s.Cost.Nanoseconds),
			fmt.Sprintf("%.2f×", s.Ratio),
			fmt.Sprintf("%.2f–%.2f", s.Lowest, s.Highest),
			fmt.Sprintf("%.0f", s.Cost.Bytes),
			fmt.Sprintf("%.1f", s.Cost.Allocs),
		})
	}
	return t
}

// paces measures all limiters under one load at a time: they mostly wait.
func paces(period time.Duration) (table.Table, error) {
	t := table.Table{Title: "The most that starts in any period / how much of the quota is used", Header: []string{""}}
	for _, l := range contender.Limiters {
		t.Rows = append(t.Rows, []string{l.Name})
	}
	for _, limit := range []int{50, 200} {
		for _, late := range []time.Duration{0, period / 2} {
			name := "at once"
			if late > 0 {
				name = fmt.Sprintf("%v late", late)
			}
			t.Header = append(t.Header, fmt.Sprintf("%d per %v, flood %s", limit, period, name))
			load := pacing.Load{Limit: limit, Period: period, Periods: 3, Late: late}
			results, err := pacing.MeasureAll(contender.Limiters, load)
			if err != nil {
				return t, err
			}
			for i, r := range results {
				t.Rows[i] = append(t.Rows[i], fmt.Sprintf("%.2f× / %.0f%%", r.Most, 100*r.Used))
			}
		}
	}
	return t, nil
}

func lacks() table.Table {
	t := table.Table{Title: "What it does not do, of what llmqueue does", Header: []string{"", "Without"}}
	for _, c := range contender.All {
		if c.Lacks != "" {
			t.Rows = append(t.Rows, []string{c.Name, c.Lacks})
		}
	}
	return t
}

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/journal"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/prices"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/progress"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/report"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
)

func newStats() *cobra.Command {
	var chart, pricesFile string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stats RESULTS",
		Short: "Sum a file of results up: latency, tokens, cost, failures, and a chart",
		Long: `Stats reads a file of results, also while a run writes it. The chart shows how much was
started in any minute, by model, against the limits that were in force; these are known
while RESULTS.llmq, which the run keeps beside the file, is there. Its tokens are those
that the limits were charged: where a provider charges max_tokens, more than were used.`,
		Example: `  llmq stats results.jsonl
  llmq stats results.jsonl --prices prices.yaml --chart results.svg
  llmq stats results.jsonl --json`,
		Args: oneFile("results", "results.jsonl"),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := stats(cmd, args[0], pricesFile, chart, asJSON)
			if e := (*exitError)(nil); err != nil && !errors.As(err, &e) {
				return usage("%w", err)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&chart, "chart", "", "draw the throughput into this `file`, .svg or .png")
	cmd.Flags().StringVar(&pricesFile, "prices", "", "YAML or JSON `file` of prices, for the cost")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func stats(cmd *cobra.Command, path, pricesFile, chart string, asJSON bool) error {
	format := strings.TrimPrefix(strings.ToLower(filepath.Ext(chart)), ".")
	if chart != "" && format != "svg" && format != "png" {
		return fmt.Errorf("--chart %s: want a name that ends in .svg or .png", chart)
	}
	var table prices.Table
	var err error
	if pricesFile != "" {
		if table, err = prices.Read(pricesFile); err != nil {
			return err
		}
	}
	keep := func(string, llmqueue.Usage, llmqueue.Usage, bool) llmqueue.Usage { return llmqueue.Usage{} }
	past, err := journal.Read(results.Dir(path), time.Now(), 0, keep)
	if err != nil {
		return err
	}
	period := report.PeriodOf(past)
	r, err := report.Read(path, table, period)
	if err != nil {
		return err
	}
	if asJSON {
		progress.New(progress.JSON, cmd.ErrOrStderr(), cmd.OutOrStdout(), 0).Machine("stats", r)
	} else {
		printStats(cmd.OutOrStdout(), r, table != nil)
	}
	if chart == "" {
		return nil
	}
	points, list := r.Over(report.Points(), period, past)
	data, err := report.Chart(points, list, period, format)
	if err != nil {
		return fmt.Errorf("--chart: %w", err)
	}
	if err := os.WriteFile(chart, data, 0o644); err != nil {
		return &exitError{exitOutput, fmt.Errorf("--chart: %w", err)}
	}
	return nil
}

func printStats(out io.Writer, r *report.Report, priced bool) {
	fmt.Fprintf(out, "%d requests: %d answered, %d failed; %d attempts", r.Requests, r.Answered, r.Failed, r.Attempts)
	if r.Hits > 0 {
		fmt.Fprintf(out, "; %d from the cache", r.Hits)
	}
	fmt.Fprintln(out)
	if span := r.End.Sub(r.Begin); span > 0 {
		fmt.Fprintf(out, "from %s to %s: %s\n", r.Begin.Local().Format("2006-01-02 15:04:05"), r.End.Local().Format("2006-01-02 15:04:05"), span.Round(time.Millisecond))
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	head := "\nmodel\trequests\tfailed\ttokens in\tout\tp50\tp90\tp95\tp99\tmax\t"
	if priced {
		head += "cost\t"
	}
	fmt.Fprintln(w, head)
	row := func(name string, requests, failed, in, outTokens int64, l report.Latency) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t", name, requests, failed, in, outTokens,
			milliseconds(l.P50), milliseconds(l.P90), milliseconds(l.P95), milliseconds(l.P99), milliseconds(l.Max))
	}
	var in, outTokens int64
	for _, m := range r.Models {
		in, outTokens = in+m.Input, outTokens+m.Output
		row(m.Model, m.Requests, m.Failed, m.Input, m.Output, m.Latency)
		switch {
		case m.Priced:
			fmt.Fprintf(w, "$%.4f\t", m.Cost)
		case priced:
			fmt.Fprint(w, "no price\t")
		}
		fmt.Fprintln(w)
	}
	if len(r.Models) > 1 {
		row("all", r.Requests, r.Failed, in, outTokens, r.Latency)
		if priced {
			fmt.Fprintf(w, "$%.4f\t", r.Cost)
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
	for i, f := range r.Failures {
		if i == 0 {
			fmt.Fprintln(out, "\nfailures:")
		}
		fmt.Fprintf(out, "%6d  %s: %s\n", f.Count, f.Code, f.Example)
	}
}

// milliseconds writes a latency with three digits that count.
func milliseconds(ms float64) string {
	switch {
	case ms < 1000:
		return fmt.Sprintf("%.3gms", ms)
	case ms < 100_000:
		return fmt.Sprintf("%.3gs", ms/1000)
	}
	return fmt.Sprintf("%.0fs", ms/1000)
}

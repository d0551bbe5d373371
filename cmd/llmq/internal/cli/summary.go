package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/batch"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/progress"
)

// summarize tells how a run ended.
func (f *runFlags) summarize(cmd *cobra.Command, shower *progress.Shower, s batch.Summary, retry, failed bool) {
	if f.json {
		shower.Machine("summary", s)
		return
	}
	if failed && s.Ran+s.Hits == 0 {
		return // the error says it all
	}
	text := fmt.Sprintf("%d requests run in %s: the file has %d answers and %d failures",
		s.Ran, s.Elapsed.Round(10*time.Millisecond), s.Done, s.Failed)
	if s.Before > 0 && !retry {
		text += fmt.Sprintf("; %d were there before", s.Before)
	}
	text += fmt.Sprintf("; %d tokens in, %d out", s.Input, s.Output)
	if s.Cost > 0 {
		text += fmt.Sprintf("; $%.4f in all", s.Cost)
	}
	if s.Hits > 0 {
		text += fmt.Sprintf("; %d from the cache", s.Hits)
	}
	text += fitting(s)
	text += fmt.Sprintf("; %d refused by the provider", s.Refused)
	fmt.Fprintln(cmd.ErrOrStderr(), "llmq:", text)
	if s.Failed > 0 && s.Reason == batch.Finished {
		fmt.Fprintln(cmd.ErrOrStderr(), "llmq: see why with llmq stats, and run the failed ones again with llmq retry")
	}
}

// estimate is --dry-run.
func (f *runFlags) estimate(cmd *cobra.Command, c batch.Config, shower *progress.Shower) error {
	e, err := batch.DryRun(c)
	if err != nil {
		return ended(batch.Summary{}, err)
	}
	if f.json {
		shower.Machine("estimate", e)
		return nil
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%d requests", e.Requests)
	if e.Before > 0 {
		fmt.Fprintf(out, ", and %d that have a result already", e.Before)
	}
	if e.Hits > 0 {
		fmt.Fprintf(out, ", and %d that the cache answers", e.Hits)
	}
	fmt.Fprintln(out)
	for _, m := range e.Models {
		fmt.Fprintf(out, "  %s: %d requests, about %d tokens in, at most %d out", m.Model, m.Requests, m.Input, m.Output)
		if m.Unbounded > 0 {
			fmt.Fprintf(out, " (%d answers without a bound taken as %d tokens each: --assume-output)", m.Unbounded, c.AssumedOutput)
		}
		if m.Priced {
			fmt.Fprintf(out, ", at most $%.4f", m.Cost)
		}
		fmt.Fprintln(out)
		if m.Time > 0 {
			fmt.Fprintf(out, "    under its limits at least %s; %s binds\n", m.Time.Round(time.Second), m.Binds)
		} else if c.Via.On {
			fmt.Fprintln(out, "    in batches, which take up to 24 h")
		} else {
			fmt.Fprintln(out, "    no limits are given: how long it takes is not known")
		}
	}
	if c.Prices == nil {
		fmt.Fprintln(out, "no --prices: what it costs is not known")
	} else {
		fmt.Fprintf(out, "at most $%.4f in all\n", e.Cost)
	}
	fmt.Fprintln(out, "tokens are guessed from the length of the text, about -5% to +20% off")
	return nil
}

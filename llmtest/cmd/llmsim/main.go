// Command llmsim serves a simulated LLM provider for clients in any language:
// the server of package llmtest, with limits and faults from flags.
//
//	go run ./llmtest/cmd/llmsim -provider anthropic -rpm 50 -itpm 30000 -otpm 8000
//
// It prints the base URL and how to point an SDK at it, and on Ctrl-C what it
// has seen. Any key is accepted, unless the environment variable LLMSIM_KEY
// holds the only one that is. It listens on loopback; on other addresses only
// with a key.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"text/tabwriter"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Getenv("LLMSIM_KEY"), os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "llmsim:", err)
		os.Exit(2)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, key string, out io.Writer) error {
	s, err := parse(args, key, out)
	if err != nil {
		return err
	}
	srv, err := llmtest.Start(s.provider, s.options...)
	if err != nil {
		return trim(err)
	}
	defer srv.Close()
	fmt.Fprintf(out, "%v at %s\n", s.provider, srv.URL())
	fmt.Fprintf(out, "  %s\n", fmt.Sprintf(s.hint, srv.URL()))
	if key != "" {
		fmt.Fprintln(out, "  and the key in LLMSIM_KEY")
	} else {
		fmt.Fprintln(out, "  and any key")
	}
	fmt.Fprintln(out, "Ctrl-C stops it and shows what it has seen.")

	var tick <-chan time.Time
	if s.every > 0 {
		ticker := time.NewTicker(s.every)
		defer ticker.Stop()
		tick = ticker.C
	}
	for start := time.Now(); ; {
		select {
		case <-tick:
			st := srv.Stats()
			fmt.Fprintf(out, "%v: %d accepted, %d refused, %d overloaded, %d failed, %d tokens charged\n",
				time.Since(start).Round(time.Second), st.Accepted, st.Refused, st.Overloaded, st.Failed, st.TokensCharged)
		case <-ctx.Done():
			srv.Close()
			return report(out, srv, s.timeline)
		}
	}
}

// report writes the final figures.
func report(out io.Writer, srv *llmtest.Server, timeline time.Duration) error {
	if timeline > 0 {
		fmt.Fprintln(out)
		if err := srv.WriteTimeline(out, timeline); err != nil {
			return err
		}
	}
	st := srv.Stats()
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range []struct {
		name  string
		value int64
	}{
		{"accepted", st.Accepted}, {"completed", st.Completed}, {"failed", st.Failed}, {"canceled", st.Canceled},
		{"refused", st.Refused}, {"overloaded", st.Overloaded}, {"invalid", st.Invalid}, {"most at once", st.PeakConcurrent},
		{"input tokens", st.InputTokens}, {"output tokens", st.OutputTokens}, {"tokens charged", st.TokensCharged}, {"of them wasted", st.TokensWasted},
	} {
		fmt.Fprintf(w, "%s\t%d\t\n", row.name, row.value)
	}
	for _, l := range st.Limits {
		fmt.Fprintf(w, "%v\t%d of %d at most, %d refused\t\n", l.Limit, l.Peak, l.Limit.Amount, l.Refused)
	}
	return w.Flush()
}

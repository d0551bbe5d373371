// Package simulate serves a provider of package llmtest as a command: it is what llmsim
// and llmq simulate have in common, their flags among it.
package simulate

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// Command is the server with its settings. Make one with New.
type Command struct {
	flags flags
	// Key is the only key that is accepted; empty accepts any. It is never printed.
	Key string
	// KeyFrom says where Key comes from, such as "LLMSIM_KEY", for messages.
	KeyFrom string
}

// New returns a command whose settings fs parses.
func New(fs *flag.FlagSet) *Command {
	c := &Command{KeyFrom: "the key's variable"}
	c.flags.register(fs)
	return c
}

// Serve prints to out where the server is and how to point an SDK at it, serves until
// ctx ends, and prints what it has seen. Errors fit on one line.
func (c *Command) Serve(ctx context.Context, out io.Writer) error {
	provider, options, err := c.flags.server(c.Key, c.KeyFrom)
	if err != nil {
		return err
	}
	srv, err := llmtest.Start(provider, options...)
	if err != nil {
		return trim(err)
	}
	defer srv.Close()
	fmt.Fprintf(out, "%v at %s\n", provider, srv.URL())
	fmt.Fprintf(out, "  %s\n", fmt.Sprintf(dialects[c.flags.provider].hint, srv.URL()))
	if c.Key != "" {
		fmt.Fprintf(out, "  and the key in %s\n", c.KeyFrom)
	} else {
		fmt.Fprintln(out, "  and any key")
	}
	fmt.Fprintln(out, "Ctrl-C stops it and shows what it has seen.")

	var tick <-chan time.Time
	if c.flags.every > 0 {
		ticker := time.NewTicker(c.flags.every)
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
			return report(out, srv, c.flags.timeline)
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

// trim takes the package's name off its errors: the command's own stands there.
func trim(err error) error { return errors.New(strings.TrimPrefix(err.Error(), "llmtest: ")) }

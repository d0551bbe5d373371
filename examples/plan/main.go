// Plan answers how long a load will take before anything is sent: it plays 50,000
// requests to the scheduler in virtual time, under several sets of limits, and prints
// which limit binds.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"text/tabwriter"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/plan"
)

func main() { program.Main("plan", run) }

func run(_ context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("plan", flag.ContinueOnError)
	n := flags.Int("n", 50_000, "requests")
	rpm := flags.Int64("rpm", 1000, "requests a minute")
	tpm := flags.Int64("tpm", 1_000_000, "tokens a minute")
	slots := flags.Int64("concurrent", 200, "requests at a time")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	limits := func(rpm, tpm, slots int64) llmqueue.Option {
		return llmqueue.WithLimits(llmqueue.RPM(rpm), llmqueue.TPM(tpm), llmqueue.Concurrent(slots))
	}
	fmt.Fprintf(stdout, "%d requests that arrive at once.\n\n", *n)
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "limits\ttakes\twait p50\tp95\tbinds\tits quota used\t")
	for _, s := range []struct {
		name string
		opts []llmqueue.Option
	}{
		{"as they are", []llmqueue.Option{limits(*rpm, *tpm, *slots)}},
		{"with backfill", []llmqueue.Option{limits(*rpm, *tpm, *slots), llmqueue.WithBackfill()}},
		{"twice the requests", []llmqueue.Option{limits(2**rpm, *tpm, *slots)}},
		{"twice the tokens", []llmqueue.Option{limits(*rpm, 2**tpm, *slots)}},
		{"twice both", []llmqueue.Option{limits(2**rpm, 2**tpm, *slots)}},
		{"twice all", []llmqueue.Option{limits(2**rpm, 2**tpm, 2**slots)}},
	} {
		r, err := plan.Run(load(*n), s.opts...)
		if err != nil {
			return err
		}
		binds := r.Limits[0]
		fmt.Fprintf(table, "%s\t%v\t%v\t%v\t%s\t%.1f%%\t\n", s.name, r.Makespan.Round(time.Second),
			r.Wait.P50.Round(time.Second), r.Wait.P95.Round(time.Second), binds.Limit, 100*binds.Quota)
	}
	return table.Flush()
}

// load is n requests of mixed size, the same ones each time; one in ten has a long document.
func load(n int) iter.Seq[plan.Request] {
	return func(yield func(plan.Request) bool) {
		r := rand.New(rand.NewPCG(1, 2))
		for range n {
			used := llmqueue.Usage{InputTokens: 300 + r.Int64N(600), OutputTokens: 50 + r.Int64N(400)}
			if r.IntN(10) == 0 {
				used.InputTokens += 10_000
			}
			request := plan.Request{
				Estimate: llmqueue.Usage{InputTokens: used.InputTokens, OutputTokens: 450},
				Used:     used,
				Duration: time.Second + time.Duration(used.OutputTokens)*20*time.Millisecond,
			}
			if !yield(request) {
				return
			}
		}
	}
}

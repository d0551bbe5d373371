// Concurrent_mode runs many calls at a time, and never more than the limit. It
// calls no LLM: its processor only takes time, so that the clock is easy to check.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("concurrent_mode", run) }

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("concurrent_mode", flag.ContinueOnError)
	requests := flags.Int("requests", 100, "how many requests to send")
	each := flags.Duration("each", 50*time.Millisecond, "how long each takes")
	limit := flags.Int("limit", 10, "how many may run at a time")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	if *requests < 1 || *limit < 1 || *each < 0 {
		return program.BadInput("-requests and -limit want at least 1, -each a positive duration")
	}

	// The recorder stands in front of the processor and sees how many run.
	recorder := llmtest.Record(llmtest.FakeDelay(*each, llmtest.FakeReply[int]("done")))
	queue, err := llmqueue.NewQueue("local", recorder.Process,
		llmqueue.WithLimits(llmqueue.Concurrent(int64(*limit))))
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))
	fmt.Fprintf(stdout, "%d requests of %v, at most %d at a time.\n\n", *requests, *each, *limit)

	// One goroutine for each caller, as in a server: each waits for its own answer.
	var callers sync.WaitGroup
	errs := make([]error, *requests)
	begin := time.Now()
	for i := range *requests {
		callers.Go(func() { _, errs[i] = queue.Do(ctx, i) })
	}
	callers.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	report(stdout, "a goroutine each", begin, recorder.PeakConcurrent())

	// One loop over all, for a batch: the queue takes the requests in as it goes.
	begin = time.Now()
	for _, err := range queue.SubmitAll(ctx, func(yield func(llmqueue.Request[int]) bool) {
		for i := range *requests {
			if !yield(llmqueue.Request[int]{ID: "batch-" + strconv.Itoa(i), Params: i}) {
				return
			}
		}
	}) {
		if err != nil {
			return err
		}
	}
	report(stdout, "SubmitAll", begin, recorder.PeakConcurrent())

	rounds := (*requests + *limit - 1) / *limit
	fmt.Fprintf(stdout, "\nThe least possible is %v. One at a time it would be %v.\n",
		time.Duration(rounds)**each, time.Duration(*requests)**each)
	return nil
}

func report(stdout io.Writer, how string, begin time.Time, peak int) {
	fmt.Fprintf(stdout, "%-17s %6v, at most %d at a time\n", how, time.Since(begin).Round(time.Millisecond), peak)
}

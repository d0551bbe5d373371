// Fallback goes on when a model is down. The large model's provider fails every call for
// a while: after three failures in a row it is held out, and what waits for the large model
// goes to the small one instead. Every now and then a probe asks the large one again; when it
// answers, requests stay.
//
//	go run ./examples/fallback
//
// Both models are simulators in this process. With real ones each processor gets its own client.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/chat"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("fallback", run) }

const (
	large = "large"
	small = "small"
)

// asking makes a processor on a client.
func asking(provider *chat.Provider) llmqueue.Processor[string, string] {
	return func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
		reply, err := provider.Ask(ctx, req.ModelID, req.Params, 60)
		return reply.Text, err
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("fallback", flag.ContinueOnError)
	failures := flags.Int("failures", 4, "how many calls the large model's provider fails")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	if *failures < 0 {
		return program.BadInput("-failures wants 0 or more")
	}
	latency := llmtest.WithLatency(llmtest.Latency{FirstToken: 50 * time.Millisecond, PerToken: 2 * time.Millisecond})
	down := slices.Repeat([]llmtest.Fault{{Status: 500}}, *failures)
	largeOne, err := chat.Simulate(chat.Simulator{Options: []llmtest.Option{latency, llmtest.WithFaultScript(down...)}})
	if err != nil {
		return err
	}
	defer largeOne.Close()
	smallOne, err := chat.Simulate(chat.Simulator{Options: []llmtest.Option{latency}})
	if err != nil {
		return err
	}
	defer smallOne.Close()
	fmt.Fprintf(stdout, "Answered by two simulators in this process; the large model's fails its first %d calls.\n\n", *failures)

	begin := time.Now()
	manager := llmqueue.NewManager[string, string](llmqueue.WithLimits(llmqueue.RPM(600), llmqueue.Concurrent(1)))
	defer manager.Shutdown(context.WithoutCancel(ctx))
	if _, err := manager.Register(small, asking(smallOne)); err != nil {
		return err
	}
	if _, err := manager.Register(large, asking(largeOne),
		llmqueue.WithFallback(small),
		llmqueue.WithRetry(llmqueue.RetryPolicy{BaseDelay: time.Millisecond}),
		llmqueue.WithObserver(func(e llmqueue.Event) {
			at := e.Time.Sub(begin).Seconds()
			switch e.Type {
			case llmqueue.EventOpened:
				fmt.Fprintf(stdout, "%4.1fs  %s is held out\n", at, e.Endpoint)
			case llmqueue.EventClosed:
				fmt.Fprintf(stdout, "%4.1fs  %s takes calls again\n", at, e.Endpoint)
			}
		})); err != nil {
		return err
	}

	// A request every quarter of a second, for as long as it takes to see all of it.
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for range 18 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		req := llmqueue.NewRequest(large, "Name a mountain.")
		res, err := manager.Submit(ctx, req)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "%4.1fs  asked %s, answered by %s after %d attempts\n", res.FinishedAt.Sub(begin).Seconds(), large, res.ModelID, res.Attempts)
	}
	info, err := manager.Info(large)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\n%d of %d answered, %d by the fallback; the large model's provider was called %d times\n",
		info.Completed, info.Accepted, info.Fallbacks, largeOne.Transport.Calls().Accepted+largeOne.Transport.Calls().Faults)
	return nil
}

// Coalescing lets identical requests that wait or run share one call. Twenty readers ask
// for summaries of the same three articles at about the same time: each gets a response of
// its own, and the provider is called three times. One of them goes away before the answer
// is there; the call goes on for the others.
//
//	go run ./examples/coalescing
//
// The answers come from a simulator in this process, or, when OPENAI_API_KEY is set, from
// the real service.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/chat"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("coalescing", run) }

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("coalescing", flag.ContinueOnError)
	model := flags.String("model", chat.DefaultModel, "model to ask")
	readers := flags.Int("readers", 20, "how many ask")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	if *readers < 1 {
		return program.BadInput("-readers wants at least 1")
	}
	provider, err := chat.Open(chat.Simulator{Options: []llmtest.Option{
		llmtest.WithLatency(llmtest.Latency{FirstToken: 300 * time.Millisecond, PerToken: 5 * time.Millisecond}),
	}})
	if err != nil {
		return err
	}
	defer provider.Close()
	fmt.Fprintf(stdout, "Answered by %s.\n\n", provider)

	queue, err := llmqueue.NewQueue(*model,
		func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
			reply, err := provider.Ask(ctx, req.ModelID, req.Params, 100)
			return reply.Text, err
		},
		llmqueue.WithLimits(llmqueue.RPM(500), llmqueue.Concurrent(2)),
		// The same prompt is the same request. What else decides about an answer, such as a
		// temperature, belongs into the key too.
		llmqueue.WithCoalescing(func(req llmqueue.Request[string]) string { return req.Params }))
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))

	articles := []string{"the tides", "old bridges", "night trains"}
	var (
		mu              sync.Mutex // guards the rest
		answered, alone int
		used            llmqueue.Usage
		failed          error
	)
	impatient, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	var all sync.WaitGroup
	for i := range *readers {
		reader := ctx
		if i == 0 && *readers > 1 {
			reader = impatient
			time.AfterFunc(100*time.Millisecond, func() { leave(errors.New("went away")) })
		}
		all.Go(func() {
			req := llmqueue.NewRequest(*model, "Summarise the article about "+articles[i%len(articles)]+".")
			res, err := queue.Submit(reader, req)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, llmqueue.ErrCanceled):
				alone++
			case err != nil:
				failed = err
			default:
				answered++
				used.InputTokens += res.Usage.InputTokens
				used.OutputTokens += res.Usage.OutputTokens
			}
		})
	}
	all.Wait()
	info := queue.Info()
	fmt.Fprintf(stdout, "%d readers: %d answered, %d went away; %d shared the call of another\n", *readers, answered, alone, info.Coalesced)
	fmt.Fprintf(stdout, "%d calls, %d input and %d output tokens\n", info.Accepted-info.Coalesced, used.InputTokens, used.OutputTokens)
	return failed
}

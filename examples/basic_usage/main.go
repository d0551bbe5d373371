// Basic_usage is the shortest way through the library: a queue for one model, a
// processor that calls it, an answer.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/batch"
	"github.com/llmqueue/llmqueue/examples/internal/chat"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("basic_usage", run) }

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("basic_usage", flag.ContinueOnError)
	model := flags.String("model", chat.DefaultModel, "model to ask")
	question := flags.String("question", "Why is the sky blue? Answer in one sentence.", "what to ask")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	provider, err := chat.Open(chat.Simulator{
		Limits: []llmtest.Limit{llmtest.RPM(500), llmtest.TPM(100_000)},
	})
	if err != nil {
		return err
	}
	defer provider.Close()
	fmt.Fprintf(stdout, "Answered by %s.\n\n", provider)

	// A processor makes one call. It runs when the limits have room for it.
	process := func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
		reply, err := provider.Ask(ctx, req.ModelID, req.Params, 200)
		if err != nil {
			return "", err // retry it, slow down, or give up
		}
		llmqueue.ReportUsage(ctx, reply.Usage) // what the call really took
		return reply.Text, nil
	}
	queue, err := llmqueue.NewQueue(*model, process, llmqueue.WithLimits(
		llmqueue.RPM(500),
		llmqueue.TPM(100_000),
		llmqueue.Concurrent(8),
	))
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))

	// The shortest way: params in, result out.
	answer, err := queue.Do(ctx, *question)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Do:     %s\n\n", answer)

	// Submit takes a request with more to it and returns the whole response.
	req := llmqueue.NewRequest(*model, *question)
	req.Estimate = llmqueue.Usage{InputTokens: llmqueue.EstimateTokens(*question), OutputTokens: 200}
	req.MaxWait = 10 * time.Second
	res, err := queue.Submit(ctx, req)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Submit: %s\n", res.Result)
	fmt.Fprintf(stdout, "        %s after %d attempt, waited %v, ran %v\n", res.Status, res.Attempts,
		res.WaitTime().Round(time.Millisecond), res.ProcessingTime().Round(time.Millisecond))
	fmt.Fprintf(stdout, "        %d tokens reserved, %d used\n\n", req.Estimate.Total(), res.Usage.Total())

	batch.Limits(stdout, queue.Info().Limits)
	return nil
}

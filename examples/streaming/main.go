// Streaming shows an answer as it is written. The chunks go out through a callback
// in the params, and the processor returns when its stream ends: until then the
// request holds its slot and its reservation.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/openai/openai-go/v3"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/chat"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("streaming", run) }

// Chat is a prompt, and where its answer goes.
type Chat struct {
	Prompt    string       `validate:"required"`
	MaxTokens int64        `validate:"gte=1"`
	OnChunk   func(string) `validate:"required"` // called in order, by one goroutine at a time
}

// EstimateUsage tells the queue what to reserve.
func (c Chat) EstimateUsage() llmqueue.Usage {
	return llmqueue.Usage{InputTokens: llmqueue.EstimateTokens(c.Prompt), OutputTokens: c.MaxTokens}
}

// Ending is what is left to say when the stream is over.
type Ending struct {
	Chunks     int
	FirstChunk time.Duration
}

// stream is the processor.
func stream(ctx context.Context, client openai.Client, req llmqueue.Request[Chat]) (Ending, error) {
	params := chat.Params(req.ModelID, req.Params.Prompt, req.Params.MaxTokens)
	params.StreamOptions.IncludeUsage = openai.Bool(true) // for the queue, which reads it from the stream
	begin := time.Now()
	var end Ending

	chunks := client.Chat.Completions.NewStreaming(ctx, params)
	defer chunks.Close()
	for chunks.Next() {
		chunk := chunks.Current()
		if len(chunk.Choices) > 0 && chunk.Choices[0].Delta.Content != "" {
			if end.Chunks++; end.Chunks == 1 {
				end.FirstChunk = time.Since(begin)
			}
			llmqueue.Streamed(ctx) // half an answer cannot be taken back: no second attempt
			req.Params.OnChunk(chunk.Choices[0].Delta.Content)
		}
	}
	return end, chunks.Err()
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("streaming", flag.ContinueOnError)
	model := flags.String("model", chat.DefaultModel, "model to ask")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	provider, err := chat.Open(chat.Simulator{
		Limits: []llmtest.Limit{llmtest.RPM(500), llmtest.TPM(100_000)},
		Options: []llmtest.Option{
			llmtest.WithLatency(llmtest.Latency{FirstToken: 200 * time.Millisecond, PerToken: 20 * time.Millisecond, Spread: 0.2}),
		},
	})
	if err != nil {
		return err
	}
	defer provider.Close()
	fmt.Fprintf(stdout, "Answered by %s.", provider)

	// With one slot the second answer begins when the first has ended, so that
	// the two never mix on the screen.
	queue, err := llmqueue.NewQueue(*model,
		func(ctx context.Context, req llmqueue.Request[Chat]) (Ending, error) {
			return stream(ctx, provider.Client, req)
		},
		llmqueue.WithLimits(llmqueue.RPM(500), llmqueue.TPM(100_000), llmqueue.Concurrent(1)))
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))

	prompts := []string{
		"Write two sentences about the sea.",
		"Write two sentences about a mountain.",
	}
	var callers sync.WaitGroup
	responses := make([]llmqueue.Response[Ending], len(prompts))
	errs := make([]error, len(prompts))
	for i, prompt := range prompts {
		callers.Go(func() {
			begun := false
			responses[i], errs[i] = queue.Submit(ctx, llmqueue.NewRequest(*model, Chat{
				Prompt:    prompt,
				MaxTokens: 200,
				OnChunk: func(text string) {
					if !begun {
						fmt.Fprintf(stdout, "\n\n> %s\n", prompt)
						begun = true
					}
					fmt.Fprint(stdout, text)
				},
			}))
		})
	}
	callers.Wait()
	fmt.Fprintln(stdout)
	for i, res := range responses {
		if errs[i] == nil {
			fmt.Fprintf(stdout, "\n%q: %d chunks, the first after %v; waited %v, streamed for %v, %d tokens", prompts[i],
				res.Result.Chunks, ms(res.Result.FirstChunk), ms(res.WaitTime()), ms(res.ProcessingTime()), res.Usage.Total())
		}
	}
	fmt.Fprintln(stdout)
	return cmp.Or(errs...)
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// Streaming shows answers as they are written, with OpenAI's Responses API. The chunks go out
// through a callback in the params, and the processor returns when its stream ends: until then
// the request holds its slot and its reservation.
//
// It runs against a simulator in this process, or, when OPENAI_API_KEY is set, against the real
// service:
//
//	go run ./examples/streaming
//	OPENAI_API_KEY=… go run ./examples/streaming -model gpt-4.1-mini
//
// A stream can fail after its status 200: with an event named error, with response.failed, or
// by ending too soon. The SDK returns no error then. And it can stop short, with
// response.incomplete, which is an answer. One of the simulator's answers fails in the middle.
// The queue does not try it again by itself, because half of it is on the screen; who reads
// along can: the program asks anew.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"

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
	CutBy      string // why the answer is not whole: "max_output_tokens", or empty
}

// stream is the processor. The transport of the SDK's HTTP client has read the same events:
// the queue knows from it what an error means.
func stream(ctx context.Context, client openai.Client, req llmqueue.Request[Chat]) (end Ending, err error) {
	begin := time.Now()
	events := client.Responses.NewStreaming(ctx, responses.ResponseNewParams{
		Model:           req.ModelID,
		Input:           responses.ResponseNewParamsInputUnion{OfString: openai.String(req.Params.Prompt)},
		MaxOutputTokens: openai.Int(req.Params.MaxTokens),
	})
	defer events.Close()
	for events.Next() {
		switch event := events.Current(); event.Type {
		case "response.output_text.delta":
			if end.Chunks++; end.Chunks == 1 {
				end.FirstChunk = time.Since(begin)
			}
			llmqueue.Streamed(ctx) // half an answer cannot be taken back: no second attempt
			req.Params.OnChunk(event.Delta)
		case "response.completed":
			return end, nil
		case "response.incomplete":
			end.CutBy = event.Response.IncompleteDetails.Reason
			return end, nil
		case "response.failed":
			return end, fmt.Errorf("the response failed: %s: %s", event.Response.Error.Code, event.Response.Error.Message)
		case "error":
			return end, fmt.Errorf("the stream failed: %s: %s", event.Code, event.Message)
		}
	}
	return end, cmp.Or(events.Err(), errHalf)
}

// errHalf is the error of a stream that ends before its last event.
var errHalf = fmt.Errorf("the stream broke off: %w", io.ErrUnexpectedEOF)

// halfShown is the error of an answer that failed when a part of it had been handed out.
type halfShown struct{ error }

func (e halfShown) Unwrap() error { return e.error }

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
			llmtest.WithOutputTokens(40, 0.3),
			llmtest.WithFaultScript(llmtest.Fault{}, llmtest.Fault{Kind: llmtest.FaultStream}), // the second fails in the middle
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
			end, err := stream(ctx, provider.Client, req)
			if err != nil && end.Chunks > 0 {
				req.Params.OnChunk(fmt.Sprintf("\n[%v]", err)) // here, while nothing else is shown
				err = halfShown{err}
			}
			return end, err
		},
		llmqueue.WithLimits(llmqueue.RPM(500), llmqueue.TPM(100_000), llmqueue.Concurrent(1)))
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))

	questions := []struct {
		prompt    string
		maxTokens int64
	}{
		{"Write two sentences about the sea.", 200},
		{"Write two sentences about a mountain.", 200},
		{"Write a long story about a desert.", 16},
	}
	var readers sync.WaitGroup
	answers := make([]llmqueue.Response[Ending], len(questions))
	errs := make([]error, len(questions))
	for i, q := range questions {
		readers.Go(func() {
			answers[i], errs[i] = read(ctx, queue, q.prompt, q.maxTokens, stdout)
		})
	}
	readers.Wait()
	fmt.Fprintln(stdout)
	for i, res := range answers {
		if errs[i] == nil {
			fmt.Fprintf(stdout, "\n%q: %d chunks, the first after %v; waited %v, streamed for %v, %d tokens", questions[i].prompt,
				res.Result.Chunks, ms(res.Result.FirstChunk), ms(res.WaitTime()), ms(res.ProcessingTime()), res.Usage.Total())
			if res.Result.CutBy != "" {
				fmt.Fprintf(stdout, ", cut short by %s", res.Result.CutBy)
			}
		}
	}
	fmt.Fprintln(stdout)
	return cmp.Or(errs...)
}

// read shows one answer as it is written. When one fails that was shown in part, it asks once
// more: only a reader can tell whether that is of use.
func read(ctx context.Context, queue *llmqueue.Queue[Chat, Ending], prompt string, maxTokens int64, stdout io.Writer) (llmqueue.Response[Ending], error) {
	ask := func() (llmqueue.Response[Ending], error) {
		begun := false
		return queue.Submit(ctx, llmqueue.NewRequest(queue.ModelID(), Chat{
			Prompt:    prompt,
			MaxTokens: maxTokens,
			OnChunk: func(text string) {
				if !begun {
					fmt.Fprintf(stdout, "\n\n> %s\n", prompt)
					begun = true
				}
				fmt.Fprint(stdout, text)
			},
		}))
	}
	res, err := ask()
	if half := (halfShown{}); errors.As(err, &half) {
		return ask()
	}
	return res, err
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

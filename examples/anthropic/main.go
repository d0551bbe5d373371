// Anthropic streams answers from Claude through the official SDK. The queue is given no
// limits: it learns those of requests, input tokens and output tokens from the headers
// of the first answer, and what each answer used from the stream itself.
//
// It runs against a simulator in this process, or, when ANTHROPIC_API_KEY is set,
// against the real service:
//
//	go run ./examples/anthropic
//	ANTHROPIC_API_KEY=… go run ./examples/anthropic -model claude-sonnet-4-5
//
// One of the simulator's answers is that it is overloaded (529). Neither the SDK, whose
// own retries are off, nor the processor deals with that: the queue tries again.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/batch"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/examples/internal/service"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("anthropic", run) }

// Chat is a prompt, and where its answer goes as it is written.
type Chat struct {
	Prompt    string       `validate:"required"`
	MaxTokens int64        `validate:"gte=1"`
	OnText    func(string) // nil: nobody reads along
}

// EstimateUsage tells the queue what to reserve. Anthropic counts output as it is
// produced: what an answer may become is reserved, and given back when it is shorter.
func (c Chat) EstimateUsage() llmqueue.Usage {
	return llmqueue.Usage{InputTokens: llmqueue.EstimateTokens(c.Prompt), OutputTokens: c.MaxTokens}
}

// newClient returns the SDK's client. The transport tells the queue what the service
// says. For the real service from.Transport only counts calls: yours is
// llmhttp.NewTransport(nil).
func newClient(from *service.Service) anthropic.Client {
	opts := []option.RequestOption{
		option.WithHTTPClient(&http.Client{Transport: llmhttp.NewTransport(from.Transport)}),
		option.WithMaxRetries(0), // the queue retries
	}
	if from.Simulated() {
		opts = append(opts, option.WithBaseURL(from.URL), option.WithAPIKey(service.Key))
	}
	return anthropic.NewClient(opts...)
}

// stream is the processor: it returns when the stream ends, with the whole message.
func stream(ctx context.Context, client anthropic.Client, req llmqueue.Request[Chat]) (anthropic.Message, error) {
	var message anthropic.Message
	events := client.Messages.NewStreaming(ctx, anthropic.MessageNewParams{
		Model:     anthropic.Model(req.ModelID),
		MaxTokens: req.Params.MaxTokens,
		Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(req.Params.Prompt))},
	})
	defer events.Close()
	for events.Next() {
		event := events.Current()
		if err := message.Accumulate(event); err != nil {
			return message, err
		}
		if delta, ok := event.AsAny().(anthropic.ContentBlockDeltaEvent); ok && req.Params.OnText != nil {
			llmqueue.Streamed(ctx) // half an answer cannot be taken back: no second attempt
			req.Params.OnText(delta.Delta.Text)
		}
	}
	return message, events.Err()
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("anthropic", flag.ContinueOnError)
	model := flags.String("model", "claude-sonnet-4-5", "model to ask")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	from, err := service.Open(
		llmtest.Anthropic(llmtest.RPM(50), llmtest.ITPM(30_000), llmtest.OTPM(8_000)),
		[]llmtest.Option{
			llmtest.WithLatency(llmtest.Latency{FirstToken: 300 * time.Millisecond, PerToken: 20 * time.Millisecond, Spread: 0.2}),
			llmtest.WithOutputTokens(60, 0.3),
			llmtest.WithFaultScript(llmtest.Fault{}, llmtest.Fault{}, llmtest.Fault{Status: 529}),
		},
		"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
	if err != nil {
		return err
	}
	defer from.Close()
	fmt.Fprintf(stdout, "Answered by %s.\n", from)

	client := newClient(from)
	queue, err := llmqueue.NewQueue(*model,
		func(ctx context.Context, req llmqueue.Request[Chat]) (anthropic.Message, error) {
			return stream(ctx, client, req)
		},
		llmqueue.WithLearnedLimits())
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))

	var chats []Chat
	for _, place := range []string{"the sea", "a mountain", "a desert", "a harbour", "an attic", "a night train", "a market", "a lighthouse"} {
		chats = append(chats, Chat{Prompt: "Write two sentences about " + place + ".", MaxTokens: 200})
	}
	// The first is shown as it is written; the others run meanwhile.
	fmt.Fprintf(stdout, "\n> %s\n", chats[0].Prompt)
	chats[0].OnText = func(text string) { fmt.Fprint(stdout, text) }

	answers := make([]llmqueue.Response[anthropic.Message], len(chats))
	sum, err := batch.Ask(ctx, queue, chats, func(i int, res llmqueue.Response[anthropic.Message]) { answers[i] = res })
	fmt.Fprint(stdout, "\n\n")
	for i, res := range answers {
		if res.Status == llmqueue.StatusCompleted {
			fmt.Fprintf(stdout, "%-45s %3d tokens, %s, in %.1fs after %s\n", chats[i].Prompt, res.Usage.OutputTokens,
				res.Result.StopReason, res.ProcessingTime().Seconds(), batch.Attempts(res.Attempts))
		}
	}
	sum.Print(stdout, from.Transport.Calls(), queue.Info().Limits)
	return err
}

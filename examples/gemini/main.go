// Gemini asks Google's Gemini API through the official SDK. Gemini states no limits in
// headers, so the queue is given those of the account; answers only lower them.
//
// It runs against a simulator in this process, or, when GEMINI_API_KEY or
// GOOGLE_API_KEY is set, against the real service:
//
//	go run ./examples/gemini
//	GEMINI_API_KEY=… go run ./examples/gemini -model gemini-2.5-flash
//
// The simulator refuses one call, as if others with the same key left no room, and its
// error says in RetryInfo how long to wait. The queue starts nothing in that time, then
// asks again. The processor has no part in that: it returns the SDK's error as it is.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"time"
	_ "time/tzdata" // Google's midnight is known on any machine

	"google.golang.org/genai"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/batch"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/examples/internal/service"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("gemini", run) }

// newClient returns the SDK's client. The transport tells the queue what the service
// says. For the real service from.Transport only counts calls: yours is
// llmhttp.NewTransport(nil).
func newClient(ctx context.Context, from *service.Service) (*genai.Client, error) {
	config := &genai.ClientConfig{
		Backend:    genai.BackendGeminiAPI,
		HTTPClient: &http.Client{Transport: llmhttp.NewTransport(from.Transport)},
	}
	if from.Simulated() {
		config.APIKey = service.Key
		config.HTTPOptions.BaseURL = from.URL
	}
	return genai.NewClient(ctx, config)
}

// limits are those of an account, an example: AI Studio shows yours. Google counts the
// requests per day from midnight to midnight on the Pacific coast.
func limits() ([]llmqueue.Limit, error) {
	pacific, err := time.LoadLocation("America/Los_Angeles")
	if err != nil {
		return nil, err
	}
	return []llmqueue.Limit{
		llmqueue.RPM(1_000),
		llmqueue.ITPM(1_000_000),
		llmqueue.RPD(10_000).Daily(pacific),
		llmqueue.Concurrent(2),
	}, nil
}

// simulated is a server with the same limits that refuses the third call.
func simulated() (llmtest.Provider, []llmtest.Option) {
	return llmtest.Gemini(llmtest.RPM(1_000), llmtest.ITPM(1_000_000), llmtest.RPD(10_000)), []llmtest.Option{
		llmtest.WithLatency(llmtest.TypicalLatency()),
		llmtest.WithFaultScript(llmtest.Fault{}, llmtest.Fault{}, llmtest.Fault{Status: http.StatusTooManyRequests, RetryAfter: retryDelay}),
	}
}

// retryDelay is how long the simulator's RetryInfo asks to wait.
const retryDelay = 3 * time.Second

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("gemini", flag.ContinueOnError)
	model := flags.String("model", "gemini-2.5-flash", "model to ask")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	provider, opts := simulated()
	from, err := service.Open(provider, opts, "GEMINI_API_KEY", "GOOGLE_API_KEY")
	if err != nil {
		return err
	}
	defer from.Close()
	fmt.Fprintf(stdout, "Answered by %s.\n\n", from)

	client, err := newClient(ctx, from)
	if err != nil {
		return err
	}
	limits, err := limits()
	if err != nil {
		return err
	}
	queue, err := llmqueue.NewQueue(*model,
		func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
			res, err := client.Models.GenerateContent(ctx, req.ModelID, genai.Text(req.Params), nil)
			if err != nil {
				return "", err
			}
			return res.Text(), nil
		},
		llmqueue.WithLimits(limits...),
		llmqueue.WithEstimator(func(req llmqueue.Request[string]) llmqueue.Usage {
			return llmqueue.Usage{InputTokens: llmqueue.EstimateTokens(req.Params)} // output has no limit
		}))
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))

	questions := []string{
		"Why is the sky blue?",
		"Why is the sea salty?",
		"Why do leaves fall?",
		"Why do cats purr?",
		"Why does bread rise?",
		"Why is ice slippery?",
	}
	sum, err := batch.Ask(ctx, queue, questions, func(i int, res llmqueue.Response[string]) {
		fmt.Fprintf(stdout, "%-22s waited %.1fs, %-10s  %.40s…\n", questions[i], res.WaitTime().Seconds(), batch.Attempts(res.Attempts), res.Result)
	})
	sum.Print(stdout, from.Transport.Calls(), queue.Info().Limits)
	return err
}

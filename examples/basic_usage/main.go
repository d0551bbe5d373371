// Basic_usage is the shortest way through the library: a queue for one model, a
// processor that calls it with OpenAI's SDK, an answer. The file stands alone: copy it.
//
// Without OPENAI_API_KEY a simulator in this process answers, in words without sense.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() {
	model := flag.String("model", "gpt-4.1-mini", "model to ask")
	question := flag.String("question", "Why is the sky blue? Answer in one sentence.", "what to ask")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *model, *question, os.Stdout); err != nil {
		log.Fatal("basic_usage: ", err)
	}
}

func run(ctx context.Context, model, question string, out io.Writer) error {
	client, closeClient, err := newClient(out)
	if err != nil {
		return err
	}
	defer closeClient()

	// A processor makes one call. It runs when the limits have room for it. The
	// client's transport tells the queue what the call used and what an error means.
	ask := func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
		res, err := client.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{
			Model:               req.ModelID,
			Messages:            []openai.ChatCompletionMessageParamUnion{openai.UserMessage(req.Params)},
			MaxCompletionTokens: openai.Int(200),
		})
		if err != nil {
			return "", err
		}
		if len(res.Choices) == 0 {
			return "", errors.New("the answer has no choices")
		}
		return res.Choices[0].Message.Content, nil
	}
	queue, err := llmqueue.NewQueue(model, ask, llmqueue.WithLimits(
		llmqueue.RPM(500),
		llmqueue.TPM(100_000),
		llmqueue.Concurrent(8),
	))
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))

	// The shortest way: params in, result out.
	answer, err := queue.Do(ctx, question)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Do:     %s\n\n", answer)

	// Submit takes a request with more to it and returns the whole response.
	req := llmqueue.NewRequest(model, question)
	req.Estimate = llmqueue.Usage{InputTokens: llmqueue.EstimateTokens(question), OutputTokens: 200}
	req.MaxWait = 10 * time.Second
	res, err := queue.Submit(ctx, req)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Submit: %s\n", res.Result)
	fmt.Fprintf(out, "        %s, attempts %d, waited %v, ran %v\n", res.Status, res.Attempts,
		res.WaitTime().Round(time.Millisecond), res.ProcessingTime().Round(time.Millisecond))
	fmt.Fprintf(out, "        %d tokens reserved, %d used\n\n", req.Estimate.Total(), res.Usage.Total())

	for _, l := range queue.Info().Limits {
		fmt.Fprintf(out, "%-12s %6d used, %7d left\n", l.Limit.Kind, l.Used, l.Available)
	}
	return nil
}

// newClient returns a client of the SDK whose transport observes each answer for the queue.
// The queue retries, so the SDK does not. A program that always has a key needs only the first client.
func newClient(out io.Writer) (client openai.Client, closeClient func(), err error) {
	noRetries := option.WithMaxRetries(0)
	if os.Getenv("OPENAI_API_KEY") != "" { // the SDK reads it, and OPENAI_BASE_URL
		fmt.Fprintf(out, "Answered by %s.\n\n", cmp.Or(os.Getenv("OPENAI_BASE_URL"), "the real service"))
		transport := llmhttp.NewTransport(http.DefaultTransport)
		return openai.NewClient(noRetries, option.WithHTTPClient(&http.Client{Transport: transport})), func() {}, nil
	}
	fmt.Fprint(out, "Answered by a simulator in this process, whose words make no sense (set OPENAI_API_KEY to ask the real service).\n\n")
	server, err := llmtest.Start(llmtest.OpenAI(llmtest.RPM(500), llmtest.TPM(100_000)), llmtest.InMemory())
	if err != nil {
		return client, nil, err
	}
	transport := llmhttp.NewTransport(server.Client().Transport)
	client = openai.NewClient(noRetries, option.WithHTTPClient(&http.Client{Transport: transport}),
		option.WithBaseURL(server.URL()), option.WithAPIKey("no-key-needed"))
	return client, server.Close, nil
}

// Azure asks Azure OpenAI through azopenai, whose calls go through azcore: one answer as
// a stream, the others in one piece. The queue is given no limits: it learns them from
// the headers of the first answer.
//
// It runs against a simulator in this process, or, when AZURE_OPENAI_API_KEY is set,
// against the real service:
//
//	go run ./examples/azure
//	AZURE_OPENAI_API_KEY=… AZURE_OPENAI_ENDPOINT=https://….openai.azure.com go run ./examples/azure -deployment gpt-4o-mini
//
// The simulator puts an error into the stream, which azopenai takes for a chunk without
// choices, and refuses one call for as long as retry-after-ms says.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/ai/azopenai"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/batch"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/examples/internal/service"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("azure", run) }

// The variables that name the real service.
const (
	keyVariable      = "AZURE_OPENAI_API_KEY"
	endpointVariable = "AZURE_OPENAI_ENDPOINT"
)

// Chat is a prompt, how long its answer may be, and whether it is streamed.
type Chat struct {
	Prompt    string `validate:"required"`
	MaxTokens int32  `validate:"gte=1"`
	Stream    bool
}

// EstimateUsage tells the queue what to reserve: Azure counts max_tokens when a request
// arrives.
func (c Chat) EstimateUsage() llmqueue.Usage {
	return llmqueue.Usage{InputTokens: llmqueue.EstimateTokens(c.Prompt), OutputTokens: int64(c.MaxTokens)}
}

// newClient returns the SDK's client. The transport tells the queue what the service
// says. For the real service from.Transport only counts calls: yours is
// llmhttp.NewTransport(nil).
//
// azcore retries by itself, and takes a MaxRetries of 0 for its default of three: -1 is
// none. It uses the transport for every call, also on loopback. (The other way to Azure,
// openai-go with its package azure, does not: with azure.WithUnsafeAllowHTTP, plain HTTP
// to loopback bypasses any transport of yours, so that a queue learns nothing there.)
func newClient(from *service.Service) (*azopenai.Client, error) {
	options := &azopenai.ClientOptions{ClientOptions: azcore.ClientOptions{
		Transport: &http.Client{Transport: llmhttp.NewTransport(from.Transport)},
		Retry:     policy.RetryOptions{MaxRetries: -1}, // the queue retries
	}}
	endpoint, key := os.Getenv(endpointVariable), os.Getenv(keyVariable)
	if from.Simulated() {
		endpoint, key = from.URL, service.Key
		options.InsecureAllowCredentialWithHTTP = true
	}
	if endpoint == "" {
		return nil, program.BadInput("%s is not set: it is the address of your resource", endpointVariable)
	}
	return azopenai.NewClientWithKeyCredential(endpoint, azcore.NewKeyCredential(key), options)
}

// ask is the processor. Its errors need no marks.
func ask(ctx context.Context, client *azopenai.Client, req llmqueue.Request[Chat]) (string, error) {
	messages := []azopenai.ChatRequestMessageClassification{
		&azopenai.ChatRequestUserMessage{Content: azopenai.NewChatRequestUserMessageContent(req.Params.Prompt)},
	}
	if req.Params.Stream {
		return stream(ctx, client, azopenai.ChatCompletionsStreamOptions{
			DeploymentName: &req.ModelID, Messages: messages, MaxTokens: &req.Params.MaxTokens,
			StreamOptions: &azopenai.ChatCompletionStreamOptions{IncludeUsage: new(true)}, // no usage otherwise
		})
	}
	res, err := client.GetChatCompletions(ctx, azopenai.ChatCompletionsOptions{DeploymentName: &req.ModelID, Messages: messages, MaxTokens: &req.Params.MaxTokens}, nil)
	if err != nil {
		return "", err
	}
	if len(res.Choices) == 0 || res.Choices[0].Message == nil || res.Choices[0].Message.Content == nil {
		return "", errors.New("the answer has no text")
	}
	return *res.Choices[0].Message.Content, nil
}

// stream returns when the stream ends, with the whole text. Whoever shows the text as it
// comes calls llmqueue.Streamed first: see examples/anthropic.
func stream(ctx context.Context, client *azopenai.Client, options azopenai.ChatCompletionsStreamOptions) (string, error) {
	res, err := client.GetChatCompletionsStream(ctx, options, nil)
	if err != nil {
		return "", err
	}
	defer res.ChatCompletionsStream.Close()
	var text strings.Builder
	for {
		chunk, err := res.ChatCompletionsStream.Read()
		switch {
		case errors.Is(err, io.EOF): // [DONE]
			return text.String(), nil
		case err != nil:
			return "", err
		}
		for _, c := range chunk.Choices { // the first chunk has none
			if c.Delta != nil && c.Delta.Content != nil {
				text.WriteString(*c.Delta.Content)
			}
		}
	}
}

// simulated is a server that counts in windows of a minute. A deployment that counts in
// slices of ten seconds states the limit of a slice.
func simulated() (llmtest.Provider, []llmtest.Option) {
	return llmtest.AzureOpenAI(llmtest.RPM(120).By(llmtest.FixedWindow), llmtest.TPM(20_000)), []llmtest.Option{
		llmtest.WithLatency(llmtest.Latency{FirstToken: 300 * time.Millisecond, PerToken: 10 * time.Millisecond, Spread: 0.2}),
		llmtest.WithOutputTokens(60, 0.3),
		llmtest.WithFaultScript(
			llmtest.Fault{Kind: llmtest.FaultStream},
			llmtest.Fault{},
			llmtest.Fault{Status: http.StatusTooManyRequests, RetryAfter: retryAfter}),
	}
}

// retryAfter is how long the simulator's refusal asks to wait.
const retryAfter = 1500 * time.Millisecond

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("azure", flag.ContinueOnError)
	deployment := flags.String("deployment", "gpt-4o-mini", "deployment to ask")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	provider, opts := simulated()
	from, err := service.Open(provider, opts, keyVariable)
	if err != nil {
		return err
	}
	defer from.Close()
	fmt.Fprintf(stdout, "Answered by %s.\n\n", from)

	client, err := newClient(from)
	if err != nil {
		return err
	}
	queue, err := llmqueue.NewQueue(*deployment,
		func(ctx context.Context, req llmqueue.Request[Chat]) (string, error) { return ask(ctx, client, req) },
		llmqueue.WithLearnedLimits())
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))

	streamed, err := queue.Submit(ctx, llmqueue.NewRequest(*deployment, Chat{Prompt: "Write two sentences about a river.", MaxTokens: 200, Stream: true}))
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Streamed after %s, %d tokens: %.40s…\n\n", batch.Attempts(streamed.Attempts), streamed.Usage.OutputTokens, streamed.Result)

	var chats []Chat
	for _, place := range []string{"the sea", "a mountain", "a desert", "a harbour", "an attic", "a night train", "a market", "a lighthouse"} {
		chats = append(chats, Chat{Prompt: "Write two sentences about " + place + ".", MaxTokens: 200})
	}
	sum, err := batch.Ask(ctx, queue, chats, func(i int, res llmqueue.Response[string]) {
		fmt.Fprintf(stdout, "%-40s %3d tokens, waited %.1fs, %s\n", chats[i].Prompt, res.Usage.OutputTokens, res.WaitTime().Seconds(), batch.Attempts(res.Attempts))
	})
	sum.Print(stdout, from.Transport.Calls(), queue.Info().Limits)
	return err
}

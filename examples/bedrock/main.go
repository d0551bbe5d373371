// Bedrock asks Amazon Bedrock through aws-sdk-go-v2: one answer by ConverseStream, the
// others by Converse. Bedrock states no limits, so that the queue is given them; what
// each answer used comes from the answer and from the binary frames of the stream.
//
// It runs against a simulator in this process, or, when AWS_BEARER_TOKEN_BEDROCK,
// AWS_ACCESS_KEY_ID or AWS_PROFILE is set, against the real service:
//
//	go run ./examples/bedrock
//	AWS_PROFILE=… AWS_REGION=us-east-1 go run ./examples/bedrock -model amazon.nova-lite-v1:0
//
// The simulator cuts the stream: the SDK ends it as if it were whole, with a nil error, but
// the transport has seen the cut, so that the queue tries again. One more answer is a
// ThrottlingException, and one a ModelNotReadyException.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/batch"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/examples/internal/service"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("bedrock", run) }

// Chat is a prompt, how long its answer may be, and whether it is streamed.
type Chat struct {
	Prompt    string `validate:"required"`
	MaxTokens int32  `validate:"gte=1"`
	Stream    bool
}

// EstimateUsage tells the queue what to reserve: Bedrock reserves the same, and gives
// back what the answer did not need. Of most Claude models each output token counts five
// times in the end: there a processor calls llmqueue.ReportUsage with as many.
func (c Chat) EstimateUsage() llmqueue.Usage {
	return llmqueue.Usage{InputTokens: llmqueue.EstimateTokens(c.Prompt), OutputTokens: int64(c.MaxTokens)}
}

// newClient returns the SDK's client. The transport tells the queue what the service
// says. For the real service from.Transport only counts calls: yours is
// llmhttp.NewTransport(nil).
//
// The HTTP client goes to the service's options and not to LoadDefaultConfig. That would
// fail when AWS_CA_BUNDLE is set, as it can add the bundle to a client of its own only
// ("unable to add custom RootCAs HTTPClient, has no WithTransportOptions"), and calls for
// credentials would go through the queue's transport too. To trust the bundle, stand the
// transport on the one that LoadDefaultConfig has made:
//
//	base := cfg.HTTPClient.(*awshttp.BuildableClient).GetTransport()
//	transport := llmhttp.NewTransport(base)
func newClient(ctx context.Context, from *service.Service) (*bedrockruntime.Client, error) {
	var load []func(*config.LoadOptions) error
	if from.Simulated() {
		load = append(load, config.WithRegion("us-east-1"), config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(service.Key, service.Key, "")))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, err
	}
	return bedrockruntime.NewFromConfig(cfg, func(o *bedrockruntime.Options) {
		o.HTTPClient = &http.Client{Transport: llmhttp.NewTransport(from.Transport)}
		o.Retryer = aws.NopRetryer{} // the queue retries
		if from.Simulated() {
			o.BaseEndpoint = &from.URL
		}
	}), nil
}

// ask is the processor. Its errors need no marks.
func ask(ctx context.Context, client *bedrockruntime.Client, req llmqueue.Request[Chat]) (string, error) {
	messages := []types.Message{{
		Role:    types.ConversationRoleUser,
		Content: []types.ContentBlock{&types.ContentBlockMemberText{Value: req.Params.Prompt}},
	}}
	limit := &types.InferenceConfiguration{MaxTokens: &req.Params.MaxTokens}
	if req.Params.Stream {
		return stream(ctx, client, &bedrockruntime.ConverseStreamInput{ModelId: &req.ModelID, Messages: messages, InferenceConfig: limit})
	}
	res, err := client.Converse(ctx, &bedrockruntime.ConverseInput{ModelId: &req.ModelID, Messages: messages, InferenceConfig: limit})
	if err != nil {
		return "", err
	}
	var text strings.Builder
	if message, ok := res.Output.(*types.ConverseOutputMemberMessage); ok {
		for _, block := range message.Value.Content {
			if b, ok := block.(*types.ContentBlockMemberText); ok {
				text.WriteString(b.Value)
			}
		}
	}
	return text.String(), nil
}

// stream returns when the stream ends, with the whole text. Whoever shows the text as it
// comes calls llmqueue.Streamed first, as half an answer cannot be taken back, and then
// there is no second attempt: see examples/anthropic.
func stream(ctx context.Context, client *bedrockruntime.Client, in *bedrockruntime.ConverseStreamInput) (string, error) {
	res, err := client.ConverseStream(ctx, in)
	if err != nil {
		return "", err
	}
	events := res.GetStream()
	defer events.Close()
	var text strings.Builder
	for event := range events.Events() {
		if e, ok := event.(*types.ConverseStreamOutputMemberContentBlockDelta); ok {
			if delta, ok := e.Value.Delta.(*types.ContentBlockDeltaMemberText); ok {
				text.WriteString(delta.Value)
			}
		}
	}
	return text.String(), events.Err() // nil also for a stream that was cut
}

// simulated is a server with the limits that the queue is given. It keeps a request's
// maxTokens until its answer ends, as Bedrock does.
func simulated() (llmtest.Provider, []llmtest.Option) {
	return llmtest.Bedrock(llmtest.RPM(100), llmtest.TPM(50_000)), []llmtest.Option{
		llmtest.WithLatency(llmtest.Latency{FirstToken: 300 * time.Millisecond, PerToken: 10 * time.Millisecond, Spread: 0.2}),
		llmtest.WithOutputTokens(60, 0.3),
		llmtest.WithFaultScript(
			llmtest.Fault{Kind: llmtest.FaultCut},
			llmtest.Fault{},
			llmtest.Fault{Status: http.StatusTooManyRequests},
			llmtest.Fault{Kind: llmtest.FaultFull, Status: http.StatusTooManyRequests}),
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("bedrock", flag.ContinueOnError)
	model := flags.String("model", "amazon.nova-lite-v1:0", "model to ask")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	provider, opts := simulated()
	from, err := service.Open(provider, opts, "AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")
	if err != nil {
		return err
	}
	defer from.Close()
	fmt.Fprintf(stdout, "Answered by %s.\n\n", from)

	client, err := newClient(ctx, from)
	if err != nil {
		return err
	}
	queue, err := llmqueue.NewQueue(*model,
		func(ctx context.Context, req llmqueue.Request[Chat]) (string, error) { return ask(ctx, client, req) },
		llmqueue.WithLimits(llmqueue.RPM(100), llmqueue.TPM(50_000))) // your account's quotas
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))

	streamed, err := queue.Submit(ctx, llmqueue.NewRequest(*model, Chat{Prompt: "Write two sentences about a river.", MaxTokens: 200, Stream: true}))
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Streamed after %s, %d tokens: %.40s…\n\n", batch.Attempts(streamed.Attempts), streamed.Usage.OutputTokens, streamed.Result)

	var chats []Chat
	for _, place := range []string{"the sea", "a mountain", "a desert", "a harbour", "an attic", "a night train", "a market", "a lighthouse"} {
		chats = append(chats, Chat{Prompt: "Write two sentences about " + place + ".", MaxTokens: 200})
	}
	sum, err := batch.Ask(ctx, queue, chats, func(i int, res llmqueue.Response[string]) {
		fmt.Fprintf(stdout, "%-40s %3d tokens in %.1fs after %s\n", chats[i].Prompt, res.Usage.OutputTokens, res.ProcessingTime().Seconds(), batch.Attempts(res.Attempts))
	})
	sum.Print(stdout, from.Transport.Calls(), queue.Info().Limits)
	return err
}

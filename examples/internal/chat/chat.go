// Package chat is the provider's side of the examples that speak OpenAI's protocol:
// a client of the official SDK whose HTTP client observes what the service says, so
// that no processor has to read errors, headers or usage.
package chat

import (
	"context"
	"errors"
	"net/http"
	"os"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/service"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

// DefaultModel is the model that the examples ask for.
const DefaultModel = "gpt-4.1-mini"

// KeyVariable has the key of the real service.
const KeyVariable = "OPENAI_API_KEY"

// Provider is where the answers come from.
type Provider struct {
	*service.Service
	Client openai.Client
}

// Real reports whether the real service will be asked: OPENAI_API_KEY is set.
func Real() bool { return service.Real(KeyVariable) }

// Simulator says how the simulator behaves that stands in for the real service.
type Simulator struct {
	Limits  []llmtest.Limit
	Options []llmtest.Option
	// Minute is how long a minute lasts there, the period of its limits. Zero
	// means a minute.
	Minute time.Duration
}

// Open returns the real service if there is a key (the SDK itself reads
// OPENAI_API_KEY and OPENAI_BASE_URL), and otherwise starts a simulator. The
// queue retries, so the SDK does not; further options override.
func Open(simulator Simulator, opts ...option.RequestOption) (*Provider, error) {
	return connect(simulator, opts, KeyVariable)
}

// Simulate is Open for examples that need several services: it never asks the real one.
func Simulate(simulator Simulator, opts ...option.RequestOption) (*Provider, error) {
	return connect(simulator, opts)
}

func connect(simulator Simulator, opts []option.RequestOption, variables ...string) (*Provider, error) {
	from, err := service.Open(llmtest.OpenAI(simulator.Limits...), simulator.Options, variables...)
	if err != nil {
		return nil, err
	}
	var transport http.RoundTripper = from.Transport
	if from.Simulated() {
		transport = withMinute(transport, simulator.Minute)
	}
	opts = append([]option.RequestOption{
		option.WithHTTPClient(&http.Client{Transport: llmhttp.NewTransport(transport)}),
		option.WithMaxRetries(0),
	}, opts...)
	if from.Simulated() {
		opts = append(opts, option.WithBaseURL(from.URL), option.WithAPIKey(service.Key))
	}
	return &Provider{Service: from, Client: openai.NewClient(opts...)}, nil
}

// String says who answers. It never contains the key.
func (p *Provider) String() string {
	if url := os.Getenv("OPENAI_BASE_URL"); url != "" && !p.Simulated() {
		return url
	}
	return p.Service.String()
}

// Reply is what a model says.
type Reply struct {
	Text   string
	Finish string // why it ended: "stop", or "length" when max tokens cut it short
	Usage  llmqueue.Usage
}

// Ask sends one prompt and waits for the whole answer, of maxTokens at most. Its
// errors are the SDK's. A processor returns them as they are: the queue knows
// from the HTTP client what they mean.
func (p *Provider) Ask(ctx context.Context, model, prompt string, maxTokens int64) (Reply, error) {
	res, err := p.Client.Chat.Completions.New(ctx, Params(model, prompt, maxTokens))
	if err != nil {
		return Reply{}, err
	}
	if len(res.Choices) == 0 {
		return Reply{}, errors.New("the answer has no choices")
	}
	return Reply{
		Text:   res.Choices[0].Message.Content,
		Finish: res.Choices[0].FinishReason,
		Usage:  usage(res.Usage),
	}, nil
}

// Params is a chat completion with one prompt in it.
func Params(model, prompt string, maxTokens int64) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:               model,
		Messages:            []openai.ChatCompletionMessageParamUnion{openai.UserMessage(prompt)},
		MaxCompletionTokens: openai.Int(maxTokens),
	}
}

// usage translates the SDK's usage into the queue's.
func usage(u openai.CompletionUsage) llmqueue.Usage {
	return llmqueue.Usage{
		InputTokens:       u.PromptTokens,
		OutputTokens:      u.CompletionTokens,
		CachedInputTokens: u.PromptTokensDetails.CachedTokens,
	}
}

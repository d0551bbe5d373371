// Package chat is the provider's side of the examples: a client of the official
// SDK that talks to the real service when OPENAI_API_KEY is set and to a
// simulator in this process otherwise, and the marks that tell a queue what to
// do about an error.
package chat

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmtest"
)

// DefaultModel is the model that the examples ask for.
const DefaultModel = "gpt-4.1-mini"

// Provider is where the answers come from.
type Provider struct {
	Client openai.Client
	// Server is the simulator; nil when the real service answers.
	Server *llmtest.Server
}

// Real reports whether the real service will be asked: OPENAI_API_KEY is set.
func Real() bool { return os.Getenv("OPENAI_API_KEY") != "" }

// Simulator says how the simulator behaves that stands in for the real service.
type Simulator struct {
	Limits  []llmtest.Limit
	Options []llmtest.Option
}

// Open returns the real service if there is a key (the SDK itself reads
// OPENAI_API_KEY and OPENAI_BASE_URL), and otherwise starts a simulator. The
// queue retries, so the SDK does not; further options override.
func Open(simulator Simulator, opts ...option.RequestOption) (*Provider, error) {
	opts = append([]option.RequestOption{option.WithMaxRetries(0)}, opts...)
	if Real() {
		return &Provider{Client: openai.NewClient(opts...)}, nil
	}
	srv, err := llmtest.Start(llmtest.OpenAI(simulator.Limits...), simulator.Options...)
	if err != nil {
		return nil, fmt.Errorf("start the simulator: %w", err)
	}
	opts = append(opts,
		option.WithBaseURL(srv.URL()),
		option.WithHTTPClient(srv.Client()),
		option.WithAPIKey("no-key-needed"))
	return &Provider{Client: openai.NewClient(opts...), Server: srv}, nil
}

// Close stops the simulator, if there is one.
func (p *Provider) Close() {
	if p.Server != nil {
		p.Server.Close()
	}
}

// String says who answers. It never contains the key.
func (p *Provider) String() string {
	if p.Server != nil {
		return "a simulator in this process (set OPENAI_API_KEY to ask the real service)"
	}
	if url := os.Getenv("OPENAI_BASE_URL"); url != "" {
		return url
	}
	return "the real service"
}

// Reply is what a model says.
type Reply struct {
	Text   string
	Finish string // why it ended: "stop", or "length" when max tokens cut it short
	Usage  llmqueue.Usage
}

// Ask sends one prompt and waits for the whole answer, of maxTokens at most. Its
// errors are the SDK's: a processor gives them to Mark.
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
		Usage:  Usage(res.Usage),
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

// Mark tells the queue what an SDK error means: 429 pauses the queue for as long
// as the provider asks, a server or connection fault is tried again, and anything
// else, such as a bad request or a wrong key, fails at once.
func Mark(err error) error {
	var api *openai.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return err // the request was canceled: nothing to say about the provider
	case !errors.As(err, &api):
		return llmqueue.Retryable(err) // no usable answer: the connection failed
	case api.StatusCode == http.StatusTooManyRequests && api.Code == "insufficient_quota":
		return llmqueue.Permanent(err) // the account is out of money: waiting does not help
	case api.StatusCode == http.StatusTooManyRequests:
		return llmqueue.RateLimited(err, retryAfter(api.Response))
	case api.StatusCode >= 500, api.StatusCode == http.StatusRequestTimeout, api.StatusCode == http.StatusConflict:
		return llmqueue.Retryable(err)
	}
	return llmqueue.Permanent(err)
}

// retryAfter reads how long the provider asks to wait; 0 when it does not say.
func retryAfter(res *http.Response) time.Duration {
	if res == nil {
		return 0
	}
	if ms, err := strconv.ParseFloat(res.Header.Get("Retry-After-Ms"), 64); err == nil {
		return time.Duration(ms * float64(time.Millisecond))
	}
	header := res.Header.Get("Retry-After")
	if s, err := strconv.ParseFloat(header, 64); err == nil {
		return time.Duration(s * float64(time.Second))
	}
	if at, err := http.ParseTime(header); err == nil {
		return time.Until(at)
	}
	return 0
}

// Usage translates the SDK's usage into the queue's.
func Usage(u openai.CompletionUsage) llmqueue.Usage {
	return llmqueue.Usage{
		InputTokens:       u.PromptTokens,
		OutputTokens:      u.CompletionTokens,
		CachedInputTokens: u.PromptTokensDetails.CachedTokens,
	}
}

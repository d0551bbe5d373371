// Langchaingo puts a queue beneath LangChain for Go: Model is an llms.Model, so chains,
// agents and whatever else takes one keep the provider's limits without knowing.
//
// It speaks with OpenAI, whose limits the queue learns from the first answer's headers.
// It runs against a simulator in this process, or, when OPENAI_API_KEY is set, against
// the real service:
//
//	go run ./examples/langchaingo
//	OPENAI_API_KEY=… go run ./examples/langchaingo -model gpt-4.1-mini
//
// Each text goes through two steps, a summary and a translation of that; all texts do
// so at once. The simulator fails one call (500): LangChain's callback sees the fault,
// the queue tries again, and the step has its answer all the same.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tmc/langchaingo/callbacks"
	"github.com/tmc/langchaingo/llms"
	"github.com/tmc/langchaingo/llms/openai"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/batch"
	"github.com/llmqueue/llmqueue/examples/internal/chat"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/examples/internal/service"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("langchaingo", run) }

// Call is what LangChain asks of a model.
type Call struct {
	Messages []llms.MessageContent
	Options  []llms.CallOption
}

// EstimateUsage tells the queue what to reserve: all text, and all that the answer may
// become.
func (c Call) EstimateUsage() llmqueue.Usage {
	var options llms.CallOptions
	for _, o := range c.Options {
		o(&options)
	}
	u := llmqueue.Usage{OutputTokens: int64(options.MaxTokens)}
	for _, m := range c.Messages {
		for _, part := range m.Parts {
			if text, ok := part.(llms.TextContent); ok {
				u.InputTokens += llmqueue.EstimateTokens(text.Text)
			}
		}
	}
	return u
}

// Model is a model whose calls go through a queue. Safe for concurrent use.
type Model struct {
	queue *llmqueue.Queue[Call, *llms.ContentResponse]
}

var _ llms.Model = Model{}

// GenerateContent waits its turn, and for the answer.
func (m Model) GenerateContent(ctx context.Context, messages []llms.MessageContent, options ...llms.CallOption) (*llms.ContentResponse, error) {
	return m.queue.Do(ctx, Call{messages, options})
}

// Call asks with a single prompt.
func (m Model) Call(ctx context.Context, prompt string, options ...llms.CallOption) (string, error) {
	return llms.GenerateFromSinglePrompt(ctx, m, prompt, options...)
}

// newModel puts a queue before a model of LangChain's.
func newModel(name string, model llms.Model, opts ...llmqueue.Option) (Model, error) {
	queue, err := llmqueue.NewQueue(name, func(ctx context.Context, req llmqueue.Request[Call]) (*llms.ContentResponse, error) {
		return model.GenerateContent(ctx, req.Params.Messages, append(slices.Clip(req.Params.Options), streamed)...)
	}, opts...)
	return Model{queue}, err
}

// streamed is the last of a call's options: when somebody reads an answer as it is
// written, half of it cannot be taken back, so there is no second attempt.
func streamed(options *llms.CallOptions) {
	read := options.StreamingFunc
	if read == nil {
		return
	}
	options.StreamingFunc = func(ctx context.Context, chunk []byte) error {
		llmqueue.Streamed(ctx)
		return read(ctx, chunk)
	}
}

// newOpenAI returns LangChain's model. The transport tells the queue what the service
// says. For the real service from.Transport only counts calls: yours is
// llmhttp.NewTransport(nil).
func newOpenAI(model string, from *service.Service, seen callbacks.Handler) (*openai.LLM, error) {
	opts := []openai.Option{
		openai.WithModel(model),
		openai.WithHTTPClient(&http.Client{Transport: llmhttp.NewTransport(from.Transport)}),
		openai.WithCallback(seen),
	}
	if from.Simulated() {
		opts = append(opts, openai.WithBaseURL(from.URL), openai.WithToken(service.Key))
	}
	return openai.New(opts...)
}

// counter is a handler of LangChain's callbacks: they are called for each attempt.
type counter struct {
	callbacks.SimpleHandler
	begun, ended atomic.Int64
}

func (c *counter) HandleLLMGenerateContentStart(context.Context, []llms.MessageContent) {
	c.begun.Add(1)
}

func (c *counter) HandleLLMGenerateContentEnd(context.Context, *llms.ContentResponse) {
	c.ended.Add(1)
}

// translate is a chain of two steps. It knows nothing of a queue.
func translate(ctx context.Context, model llms.Model, text string) (string, error) {
	summary, err := llms.GenerateFromSinglePrompt(ctx, model, "Summarise in one sentence:\n\n"+text, llms.WithMaxTokens(60))
	if err != nil {
		return "", fmt.Errorf("summary: %w", err)
	}
	french, err := llms.GenerateFromSinglePrompt(ctx, model, "Translate into French:\n\n"+summary, llms.WithMaxTokens(90))
	if err != nil {
		return "", fmt.Errorf("translation: %w", err)
	}
	return french, nil
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("langchaingo", flag.ContinueOnError)
	name := flags.String("model", chat.DefaultModel, "model to ask")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	from, err := service.Open(llmtest.OpenAI(llmtest.RPM(500), llmtest.TPM(30_000)), []llmtest.Option{
		llmtest.WithLatency(llmtest.TypicalLatency()),
		llmtest.WithFaultScript(llmtest.Fault{}, llmtest.Fault{}, llmtest.Fault{Status: http.StatusInternalServerError}),
	}, chat.KeyVariable)
	if err != nil {
		return err
	}
	defer from.Close()
	fmt.Fprintf(stdout, "Answered by %s.\n\n", from)

	var seen counter
	llm, err := newOpenAI(*name, from, &seen)
	if err != nil {
		return err
	}
	model, err := newModel(*name, llm, llmqueue.WithLearnedLimits())
	if err != nil {
		return err
	}
	defer model.queue.Shutdown(context.WithoutCancel(ctx))

	texts := []string{
		"The old bridge over the mill stream is open again after fourteen months of work.",
		"The ferry to the northern islands sails twice a day until the end of October.",
		"A baker in the old town sells bread from wheat that she grows on the roof.",
		"The night train stops at every station again, as it did forty years ago.",
		"A storm took the roof of the market hall; the stalls moved into the school.",
		"The lighthouse has a new lamp, which ships see from thirty miles away.",
	}
	var chains sync.WaitGroup
	results, errs := make([]string, len(texts)), make([]error, len(texts))
	begin := time.Now()
	for i, text := range texts {
		chains.Go(func() { results[i], errs[i] = translate(ctx, model, text) })
	}
	chains.Wait()
	took := time.Since(begin)
	for i, text := range texts {
		if errs[i] == nil {
			fmt.Fprintf(stdout, "%.40s… > %.50s…\n", text, results[i])
		}
	}
	info := model.queue.Info()
	fmt.Fprintf(stdout, "\nLangChain's callback saw %d calls begin and %d end with an answer.\n", seen.begun.Load(), seen.ended.Load())
	batch.Summary{Questions: 2 * len(texts), Answered: int(info.Completed), Usage: info.Usage, Took: took}.
		Print(stdout, from.Transport.Calls(), info.Limits)
	return errors.Join(errs...)
}

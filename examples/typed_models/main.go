// Typed_models sends a struct and gets a struct back. The `validate` tags of the
// params are checked before a request costs anything, those of the result before
// anyone works with it. The file stands alone: copy it.
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
	"strings"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() {
	model := flag.String("model", "gpt-4.1-mini", "model to ask")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *model, os.Stdout); err != nil {
		log.Fatal("typed_models: ", err)
	}
}

// Article is what we send.
type Article struct {
	Title     string `validate:"required"`
	Body      string `validate:"required,min=40"`
	Audience  string `validate:"oneof=children experts everybody"`
	MaxTokens int64  `validate:"gte=1,lte=500"`
}

func (a Article) prompt() string {
	return fmt.Sprintf("Summarise this article for %s, in one sentence.\n\n%s\n\n%s", a.Audience, a.Title, a.Body)
}

// EstimateUsage says what to reserve for an article: the queue asks it, because a
// request without an Estimate takes that of its params.
func (a Article) EstimateUsage() llmqueue.Usage {
	return llmqueue.Usage{InputTokens: llmqueue.EstimateTokens(a.prompt()), OutputTokens: a.MaxTokens}
}

// Summary is what comes back. A summary that was cut short is not a result.
type Summary struct {
	Text   string `validate:"required"`
	Words  int    `validate:"gte=1"`
	Finish string `validate:"eq=stop"`
	usage  llmqueue.Usage
}

// TokenUsage says what the call took: a result may do that instead of a call of
// ReportUsage in the processor.
func (s Summary) TokenUsage() llmqueue.Usage { return s.usage }

func run(ctx context.Context, model string, out io.Writer) error {
	client, closeClient, err := newClient(out)
	if err != nil {
		return err
	}
	defer closeClient()

	summarize := func(ctx context.Context, req llmqueue.Request[Article]) (Summary, error) {
		res, err := client.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{
			Model:               req.ModelID,
			Messages:            []openai.ChatCompletionMessageParamUnion{openai.UserMessage(req.Params.prompt())},
			MaxCompletionTokens: openai.Int(req.Params.MaxTokens),
		})
		if err != nil {
			return Summary{}, err
		}
		if len(res.Choices) == 0 {
			return Summary{}, errors.New("the answer has no choices")
		}
		text := res.Choices[0].Message.Content
		return Summary{
			Text:   text,
			Words:  len(strings.Fields(text)),
			Finish: res.Choices[0].FinishReason,
			usage:  llmqueue.Usage{InputTokens: res.Usage.PromptTokens, OutputTokens: res.Usage.CompletionTokens},
		}, nil
	}
	queue, err := llmqueue.NewQueue(model, summarize, llmqueue.WithLimits(llmqueue.RPM(500), llmqueue.TPM(100_000)))
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))

	article := Article{
		Title: "The bridge is open again",
		Body: "After fourteen months of work the old iron bridge over the mill stream carries walkers and cyclists again. " +
			"Its beams were taken to a yard, mended and painted, and put back by a crane that itself had to be built on site.",
		Audience:  "everybody",
		MaxTokens: 300,
	}
	fmt.Fprintln(out, "A valid article:")
	res, err := queue.Submit(ctx, llmqueue.NewRequest(model, article))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "  %s, %d words, %d tokens of %d reserved\n  %s\n\n", res.Status, res.Result.Words,
		res.Usage.Total(), article.EstimateUsage().Total(), res.Result.Text)

	fmt.Fprintln(out, "Params that break their tags are refused at once, and cost nothing:")
	wrong := article
	wrong.Audience = "cats"
	_, err = queue.Do(ctx, wrong)
	if !errors.Is(err, llmqueue.ErrInvalidParams) {
		return fmt.Errorf("expected invalid params, got %w", err)
	}
	fmt.Fprintf(out, "  %v\n\n", err)

	fmt.Fprintln(out, "A result that breaks its tags is a failed request, here because two tokens cut it short:")
	short := article
	short.MaxTokens = 2
	res, err = queue.Submit(ctx, llmqueue.NewRequest(model, short))
	if !errors.Is(err, llmqueue.ErrInvalidResult) {
		return fmt.Errorf("expected an invalid result, got %w", err)
	}
	fmt.Fprintf(out, "  %s, its %d tokens are counted all the same\n  %v\n", res.Status, res.Usage.Total(), err)
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

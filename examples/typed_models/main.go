// Typed_models sends a struct and gets a struct back. The `validate` tags of the
// params are checked before a request costs anything, those of the result before
// anyone works with it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/chat"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("typed_models", run) }

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

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("typed_models", flag.ContinueOnError)
	model := flags.String("model", chat.DefaultModel, "model to ask")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	provider, err := chat.Open(chat.Simulator{
		Limits: []llmtest.Limit{llmtest.RPM(500), llmtest.TPM(100_000)},
	})
	if err != nil {
		return err
	}
	defer provider.Close()
	fmt.Fprintf(stdout, "Answered by %s.\n\n", provider)

	queue, err := llmqueue.NewQueue(*model,
		func(ctx context.Context, req llmqueue.Request[Article]) (Summary, error) {
			reply, err := provider.Ask(ctx, req.ModelID, req.Params.prompt(), req.Params.MaxTokens)
			return Summary{
				Text:   reply.Text,
				Words:  len(strings.Fields(reply.Text)),
				Finish: reply.Finish,
				usage:  reply.Usage,
			}, err
		},
		llmqueue.WithLimits(llmqueue.RPM(500), llmqueue.TPM(100_000)))
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
	fmt.Fprintln(stdout, "A valid article:")
	res, err := queue.Submit(ctx, llmqueue.NewRequest(*model, article))
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "  %s, %d words, %d tokens of %d reserved\n  %s\n\n", res.Status, res.Result.Words,
		res.Usage.Total(), article.EstimateUsage().Total(), res.Result.Text)

	fmt.Fprintln(stdout, "Params that break their tags are refused at once, and cost nothing:")
	wrong := article
	wrong.Audience = "cats"
	_, err = queue.Do(ctx, wrong)
	if !errors.Is(err, llmqueue.ErrInvalidParams) {
		return fmt.Errorf("expected invalid params, got %w", err)
	}
	fmt.Fprintf(stdout, "  %v\n\n", err)

	fmt.Fprintln(stdout, "A result that breaks its tags is a failed request, here because two tokens cut it short:")
	short := article
	short.MaxTokens = 2
	res, err = queue.Submit(ctx, llmqueue.NewRequest(*model, short))
	if !errors.Is(err, llmqueue.ErrInvalidResult) {
		return fmt.Errorf("expected an invalid result, got %w", err)
	}
	fmt.Fprintf(stdout, "  %s, its %d tokens are counted all the same\n  %v\n", res.Status, res.Usage.Total(), err)
	return nil
}

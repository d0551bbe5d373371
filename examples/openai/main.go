// Openai sends a file of questions through the official OpenAI SDK, as fast as a
// limit of requests and a limit of tokens allow and no faster.
//
// It runs against a simulator in this process, which enforces the same limits
// over a minute that is scaled down to seconds, or, when OPENAI_API_KEY is set,
// against the real service. With -no-queue the same calls are made by plain
// goroutines and the SDK's own retries, to compare.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/llmqueue/llmqueue/examples/internal/chat"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("openai", run) }

// settings are the flags, with the defaults filled in.
type settings struct {
	input, output  string
	model          string
	rpm, tpm       int64
	concurrency    int
	period, margin time.Duration
	maxTokens      int64
	charge         string
	noQueue        bool
}

// What a provider charges for a call.
const (
	chargeReserved = "reserved"
	chargeUsed     = "used"
)

func parse(args []string, stdout io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("openai", flag.ContinueOnError)
	flags.StringVar(&s.input, "input", "", "JSONL `file` with a \"question\" or \"prompt\" in each line (default: a sample of 60 questions)")
	flags.StringVar(&s.output, "output", "", "JSONL `file` to write questions and answers to, as they come in")
	flags.StringVar(&s.model, "model", chat.DefaultModel, "model to ask")
	flags.Int64Var(&s.rpm, "rpm", 16, "requests per minute")
	flags.Int64Var(&s.tpm, "tpm", 3_600, "tokens per minute")
	flags.IntVar(&s.concurrency, "concurrency", 64, "requests at once")
	flags.DurationVar(&s.period, "period", 0, "how long a minute lasts (default 1m for the real service, 3s for the simulator)")
	flags.DurationVar(&s.margin, "margin", 0, "how much longer than the period a charge is held (default: the library's 2% for the real service, 40ms for the simulator)")
	flags.Int64Var(&s.maxTokens, "max-tokens", 0, "max_completion_tokens of each request (default: by the length of the question)")
	flags.StringVar(&s.charge, "charge", chargeReserved, "what the provider counts: reserved (prompt and max_completion_tokens, on arrival) or used (the answer's real usage, at its end)")
	flags.BoolVar(&s.noQueue, "no-queue", false, "bypass the queue: plain goroutines and the SDK's own retries")
	if err := program.Parse(flags, args, stdout); err != nil {
		return s, err
	}
	switch {
	case s.rpm < 1 || s.tpm < 1 || s.concurrency < 1:
		return s, program.BadInput("-rpm, -tpm and -concurrency want at least 1")
	case s.period < 0 || s.margin < 0 || s.maxTokens < 0:
		return s, program.BadInput("-period, -margin and -max-tokens want no negative values")
	case s.charge != chargeReserved && s.charge != chargeUsed:
		return s, program.BadInput("-charge wants %s or %s, not %q", chargeReserved, chargeUsed, s.charge)
	}
	if s.period == 0 {
		s.period = time.Minute
		if !chat.Real() {
			s.period = 3 * time.Second
		}
	}
	if s.margin == 0 && !chat.Real() {
		s.margin = 40 * time.Millisecond // the library's 2% suits periods of a minute
	}
	return s, nil
}

// simulator is a server that enforces the limits exactly: no more than the amount
// in any period whatever.
func (s settings) simulator() chat.Simulator {
	sim := chat.Simulator{
		Limits: []llmtest.Limit{llmtest.RPM(s.rpm).Per(s.period), llmtest.TPM(s.tpm).Per(s.period)},
		Options: []llmtest.Option{
			llmtest.WithStrategy(llmtest.SlidingWindow),
			llmtest.WithRefusedCounted(), // as OpenAI does: knocking in vain uses up requests
			llmtest.WithLatency(llmtest.TypicalLatency().Scaled(s.period.Minutes())),
			llmtest.WithOutputTokens(120, 0.5),
		},
	}
	if s.charge == chargeUsed {
		sim.Options = append(sim.Options, llmtest.WithActualUsage())
	}
	return sim
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	s, err := parse(args, stdout)
	if err != nil {
		return err
	}
	texts, err := readQuestions(s.input)
	if err != nil {
		return err
	}
	ask, err := newAsker(s)
	if err != nil {
		return err
	}
	defer ask.close()
	out, err := newAnswerFile(s.output)
	if err != nil {
		return err
	}

	fmt.Fprintf(stdout, "%d questions to %s, answered by %s.\n", len(texts), s.model, ask.provider)
	fmt.Fprintf(stdout, "Limits: %d requests and %s tokens per %v, %d at once.\n", s.rpm, thousands(s.tpm), s.period, s.concurrency)
	job := &job{asker: ask, questions: s.questions(texts), out: out}
	if s.noQueue {
		job.runWithoutQueue(ctx, stdout)
	} else if err := job.runWithQueue(ctx, stdout); err != nil {
		return err
	}
	job.report(stdout)
	if err := out.close(); err != nil {
		return fmt.Errorf("-output: %w", err)
	}
	return job.verdict(ctx)
}

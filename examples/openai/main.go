// Openai sends a file of questions through the official OpenAI SDK, as fast as the
// provider's limits of requests and tokens allow and no faster.
//
// The queue is given no limits. It learns them from the headers of the first answer,
// which the transport of llmhttp reads (see internal/chat); the processor calls the
// SDK and returns its errors as they are.
//
// It runs against a simulator in this process, which enforces -rpm and -tpm, or,
// when OPENAI_API_KEY is set, against the real service:
//
//	go run ./examples/openai
//	OPENAI_API_KEY=… go run ./examples/openai -model gpt-4.1-mini
//
// The simulator's minute lasts three seconds, so that a run has several of them. As
// OpenAI's headers cannot say so, its answers name the period in the headers of the
// IETF's draft instead; with -period 1m they are OpenAI's own. With -known the queue
// is given the limits. With -no-queue the same calls are made by plain goroutines
// and the SDK's own retries, to compare.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
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
	known, noQueue bool
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
	flags.Int64Var(&s.rpm, "rpm", 16, "requests per minute that the simulator allows, and with -known the queue")
	flags.Int64Var(&s.tpm, "tpm", 3_600, "tokens per minute, likewise")
	flags.IntVar(&s.concurrency, "concurrency", 64, "requests at once")
	flags.DurationVar(&s.period, "period", 0, "how long a minute lasts (default 1m for the real service, 3s for the simulator)")
	flags.DurationVar(&s.margin, "margin", 0, "how much longer than the period a charge is held (default: the library's 2% for the real service, 40ms for the simulator)")
	flags.Int64Var(&s.maxTokens, "max-tokens", 0, "max_completion_tokens of each request (default: by the length of the question)")
	flags.StringVar(&s.charge, "charge", chargeReserved, "what the provider counts: reserved (prompt and max_completion_tokens, on arrival) or used (the answer's real usage, at its end)")
	flags.BoolVar(&s.known, "known", false, "give the queue the limits -rpm and -tpm (default: it learns the limits from the answers)")
	flags.BoolVar(&s.noQueue, "no-queue", false, "bypass the queue: plain goroutines and the SDK's own retries")
	if err := program.Parse(flags, args, stdout); err != nil {
		return s, err
	}
	var ignored error
	flags.Visit(func(f *flag.Flag) {
		if chat.Real() && !s.known && !s.noQueue && slices.Contains([]string{"rpm", "tpm", "period"}, f.Name) {
			ignored = program.BadInput("-%s is about the simulator, or with -known about what the queue is told of the real service", f.Name)
		}
	})
	switch {
	case ignored != nil:
		return s, ignored
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
		Minute: s.period,
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

// limits says which limits there are, as far as the program knows, and who knows them.
func (s settings) limits() string {
	stated := fmt.Sprintf("%d requests and %s tokens per %s, %d at once", s.rpm, thousands(s.tpm), length(s.period), s.concurrency)
	switch {
	case s.known || s.noQueue:
		return "Limits: " + stated + "."
	case chat.Real():
		return fmt.Sprintf("Limits: the queue learns them from the answers; %d at once.", s.concurrency)
	}
	return "Limits: " + stated + ". The queue learns them from the answers."
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
	fmt.Fprintln(stdout, s.limits())
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

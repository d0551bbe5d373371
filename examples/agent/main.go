// Agent runs an agent with two tools many times side by side, with Eino, under a limit that holds
// up none of its runs: each call of the model waits in the queue, by the HTTP client alone.
//
//	go run ./examples/agent              # calls wait
//	go run ./examples/agent -no-queue    # nothing waits: calls are refused, and runs fail
//	go run ./examples/agent -queue-runs  # whole runs wait: each counts as one request, and is begun anew
//
// A run asks the model eleven times. It runs against a simulator in this process, or, when
// OPENAI_API_KEY is set, against the real service.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/chat"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/examples/internal/service"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("agent", run) }

const (
	limit  = 60 // requests
	period = 2 * time.Second
)

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("agent", flag.ContinueOnError)
	model := flags.String("model", chat.DefaultModel, "model to ask")
	runs := flags.Int("runs", 20, "`number` of runs side by side")
	noQueue := flags.Bool("no-queue", false, "let no call wait")
	queueRuns := flags.Bool("queue-runs", false, "let whole runs wait, not calls")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	if *runs < 1 || *noQueue && *queueRuns {
		return program.BadInput("give -runs 1 or more, and -no-queue or -queue-runs or neither")
	}
	from, err := service.Open(llmtest.OpenAI(llmtest.RPM(limit).Per(period)), []llmtest.Option{
		llmtest.WithLatency(llmtest.Latency{FirstToken: 40 * time.Millisecond, PerToken: time.Millisecond}),
		llmtest.WithFaultShare(0.05, llmtest.Fault{Status: http.StatusInternalServerError}),
		llmtest.WithOutputTokens(20, 0.5),
	}, chat.KeyVariable)
	if err != nil {
		return err
	}
	defer from.Close()
	var transport http.RoundTripper = from.Transport
	if from.Simulated() {
		transport = script{transport}
	}

	// What a user writes: a queue for the model, and a transport that lets calls wait in it.
	var all *agent
	q, err := llmqueue.NewQueue(*model, func(ctx context.Context, _ llmqueue.Request[struct{}]) (string, error) {
		return all.run(ctx)
	}, llmqueue.WithLimits(llmqueue.RPM(limit).Per(period)))
	if err != nil {
		return err
	}
	defer q.Shutdown(context.WithoutCancel(ctx))
	one := func(ctx context.Context) error { _, err := all.run(ctx); return err }
	switch {
	case *noQueue:
	case *queueRuns:
		transport = llmhttp.NewTransport(transport)
		one = func(ctx context.Context) error { _, err := q.Do(ctx, struct{}{}); return err }
	default:
		transport = llmhttp.NewQueueTransport(q, transport)
	}
	if all, err = newAgent(ctx, *model, from, os.Getenv(chat.KeyVariable), transport); err != nil {
		return err
	}

	fmt.Fprintf(stdout, "Answered by %s. The limit: %d requests per %v.\n\n", from, limit, period)
	begin := time.Now()
	failed, first := sideBySide(ctx, *runs, one)
	took := time.Since(begin)
	if errors.Is(first, context.Canceled) {
		return first
	}
	report(stdout, *runs, failed, all, from, took)
	if first != nil {
		fmt.Fprintf(stdout, "\nOne of the runs that failed: %v\n", first)
	}
	if failed > 0 && !*noQueue && !*queueRuns {
		return fmt.Errorf("%d of %d runs failed: %w", failed, *runs, first)
	}
	return nil
}

// sideBySide runs them all at once, and returns how many failed, and one of the errors.
func sideBySide(ctx context.Context, runs int, one func(context.Context) error) (failed int, first error) {
	var wg sync.WaitGroup
	errs := make([]error, runs)
	for i := range runs {
		wg.Go(func() { errs[i] = one(ctx) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			failed++
			first = err
		}
	}
	return failed, first
}

// report writes what became of the runs and of their calls.
func report(w io.Writer, runs, failed int, all *agent, from *service.Service, took time.Duration) {
	calls := from.Transport.Calls()
	line := func(name string, value any) { fmt.Fprintf(w, "%-34s %8v\n", name, value) }
	line("runs", runs)
	line("runs that failed", failed)
	line("calls of the model that they need", runs*(toolCallsPerRun+1))
	line("calls accepted", calls.Accepted)
	line("calls refused", calls.Refused)
	line("calls that met another fault", calls.Faults+calls.Overloaded)
	line("tool calls that they need", runs*toolCallsPerRun)
	line("tool calls", all.toolCalls.Load())
	line("time", took.Round(10*time.Millisecond))
	if !from.Simulated() || failed > 0 {
		return
	}
	least := leastTime(from.Server.Arrivals())
	line("least time for these calls", least.Round(10*time.Millisecond))
	line("time / least time", fmt.Sprintf("%.3f", took.Seconds()/least.Seconds()))
}

// leastTime is that in which the limit lets in the calls that were accepted, and the shortest of them ends.
func leastTime(arrivals []llmtest.Arrival) time.Duration {
	accepted, shortest := 0, time.Duration(0)
	for _, a := range arrivals {
		if a.Verdict == llmtest.Refused {
			continue
		}
		if accepted++; a.Verdict == llmtest.Completed && (shortest == 0 || a.Duration < shortest) {
			shortest = a.Duration
		}
	}
	return time.Duration((max(accepted, 1)-1)/limit)*period + shortest
}

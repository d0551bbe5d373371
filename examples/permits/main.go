// Permits are for callers who make the call themselves: code that cannot be wrapped in a
// processor asks the queue for leave, calls, and says how it went. Here a client that knows
// nothing of queues is called so, and one of its calls is refused.
//
//	go run ./examples/permits
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/program"
)

func main() { program.Main("permits", run) }

// service stands for a client that knows nothing of queues. It refuses its second call.
type service struct{ calls int }

var errBusy = errors.New("429 too many requests")

func (s *service) ask(ctx context.Context, question string) (string, error) {
	if s.calls++; s.calls == 2 {
		return "", errBusy
	}
	select {
	case <-time.After(20 * time.Millisecond):
		return "You asked: " + question, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("permits", flag.ContinueOnError)
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	// A queue has a processor, for requests. One that only gives permits never runs it.
	queue, err := llmqueue.NewQueue("model",
		func(context.Context, llmqueue.Request[string]) (string, error) {
			return "", errors.New("only permits here")
		},
		llmqueue.WithLimits(llmqueue.RPM(500), llmqueue.TPM(10_000), llmqueue.Concurrent(1)))
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))
	client := new(service)

	// Acquire, the call, Done: and Again for as long as Done asks for it.
	for _, question := range []string{"why is the sky blue?", "why is the sea salty?"} {
		answer, attempts, err := ask(ctx, queue, client, question)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "Acquire: %-36s attempts %d\n", answer, attempts)
	}

	// Call does all of that around a function, on this goroutine.
	var answer string
	err = queue.Call(ctx, llmqueue.Claim{Estimate: llmqueue.Usage{InputTokens: 10, OutputTokens: 20}},
		func(ctx context.Context) (err error) {
			if answer, err = client.ask(ctx, "what is rain?"); err == nil {
				llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 4, OutputTokens: 6})
			}
			return err
		})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "Call:    %s\n", answer)

	// A permit that is forgotten is not lost for good: its slot is free when its context ends.
	forgetful, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := queue.Acquire(forgetful, llmqueue.Claim{}); err != nil {
		return err
	}
	permit, err := queue.Acquire(ctx, llmqueue.Claim{})
	if err != nil {
		return err
	}
	if err := permit.Done(nil); err != nil {
		return err
	}
	info := queue.Info()
	fmt.Fprintf(stdout, "\n%d permits: %d completed, %d canceled; %d attempts, %d refused, %d tokens\n",
		info.Accepted, info.Completed, info.Canceled, info.Attempts, info.Refused, info.Usage.Total())
	return nil
}

// ask makes a call with a permit, and tells how many attempts it took.
func ask(ctx context.Context, queue llmqueue.Acquirer, client *service, question string) (answer string, attempts int, err error) {
	permit, err := queue.Acquire(ctx, llmqueue.Claim{Estimate: llmqueue.Usage{InputTokens: 10, OutputTokens: 20}})
	if err != nil {
		return "", 0, err
	}
	for {
		attempts++
		answer, err = client.ask(permit.Context(), question)
		if errors.Is(err, errBusy) {
			err = llmqueue.RateLimited(err, 100*time.Millisecond) // the queue pauses, and this call keeps its place
		} else if err == nil {
			llmqueue.ReportUsage(permit.Context(), llmqueue.Usage{InputTokens: 4, OutputTokens: 6})
		}
		if err = permit.Done(err); !errors.Is(err, llmqueue.ErrTryAgain) {
			return answer, attempts, err
		}
		if err = permit.Again(ctx); err != nil {
			return "", attempts, err
		}
	}
}

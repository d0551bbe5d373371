// Advanced_usage shows several models behind one manager, every way in which a
// request can fail, fire and forget with a later Wait, and what the queues tell
// about themselves. It calls no LLM: its processor is a function that does as the
// params say.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/program"
)

func main() { program.Main("advanced_usage", run) }

// Task is what the processor is told to do.
type Task struct {
	Name string                      `validate:"required"`
	Do   func(context.Context) error // nil: succeed at once
}

// models is what a configuration file would hold. The slow model's two requests
// per second make a line form in front of it.
const models = `[
	{"model_id": "large", "rate_limiters": [
		{"type": "rpm", "limit": 500},
		{"type": "tpm", "limit": 10000},
		{"type": "concurrent", "limit": 4}]},
	{"model_id": "slow", "rate_limiters": [
		{"type": "rpm", "limit": 2, "time_period": "1s"}]}
]`

// process stands in for a provider.
func process(ctx context.Context, req llmqueue.Request[Task]) (string, error) {
	llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 20, OutputTokens: 5})
	if req.Params.Do != nil {
		if err := req.Params.Do(ctx); err != nil {
			return "", err
		}
	}
	return req.Params.Name + " by " + req.ModelID, nil
}

// These are for Task.Do.
func refuse(context.Context) error { return llmqueue.Permanent(errors.New("the content was refused")) }
func crash(context.Context) error  { panic("a bug in the processor") }
func hang(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// busy fails for so many attempts, each time with an error that is worth a retry.
func busy(attempts int32) func(context.Context) error {
	var n atomic.Int32
	return func(context.Context) error {
		if n.Add(1) > attempts {
			return nil
		}
		return llmqueue.Retryable(errors.New("the server is busy"))
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	if err := program.Parse(flag.NewFlagSet("advanced_usage", flag.ContinueOnError), args, stdout); err != nil {
		return err
	}

	fmt.Fprintln(stdout, "1. Several models, each with limits of its own")
	var configs []llmqueue.ModelConfig
	if err := json.Unmarshal([]byte(models), &configs); err != nil {
		return err
	}
	manager := llmqueue.NewManager[Task, string](
		llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 3, BaseDelay: 20 * time.Millisecond}),
	)
	defer manager.Shutdown(context.WithoutCancel(ctx))
	if err := manager.RegisterAll(configs, process); err != nil {
		return err
	}
	for _, model := range manager.Models() {
		res, err := manager.Submit(ctx, llmqueue.NewRequest(model, Task{Name: "greeting"}))
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "   %-6s %s: %q\n", model, res.Status, res.Result)
	}

	if err := showErrors(ctx, stdout, manager); err != nil {
		return err
	}
	if err := fireAndForget(ctx, stdout, manager); err != nil {
		return err
	}
	return showInfo(stdout, manager)
}

// showErrors makes one request for each way to fail, and tells the errors apart.
func showErrors(ctx context.Context, stdout io.Writer, manager *llmqueue.Manager[Task, string]) error {
	task := func(t Task) llmqueue.Request[Task] { return llmqueue.NewRequest("large", t) }
	tooLarge := task(Task{Name: "novel"})
	tooLarge.Estimate = llmqueue.Usage{InputTokens: 9_000, OutputTokens: 5_000}
	impatient := llmqueue.NewRequest("slow", Task{Name: "urgent"})
	impatient.MaxWait = time.Millisecond

	fmt.Fprintln(stdout, "\n2. Errors, told apart with errors.Is and errors.As")
	// With the greeting this fills the slow model's window: the next has to wait.
	if _, err := manager.Submit(ctx, llmqueue.NewRequest("slow", Task{Name: "second greeting"})); err != nil {
		return err
	}
	cases := []struct {
		what     string
		patience time.Duration // of the caller
		req      llmqueue.Request[Task]
	}{
		{"an unknown model", time.Minute, llmqueue.NewRequest("tiny", Task{Name: "greeting"})},
		{"params without a name", time.Minute, task(Task{})},
		{"more tokens than the limit", time.Minute, tooLarge},
		{"no turn within MaxWait", time.Minute, impatient},
		{"the caller gives up", 30 * time.Millisecond, task(Task{Name: "essay", Do: hang})},
		{"the processor fails", time.Minute, task(Task{Name: "poem", Do: refuse})},
		{"the processor panics", time.Minute, task(Task{Name: "poem", Do: crash})},
		{"busy on every attempt", time.Minute, task(Task{Name: "poem", Do: busy(99)})},
		{"busy at first", time.Minute, task(Task{Name: "poem", Do: busy(2)})},
	}
	for _, c := range cases {
		callerCtx, cancel := context.WithTimeout(ctx, c.patience)
		res, err := manager.Submit(callerCtx, c.req)
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		fmt.Fprintf(stdout, "   %-27s %s\n", c.what, explain(res, err))
	}
	return nil
}

// explain is how a caller decides what an error means.
func explain(res llmqueue.Response[string], err error) string {
	how := string(res.Status)
	if how == "" {
		how = "refused" // the response is zero: nothing was accepted, nothing was sent
	}
	var (
		failed   *llmqueue.ProcessingError
		panicked *llmqueue.PanicError
	)
	switch {
	case err == nil:
		return fmt.Sprintf("%s on attempt %d: %q", how, res.Attempts, res.Result)
	case errors.Is(err, llmqueue.ErrModelNotRegistered):
		return how + ": ErrModelNotRegistered"
	case errors.Is(err, llmqueue.ErrInvalidParams):
		return how + ": ErrInvalidParams"
	case errors.Is(err, llmqueue.ErrRequestTooLarge):
		return how + ": ErrRequestTooLarge"
	case errors.Is(err, llmqueue.ErrQueueTimeout):
		return how + ": ErrQueueTimeout"
	case errors.Is(err, llmqueue.ErrCanceled) && errors.Is(err, context.DeadlineExceeded):
		return how + ": ErrCanceled, context.DeadlineExceeded"
	case errors.Is(err, llmqueue.ErrCanceled):
		return how + ": ErrCanceled"
	case errors.As(err, &panicked): // before ProcessingError, which wraps it
		return fmt.Sprintf("%s: PanicError, %v", how, panicked.Value)
	case errors.As(err, &failed):
		return fmt.Sprintf("%s: ProcessingError on attempt %d, %v", how, failed.Attempts, failed.Err)
	}
	return fmt.Sprintf("%s: %v", how, err)
}

// fireAndForget hands requests over, does something else, and asks for the
// answers later.
func fireAndForget(ctx context.Context, stdout io.Writer, manager *llmqueue.Manager[Task, string]) error {
	fmt.Fprintln(stdout, "\n3. Fire and forget, the answers later")
	var ids []string
	for i := range 4 {
		req := llmqueue.NewRequest("slow", Task{Name: fmt.Sprintf("report %d", i+1)})
		req.NoWait = true
		res, err := manager.Submit(ctx, req)
		if err != nil {
			return err
		}
		ids = append(ids, res.RequestID)
		starts := "now"
		if !res.EstimatedStart.IsZero() {
			starts = "in " + time.Until(res.EstimatedStart).Round(100*time.Millisecond).String()
		}
		fmt.Fprintf(stdout, "   report %d: %s, position %d, starts %s\n", i+1, res.Status, res.Position, starts)
	}

	// A request that nobody needs any more leaves the line and costs nothing.
	if err := manager.Cancel("slow", ids[2]); err != nil {
		return err
	}
	for i, id := range ids {
		res, err := manager.Wait(ctx, "slow", id)
		if err != nil && !errors.Is(err, llmqueue.ErrCanceled) {
			return err
		}
		fmt.Fprintf(stdout, "   report %d: %s, %q\n", i+1, res.Status, res.Result)
	}

	// A finished one stays readable for a while: see WithHistory.
	res, err := manager.Status("slow", ids[0])
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "   asked again, report 1 is still %s\n", res.Status)
	return nil
}

// showInfo prints what the queues tell.
func showInfo(stdout io.Writer, manager *llmqueue.Manager[Task, string]) error {
	fmt.Fprintln(stdout, "\n4. Info")
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "   model\tcompleted\tfailed\tcanceled\tretries\ttokens\tlimits")
	for _, info := range manager.InfoAll() {
		var limits []string
		for _, l := range info.Limits {
			limits = append(limits, fmt.Sprintf("%d of %v", l.Used, l.Limit))
		}
		fmt.Fprintf(table, "   %s\t%d\t%d\t%d\t%d\t%d\t%s\n", info.ModelID, info.Completed, info.Failed,
			info.Canceled, info.Retries, info.Usage.Total(), strings.Join(limits, ", "))
	}
	return table.Flush()
}

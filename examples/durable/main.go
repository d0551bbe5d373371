// Durable keeps requests over a crash. A first process hands in forty questions as jobs in
// an SQLite file and is killed, as by kill -9, when some of them are answered. A second
// one opens the file and goes on: every question gets its answer, and what was answered
// before is not asked again.
//
//	go run ./examples/durable
//
// It asks nobody: its processor sleeps a little and answers in capitals.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/llmriver"
)

const model = "gpt-4.1-mini"

func main() { program.Main("durable", run) }

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("durable", flag.ContinueOnError)
	questions := flags.Int("questions", 40, "how many to ask, at least 4")
	file := flags.String("file", "", "where to keep the jobs; empty means a new file that is removed at the end")
	first := flags.Bool("first", false, "be the first process, and work until killed")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	if *questions < 4 {
		return program.BadInput("-questions wants at least 4")
	}
	if *first {
		return work(ctx, *file, *questions, stdout)
	}
	if *file == "" {
		dir, err := os.MkdirTemp("", "durable")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		*file = filepath.Join(dir, "jobs.db")
	}
	answered, err := crash(ctx, *file, *questions)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "The first process took %d questions, reported %d answers and was killed.\n", *questions, answered)
	return goOn(ctx, *file, *questions, answered, stdout)
}

// crash runs the first process until it has answered a third, kills it, and tells how many
// answers it had reported.
func crash(ctx context.Context, file string, questions int) (answered int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, self, "-first", "-file", file, "-questions", fmt.Sprint(questions))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if answered++; answered == questions/3 {
			_ = cmd.Process.Kill() // kill -9: it cannot put anything in order
		}
	}
	if err := cmd.Wait(); ctx.Err() != nil || answered < questions/3 {
		return 0, errors.Join(ctx.Err(), fmt.Errorf("the first process ended by itself: %w", err))
	}
	return answered, nil
}

// open opens the file with a manager of one model.
func open(ctx context.Context, file string, ask llmqueue.Processor[string, string]) (*llmqueue.Manager[string, string], *llmriver.Jobs[string, string], error) {
	manager := llmqueue.NewManager[string, string]()
	if _, err := manager.Register(model, ask, llmqueue.WithLimits(llmqueue.Concurrent(4))); err != nil {
		return nil, nil, err
	}
	jobs, err := llmriver.Open(ctx, llmriver.SQLite(file), manager)
	return manager, jobs, err
}

// ask stands for a call of a provider. A real one would get llmriver.Key(ctx) as its
// idempotency key.
func ask(ctx context.Context, req llmqueue.Request[string]) (string, error) {
	select {
	case <-time.After(50 * time.Millisecond):
		return strings.ToUpper(req.Params), nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func name(i int) string { return fmt.Sprintf("question-%d", i) }

// work is the first process: it hands everything in and prints a line for each answer.
func work(ctx context.Context, file string, questions int, stdout io.Writer) error {
	_, jobs, err := open(ctx, file, ask)
	if err != nil {
		return err
	}
	for i := range questions {
		req := llmqueue.Request[string]{ModelID: model, ID: name(i), Params: fmt.Sprintf("why %d?", i), NoWait: true}
		if _, err := jobs.Submit(ctx, req); err != nil && !errors.Is(err, llmqueue.ErrDuplicateRequest) {
			return err
		}
	}
	for i := range questions {
		if _, err := jobs.Wait(ctx, model, name(i)); err != nil {
			return err
		}
		fmt.Fprintln(stdout, name(i))
	}
	<-ctx.Done() // to be killed
	return nil
}

// goOn is the second process.
func goOn(ctx context.Context, file string, questions, before int, stdout io.Writer) (err error) {
	asked := make(chan string, 10*questions)
	manager, jobs, err := open(ctx, file, func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
		asked <- req.ID
		return ask(ctx, req)
	})
	if err != nil {
		return err
	}
	defer func() {
		ctx := context.WithoutCancel(ctx)
		err = errors.Join(err, jobs.Shutdown(ctx), manager.Shutdown(ctx))
	}()
	for i := range questions {
		resp, err := jobs.Wait(ctx, model, name(i))
		if err != nil {
			return err
		}
		if i < before || i == questions-1 {
			continue
		}
		if i < before+2 {
			fmt.Fprintf(stdout, "  %s: %s\n", resp.RequestID, resp.Result)
		}
	}
	fmt.Fprintf(stdout, "The second process asked the %d whose answers were not stored yet. All %d are answered.\n", len(asked), questions)
	return nil
}

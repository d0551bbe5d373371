// Ollama asks a local server through Ollama's own client. Such a server has no rate
// limits, but a number of answers that it works on at once, one unless
// OLLAMA_NUM_PARALLEL says otherwise: the queue is given that as Concurrent, so that
// requests wait in line here, where their order, their position and their deadline are
// known, and not at the server.
//
// It runs against a simulator in this process, or, when OLLAMA_HOST is set, against that
// server:
//
//	go run ./examples/ollama
//	OLLAMA_HOST=127.0.0.1:11434 go run ./examples/ollama -model llama3.2
//
// When the simulator is asked first, another program keeps it busy and there is no room
// to wait: it answers 503, "server busy". The queue backs off and tries again. One of its
// answers breaks off in the middle. Ollama's client returns no error then, so that the
// processor looks whether the last part says Done.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/ollama/ollama/api"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/batch"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/examples/internal/service"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("ollama", run) }

// hostVariable says where the server is, as it does for all of Ollama's programs.
const hostVariable = "OLLAMA_HOST"

// newClient returns Ollama's client. The transport tells the queue what the server
// says. For a real server from.Transport only counts calls: yours is
// llmhttp.NewTransport(nil).
func newClient(from *service.Service) (*api.Client, error) {
	base, err := host(cmp.Or(from.URL, os.Getenv(hostVariable)))
	if err != nil {
		return nil, err
	}
	return api.NewClient(base, &http.Client{Transport: llmhttp.NewTransport(from.Transport)}), nil
}

// host reads an address such as 127.0.0.1, gpu:11434 or https://ollama.example.
func host(address string) (*url.URL, error) {
	hasScheme := strings.Contains(address, "://")
	if !hasScheme {
		address = "http://" + address
	}
	base, err := url.Parse(address)
	if err != nil || base.Hostname() == "" {
		return nil, fmt.Errorf("%s: want an address such as 127.0.0.1:11434", hostVariable)
	}
	if !hasScheme && base.Port() == "" {
		base.Host += ":11434"
	}
	return base, nil
}

// errHalf is the error of an answer that broke off, which is none for the client.
var errHalf = fmt.Errorf("the answer broke off: %w", io.ErrUnexpectedEOF)

// chat asks for one answer and calls onText with each piece of it. Without an error all of it
// has come.
func chat(ctx context.Context, client *api.Client, model, prompt string, onText func(string)) error {
	done := false
	err := client.Chat(ctx, &api.ChatRequest{
		Model:    model,
		Messages: []api.Message{{Role: "user", Content: prompt}},
		Options:  map[string]any{"num_predict": 100},
	}, func(res api.ChatResponse) error {
		done = res.Done
		onText(res.Message.Content)
		return nil
	})
	if err == nil && !done {
		return errHalf
	}
	return err
}

// keepBusy is the other program: it returns when its own answer has begun.
func keepBusy(ctx context.Context, client *api.Client, model string) error {
	begun := make(chan error, 1)
	go func() {
		err := chat(ctx, client, model, "Tell a long story.", func(string) {
			select {
			case begun <- nil:
			default:
			}
		})
		select {
		case begun <- cmp.Or(err, errors.New("the other program got an empty answer")):
		default:
		}
	}()
	return <-begun
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("ollama", flag.ContinueOnError)
	model := flags.String("model", "llama3.2", "model to ask")
	parallel := flags.Int64("parallel", 1, "how many answers the server works on at once: its OLLAMA_NUM_PARALLEL")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	if *parallel < 1 {
		return program.BadInput("-parallel wants at least 1")
	}
	from, err := service.Open(llmtest.Ollama(), []llmtest.Option{
		llmtest.WithLoad(llmtest.Load{Parallel: *parallel, Capacity: *parallel}), // no room to wait
		llmtest.WithLatency(llmtest.Latency{FirstToken: 100 * time.Millisecond, PerToken: 20 * time.Millisecond}),
		llmtest.WithOutputTokens(40, 0.3),
		llmtest.WithFaultScript(llmtest.Fault{}, llmtest.Fault{}, llmtest.Fault{Kind: llmtest.FaultCut}), // the third breaks off
	}, hostVariable)
	if err != nil {
		return err
	}
	defer from.Close()
	fmt.Fprintf(stdout, "Answered by %s.\n\n", from)

	client, err := newClient(from)
	if err != nil {
		return err
	}
	queue, err := llmqueue.NewQueue(*model,
		func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
			var text strings.Builder
			err := chat(ctx, client, req.ModelID, req.Params, func(s string) { text.WriteString(s) })
			return text.String(), err
		},
		llmqueue.WithLimits(llmqueue.Concurrent(*parallel)),
		llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 20})) // a busy server is no reason to give up soon
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))

	if from.Simulated() {
		if err := keepBusy(ctx, client, *model); err != nil {
			return err
		}
	}
	questions := []string{
		"Name a river.",
		"Name a bird.",
		"Name a tree.",
		"Name a cheese.",
		"Name a planet.",
	}
	sum, err := batch.Ask(ctx, queue, questions, func(i int, res llmqueue.Response[string]) {
		fmt.Fprintf(stdout, "%-15s waited %.1fs, ran %.1fs, %-10s  %2d tokens: %.30s…\n", questions[i],
			res.WaitTime().Seconds(), res.ProcessingTime().Seconds(), batch.Attempts(res.Attempts), res.Usage.OutputTokens, res.Result)
	})
	sum.Print(stdout, from.Transport.Calls(), queue.Info().Limits)
	return err
}

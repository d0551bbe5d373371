// Service is a web service that asks LLMs, from end to end: answers that a client waits for,
// answers that stream, jobs that a client comes back for, a model that stands in for another,
// tenants, metrics, a page for operators, and an end that loses nothing.
//
// It asks OpenAI, or whoever speaks as it does, when OPENAI_API_KEY is set (OPENAI_BASE_URL has
// the address), and a simulated provider otherwise.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/dashboard"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmprom"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "service:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("service", flag.ContinueOnError)
	addr := flags.String("addr", "127.0.0.1:8080", "`address` for clients")
	admin := flags.String("admin", "127.0.0.1:8081", "`address` for operators: /metrics and /debug/llmqueue/")
	grace := flags.Duration("grace", 30*time.Second, "how long what was accepted may take after SIGTERM")
	check := flags.Bool("check", false, "ask one question over HTTP, and end")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	}

	client, says, done, err := newClient()
	if err != nil {
		return err
	}
	defer done()
	manager, metrics, err := newManager(asker{client}.ask)
	if err != nil {
		return err
	}

	// The page and the metrics are for operators: they have an address of their own.
	operators := http.NewServeMux()
	operators.Handle("/debug/llmqueue/", dashboard.Handler(manager))
	operators.Handle("/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	public, err := listen(*addr, newHandler(manager))
	if err != nil {
		return err
	}
	private, err := listen(*admin, operators)
	if err != nil {
		return errors.Join(err, public.Close())
	}
	fmt.Fprintf(stdout, "Answered by %s.\nClients: http://%s, operators: http://%s/debug/llmqueue/ and /metrics.\n", says, public.Addr, private.Addr)
	if *check {
		err = ask(stdout, "http://"+public.Addr)
	} else {
		<-ctx.Done()
		fmt.Fprintln(stdout, "Stopping: no new requests, what was accepted is finished.")
	}
	return errors.Join(err, shutdown(*grace, public, private, manager))
}

// newManager has two models: the large one, and a small one that stands in for it.
func newManager(ask llmqueue.Processor[Question, Answer]) (*llmqueue.Manager[Question, Answer], *prometheus.Registry, error) {
	collector := llmprom.New()
	metrics := prometheus.NewRegistry()
	if err := metrics.Register(collector); err != nil {
		return nil, nil, err
	}
	manager := llmqueue.NewManager[Question, Answer](
		collector.Observe(),
		llmqueue.WithLearnedLimits(),
		llmqueue.WithMaxQueued(10_000),
		llmqueue.WithFirstByteTimeout(30*time.Second),
	)
	_, err := manager.Register(large, ask, llmqueue.WithLimits(llmqueue.RPM(500), llmqueue.TPM(200_000), llmqueue.Concurrent(32)),
		llmqueue.WithFallback(small))
	if err == nil {
		_, err = manager.Register(small, ask, llmqueue.WithLimits(llmqueue.RPM(1000), llmqueue.TPM(400_000), llmqueue.Concurrent(64)))
	}
	if err == nil {
		err = manager.Check()
	}
	return manager, metrics, err
}

// newClient is a client of the real service, or of a simulated one that does without a key.
func newClient() (client openai.Client, says string, done func(), err error) {
	opts := []option.RequestOption{option.WithMaxRetries(0)} // the queue retries
	if os.Getenv("OPENAI_API_KEY") != "" {
		opts = append(opts, option.WithHTTPClient(&http.Client{Transport: llmhttp.NewTransport(nil)}))
		return openai.NewClient(opts...), "the real service", func() {}, nil
	}
	provider, err := llmtest.Start(llmtest.OpenAI(llmtest.RPM(500), llmtest.TPM(200_000)), llmtest.InMemory())
	if err != nil {
		return client, "", nil, err
	}
	opts = append(opts, option.WithBaseURL(provider.URL()), option.WithAPIKey("none"),
		option.WithHTTPClient(&http.Client{Transport: llmhttp.NewTransport(provider.Client().Transport)}))
	return openai.NewClient(opts...), "a simulator, with words without sense (set OPENAI_API_KEY to ask the real service)", provider.Close, nil
}

// listen serves handler at an address; the server's Addr is the one that it got.
func listen(addr string, handler http.Handler) (*http.Server, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Addr: listener.Addr().String(), Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(listener)
	return server, nil
}

// shutdown ends the service in the order in which nothing is lost: clients find nobody who
// listens, those that wait get their answers, jobs are finished, and only then nobody looks.
func shutdown(grace time.Duration, public, private *http.Server, manager *llmqueue.Manager[Question, Answer]) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	served := public.Shutdown(ctx)       // waits for the handlers, which wait for their requests
	drained := manager.Shutdown(ctx)     // waits for jobs; when the grace is over, what is left ends with ErrQueueClosed
	if served != nil && drained != nil { // the handlers have their errors now and write them
		last, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		served = public.Shutdown(last)
	}
	return errors.Join(served, drained, private.Close())
}

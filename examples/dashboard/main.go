// Dashboard serves a page that shows live queues: three models in two managers, under a
// mixed load of several tenants and priorities. It always asks simulators, so it costs
// nothing to leave it running.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/llmqueue/llmqueue/dashboard"
	"github.com/llmqueue/llmqueue/examples/internal/program"
)

func main() { program.Main("dashboard", run) }

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("dashboard", flag.ContinueOnError)
	addr := flags.String("addr", "127.0.0.1:8080", "`address` to serve the page on")
	controls := flags.Bool("controls", true, "show the buttons that pause, resume and cancel")
	span := flags.Duration("for", 0, "end after this long (default: on Ctrl-C)")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	if *span < 0 {
		return program.BadInput("-for wants a positive duration, or 0 to go on until Ctrl-C")
	}
	interrupted := ctx
	if *span > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *span)
		defer cancel()
	}

	models, err := openModels()
	if err != nil {
		return err
	}
	defer models.close()

	// One page for all managers, whatever their types.
	page := dashboard.Handler(models.chat, models.summaries)
	if *controls {
		page = page.WithControls(models.chat, models.summaries)
	}
	mux := http.NewServeMux()
	mux.Handle("/debug/llmqueue/", page)
	mux.Handle("/{$}", http.RedirectHandler("/debug/llmqueue/", http.StatusFound))

	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	// The streams of open pages end with ctx; Shutdown alone would wait for them.
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Fprintf(stdout, "Open http://%s/debug/llmqueue/\n", listener.Addr())

	load := models.load(ctx)
	select {
	case err = <-served:
	case <-ctx.Done():
		err = server.Shutdown(context.WithoutCancel(ctx))
	}
	load.Wait()
	if err == nil {
		err = interrupted.Err()
	}
	models.report(stdout)
	return err
}

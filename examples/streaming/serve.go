package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// handler answers GET /?prompt=… with server-sent events: "delta" for each chunk, then "done", or
// "error" when the answer fails after it has begun. Before that a failure has its own status.
type handler struct {
	queue *llmqueue.Queue[Chat, Ending]
}

// ServeHTTP writes only from the loop over the chunks, which is its own: when the client leaves,
// the loop ends, the processor's next Emit fails, and its call to the provider ends with it.
func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := llmqueue.Stream[string](r.Context(), h.queue,
		llmqueue.NewRequest(h.queue.ModelID(), Chat{Prompt: r.FormValue("prompt"), MaxTokens: 500}))
	begun := false
	for text, err := range answer.Chunks() {
		switch {
		case err == nil:
			begun = true
			err = send(w, "delta", text)
		case begun:
			err = send(w, "error", "the answer failed") // the reason is for the log
		default:
			llmhttp.WriteError(w, r, err)
		}
		if err != nil {
			return
		}
	}
	if res, err := answer.Response(); err == nil {
		_ = send(w, "done", res.Result)
	}
}

// send writes one event and lets it go out at once.
func send(w http.ResponseWriter, event string, data any) error {
	text, err := json.Marshal(data) // a chunk may contain line breaks, an event's data may not
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, text); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}

// serve serves answers until ctx ends.
func serve(ctx context.Context, queue *llmqueue.Queue[Chat, Ending], address string) error {
	server := &http.Server{
		Addr: address, Handler: handler{queue}, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx }, // so that streams end with the program
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Shutdown(context.WithoutCancel(ctx)) })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

package main

import (
	"bufio"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue"
)

// serving serves answers of a processor, and gives what the server logs and how to ask it.
func serving(t *testing.T, process llmqueue.Processor[Chat, Ending]) (queue *llmqueue.Queue[Chat, Ending], logged *strings.Builder, server *httptest.Server) {
	queue, err := llmqueue.NewQueue("m", process, llmqueue.WithLimits(llmqueue.Concurrent(1)))
	if err != nil {
		t.Fatal(err)
	}
	logged = new(strings.Builder)
	server = httptest.NewUnstartedServer(handler{queue})
	server.Config.ErrorLog = log.New(logged, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	return queue, logged, server
}

func get(t *testing.T, server *httptest.Server) *http.Response {
	res, err := server.Client().Get(server.URL + "/?prompt=Rain")
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// A client that leaves in the middle of an answer ends the request, the processor and its call to
// the provider. The processor never writes to the handler that has returned.
func TestTheClientLeaves(t *testing.T) {
	ended := make(chan error, 1)
	queue, logged, server := serving(t, func(ctx context.Context, _ llmqueue.Request[Chat]) (Ending, error) {
		for {
			if err := llmqueue.Emit(ctx, "rain "); err != nil {
				ended <- err
				return Ending{}, err
			}
		}
	})
	res := get(t, server)
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	if err != nil || line != "event: delta\n" || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%q of %v, error %v", line, res.Header, err)
	}
	res.Body.Close()
	if err := <-ended; err == nil {
		t.Error("the processor went on")
	}
	server.Close() // waits for the handler
	if err := queue.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if info := queue.Info(); info.Canceled != 1 || info.Failed != 0 {
		t.Errorf("%d canceled, %d failed", info.Canceled, info.Failed)
	}
	if logged.Len() > 0 {
		t.Errorf("the server says: %s", logged)
	}
}

func TestAnswersAsEvents(t *testing.T) {
	emit := func(err error) llmqueue.Processor[Chat, Ending] {
		return func(ctx context.Context, _ llmqueue.Request[Chat]) (Ending, error) {
			for _, text := range []string{"rain\n", "sun"} {
				if err := llmqueue.Emit(ctx, text); err != nil {
					return Ending{}, err
				}
			}
			return Ending{Chunks: 2}, err
		}
	}
	const deltas = "event: delta\ndata: \"rain\\n\"\n\nevent: delta\ndata: \"sun\"\n\n"
	for name, c := range map[string]struct {
		process llmqueue.Processor[Chat, Ending]
		closed  bool
		status  int
		want    string
	}{
		"whole":               {emit(nil), false, http.StatusOK, deltas + "event: done\ndata: {\"Chunks\":2,"},
		"failed in its midst": {emit(errHalf), false, http.StatusOK, deltas + "event: error\n"},
		"refused":             {emit(nil), true, http.StatusServiceUnavailable, "queue closed"},
	} {
		t.Run(name, func(t *testing.T) {
			queue, _, server := serving(t, c.process)
			if c.closed {
				if err := queue.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else {
				defer queue.Shutdown(t.Context())
			}
			res := get(t, server)
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != c.status || !strings.Contains(string(body), c.want) {
				t.Errorf("status %d, error %v, %q, want %d and %q", res.StatusCode, err, body, c.status, c.want)
			}
		})
	}
}

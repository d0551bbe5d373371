package dashboard

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

type (
	manager = llmqueue.Manager[int, string]
	job     = llmqueue.Request[int]
)

// process runs for as many seconds as the params say; negative ones fail at once.
func process(ctx context.Context, r job) (string, error) {
	if r.Params < 0 {
		return "", errors.New("negative")
	}
	select {
	case <-time.After(time.Duration(r.Params) * time.Second):
		return "secret result", nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// newManager has one model with the limits given; what still waits at the end is
// given up.
func newManager(t *testing.T, model string, limits ...llmqueue.Limit) *manager {
	t.Helper()
	m := llmqueue.NewManager[int, string](llmqueue.WithMargin(0))
	_, err := m.Register(model, process, llmqueue.WithLimits(limits...))
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		m.Shutdown(ctx)
	})
	return m
}

// post submits a request, to model m if it names none.
func post(t *testing.T, m *manager, r job) {
	t.Helper()
	r.ModelID = cmp.Or(r.ModelID, "m")
	r.NoWait = true
	_, err := m.Submit(t.Context(), r)
	require.NoError(t, err)
}

// counted counts how often it is asked for everything.
type counted struct {
	llmqueue.Inspector
	asked atomic.Int64
}

func (c *counted) InfoAll() []llmqueue.QueueInfo {
	c.asked.Add(1)
	return c.Inspector.InfoAll()
}

// reader is the other end of a stream, which may be slow.
type reader struct {
	mu       sync.Mutex
	header   http.Header
	data     bytes.Buffer
	delay    time.Duration // of each flush
	broken   error         // from now on
	deadline struct{ read, write []time.Time }
	noLimits bool // the writer cannot set deadlines
}

func (r *reader) Header() http.Header { return r.header }
func (r *reader) WriteHeader(int)     {}
func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.data.Write(p)
}

func (r *reader) FlushError() error {
	time.Sleep(r.delay)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.broken
}

func (r *reader) SetReadDeadline(at time.Time) error {
	if r.noLimits {
		return http.ErrNotSupported
	}
	r.deadline.read = append(r.deadline.read, at)
	return nil
}

func (r *reader) SetWriteDeadline(at time.Time) error {
	if r.noLimits {
		return http.ErrNotSupported
	}
	r.deadline.write = append(r.deadline.write, at)
	return nil
}

// hello is the first event, and snapshots are the others.
func (r *reader) events(t *testing.T) (hello helloEvent, snapshots []snapshotEvent) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, e := range strings.Split(strings.TrimSuffix(r.data.String(), "\n\n"), "\n\n") {
		name, data, ok := strings.Cut(strings.TrimPrefix(e, "event: "), "\ndata: ")
		require.True(t, ok, "event %q", e)
		if i == 0 {
			require.Equal(t, "hello", name)
			require.NoError(t, json.Unmarshal([]byte(data), &hello))
			continue
		}
		require.Equal(t, "snapshot", name)
		var s snapshotEvent
		require.NoError(t, json.Unmarshal([]byte(data), &s))
		snapshots = append(snapshots, s)
	}
	return hello, snapshots
}

type helloEvent struct {
	Controls, Details bool
	Token             string
	History           []struct {
		Manager          int
		Model            string
		Times            []float64
		Throughput, Wait []*float64
	}
}

type snapshotEvent struct {
	Time   int64
	Models []struct {
		Manager                    int
		Model                      string
		Pending                    int
		Running, Waiting, Failures []requestJSON
		Endpoints                  []endpointJSON
		Throughput, Wait           *float64
	}
}

// watch opens a stream and returns what closes it.
func watch(t *testing.T, p *Page, r *reader) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r.header = http.Header{}
	var gone sync.WaitGroup
	gone.Go(func() {
		p.ServeHTTP(r, httptest.NewRequestWithContext(ctx, http.MethodGet, "/debug/llmqueue/stream", nil))
	})
	return func() {
		cancel()
		gone.Wait()
	}
}

// get asks a page for something under its path.
func get(t *testing.T, p http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w
}

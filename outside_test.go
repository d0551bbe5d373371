package llmqueue_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// Helpers of the tests that use the exported API alone.

// give returns its params at once.
func give(_ context.Context, r llmqueue.Request[int]) (int, error) { return r.Params, nil }

// work takes as many seconds as its params say, or until its context ends.
func work(ctx context.Context, r llmqueue.Request[int]) (int, error) {
	select {
	case <-time.After(time.Duration(r.Params) * time.Second):
		return r.Params, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// open makes a queue that is shut down after the test.
func open(t testing.TB, process llmqueue.Processor[int, int], opts ...llmqueue.Option) *llmqueue.Queue[int, int] {
	t.Helper()
	q, err := llmqueue.NewQueue("m", process, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { shut(q.Shutdown) })
	return q
}

// manage makes a manager whose queues are shut down after the test.
func manage(t testing.TB) *llmqueue.Manager[int, int] {
	t.Helper()
	m := llmqueue.NewManager[int, int](llmqueue.WithShutdownGrace(0))
	t.Cleanup(func() { shut(m.Shutdown) })
	return m
}

func shut(shutdown func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = shutdown(ctx)
}

func register(t testing.TB, m *llmqueue.Manager[int, int], model string, process llmqueue.Processor[int, int], opts ...llmqueue.Option) *llmqueue.Queue[int, int] {
	t.Helper()
	q, err := m.Register(model, process, opts...)
	require.NoError(t, err)
	return q
}

// send submits a fire-and-forget request that has to be accepted.
func send(t testing.TB, q *llmqueue.Queue[int, int], r llmqueue.Request[int]) {
	t.Helper()
	r.NoWait = true
	_, err := q.Submit(t.Context(), r)
	require.NoError(t, err)
}

// returns fails the test when f hangs, and says where. It is for a lock that is never
// free again, which a bubble does not notice.
func returns(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(3 * time.Second):
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		var hung []string
		for g := range strings.SplitSeq(string(stacks), "\n\n") {
			if strings.Contains(g, "sync.(*Mutex)") || strings.Contains(g, "chan receive (nil chan)") {
				hung = append(hung, g)
			}
		}
		t.Fatalf("%s never returns:\n%s", what, strings.Join(hung, "\n\n"))
	}
}

package llmqueue

import (
	"context"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// echo is a processor that returns its params.
func echo(_ context.Context, r Request[int]) (int, error) { return r.Params, nil }

// newQueue makes a queue that the test shuts down at its end.
func newQueue[P, T any](t testing.TB, process Processor[P, T], opts ...Option) *Queue[P, T] {
	t.Helper()
	q, err := NewQueue("m", process, opts...)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = q.Shutdown(ctx)
	})
	return q
}

func TestDo(t *testing.T) {
	q := newQueue(t, echo, WithLimits(RPM(10)))
	got, err := q.Do(t.Context(), 7)
	require.NoError(t, err)
	assert.Equal(t, 7, got)
}

func TestRPMWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", echo, WithLimits(RPM(3)), WithMargin(0))
		require.NoError(t, err)
		begin := time.Now()
		var starts []time.Duration
		for i := range 7 {
			_, err := q.Do(t.Context(), i)
			require.NoError(t, err)
			starts = append(starts, time.Since(begin))
		}
		assert.Equal(t, []time.Duration{0, 0, 0, time.Minute, time.Minute, time.Minute, 2 * time.Minute}, starts)
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// The original's concurrent mode ran one request at a time: 100 requests of 50 ms at
// a limit of 10 took 5 s.
func TestConcurrencyRunsInParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, peak atomic.Int64
		q, err := NewQueue("m", func(ctx context.Context, r Request[int]) (int, error) {
			n := running.Add(1)
			defer running.Add(-1)
			for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
			}
			time.Sleep(50 * time.Millisecond)
			return r.Params, nil
		}, WithLimits(Concurrent(10)))
		require.NoError(t, err)
		begin := time.Now()
		for i := range 100 {
			_, err := q.Submit(t.Context(), Request[int]{Params: i, NoWait: true})
			require.NoError(t, err)
		}
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, 500*time.Millisecond, time.Since(begin))
		assert.EqualValues(t, 10, peak.Load())
	})
}

func TestSubmitAllOverTwoModels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager[int, int](WithLimits(RPM(50), Concurrent(5)), WithMaxQueued(3), WithMargin(0))
		for _, model := range []string{"a", "b"} {
			_, err := m.Register(model, echo)
			require.NoError(t, err)
		}
		input := func(yield func(Request[int]) bool) {
			for i := range 300 {
				model := []string{"a", "b", "none"}[i%3]
				if !yield(Request[int]{ID: strconv.Itoa(i), ModelID: model, Params: i, NoWait: true}) {
					return
				}
			}
		}
		var ids []int
		for resp, err := range m.SubmitAll(t.Context(), input) {
			id, convErr := strconv.Atoi(resp.RequestID)
			require.NoError(t, convErr)
			ids = append(ids, id)
			if id%3 == 2 {
				assert.ErrorIs(t, err, ErrModelNotRegistered)
				continue
			}
			assert.NoError(t, err)
			assert.Equal(t, id, resp.Result)
		}
		slices.Sort(ids)
		assert.Len(t, slices.Compact(ids), 300)
		require.NoError(t, m.Shutdown(t.Context()))
	})
}

func TestSubmitAllEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", echo, WithLimits(RPM(5)), WithMaxQueued(10), WithoutDeadlineCheck())
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		taken, completed, canceled := 0, 0, 0
		input := func(yield func(Request[int]) bool) {
			for yield(Request[int]{Params: taken}) {
				taken++
			}
		}
		for resp, err := range q.SubmitAll(ctx, input) {
			switch resp.Status {
			case StatusCompleted:
				completed++
			case StatusCanceled:
				canceled++
				assert.ErrorIs(t, err, ErrCanceled)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			}
		}
		assert.Equal(t, 10, completed)
		assert.Positive(t, canceled)
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

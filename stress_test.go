package llmqueue

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Real goroutines, real time, and much of everything. What is asserted is that nothing
// is lost and nobody gets somebody else's answer, never how long it takes.

// much is n, or less of it where time is short.
func much(n int) int {
	switch {
	case testing.Short():
		return n / 50
	case raceEnabled:
		return n / 10
	}
	return n
}

// wild are limits that are checked on each request and hardly bind.
func wild() Option { return WithLimits(RPM(maxAmount), TPM(maxAmount), Concurrent(16)) }

func TestStressWaitingSubmitters(t *testing.T) {
	n := much(100_000)
	q := newQueue(t, reporting, wild())
	var all sync.WaitGroup
	var wrong atomic.Int64
	q.Pause() // until all of them wait
	for i := range n {
		all.Go(func() {
			resp, err := q.Submit(t.Context(), Request[int]{Params: i, Estimate: sized, Tenant: fmt.Sprint(i % 7)})
			if err != nil || resp.Result != i || resp.Attempts != 1 {
				wrong.Add(1)
			}
		})
	}
	for q.Len() < n {
		runtime.Gosched()
	}
	q.Resume()
	all.Wait()
	assert.Zero(t, wrong.Load(), "each gets its own answer")
	assert.EqualValues(t, n, addsUp(t, q).Completed)
}

func TestStressFireAndForget(t *testing.T) {
	n := much(1_000_000)
	ran := make([]atomic.Int32, n)
	q, err := NewQueue("m", func(ctx context.Context, r Request[int]) (int, error) {
		ran[r.Params].Add(1)
		return reporting(ctx, r)
	}, wild())
	require.NoError(t, err)
	for i := range n {
		if _, err := q.Submit(context.Background(), Request[int]{Params: i, NoWait: true, Estimate: sized}); err != nil {
			t.Fatal(err)
		}
	}
	require.NoError(t, q.Shutdown(t.Context()))
	for i := range ran {
		if times := ran[i].Load(); times != 1 {
			t.Fatalf("request %d ran %d times", i, times)
		}
	}
	info := addsUp(t, q)
	assert.EqualValues(t, n, info.Completed)
	assert.EqualValues(t, 15*n, info.Usage.Total(), "every report is counted once")
}

func TestStressCancelWhileDraining(t *testing.T) {
	n := much(100_000)
	ran := make([]atomic.Int32, n)
	met := make(chan struct{}) // closed once one was canceled: half of them do not end before
	var meet sync.Once
	q, err := NewQueue("m", func(ctx context.Context, r Request[int]) (int, error) {
		ran[r.Params].Add(1)
		if r.Params >= n/2 {
			<-met
		}
		runtime.Gosched()
		return r.Params, ctx.Err()
	}, wild(), WithHistory(n, time.Hour))
	require.NoError(t, err)
	q.Pause()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = post(t, q, Request[int]{Params: i, Estimate: sized})
	}
	q.Resume()
	var all sync.WaitGroup
	for part := range 4 {
		all.Go(func() {
			for i := n - 1 - part; i >= 0; i -= 4 { // from the back, so that they meet
				assert.NoError(t, q.Cancel(ids[i]))
				meet.Do(func() { close(met) })
			}
		})
	}
	all.Wait()
	require.NoError(t, q.Shutdown(t.Context()))
	info := addsUp(t, q)
	assert.EqualValues(t, n, info.Completed+info.Canceled+info.Failed)
	assert.NotZero(t, info.Canceled)
	for i, id := range ids {
		switch r := status(t, q, id); r.Status {
		case StatusCompleted:
			require.Equal(t, i, r.Result)
			require.EqualValues(t, 1, ran[i].Load())
		case StatusCanceled:
			require.ErrorIs(t, r.Err, ErrCanceled)
			require.EqualValues(t, r.Attempts, ran[i].Load())
		default:
			t.Fatalf("%s is %s", id, r.Status)
		}
	}
}

func TestStressShutdownUnderLoad(t *testing.T) {
	for round := range 20 {
		var ran sync.Map // of params
		q, err := NewQueue("m", func(ctx context.Context, r Request[int]) (int, error) {
			if _, again := ran.LoadOrStore(r.Params, true); again {
				t.Errorf("request %d runs again", r.Params)
			}
			runtime.Gosched()
			return r.Params, ctx.Err()
		}, wild(), WithHistory(100_000, time.Hour), WithShutdownGrace(time.Minute))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		var all sync.WaitGroup
		var accepted, refused atomic.Int64
		const callers = 8
		posted := make([]map[string]int, callers) // fire-and-forget params by id
		for c := range callers {
			posted[c] = map[string]int{}
			all.Go(func() {
				for i := c; ; i += callers {
					resp, err := q.Submit(context.Background(), Request[int]{Params: i, NoWait: i/callers%2 == 0, Estimate: sized})
					switch {
					case resp.RequestID == "":
						assert.ErrorIs(t, err, ErrQueueClosed)
						refused.Add(1)
						return
					case resp.Status == StatusPending:
						posted[c][resp.RequestID] = i
					case err == nil:
						assert.Equal(t, i, resp.Result)
					default:
						assert.ErrorIs(t, err, ErrQueueClosed)
					}
					accepted.Add(1)
				}
			})
		}
		for accepted.Load() < 500 {
			runtime.Gosched()
		}
		cut := round%2 == 0
		if cut {
			cancel() // cut off instead of drained
		}
		if err = q.Shutdown(ctx); err != nil {
			assert.True(t, cut)
			assert.Equal(t, context.Canceled, err, "none is left behind")
		}
		all.Wait()
		info := addsUp(t, q)
		assert.Equal(t, accepted.Load(), info.Completed+info.Failed+info.Canceled)
		assert.EqualValues(t, callers, refused.Load())
		for _, ids := range posted {
			for id, i := range ids {
				switch r := status(t, q, id); r.Status {
				case StatusCompleted:
					assert.Equal(t, i, r.Result)
				default:
					assert.True(t, cut, "drained, not cut off")
					assert.Equal(t, StatusFailed, r.Status)
					assert.ErrorIs(t, r.Err, ErrQueueClosed)
				}
			}
		}
		cancel()
	}
}

// A tenth of the processors panic, a tenth exits, a tenth fails once; one observer is
// slow and one panics; the line goes on.
func TestStressPanicsAndObservers(t *testing.T) {
	n := much(50_000)
	var slow atomic.Int64
	hold := make(chan struct{})
	q, err := NewQueue("m", func(_ context.Context, r Request[int]) (int, error) {
		switch r.Params % 10 {
		case 0:
			panic(r.Params)
		case 1:
			runtime.Goexit()
		case 2:
			return 0, errBoom
		}
		return r.Params, nil
	}, wild(),
		WithObserver(func(Event) { slow.Add(1); <-hold }),
		WithObserver(func(e Event) {
			if e.Type == EventFailed {
				panic("observer")
			}
		}), WithShutdownGrace(time.Minute))
	require.NoError(t, err)
	var all sync.WaitGroup
	var wrong atomic.Int64
	for part := range 50 {
		all.Go(func() {
			for i := part; i < n; i += 50 {
				resp, err := q.Submit(t.Context(), Request[int]{Params: i, Estimate: sized})
				var p *PanicError
				ok := false
				switch i % 10 {
				case 0:
					ok = errors.As(err, &p) && p.Value == i
				case 1:
					ok = errors.As(err, &p) && errors.Is(p, errGoexit)
				case 2:
					ok = errors.Is(err, errBoom)
				default:
					ok = err == nil && resp.Result == i
				}
				if !ok {
					wrong.Add(1)
				}
			}
		})
	}
	all.Wait()
	close(hold)
	require.NoError(t, q.Shutdown(t.Context()))
	assert.Zero(t, wrong.Load())
	info := addsUp(t, q)
	assert.EqualValues(t, n*3/10, info.Failed)
	assert.EqualValues(t, n*7/10, info.Completed)
	told := int64(3*n) + 1 // three of each request, and that nothing reports usage
	assert.LessOrEqual(t, slow.Load(), told)
	assert.GreaterOrEqual(t, slow.Load()+info.Dropped, told, "what the slow one missed is counted")
}

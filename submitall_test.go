package llmqueue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// count yields requests with the params 0 to n−1 and notes how many were taken.
func count(n int, taken *atomic.Int64) iter.Seq[Request[int]] {
	return func(yield func(Request[int]) bool) {
		for i := range n {
			if taken != nil {
				taken.Add(1)
			}
			if !yield(Request[int]{Params: i, NoWait: i%2 == 0}) {
				return
			}
		}
	}
}

func TestSubmitAllYieldsEveryResult(t *testing.T) {
	q := newQueue(t, echo, WithUnlimited())
	got := map[int]int{}
	for r, err := range q.SubmitAll(t.Context(), count(10_000, nil)) {
		require.NoError(t, err)
		require.Equal(t, StatusCompleted, r.Status, "NoWait is ignored")
		got[r.Result]++
	}
	assert.Len(t, got, 10_000)
	for n := range q.SubmitAll(t.Context(), count(0, nil)) {
		t.Errorf("nothing in, %v out", n)
	}
}

// It yields in order of completion and starts in order of the input.
func TestSubmitAllOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", sleeper, WithLimits(Concurrent(3)))
		require.NoError(t, err)
		seconds := []int{5, 1, 3, 1}
		var got []int
		var starts []time.Time
		for r, err := range q.SubmitAll(t.Context(), func(yield func(Request[int]) bool) {
			for _, s := range seconds {
				if !yield(Request[int]{Params: s}) {
					return
				}
			}
		}) {
			require.NoError(t, err)
			got = append(got, r.Result)
			starts = append(starts, r.StartedAt)
		}
		assert.Equal(t, []int{1, 1, 3, 5}, got)
		assert.Equal(t, time.Second, starts[1].Sub(starts[0]), "the fourth of the input starts when the second ends")
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// Of each model the input's order is kept, also when another model is slower.
func TestManagerSubmitAllKeepsOrderPerModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager[int, int](WithMargin(0), WithMaxOutstanding(7))
		var mu sync.Mutex
		order := map[string][]int{}
		for id, n := range map[string]int64{"fast": 600, "slow": 60} {
			_, err := m.Register(id, func(_ context.Context, r Request[int]) (int, error) {
				mu.Lock()
				defer mu.Unlock()
				order[id] = append(order[id], r.Params)
				return r.Params, nil
			}, WithLimits(RPM(n).WithBurst(1), Concurrent(1)))
			require.NoError(t, err)
		}
		n := 0
		for _, err := range m.SubmitAll(t.Context(), func(yield func(Request[int]) bool) {
			for i := range 200 {
				if !yield(Request[int]{ModelID: []string{"fast", "slow"}[i%2], Params: i}) {
					return
				}
			}
		}) {
			require.NoError(t, err)
			n++
		}
		assert.Equal(t, 200, n)
		assert.True(t, slices.IsSorted(order["fast"]) && slices.IsSorted(order["slow"]))
		require.NoError(t, m.Shutdown(t.Context()))
	})
}

// It takes from its input only as many as the option allows beyond what it yielded.
func TestSubmitAllOutstanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", sleeper, WithLimits(Concurrent(2)), WithMaxOutstanding(5))
		require.NoError(t, err)
		taken, yielded := 0, 0
		for _, err := range q.SubmitAll(t.Context(), func(yield func(Request[int]) bool) {
			for range 100 {
				taken++
				if !yield(Request[int]{Params: 1}) {
					return
				}
			}
		}) {
			require.NoError(t, err)
			yielded++
			synctest.Wait() // until it has taken what it may
			assert.Equal(t, min(5, 100-yielded), taken-yielded)
		}
		assert.Equal(t, 100, yielded)
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// When the queue is full it waits for room; a Submit is refused meanwhile.
func TestSubmitAllWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", sleeper, WithLimits(Concurrent(1)), WithMaxQueued(3))
		require.NoError(t, err)
		n := 0
		for r, err := range q.SubmitAll(t.Context(), func(yield func(Request[int]) bool) {
			for range 50 {
				if !yield(Request[int]{Params: 1}) {
					return
				}
			}
		}) {
			require.NoError(t, err)
			require.Equal(t, StatusCompleted, r.Status)
			require.LessOrEqual(t, q.Len(), 3)
			if n++; n < 40 {
				synctest.Wait()
				_, err = q.Submit(t.Context(), Request[int]{NoWait: true})
				require.ErrorIs(t, err, ErrQueueFull)
			}
		}
		assert.Equal(t, 50, n)
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// Room that comes from canceling a request between two attempts counts too.
func TestSubmitAllHearsOfRoomLeftByARetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", func(ctx context.Context, r Request[int]) (int, error) {
			if r.Params == 0 {
				return 0, Retryable(errBoom)
			}
			return r.Params, nil
		}, WithUnlimited(), WithMaxQueued(1), WithRetry(RetryPolicy{BaseDelay: 1000 * time.Hour}))
		require.NoError(t, err)
		id := post(t, q, Request[int]{})
		synctest.Wait()
		done := false
		go func() {
			for _, err := range q.SubmitAll(t.Context(), func(yield func(Request[int]) bool) { yield(Request[int]{Params: 1}) }) {
				assert.NoError(t, err)
				done = true
			}
		}()
		synctest.Wait()
		require.False(t, done)
		require.NoError(t, q.Cancel(id))
		synctest.Wait()
		assert.True(t, done)
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// A refused request is yielded with its id, and the loop goes on.
func TestSubmitAllYieldsWhatIsRefused(t *testing.T) {
	m := newManager[taggedMessage, int](t, WithLimits(TPM(100)))
	_, err := m.Register("m", func(context.Context, Request[taggedMessage]) (int, error) { return 1, nil })
	require.NoError(t, err)
	good := taggedMessage{"user"}
	got := map[string]error{}
	for r, err := range m.SubmitAll(t.Context(), slices.Values([]Request[taggedMessage]{
		{ID: "first", ModelID: "m", Params: good},
		{ID: "unknown model", ModelID: "x", Params: good},
		{ID: "no model", Params: good},
		{ID: "bad params", ModelID: "m", Params: taggedMessage{"robot"}},
		{ID: "too large", ModelID: "m", Params: good, Estimate: in(101)},
		{ID: "negative", ModelID: "m", Params: good, MaxWait: -1},
		{ID: "first", ModelID: "m", Params: good},
		{ID: "last", ModelID: "m", Params: good, Metadata: map[string]string{"k": "v"}},
	})) {
		if r.RequestID == "first" && err == nil {
			continue
		}
		got[r.RequestID] = err
		if err != nil {
			assert.Equal(t, StatusFailed, r.Status)
			assert.Equal(t, err, r.Err)
			assert.Zero(t, r.Attempts)
		}
	}
	for id, want := range map[string]error{
		"first": ErrDuplicateRequest, "unknown model": ErrModelNotRegistered, "no model": ErrModelNotRegistered, "bad params": ErrInvalidParams,
		"too large": ErrRequestTooLarge, "negative": ErrInvalidParams,
	} {
		assert.ErrorIs(t, got[id], want, id)
	}
	assert.NoError(t, got["last"])
	assert.Len(t, got, 7)
}

func TestSubmitAllYieldsFailures(t *testing.T) {
	q := newQueue(t, func(_ context.Context, r Request[int]) (int, error) {
		if r.Params%2 == 0 {
			return 0, errBoom
		}
		return r.Params, nil
	}, WithUnlimited())
	failed := 0
	for r, err := range q.SubmitAll(t.Context(), count(100, nil)) {
		if err != nil {
			failed++
			require.ErrorIs(t, err, errBoom)
			require.Equal(t, StatusFailed, r.Status)
		}
	}
	assert.Equal(t, 50, failed)
}

// A panic in the input is raised in the caller, and so is runtime.Goexit.
func TestSubmitAllRaisesTheInputsPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", sleeper, WithUnlimited())
		require.NoError(t, err)
		assert.PanicsWithValue(t, "the file ended early", func() {
			for range q.SubmitAll(t.Context(), func(yield func(Request[int]) bool) {
				_ = yield(Request[int]{Params: 1}) && yield(Request[int]{Params: 60})
				panic("the file ended early")
			}) {
			}
		})
		synctest.Wait()
		assert.Zero(t, q.Info().Processing, "what was left is canceled")

		exited := make(chan bool)
		go func() {
			ended := false
			defer func() { exited <- !ended }()
			for range q.SubmitAll(t.Context(), func(func(Request[int]) bool) { runtime.Goexit() }) {
			}
			ended = true
		}()
		assert.True(t, <-exited)
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// A panic in the loop's body goes through, and cancels what is left.
func TestSubmitAllBodyPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", sleeper, WithLimits(Concurrent(1)))
		require.NoError(t, err)
		assert.PanicsWithValue(t, "body", func() {
			for range q.SubmitAll(t.Context(), slices.Values([]Request[int]{{Params: 1}, {Params: 60}, {Params: 60}})) {
				panic("body")
			}
		})
		synctest.Wait()
		info := addsUp(t, q)
		assert.EqualValues(t, 2, info.Canceled)
		assert.Zero(t, info.Abandoned)
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// Leaving the loop cancels what is left and does not wait for an input that blocks.
func TestSubmitAllLeftEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cause error
		q, err := NewQueue("m", func(ctx context.Context, r Request[int]) (int, error) {
			n, err := sleeper(ctx, r)
			if r.Params == 60 {
				cause = context.Cause(ctx)
			}
			return n, err
		}, WithLimits(Concurrent(2)))
		require.NoError(t, err)
		release, ended := make(chan struct{}), false
		begin := time.Now()
		for r := range q.SubmitAll(t.Context(), func(yield func(Request[int]) bool) {
			for _, s := range []int{60, 1, 5, 5, 5} {
				if !yield(Request[int]{Params: s}) {
					return
				}
			}
			<-release // an input that blocks
			ended = !yield(Request[int]{})
		}) {
			assert.Equal(t, 1, r.Result)
			break
		}
		assert.Equal(t, time.Second, time.Since(begin))
		synctest.Wait()
		assert.ErrorIs(t, cause, context.Canceled)
		info := addsUp(t, q)
		assert.EqualValues(t, 1, info.Completed)
		assert.EqualValues(t, 4, info.Canceled)
		assert.Zero(t, info.Pending+info.Processing+info.Abandoned)
		close(release)
		synctest.Wait()
		assert.True(t, ended, "a late input is told to stop")
		assert.EqualValues(t, 5, q.Info().Accepted)
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// When the context ends, everything taken is yielded as canceled.
func TestSubmitAllYieldsAllTakenWhenItsContextEnds(t *testing.T) {
	for _, outstanding := range []int{1, 2, 3, 5, 10, 11, 100} {
		for _, queued := range []int{0, 1, 4} {
			t.Run(fmt.Sprintf("outstanding %d, queued %d", outstanding, queued), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					q, err := NewQueue("m", sleeper, WithLimits(Concurrent(2)), WithMaxOutstanding(outstanding), WithMaxQueued(queued))
					require.NoError(t, err)
					cause := errors.New("the user went home")
					ctx, cancel := context.WithTimeoutCause(t.Context(), 3500*time.Millisecond, cause)
					defer cancel()
					var taken atomic.Int64
					yielded, canceled := 0, 0
					begin := time.Now()
					for r, err := range q.SubmitAll(ctx, func(yield func(Request[int]) bool) {
						for range 10 {
							taken.Add(1)
							if !yield(Request[int]{Params: 1}) {
								return
							}
						}
					}) {
						yielded++
						if err != nil {
							canceled++
							assert.Equal(t, StatusCanceled, r.Status)
							assert.ErrorIs(t, err, ErrCanceled)
							assert.ErrorIs(t, err, cause)
						}
					}
					assert.Equal(t, 3500*time.Millisecond, time.Since(begin))
					assert.EqualValues(t, taken.Load(), yielded)
					assert.Positive(t, canceled)
					synctest.Wait()
					info := addsUp(t, q)
					assert.Zero(t, info.Pending+info.Processing)
					require.NoError(t, q.Shutdown(t.Context()))
				})
			})
		}
	}
}

// A context that ends while the loop's body is busy cancels at once all the same.
func TestSubmitAllContextEndsWhileTheBodyIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		starts := 0
		q, err := NewQueue("m", func(context.Context, Request[int]) (int, error) {
			starts++
			return 0, nil
		}, WithLimits(RPM(1).Per(5*time.Second)))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n := 0
		for range q.SubmitAll(ctx, count(3, nil)) {
			n++
			time.Sleep(20 * time.Second)
		}
		assert.Equal(t, 3, n)
		assert.Equal(t, 1, starts, "what waits leaves the line and uses no quota")
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

func TestSubmitAllEndedContext(t *testing.T) {
	q := newQueue(t, echo, WithUnlimited())
	var taken atomic.Int64
	yielded := 0
	for r, err := range q.SubmitAll(ended(), count(1000, &taken)) {
		yielded++
		assert.ErrorIs(t, err, ErrCanceled)
		assert.Equal(t, StatusCanceled, r.Status)
	}
	assert.LessOrEqual(t, int64(yielded), taken.Load())
	assert.Zero(t, q.Info().Accepted)
}

// A queue that is shut down refuses the rest.
func TestSubmitAllDuringShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", sleeper, WithLimits(Concurrent(1)), WithMaxQueued(2))
		require.NoError(t, err)
		completed, refused := 0, 0
		for _, err := range q.SubmitAll(t.Context(), func(yield func(Request[int]) bool) {
			for range 10 {
				if !yield(Request[int]{Params: 1}) {
					return
				}
			}
		}) {
			if err == nil {
				completed++
			} else {
				refused++
				assert.ErrorIs(t, err, ErrQueueClosed)
			}
			if completed == 1 && refused == 0 {
				go func() { assert.NoError(t, q.Shutdown(context.Background())) }()
			}
		}
		assert.Equal(t, 10, completed+refused)
		assert.Positive(t, refused)
		synctest.Wait()
	})
}

// The same sequence may be ranged over again, and several at a time.
func TestSubmitAllAgain(t *testing.T) {
	q := newQueue(t, echo, WithUnlimited())
	all := q.SubmitAll(t.Context(), count(10, nil))
	for range 3 {
		n := 0
		for range all {
			n++
		}
		assert.Equal(t, 10, n)
	}
	next, stop := iter.Pull2(all)
	defer stop()
	_, err, ok := next()
	assert.True(t, ok)
	assert.NoError(t, err)
}

// Ten million requests need the memory of a few thousand: here as many as the time
// allows, with a bound on the heap that does not depend on how many there are.
func TestSubmitAllMemory(t *testing.T) {
	n := 300_000
	if testing.Short() || raceEnabled {
		n = 40_000
	}
	q := newQueue(t, echo, WithLimits(RPM(1<<40), TPM(1<<40), Concurrent(4)), WithHistory(100, time.Hour))
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most, done := heap(), uint64(0), 0
	var alive atomic.Int64
	for r, err := range q.SubmitAll(t.Context(), func(yield func(Request[int]) bool) {
		for i := range n {
			alive.Add(1)
			if !yield(Request[int]{Params: i, Estimate: in(1)}) {
				return
			}
		}
	}) {
		require.NoError(t, err)
		require.Equal(t, StatusCompleted, r.Status)
		alive.Add(-1)
		if done++; done%(n/8) == 0 {
			most = max(most, heap())
		}
	}
	assert.Equal(t, n, done)
	assert.Zero(t, alive.Load())
	// 4,096 outstanding of some 500 bytes are 2 MB, the windows at most 2 MB more.
	assert.Less(t, int64(most)-int64(before), int64(16<<20), "the heap grew with the number of requests")
}

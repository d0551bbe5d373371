package llmqueue

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What is queued and what runs is finished, retries that wait too.
func TestShutdownDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failures := map[string]int{"retried": 2, "limited": 1}
		q, err := NewQueue("m", func(_ context.Context, r Request[string]) (string, error) {
			time.Sleep(time.Second)
			if failures[r.Params]--; failures[r.Params] >= 0 {
				if r.Params == "limited" {
					return "", RateLimited(errBoom, time.Minute)
				}
				return "", Retryable(errBoom)
			}
			return r.Params, nil
		}, WithLimits(RPM(100), Concurrent(1)), WithHistory(100, 1000*time.Hour), WithRetry(RetryPolicy{BaseDelay: time.Hour, MaxDelay: 10 * time.Hour}))
		require.NoError(t, err)
		var ids []string
		for _, p := range []string{"retried", "limited", "a", "b", "c"} {
			ids = append(ids, post(t, q, Request[string]{Params: p}))
		}
		done := make(chan error)
		go func() {
			_, err := q.Submit(t.Context(), Request[string]{Params: "waited"})
			done <- err
		}()
		synctest.Wait()
		require.NoError(t, q.Shutdown(t.Context()))
		require.NoError(t, <-done)
		for i, want := range []string{"retried", "limited", "a", "b", "c"} {
			r := status(t, q, ids[i])
			assert.Equal(t, StatusCompleted, r.Status)
			assert.Equal(t, want, r.Result)
		}
		assert.Equal(t, 3, status(t, q, ids[0]).Attempts)
		assert.Equal(t, 2, status(t, q, ids[1]).Attempts)
		assert.True(t, addsUp(t, q).Closed)
	})
}

// What has to wait for its limit is waited for, although nothing runs meanwhile.
func TestShutdownWaitsForTheLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", echo, WithLimits(RPM(1)), WithMargin(0))
		require.NoError(t, err)
		begin := time.Now()
		for i := range 3 {
			post(t, q, Request[int]{Params: i})
		}
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, 2*time.Minute, time.Since(begin))
		assert.EqualValues(t, 3, addsUp(t, q).Completed)
	})
}

func TestSubmitAfterShutdown(t *testing.T) {
	q := newQueue(t, echo, WithUnlimited())
	id := post(t, q, Request[int]{Params: 4})
	require.NoError(t, q.Shutdown(t.Context()))
	for _, noWait := range []bool{false, true} {
		r, err := q.Submit(t.Context(), Request[int]{NoWait: noWait})
		assert.ErrorIs(t, err, ErrQueueClosed)
		assert.Zero(t, r)
	}
	_, err := q.Do(t.Context(), 1)
	assert.ErrorIs(t, err, ErrQueueClosed)

	// What ended can still be looked up and revised, and nothing else breaks.
	r, err := q.Wait(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, 4, r.Result)
	require.NoError(t, q.UpdateUsage(id, in(5)))
	assert.EqualValues(t, 5, status(t, q, id).Usage.InputTokens)
	require.NoError(t, q.Cancel(id))
	q.Pause()
	q.Resume()
	require.NoError(t, q.SetLimits(RPM(1)))
	assert.Zero(t, q.Len())
	assert.Len(t, q.Requests(RequestFilter{}), 1)
}

func TestShutdownTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", sleeper, WithUnlimited())
		require.NoError(t, err)
		post(t, q, Request[int]{Params: 60})
		begin := time.Now()
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				assert.NoError(t, q.Shutdown(t.Context()))
				assert.Equal(t, time.Minute, time.Since(begin), "each waits for the same end")
			})
		}
		all.Wait()
		assert.NoError(t, q.Shutdown(t.Context()))
		assert.NoError(t, q.Shutdown(ended()), "nothing is left to wait for")
		assert.Equal(t, time.Minute, time.Since(begin))
	})
}

// An empty queue ends at once, also with a context that has ended.
func TestShutdownOfAnEmptyQueue(t *testing.T) {
	q, err := NewQueue("m", echo, WithLimits(RPM(1)), WithObserver(func(Event) {}))
	require.NoError(t, err)
	assert.NoError(t, q.Shutdown(ended()))
	_, err = q.Do(t.Context(), 1)
	assert.ErrorIs(t, err, ErrQueueClosed)
}

// A manually paused queue fails what waits at once; what runs is finished. A
// provider's pause is waited out.
func TestShutdownOfAPausedQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, pauseFirst := range []bool{true, false} {
			q, err := NewQueue("m", func(ctx context.Context, r Request[int]) (int, error) {
				if r.Params == 0 {
					return 0, Retryable(errBoom)
				}
				return sleeper(ctx, r)
			}, WithLimits(Concurrent(1)), WithRetry(RetryPolicy{BaseDelay: 1000 * time.Hour, MaxDelay: 1000 * time.Hour}))
			require.NoError(t, err)
			retries := post(t, q, Request[int]{Params: 0})
			synctest.Wait()
			runs := post(t, q, Request[int]{Params: 10})
			waits := post(t, q, Request[int]{Params: 10})
			begin := time.Now()
			ended := make(chan error)
			if pauseFirst {
				q.Pause()
			}
			go func() { ended <- q.Shutdown(t.Context()) }()
			synctest.Wait()
			if !pauseFirst {
				assert.Equal(t, StatusPending, status(t, q, waits).Status)
				q.Pause() // someone pauses a queue that drains
			}
			for _, id := range []string{retries, waits} {
				r := status(t, q, id)
				assert.Equal(t, StatusFailed, r.Status)
				assert.ErrorIs(t, r.Err, ErrQueueClosed)
			}
			assert.Equal(t, StatusProcessing, status(t, q, runs).Status)
			require.NoError(t, <-ended)
			assert.Equal(t, 10*time.Second, time.Since(begin))
			assert.Equal(t, StatusCompleted, status(t, q, runs).Status)
			addsUp(t, q)
		}
	})
}

// An attempt that fails while a paused queue ends is the last: its retry would wait
// for a Resume that nobody has to call. The request's error says both.
func TestShutdownOfAPausedQueueEndsRetries(t *testing.T) {
	for name, again := range map[string]func(error) error{
		"retryable":    Retryable,
		"rate limited": func(err error) error { return RateLimited(err, time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, err := NewQueue("m", func(context.Context, Request[int]) (int, error) {
					time.Sleep(time.Second)
					return 0, again(errBoom)
				}, WithUnlimited())
				require.NoError(t, err)
				id := post(t, q, Request[int]{})
				q.Pause()
				begin := time.Now()
				require.NoError(t, q.Shutdown(t.Context()))
				assert.Equal(t, time.Second, time.Since(begin))
				r := status(t, q, id)
				assert.Equal(t, StatusFailed, r.Status)
				assert.Equal(t, 1, r.Attempts)
				assert.ErrorIs(t, r.Err, ErrQueueClosed)
				assert.ErrorIs(t, r.Err, errBoom)
				addsUp(t, q)
			})
		})
	}
}

// When the context ends first, the queued and the running fail with ErrQueueClosed,
// the running have their context canceled, and Shutdown says how many processors it
// had to leave behind.
func TestShutdownCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heeded error
		q, err := NewQueue("m", func(ctx context.Context, r Request[int]) (int, error) {
			switch r.Params {
			case 1: // heeds its context
				<-ctx.Done()
				heeded = ctx.Err()
				return 0, ctx.Err()
			case 2: // needs a moment to give up
				<-ctx.Done()
				time.Sleep(500 * time.Millisecond)
				return 0, ctx.Err()
			case 4:
				return 0, Retryable(errBoom)
			}
			time.Sleep(30 * time.Minute)
			return 7, nil
		}, WithLimits(Concurrent(4)), WithRetry(RetryPolicy{BaseDelay: 1000 * time.Hour, MaxDelay: 1000 * time.Hour}))
		require.NoError(t, err)
		retries := post(t, q, Request[int]{Params: 4})
		synctest.Wait()
		var running, queued []string
		for _, p := range []int{1, 2, 3, 3} {
			running = append(running, post(t, q, Request[int]{Params: p}))
		}
		for range 3 {
			queued = append(queued, post(t, q, Request[int]{Params: 3}))
		}
		waited := make(chan error)
		go func() {
			_, err := q.Submit(t.Context(), Request[int]{Params: 3})
			waited <- err
		}()
		synctest.Wait()

		cause := errors.New("the deploy waits no longer")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second, cause)
		defer cancel()
		begin := time.Now()
		ended := make(chan error)
		go func() { ended <- q.Shutdown(ctx) }()
		assert.ErrorIs(t, <-waited, ErrQueueClosed)
		assert.Equal(t, 10*time.Second, time.Since(begin), "who waits is answered at once")
		for _, id := range append(append(queued, running...), retries) {
			r := status(t, q, id)
			assert.Equal(t, StatusFailed, r.Status)
			assert.ErrorIs(t, r.Err, ErrQueueClosed)
		}
		err = <-ended
		assert.Equal(t, 11*time.Second, time.Since(begin), "a moment for those that heed it")
		require.ErrorIs(t, err, cause)
		assert.ErrorContains(t, err, "2 processors abandoned")
		assert.ErrorIs(t, heeded, context.Canceled)
		assert.Equal(t, 2, addsUp(t, q).Abandoned)

		// The result of a processor that was left behind comes too late.
		time.Sleep(40 * time.Minute)
		assert.Equal(t, StatusFailed, status(t, q, running[2]).Status)
		assert.Zero(t, addsUp(t, q).Abandoned)
		assert.NoError(t, q.Shutdown(t.Context()))
	})
}

func TestShutdownGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, grace := range []time.Duration{0, time.Millisecond, time.Minute} {
			q, err := NewQueue("m", deaf, WithUnlimited(), WithShutdownGrace(grace))
			require.NoError(t, err)
			post(t, q, Request[int]{Params: 30})
			begin := time.Now()
			err = q.Shutdown(ended())
			require.ErrorIs(t, err, context.Canceled)
			assert.Equal(t, min(grace, 30*time.Second), time.Since(begin))
			assert.Equal(t, grace < 30*time.Second, errors.Is(err, context.Canceled) && err.Error() != context.Canceled.Error())
			require.NoError(t, q.Shutdown(t.Context()))
		}
	})
}

// A second Shutdown with less patience ends the first.
func TestShutdownImpatiently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", sleeper, WithLimits(Concurrent(1)))
		require.NoError(t, err)
		post(t, q, Request[int]{Params: 3600})
		post(t, q, Request[int]{Params: 3600})
		first := make(chan error)
		begin := time.Now()
		go func() { first <- q.Shutdown(t.Context()) }()
		time.Sleep(time.Second)
		require.ErrorIs(t, q.Shutdown(ended()), context.Canceled)
		<-first
		assert.Equal(t, time.Second, time.Since(begin))
		assert.EqualValues(t, 2, addsUp(t, q).Failed)
	})
}

// A request that fails while the queue drains is retried as ever.
func TestRetryWhileShuttingDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		q, err := NewQueue("m", func(context.Context, Request[int]) (int, error) {
			time.Sleep(time.Second)
			if n++; n < 3 {
				return 0, Retryable(errBoom)
			}
			return n, nil
		}, WithUnlimited())
		require.NoError(t, err)
		id := post(t, q, Request[int]{})
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, 3, status(t, q, id).Result)
	})
}

// No goroutine is left behind: TestMain would find it.
func TestShutdownLeavesNoGoroutine(t *testing.T) {
	for range 20 {
		q, err := NewQueue("m", func(_ context.Context, r Request[int]) (int, error) {
			if r.Params == 7 {
				panic("seven")
			}
			return r.Params, nil
		}, WithUnlimited(), WithObserver(func(Event) {}), WithTimeout(time.Hour))
		require.NoError(t, err)
		for i := range 300 {
			post(t, q, Request[int]{Params: i})
		}
		require.NoError(t, q.Shutdown(t.Context()))
	}
}

// Observers have handled everything when Shutdown returns.
func TestShutdownFlushesObservers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var types []EventType
		q, err := NewQueue("m", echo, WithUnlimited(), WithObserver(func(e Event) {
			time.Sleep(time.Millisecond)
			types = append(types, e.Type)
		}))
		require.NoError(t, err)
		for range 100 {
			post(t, q, Request[int]{})
		}
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Len(t, types, 300)
	})
}

// An observer that hangs does not hang Shutdown.
func TestShutdownWithAHangingObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		q, err := NewQueue("m", echo, WithUnlimited(), WithObserver(func(Event) { <-release }))
		require.NoError(t, err)
		post(t, q, Request[int]{})
		begin := time.Now()
		require.NoError(t, q.Shutdown(t.Context()))
		assert.LessOrEqual(t, time.Since(begin), time.Second)
		close(release)
	})
}

// A Wait that was registered before is answered whatever Shutdown does.
func TestShutdownAnswersWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", sleeper, WithLimits(Concurrent(1)), WithHistory(0, 0))
		require.NoError(t, err)
		a, b := post(t, q, Request[int]{Params: 5}), post(t, q, Request[int]{Params: 3600})
		errs := make(chan error, 2)
		for _, id := range []string{a, b} {
			go func() {
				_, err := q.Wait(t.Context(), id)
				errs <- err
			}()
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		require.Error(t, q.Shutdown(ctx))
		assert.NoError(t, <-errs)
		assert.ErrorIs(t, <-errs, ErrQueueClosed)
		_, err = q.Status(a)
		assert.ErrorIs(t, err, ErrRequestNotFound, "without a history nothing is kept")
	})
}

// Unregister removes a model whatever its context says, and lets its other queues be.
func TestUnregisterWithAnEndedContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager[int, int](WithUnlimited())
		for _, id := range []string{"gone", "stays"} {
			_, err := m.Register(id, sleeper)
			require.NoError(t, err)
			_, err = m.Submit(t.Context(), Request[int]{ID: "r", ModelID: id, Params: 60, NoWait: true})
			require.NoError(t, err)
		}
		gone, _ := m.Queue("gone")
		require.ErrorIs(t, m.Unregister(ended(), "gone"), context.Canceled)
		assert.Equal(t, []string{"stays"}, m.Models())
		assert.ErrorIs(t, status(t, gone, "r").Err, ErrQueueClosed)
		assert.ErrorIs(t, m.Unregister(t.Context(), "gone"), ErrModelNotRegistered)
		r, err := m.Wait(t.Context(), "stays", "r")
		require.NoError(t, err)
		assert.Equal(t, 60, r.Result)
		require.NoError(t, m.Shutdown(t.Context()))
	})
}

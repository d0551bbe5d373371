package llmqueue

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A permit whose context ends before Done is canceled then: its slot is free, its own context
// is over with the same cause, and what it used counts.
func TestPermitWhoseContextEnds(t *testing.T) {
	cause := errors.New("the user went away")
	for name, c := range map[string]struct {
		ctx       func(context.Context) (context.Context, func())
		err, says error
	}{
		"canceled": {func(ctx context.Context) (context.Context, func()) {
			ctx, cancel := context.WithCancelCause(ctx)
			return ctx, func() { cancel(cause) }
		}, context.Canceled, cause},
		"deadline": {func(ctx context.Context) (context.Context, func()) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			return ctx, func() { time.Sleep(time.Second); synctest.Wait(); cancel() }
		}, context.DeadlineExceeded, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, echo, WithLimits(Concurrent(1), TPM(100)))
				ctx, end := c.ctx(t.Context())
				p, err := q.Acquire(ctx, Claim{ID: "p", Estimate: in(50)})
				require.NoError(t, err)
				next := ask(t.Context(), q, Claim{Estimate: in(80)})
				ReportUsage(p.Context(), in(20))
				end()
				<-p.Context().Done()
				assert.Equal(t, c.err, p.Context().Err())
				assert.Equal(t, c.says, context.Cause(p.Context()))
				next.granted(t)
				r := status(t, q, "p")
				assert.Equal(t, StatusCanceled, r.Status)
				assert.Equal(t, in(20), r.Usage)
				assert.ErrorIs(t, r.Err, ErrCanceled)
				assert.ErrorIs(t, r.Err, c.says)

				assert.Equal(t, r.Err, p.Done(nil), "Done says how the request ended")
				assert.Error(t, p.Done(nil))
				assert.Equal(t, r.Err, p.Again(t.Context()))
				i := addsUp(t, q)
				assert.EqualValues(t, 1, i.Canceled)
				assert.Equal(t, 1, i.Processing)
				assert.Zero(t, i.Abandoned)
			})
		})
	}
}

// The permit of a context that has outlived it is left alone.
func TestContextEndsAfterDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(Concurrent(1)))
		ctx, cancel := context.WithCancel(t.Context())
		p, err := q.Acquire(ctx, Claim{ID: "p"})
		require.NoError(t, err)
		require.NoError(t, p.Done(nil))
		second := acquire(t, q, Claim{})
		cancel()
		synctest.Wait()
		assert.Equal(t, StatusCompleted, status(t, q, "p").Status)
		assert.NoError(t, second.Done(nil))
	})
}

func TestAcquireWhoseContextEndsWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(RPM(1)), WithMargin(0), WithoutDeadlineCheck())
		acquire(t, q, Claim{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		late := ask(ctx, q, Claim{})
		next := ask(t.Context(), q, Claim{})
		err := late.refused(t)
		assert.ErrorIs(t, err, ErrCanceled)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Second, late.at)
		next.granted(t)
		assert.Equal(t, time.Minute, next.at, "what left the line used no quota")
		assert.EqualValues(t, 1, addsUp(t, q).Canceled)
	})
}

// Between two attempts either context ends the request: the permit's, and that of Again.
func TestContextEndsBetweenAttempts(t *testing.T) {
	for _, during := range []string{"Again", "the backoff", "Again, by the permit's", "the next attempt"} {
		t.Run(during, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, echo, WithLimits(Concurrent(1)))
				ctx, cancel := context.WithCancel(t.Context())
				p, err := q.Acquire(ctx, Claim{ID: "p"})
				require.NoError(t, err)
				require.Equal(t, ErrTryAgain, p.Done(RateLimited(errBoom, time.Minute)))
				switch during {
				case "Again":
					own, end := context.WithCancel(t.Context())
					again := askAgain(own, p)
					end()
					assert.ErrorIs(t, again.refused(t), ErrCanceled)
				case "the backoff":
					cancel()
				case "Again, by the permit's":
					again := askAgain(t.Context(), p)
					cancel()
					assert.ErrorIs(t, again.refused(t), ErrCanceled)
				case "the next attempt": // which started and nobody asked for
					time.Sleep(time.Hour)
					require.Equal(t, StatusProcessing, status(t, q, "p").Status)
					cancel()
				}
				synctest.Wait()
				assert.ErrorIs(t, p.Again(t.Context()), ErrCanceled)
				assert.Error(t, p.Done(nil))
				assert.Equal(t, StatusCanceled, status(t, q, "p").Status)
				acquire(t, q, Claim{})
				i := addsUp(t, q)
				assert.EqualValues(t, 1, i.Canceled)
				assert.Equal(t, 1, i.Processing)
				cancel()
			})
		})
	}
}

// Of a request that was canceled between two attempts, or while the next one ran that Again did
// not fetch yet, nothing is left.
func TestCancelBetweenAttempts(t *testing.T) {
	for name, wait := range map[string]time.Duration{"in line": 0, "started": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, echo, WithLimits(Concurrent(1)))
				p := acquire(t, q, Claim{ID: "p"})
				require.Equal(t, ErrTryAgain, p.Done(RateLimited(errBoom, time.Minute)))
				time.Sleep(wait)
				require.NoError(t, q.Cancel("p"))
				assert.ErrorIs(t, p.Again(t.Context()), ErrCanceled)
				next := ask(t.Context(), q, Claim{})
				next.granted(t)
				i := addsUp(t, q)
				assert.Equal(t, 1, i.Processing)
				assert.Zero(t, i.Abandoned)
				assert.ErrorIs(t, p.Again(t.Context()), ErrCanceled)
				assert.Error(t, p.Done(nil))
			})
		})
	}
}

// A permit that Cancel or its timeout ends has its context ended, and its slot until Done.
func TestPermitIsEndedWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(Concurrent(1)))
		p := acquire(t, q, Claim{ID: "p"})
		next := ask(t.Context(), q, Claim{})
		require.NoError(t, q.Cancel("p"))
		<-p.Context().Done()
		assert.Equal(t, context.Canceled, p.Context().Err())
		assert.ErrorIs(t, context.Cause(p.Context()), ErrCanceled)
		require.True(t, next.waits(), "the call may still be under way")
		assert.Equal(t, 1, addsUp(t, q).Abandoned)
		assert.Equal(t, StatusCanceled, status(t, q, "p").Status)
		ReportUsage(p.Context(), in(7))
		assert.ErrorIs(t, p.Done(nil), ErrCanceled)
		assert.Error(t, p.Done(nil))
		next.granted(t)
		assert.Equal(t, in(7), status(t, q, "p").Usage)
		assert.Zero(t, addsUp(t, q).Abandoned)
	})
}

// A timeout ends the context of a permit and nothing else: its holder says how it goes on.
func TestPermitThatTimesOutGoesOnUntilDone(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		is   error
		want Status
	}{
		"answered all the same": {nil, nil, StatusCompleted},
		"failed":                {context.DeadlineExceeded, ErrTryAgain, StatusPending},
		"hopeless":              {Permanent(errBoom), errBoom, StatusFailed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, echo, WithTimeout(time.Minute), WithLimits(Concurrent(1)))
				begin := time.Now()
				p := acquire(t, q, Claim{ID: "p"})
				next := ask(t.Context(), q, Claim{})
				<-p.Context().Done()
				assert.Equal(t, time.Minute, time.Since(begin))
				assert.Equal(t, context.DeadlineExceeded, p.Context().Err())
				assert.Equal(t, context.DeadlineExceeded, context.Cause(p.Context()))
				require.True(t, next.waits(), "the call may still be under way")
				assert.Zero(t, addsUp(t, q).Abandoned)
				assert.Equal(t, StatusProcessing, status(t, q, "p").Status)
				ReportUsage(p.Context(), in(7))
				assert.ErrorIs(t, p.Done(c.err), c.is)
				next.granted(t)
				assert.Equal(t, c.want, status(t, q, "p").Status)
				assert.Equal(t, in(7), q.Info().Usage)
				if c.want == StatusPending {
					require.NoError(t, q.Cancel("p"))
				}
			})
		})
	}
}

// Who looks at permits by their ids sees requests.
func TestPermitsAreRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(Concurrent(1)))
		p := acquire(t, q, Claim{ID: "runs", Metadata: map[string]string{"k": "v"}})
		waiting := ask(t.Context(), q, Claim{ID: "waits", Tenant: "acme", Priority: 3, Estimate: in(9)})
		r := status(t, q, "waits")
		assert.Equal(t, StatusPending, r.Status)
		assert.Equal(t, 1, r.Position)
		assert.Equal(t, "concurrent", r.WaitsFor)
		list := q.Requests(RequestFilter{Tenant: "acme"})
		require.Len(t, list, 1)
		assert.Equal(t, RequestInfo{
			ID: "waits", ModelID: "m", Status: StatusPending, Tenant: "acme", Priority: 3, Estimate: in(9), Position: 1,
			WaitsFor: "concurrent", CreatedAt: r.CreatedAt,
		}, list[0])

		waits := make(chan Response[int])
		for range 2 {
			go func() {
				r, err := q.Wait(t.Context(), "runs")
				assert.NoError(t, err)
				waits <- r
			}()
		}
		synctest.Wait()
		require.NoError(t, q.UpdateUsage("runs", in(5)))
		require.NoError(t, p.Done(nil))
		for range 2 {
			r := <-waits
			assert.Equal(t, StatusCompleted, r.Status)
			assert.Equal(t, "v", r.Metadata["k"])
			assert.Equal(t, in(5), r.Usage)
			assert.Zero(t, r.Result)
		}
		r, err := q.Wait(t.Context(), "runs")
		require.NoError(t, err)
		assert.Equal(t, StatusCompleted, r.Status)
		require.NoError(t, waiting.granted(t).Done(nil))
	})
}

func TestReclaimAndCancelWaitingPermits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(Concurrent(1)))
		p := acquire(t, q, Claim{ID: "runs"})
		reclaimed, canceled := ask(t.Context(), q, Claim{ID: "reclaimed"}), ask(t.Context(), q, Claim{ID: "canceled"})
		cause := errors.New("moved")
		took, err := q.Reclaim("runs", cause)
		require.NoError(t, err)
		assert.False(t, took)
		took, err = q.Reclaim("reclaimed", cause)
		require.NoError(t, err)
		assert.True(t, took)
		err = reclaimed.refused(t)
		assert.ErrorIs(t, err, ErrCanceled)
		assert.ErrorIs(t, err, cause)
		require.NoError(t, q.Cancel("canceled"))
		assert.ErrorIs(t, canceled.refused(t), ErrCanceled)
		require.NoError(t, p.Done(nil))
		i := addsUp(t, q)
		assert.EqualValues(t, 2, i.Canceled)
		assert.EqualValues(t, 1, i.Completed)
	})
}

// Of permits that are granted at the same moment each is its own: ending one leaves the others.
func TestPermitsGrantedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(Concurrent(50)))
		q.Pause()
		var all []*asked
		for i := range 50 {
			all = append(all, ask(t.Context(), q, Claim{ID: string(rune('A' + i))}))
		}
		q.Resume()
		for i := range 50 { // while the others find out
			if i%2 == 0 {
				require.NoError(t, q.Cancel(string(rune('A'+i))))
			}
		}
		for i, one := range all {
			<-one.done
			switch {
			case i%2 == 1:
				require.NoError(t, one.granted(t).Done(nil))
			case one.err == nil:
				assert.ErrorIs(t, one.permit.Done(nil), ErrCanceled)
			default:
				assert.ErrorIs(t, one.err, ErrCanceled)
			}
		}
		i := addsUp(t, q)
		assert.EqualValues(t, 25, i.Completed)
		assert.EqualValues(t, 25, i.Canceled)
		assert.Zero(t, i.Abandoned)
		assert.Zero(t, i.Limits[0].Used)
	})
}

// Shutdown waits for permits that run, wait and try again.
func TestShutdownWaitsForPermits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", echo, WithLimits(Concurrent(1)))
		require.NoError(t, err)
		p := acquire(t, q, Claim{})
		waiting := ask(t.Context(), q, Claim{})
		down := asking(func() (*Permit, error) { return nil, q.Shutdown(t.Context()) })
		require.True(t, down.waits())
		require.Equal(t, ErrTryAgain, p.Done(RateLimited(errBoom, time.Minute)))
		require.NoError(t, p.Again(t.Context()))
		require.NoError(t, p.Done(nil))
		require.True(t, down.waits())
		require.NoError(t, waiting.granted(t).Done(nil))
		<-down.done
		require.NoError(t, down.err)
		assert.EqualValues(t, 2, addsUp(t, q).Completed)
	})
}

func TestShutdownCutsPermitsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", echo, WithLimits(Concurrent(3)), WithShutdownGrace(time.Second))
		require.NoError(t, err)
		deaf, heeds := acquire(t, q, Claim{ID: "deaf"}), acquire(t, q, Claim{ID: "heeds"})
		retried := acquire(t, q, Claim{})
		require.Equal(t, ErrTryAgain, retried.Done(RateLimited(errBoom, time.Hour)))
		again := askAgain(t.Context(), retried)
		waiting := ask(t.Context(), q, Claim{})
		ended := make(chan error)
		go func() {
			<-heeds.Context().Done()
			assert.Equal(t, ErrQueueClosed, context.Cause(heeds.Context()))
			ended <- heeds.Done(context.Cause(heeds.Context()))
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		down := asking(func() (*Permit, error) { return nil, q.Shutdown(ctx) })
		assert.ErrorIs(t, <-ended, ErrQueueClosed)
		assert.ErrorIs(t, again.refused(t), ErrQueueClosed)
		assert.ErrorIs(t, waiting.refused(t), ErrQueueClosed)
		err = down.refused(t)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "1 processor abandoned")
		assert.Equal(t, time.Minute+time.Second, down.at)
		assert.Equal(t, 1, addsUp(t, q).Abandoned)
		assert.ErrorIs(t, deaf.Done(nil), ErrQueueClosed)
		i := addsUp(t, q)
		assert.EqualValues(t, 4, i.Failed)
		assert.Zero(t, i.Abandoned)
	})
}

// What observers hear of permits.
func TestEventsOfPermits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const s = time.Second
		var events []heardOf
		var tenants []string
		q, err := NewQueue("m", echo, WithLimits(Concurrent(1)), telling(&events), WithObserver(func(e Event) {
			if e.RequestID == "a" {
				tenants = append(tenants, e.Tenant)
			}
		}))
		require.NoError(t, err)
		p := acquire(t, q, Claim{ID: "a", Tenant: "acme"})
		ctx, cancel := context.WithCancel(t.Context())
		waiting := ask(ctx, q, Claim{ID: "b"})
		time.Sleep(s)
		require.Equal(t, ErrTryAgain, p.Done(RateLimited(errBoom, 10*s)))
		require.NoError(t, p.Again(t.Context()))
		time.Sleep(s)
		require.NoError(t, p.Done(nil))
		waiting.granted(t)
		time.Sleep(s)
		cancel()
		synctest.Wait()
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, []heardOf{
			{EventQueued, "a", 0, "", 0, 0, "", 0},
			{EventStarted, "a", 0, "m", 0, 0, "", 0},
			{EventRetried, "a", s, "m", 0, s, OutcomeRateLimited, 11 * s},
			{EventStarted, "a", 11 * s, "m", 10 * s, 0, "", 0},
			{EventCompleted, "a", 12 * s, "m", 0, s, OutcomeServed, 0},
		}, of(events, "a"))
		assert.Equal(t, []heardOf{
			{EventQueued, "b", 0, "", 0, 0, "", 0},
			{EventStarted, "b", 12 * s, "m", 12 * s, 0, "", 0},
			{EventCanceled, "b", 13 * s, "m", 0, s, "", 0},
		}, of(events, "b"))
		assert.Equal(t, slices.Repeat([]string{"acme"}, 5), tenants)
	})
}

// Neither a permit that waits nor one that runs has a goroutine besides its caller's.
func TestPermitsHaveNoGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		q := newQueue(t, echo, WithLimits(Concurrent(n)), WithRetry(RetryPolicy{Budget: -1}))
		ctx, cancel := context.WithCancel(t.Context())
		q.Pause()
		before := runtime.NumGoroutine() // some of an earlier test may be about to end
		all := make([]*asked, n)
		for i := range all {
			all[i] = ask(ctx, q, Claim{})
		}
		assert.LessOrEqual(t, runtime.NumGoroutine(), before+n+n/100, "those that wait")
		q.Resume()
		for _, one := range all {
			one.granted(t)
		}
		synctest.Wait()
		assert.Less(t, runtime.NumGoroutine(), before+n/100, "those that run")
		for _, one := range all {
			require.Equal(t, ErrTryAgain, one.permit.Done(Retryable(errBoom)))
		}
		assert.Less(t, runtime.NumGoroutine(), before+n/100, "those that wait for another attempt")
		cancel()
		synctest.Wait()
		assert.Less(t, runtime.NumGoroutine(), before+n/100)
		assert.EqualValues(t, n, addsUp(t, q).Canceled)
	})
}

// countingContext tells how many wait for its end by context.AfterFunc.
type countingContext struct {
	context.Context
	done    chan struct{}
	watches int
}

func (c *countingContext) Done() <-chan struct{} { return c.done }

func (c *countingContext) AfterFunc(func()) func() bool {
	c.watches++
	return func() bool { c.watches--; return true }
}

// A context that lives for long keeps nothing of permits that have ended.
func TestEndedPermitsLeaveTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := &countingContext{Context: t.Context(), done: make(chan struct{})}
		q := newQueue(t, echo, WithLimits(Concurrent(1)))
		p, err := q.Acquire(ctx, Claim{})
		require.NoError(t, err)
		require.Equal(t, 1, ctx.watches)
		require.NoError(t, p.Done(nil))
		assert.Zero(t, ctx.watches, "after Done")

		p, err = q.Acquire(ctx, Claim{ID: "p"})
		require.NoError(t, err)
		require.Equal(t, ErrTryAgain, p.Done(RateLimited(errBoom, time.Minute)))
		require.Error(t, p.Done(nil))
		assert.Equal(t, 1, ctx.watches, "it goes on")
		require.NoError(t, q.Cancel("p"))
		require.ErrorIs(t, p.Again(t.Context()), ErrCanceled)
		assert.Zero(t, ctx.watches, "after Again said that it has ended")
	})
}

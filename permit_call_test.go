package llmqueue

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// goroutineID is the number of the calling goroutine.
func goroutineID() string {
	stack := make([]byte, 64)
	return string(bytes.Fields(stack[:runtime.Stack(stack, false)])[1])
}

// Call runs its function on the goroutine of who calls it, also when it had to wait and when
// it is tried again, and the middleware around it.
func TestCallRunsOnTheCallersGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var steps []string
		var seen []Attempt
		q := newQueue(t, echo, WithLimits(Concurrent(1)), WithMiddleware(func(ctx context.Context, a Attempt, next func(context.Context) error) error {
			steps, seen = append(steps, "in"), append(seen, a)
			assert.True(t, InAttempt(ctx))
			err := next(context.WithValue(ctx, valueKey{}, "by middleware"))
			steps = append(steps, "out")
			return err
		}))
		first := acquire(t, q, Claim{})
		time.AfterFunc(time.Second, func() { assert.NoError(t, first.Done(nil)) })
		begin, caller, n := time.Now(), goroutineID(), 0
		err := q.Call(t.Context(), Claim{ID: "c", Tenant: "acme", Priority: 2, Estimate: in(4), Metadata: map[string]string{"k": "v"}}, func(ctx context.Context) error {
			steps = append(steps, "f")
			assert.Equal(t, caller, goroutineID())
			assert.Equal(t, "by middleware", ctx.Value(valueKey{}))
			assert.Equal(t, StatusProcessing, status(t, q, "c").Status)
			ReportUsage(ctx, in(5))
			if n++; n == 1 {
				return RateLimited(errBoom, 10*time.Second)
			}
			return nil
		})
		require.NoError(t, err)
		assert.Equal(t, 11*time.Second, time.Since(begin))
		assert.Equal(t, []string{"in", "f", "out", "in", "f", "out"}, steps)
		require.Len(t, seen, 2)
		assert.Equal(t, Attempt{
			ModelID: "m", Endpoint: "m", RequestID: "c", Number: 2, Tenant: "acme", Priority: 2, Metadata: map[string]string{"k": "v"},
			CreatedAt: begin, WaitsSince: begin.Add(time.Second), StartedAt: begin.Add(11 * time.Second), Estimate: in(4),
		}, seen[1])
		r := status(t, q, "c")
		assert.Equal(t, 2, r.Attempts)
		assert.Equal(t, in(10), r.Usage)
		assert.EqualValues(t, 2, addsUp(t, q).Completed)
	})
}

// Without an id of the caller's the middleware sees the assigned one.
func TestCallHasAnAssignedID(t *testing.T) {
	var id string
	q := newQueue(t, echo, WithUnlimited(), WithMiddleware(func(ctx context.Context, a Attempt, next func(context.Context) error) error {
		id = a.RequestID
		return next(ctx)
	}))
	err := q.Call(t.Context(), Claim{}, func(context.Context) error {
		assert.Equal(t, id, q.Requests(RequestFilter{})[0].ID)
		return errBoom
	})
	var failed *ProcessingError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, ProcessingError{"m", id, 1, errBoom}, *failed)
	assert.Equal(t, err, status(t, q, id).Err)
}

var errAny = errors.New("any")

// How a Call can end, and that its slot is free then.
func TestCallEnds(t *testing.T) {
	for name, c := range map[string]struct {
		f    func(ctx context.Context, q *Queue[int, int], cancel func()) error
		is   error
		want Status
		mw   Middleware
	}{
		"well":      {f: func(context.Context, *Queue[int, int], func()) error { return nil }, want: StatusCompleted},
		"failed":    {f: func(context.Context, *Queue[int, int], func()) error { return errBoom }, is: errBoom, want: StatusFailed},
		"attempts":  {f: func(context.Context, *Queue[int, int], func()) error { return Retryable(errBoom) }, is: errBoom, want: StatusFailed},
		"panicked":  {f: func(context.Context, *Queue[int, int], func()) error { panic(Retryable(errBoom)) }, is: errBoom, want: StatusFailed},
		"panic nil": {f: func(context.Context, *Queue[int, int], func()) error { panic(nil) }, is: new(runtime.PanicNilError), want: StatusFailed},
		"canceled": {f: func(ctx context.Context, q *Queue[int, int], _ func()) error {
			assert.NoError(t, q.Cancel("c"))
			<-ctx.Done()
			return nil
		}, is: ErrCanceled, want: StatusCanceled},
		"left": {f: func(ctx context.Context, _ *Queue[int, int], cancel func()) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		}, is: ErrCanceled, want: StatusCanceled},
		"left, and served": {f: func(ctx context.Context, _ *Queue[int, int], cancel func()) error {
			cancel()
			<-ctx.Done()
			return nil
		}, is: ErrCanceled, want: StatusCanceled},
		"left between attempts": {f: func(_ context.Context, _ *Queue[int, int], cancel func()) error {
			time.AfterFunc(time.Second, cancel)
			return RateLimited(errBoom, time.Minute)
		}, is: ErrCanceled, want: StatusCanceled},
		"middleware panics": {f: nil, is: errBoom, want: StatusFailed, mw: func(context.Context, Attempt, func(context.Context) error) error { panic(errBoom) }},
		"middleware skips": {f: nil, is: errAny, want: StatusFailed,
			mw: func(context.Context, Attempt, func(context.Context) error) error { return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := []Option{WithLimits(Concurrent(1))}
				if c.mw != nil {
					opts = append(opts, WithMiddleware(c.mw))
				}
				q := newQueue(t, echo, opts...)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				err := q.Call(ctx, Claim{ID: "c"}, func(ctx context.Context) error { return c.f(ctx, q, cancel) })
				r := status(t, q, "c")
				assert.Equal(t, c.want, r.Status)
				assert.Equal(t, r.Err, err, "Call's error is the request's")
				if c.is == nil {
					assert.NoError(t, err)
				} else if c.is == errAny {
					assert.ErrorContains(t, err, "without calling next")
				} else if nilPanic, ok := c.is.(*runtime.PanicNilError); ok {
					assert.ErrorAs(t, err, &nilPanic)
				} else {
					assert.ErrorIs(t, err, c.is)
				}
				if name == "panicked" {
					var panicked *PanicError
					require.ErrorAs(t, err, &panicked)
					assert.Contains(t, string(panicked.Stack), "permit_call_test.go")
					assert.Equal(t, 1, r.Attempts)
				}
				i := addsUp(t, q)
				assert.Zero(t, i.Limits[0].Used)
				assert.Zero(t, i.Abandoned)
				time.Sleep(time.Hour)
				acquire(t, q, Claim{})
			})
		})
	}
}

// While its function runs, a Call has its slot, whatever has ended its request.
func TestCallHoldsItsSlotUntilItReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(Concurrent(1)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		call := asking(func() (*Permit, error) {
			return nil, q.Call(ctx, Claim{}, func(context.Context) error { // it heeds nothing
				time.Sleep(time.Minute)
				return nil
			})
		})
		next := ask(t.Context(), q, Claim{})
		time.Sleep(2 * time.Second)
		require.True(t, next.waits())
		assert.Equal(t, 1, addsUp(t, q).Abandoned)
		assert.ErrorIs(t, call.refused(t), context.DeadlineExceeded)
		next.granted(t)
		assert.Equal(t, time.Minute, next.at)
	})
}

// A function that ends its goroutine, as a test's FailNow does, ends the request.
func TestCallWhoseFunctionEndsTheGoroutine(t *testing.T) {
	q := newQueue(t, echo, WithLimits(Concurrent(1)))
	returned := false
	var all sync.WaitGroup
	all.Go(func() {
		_ = q.Call(t.Context(), Claim{ID: "c"}, func(context.Context) error { runtime.Goexit(); return nil })
		returned = true
	})
	all.Wait()
	assert.False(t, returned, "the goroutine goes on")
	var panicked *PanicError
	require.ErrorAs(t, status(t, q, "c").Err, &panicked)
	assert.ErrorContains(t, panicked, "runtime.Goexit")
	acquire(t, q, Claim{})
	assert.EqualValues(t, 1, addsUp(t, q).Failed)
}

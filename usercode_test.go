package llmqueue_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// curious is an error whose methods ask the queue something, as one does that reports how
// busy the queue was.
type curious struct{ said, as, is, unwrap func() }

func tell(f func()) {
	if f != nil {
		f()
	}
}

func (c *curious) Error() string { tell(c.said); return "curious" }
func (c *curious) As(any) bool   { tell(c.as); return false }
func (c *curious) Is(error) bool { tell(c.is); return false }
func (c *curious) Unwrap() error { tell(c.unwrap); return nil }

// The methods of a user's error run outside the queue's lock: one that asks the queue would
// hang the whole queue for good, and whoever looks at it.
func TestErrorsMayAskTheQueue(t *testing.T) {
	for name, build := range map[string]func(ask func()) error{
		"Error":                 func(ask func()) error { return &curious{said: ask} },
		"Error of a pause":      func(ask func()) error { return llmqueue.RateLimited(&curious{said: ask}, time.Hour) },
		"As":                    func(ask func()) error { return &curious{as: ask} },
		"Is":                    func(ask func()) error { return &curious{is: ask} },
		"Unwrap":                func(ask func()) error { return &curious{unwrap: ask} },
		"Unwrap below its mark": func(ask func()) error { return llmqueue.Permanent(&curious{unwrap: ask}) },
	} {
		t.Run(name, func(t *testing.T) {
			var q *llmqueue.Queue[int, int]
			var err error
			ask := func() { q.Len() }
			q, err = llmqueue.NewQueue("m", func(context.Context, llmqueue.Request[int]) (int, error) { return 0, build(ask) },
				llmqueue.WithUnlimited(), once)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // the pause is longer
			defer cancel()
			returns(t, "a call that fails with such an error", func() { _, err = q.Do(ctx, 1) })
			require.ErrorAs(t, err, new(*curious))
			returns(t, "Info", func() { q.Info() })
			returns(t, "Requests", func() { q.Requests(llmqueue.RequestFilter{Limit: 10}) })
			returns(t, "Shutdown", func() { assert.NoError(t, q.Shutdown(t.Context())) })
		})
	}
}

// asking is a context whose methods ask the queue something.
type asking struct {
	context.Context
	err, deadline, done, value func()
}

func (c asking) Err() error { tell(c.err); return c.Context.Err() }
func (c asking) Deadline() (time.Time, bool) {
	tell(c.deadline)
	return c.Context.Deadline()
}
func (c asking) Done() <-chan struct{} { tell(c.done); return c.Context.Done() }
func (c asking) Value(key any) any     { tell(c.value); return c.Context.Value(key) }

// The methods of a caller's context run outside the queue's lock: one that asks the queue
// would hang it for good.
func TestContextsMayAskTheQueue(t *testing.T) {
	for name, build := range map[string]func(ctx context.Context, ask func()) context.Context{
		"Err":      func(ctx context.Context, ask func()) context.Context { return asking{Context: ctx, err: ask} },
		"Deadline": func(ctx context.Context, ask func()) context.Context { return asking{Context: ctx, deadline: ask} },
		"Done":     func(ctx context.Context, ask func()) context.Context { return asking{Context: ctx, done: ask} },
		"Value":    func(ctx context.Context, ask func()) context.Context { return asking{Context: ctx, value: ask} },
	} {
		t.Run(name, func(t *testing.T) {
			q, err := llmqueue.NewQueue("m", func(ctx context.Context, _ llmqueue.Request[int]) (int, error) {
				_, _ = ctx.Deadline()
				_ = ctx.Value("key")
				return 0, llmqueue.Retryable(errStory)
			}, llmqueue.WithLimits(llmqueue.RPM(100)), once, llmqueue.WithObserver(func(llmqueue.Event) {}))
			require.NoError(t, err)
			returns(t, "Submit with such a context", func() {
				_, err := q.Submit(build(t.Context(), func() { q.Len() }), llmqueue.Request[int]{MaxWait: time.Hour})
				assert.ErrorIs(t, err, errStory)
			})
			returns(t, "a forecast with such a context", func() {
				_, _ = q.Forecast(build(t.Context(), func() { q.Len() }), llmqueue.Request[int]{})
			})
			returns(t, "Shutdown", func() { assert.NoError(t, q.Shutdown(t.Context())) })
		})
	}
}

// A processor is told why its caller left: by its deadline, or with which cause. It would
// log "canceled" for a call that was too slow.
func TestProcessorSeesWhyItsCallerLeft(t *testing.T) {
	errWhy := errors.New("the user closed the page")
	for name, c := range map[string]struct {
		ctx   func(context.Context) (context.Context, context.CancelFunc)
		err   error
		cause error
	}{
		"deadline": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		}, context.DeadlineExceeded, context.DeadlineExceeded},
		"deadline with a cause": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, time.Second, errWhy)
		}, context.DeadlineExceeded, errWhy},
		"cancelation": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		}, context.Canceled, context.Canceled},
		"cancelation with a cause": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			time.AfterFunc(time.Second, func() { cancel(errWhy) })
			return ctx, func() { cancel(nil) }
		}, context.Canceled, errWhy},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var err, cause, below error
				q := open(t, func(ctx context.Context, _ llmqueue.Request[int]) (int, error) {
					derived, cancel := context.WithCancel(ctx)
					defer cancel()
					<-derived.Done()
					<-ctx.Done()
					err, cause, below = ctx.Err(), context.Cause(ctx), context.Cause(derived)
					return 0, err
				}, llmqueue.WithUnlimited())
				ctx, cancel := c.ctx(t.Context())
				defer cancel()
				_, got := q.Submit(ctx, llmqueue.Request[int]{})
				assert.ErrorIs(t, got, llmqueue.ErrCanceled)
				synctest.Wait()
				assert.Equal(t, c.err, err, "ctx.Err() in the processor")
				assert.Equal(t, c.cause, cause, "context.Cause(ctx) in the processor")
				assert.Equal(t, c.cause, below, "context.Cause of a context that it derived")
			})
		})
	}
}

// A caller's deadline says nothing about the endpoint: its breaker stays closed, though the
// processor is told of a deadline. Impatient callers would shut a healthy provider out.
func TestCallersDeadlineIsNoFailureOfTheEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fuse{most: 1}
		q := open(t, work, llmqueue.WithUnlimited(), llmqueue.WithBreaker(func(string) llmqueue.Breaker { return b }))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := q.Submit(ctx, llmqueue.Request[int]{Params: 60})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
		assert.True(t, b.IsClosed(), "the breaker opened because a caller was impatient")
	})
}

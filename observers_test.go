package llmqueue

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An observer sees each request's events in order, on one goroutine: what it notes
// needs no lock.
func TestEventsOfARequestComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := map[string][]EventType{}
		attempts := map[string][]int{}
		var last time.Time
		q, err := NewQueue("m", func(ctx context.Context, r Request[int]) (int, error) {
			time.Sleep(time.Second)
			switch r.Params {
			case 1:
				return 0, errBoom
			case 2:
				<-ctx.Done()
				return 0, ctx.Err()
			case 3:
				return 0, Retryable(errBoom)
			}
			ReportUsage(ctx, in(7))
			return 0, nil
		}, WithLimits(RPM(100), Concurrent(2)), WithRetry(RetryPolicy{MaxAttempts: 2}), WithObserver(func(e Event) {
			assert.Equal(t, "m", e.ModelID)
			assert.False(t, e.Time.Before(last), "in order of time")
			last = e.Time
			events[e.RequestID] = append(events[e.RequestID], e.Type)
			attempts[e.RequestID] = append(attempts[e.RequestID], e.Attempt)
			assert.Equal(t, "t", e.Tenant)
			assert.Equal(t, 2, e.Priority)
			assert.True(t, e.NoWait)
			assert.Equal(t, map[bool]string{true: "m"}[e.Attempt > 0], e.Endpoint)
			assert.Equal(t, e.Type == EventRetried, !e.Until.IsZero())
			switch e.Type {
			case EventCompleted:
				assert.Equal(t, in(7), e.Usage)
			case EventFailed:
				assert.ErrorIs(t, e.Err, errBoom)
			case EventRetried:
				assert.ErrorIs(t, e.Err, errBoom)
				assert.False(t, e.Until.Before(e.Time))
			case EventCanceled:
				assert.ErrorIs(t, e.Err, ErrCanceled)
			}
		}))
		require.NoError(t, err)
		for i, id := range []string{"ok", "fails", "canceled", "retried"} {
			post(t, q, Request[int]{ID: id, Params: i, Tenant: "t", Priority: 2})
		}
		time.Sleep(10 * time.Second)
		require.NoError(t, q.Cancel("canceled"))
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, map[string][]EventType{
			"ok":       {EventQueued, EventStarted, EventCompleted},
			"fails":    {EventQueued, EventStarted, EventFailed},
			"canceled": {EventQueued, EventStarted, EventCanceled},
			"retried":  {EventQueued, EventStarted, EventRetried, EventStarted, EventFailed},
		}, events)
		assert.Equal(t, map[string][]int{"ok": {0, 1, 1}, "fails": {0, 1, 1}, "canceled": {0, 1, 1}, "retried": {0, 1, 1, 2, 2}}, attempts)
		assert.Zero(t, q.Info().Dropped)
	})
}

// What happens to the queue itself names no request, and what changes nothing is no
// event.
func TestEventsOfTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var got []Event
		q, err := NewQueue("m", func(context.Context, Request[int]) (int, error) {
			return 0, RateLimited(errBoom, time.Minute)
		}, WithLimits(RPM(10)), WithObserver(func(e Event) {
			if e.RequestID == "" {
				got = append(got, e)
			}
		}))
		require.NoError(t, err)
		q.Resume()
		q.Pause()
		q.Pause()
		time.Sleep(time.Second)
		q.Resume()
		require.NoError(t, q.SetLimits(RPM(20)))
		require.Error(t, q.SetLimits())
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_, err = q.Do(ctx, 1) // the provider pauses the queue, for longer than it may wait
		require.ErrorIs(t, err, errBoom)
		require.NoError(t, q.Shutdown(t.Context()))
		later := begin.Add(time.Second)
		require.Len(t, got, 4)
		assert.Equal(t, []Event{
			{Type: EventPaused, Time: begin, ModelID: "m"},
			{Type: EventResumed, Time: later, ModelID: "m"},
			{Type: EventLimitsChanged, Time: later, ModelID: "m", Endpoint: "m", Limits: []Limit{RPM(20)}},
		}, got[:3])
		assert.Equal(t, EventPaused, got[3].Type)
		assert.Equal(t, later.Add(time.Minute), got[3].Until)
		assert.ErrorIs(t, got[3].Err, errBoom)
	})
}

// A slow observer stalls neither the queue nor another observer: what its buffer does
// not hold is dropped and counted.
func TestSlowObserverLosesEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slow, quick int
		release := make(chan struct{})
		q, err := NewQueue("m", echo, WithUnlimited(),
			WithObserver(func(Event) { <-release; slow++ }),
			WithObserver(func(Event) { quick++ }))
		require.NoError(t, err)
		const requests = 3000 // 9,000 events
		const buffer = 4096   // as WithObserver says
		for i := range requests {
			_, err := q.Do(t.Context(), i)
			require.NoError(t, err)
			synctest.Wait() // the quick one keeps up
		}
		assert.EqualValues(t, requests, q.Info().Completed)
		assert.EqualValues(t, 3*requests-buffer-1, q.Info().Dropped, "all but the buffer and the one in hand")
		close(release)
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, buffer+1, slow)
		assert.Equal(t, 3*requests, quick)
	})
}

func TestObserverThatPanicsOrExits(t *testing.T) {
	for name, fail := range map[string]func(){"panic": func() { panic("observer") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			var seen atomic.Int64
			q := newQueue(t, echo, WithUnlimited(), WithObserver(func(e Event) {
				if seen.Add(1); e.Type == EventStarted {
					fail()
				}
			}))
			for i := range 100 {
				got, err := q.Do(t.Context(), i)
				require.NoError(t, err)
				require.Equal(t, i, got)
			}
			require.NoError(t, q.Shutdown(t.Context()))
			assert.EqualValues(t, 300, seen.Load(), "a panic costs its event only")
		})
	}
}

// One line for each event, with ids and without what the request is about: neither params
// nor results nor metadata, whatever becomes of the request. And with the caller's context,
// so that a handler finds its trace.
func TestLoggerLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		type params struct {
			Text string `validate:"max=40"`
		}
		type result struct {
			Text string `validate:"max=20"`
		}
		refusals := 0
		q, err := NewQueue("gpt", func(ctx context.Context, r Request[params]) (result, error) {
			time.Sleep(time.Second)
			switch r.ID {
			case "a":
				if refusals++; refusals > 2 {
					return result{"secret"}, Retryable(errBoom)
				}
				return result{"secret"}, RateLimited(errBoom, time.Minute)
			case "c":
				<-ctx.Done()
				return result{"secret"}, ctx.Err()
			case "d":
				return result{"a secret answer that is too long"}, nil
			case "e":
				panic(errBoom)
			}
			ReportUsage(ctx, in(9))
			Observe(ctx, Observation{Outcome: OutcomeServed, Limits: []ObservedLimit{{Kind: KindRPM, Amount: -1}}})
			return result{"secret answer"}, nil
		}, WithLimits(RPM(100), TPM(100), Concurrent(1)), WithRetry(RetryPolicy{MaxAttempts: 1}),
			WithLogger(slog.New(traced{slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})})))
		require.NoError(t, err)
		ctx := context.WithValue(t.Context(), traceKey{}, "4711")
		for _, id := range []string{"a", "b", "c", "d", "e"} {
			_, err := q.Submit(ctx, Request[params]{ID: id, Params: params{"the secret question"}, Tenant: "acme", NoWait: true,
				Metadata: map[string]string{"secret": "secret"}, Estimate: in(1)})
			require.NoError(t, err)
		}
		_, err = q.Submit(ctx, Request[params]{ID: "refused", Params: params{"a secret question that is longer than it may be"}})
		require.ErrorIs(t, err, ErrInvalidParams)
		q.Pause()
		time.Sleep(10 * time.Minute)
		q.Resume()
		time.Sleep(10 * time.Minute)
		require.NoError(t, q.Cancel("c"))
		require.NoError(t, q.SetLimits(RPM(50)))
		require.NoError(t, q.Shutdown(t.Context()))
		assert.NotContains(t, out.String(), "secret")
		for _, want := range []string{
			`level=DEBUG msg="request queued" model=gpt request=a attempt=0 tenant=acme trace=4711`,
			`level=WARN msg="request retried" model=gpt request=a attempt=1 tenant=acme until=2000-01-01T00:01:01.000Z took=1s outcome=rate_limited error=boom trace=4711`,
			`level=WARN msg="queue paused" model=gpt until=2000-01-01T00:01:01.000Z error=boom` + "\n",
			`level=WARN msg="queue paused" model=gpt` + "\n",
			`level=INFO msg="queue resumed" model=gpt` + "\n",
			`level=INFO msg="queue limits changed" model=gpt`,
			`level=ERROR msg="request failed" model=gpt request=a attempt=3 tenant=acme took=1s outcome=retryable error="`,
			`level=DEBUG msg="request started" model=gpt request=b attempt=1 tenant=acme waited=`,
			`level=DEBUG msg="limit in an answer ignored" model=gpt error="`,
			`level=DEBUG msg="request completed" model=gpt request=b attempt=1 tenant=acme took=1s tokens=9 trace=4711`,
			`level=DEBUG msg="request canceled" model=gpt request=c attempt=1 tenant=acme took=`,
			`level=ERROR msg="request failed" model=gpt request=d attempt=1 tenant=acme took=1s error="`,
			`level=ERROR msg="request failed" model=gpt request=e attempt=1 tenant=acme took=1s error="`,
		} {
			assert.Contains(t, out.String(), want)
		}
		assert.Equal(t, 3, strings.Count(out.String(), "queue paused"), "twice by the provider, once by hand")
		assert.Equal(t, 3, strings.Count(out.String(), "queue resumed"))
	})
}

// traced adds what the context carries, as bridges to tracing do.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, r slog.Record) error {
	if id, ok := ctx.Value(traceKey{}).(string); ok {
		r.AddAttrs(slog.String("trace", id))
	}
	return h.Handler.Handle(ctx, r)
}

// The levels are those of WithLogger's comment, for every event there is.
func TestLoggerLevels(t *testing.T) {
	for level, events := range map[slog.Level][]EventType{
		slog.LevelError: {EventFailed},
		slog.LevelWarn:  {EventRetried, EventFallback, EventPaused, EventOpened, EventNoLimits, EventNoUsage},
		slog.LevelInfo:  {EventResumed, EventClosed, EventLimitsChanged, EventLimitLearned},
		slog.LevelDebug: {EventQueued, EventStarted, EventCompleted, EventCanceled, EventLimitIgnored},
	} {
		for _, e := range events {
			var out bytes.Buffer
			logEvents(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))(Event{Type: e})
			assert.Contains(t, out.String(), "level="+level.String()+" ", "%s", e)
			assert.Equal(t, 1, strings.Count(out.String(), "\n"), "one line each")
		}
	}
}

// An endpoint may be held out by its breaker or because the queue saw calls fail there: the
// line reads right for both, and says which, why and until when.
func TestLoggerTellsOfAnEndpointHeldOut(t *testing.T) {
	var out bytes.Buffer
	log := logEvents(slog.New(slog.NewTextHandler(&out, nil)))
	log(Event{Type: EventOpened, ModelID: "m", Endpoint: "second", Until: time.Unix(4, 0).UTC(), Err: errBoom})
	log(Event{Type: EventClosed, ModelID: "m", Endpoint: "second"})
	assert.Regexp(t, `^\S+ level=WARN msg="endpoint held out" model=m endpoint=second until=1970-01-01T00:00:04.000Z error=boom\n`+
		`\S+ level=INFO msg="endpoint takes calls again" model=m endpoint=second\n$`, out.String())
}

// Who reads the log tells a second attempt beside a slow one from a retry.
func TestLoggerTellsAHedge(t *testing.T) {
	var out bytes.Buffer
	log := logEvents(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	log(Event{Type: EventStarted, ModelID: "m", RequestID: "r", Attempt: 1})
	log(Event{Type: EventStarted, ModelID: "m", RequestID: "r", Attempt: 2, Hedge: true})
	assert.Regexp(t, `request=r attempt=1\n.* msg="request started" model=m request=r attempt=2 hedge=true\n$`, out.String())
}

// A logger above the level is asked once and gets nothing.
func TestLoggerLevel(t *testing.T) {
	var out bytes.Buffer
	q := newQueue(t, echo, WithUnlimited(), WithLogger(slog.New(slog.NewTextHandler(&out, nil))))
	_, err := q.Do(t.Context(), 1)
	require.NoError(t, err)
	require.NoError(t, q.Shutdown(t.Context()))
	assert.Empty(t, out.String(), "nothing noteworthy happened")
}

type traceKey struct{}

func TestMiddlewareOrderAndContext(t *testing.T) {
	var mu sync.Mutex
	var order []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, s)
	}
	layer := func(name string) Middleware {
		return func(ctx context.Context, a Attempt, next func(context.Context) error) error {
			note(name + " before")
			assert.False(t, a.CreatedAt.IsZero())
			assert.False(t, a.StartedAt.Before(a.CreatedAt))
			assert.Equal(t, a.CreatedAt, a.WaitsSince)
			a.CreatedAt, a.WaitsSince, a.StartedAt = time.Time{}, time.Time{}, time.Time{}
			assert.Equal(t, Attempt{ModelID: "m", Endpoint: "m", RequestID: "r", Number: 1, Tenant: "t", Priority: 3,
				Estimate: in(8), Metadata: map[string]string{"k": "v"}}, a)
			err := next(context.WithValue(ctx, traceKey{}, name))
			note(name + " after")
			return err
		}
	}
	q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
		note("processor in " + ctx.Value(traceKey{}).(string))
		ReportUsage(ctx, in(3)) // through a derived context
		return r.Params, nil
	}, WithUnlimited(), WithMiddleware(layer("outer")), WithMiddleware(layer("inner")))
	resp, err := q.Submit(t.Context(), Request[int]{ID: "r", Params: 5, Tenant: "t", Priority: 3,
		Estimate: in(8), Metadata: map[string]string{"k": "v"}})
	require.NoError(t, err)
	assert.Equal(t, 5, resp.Result)
	assert.Equal(t, in(3), resp.Usage)
	assert.Equal(t, []string{"outer before", "inner before", "processor in inner", "inner after", "outer after"}, order)
}

func TestMiddlewareDecidesTheOutcome(t *testing.T) {
	errOwn := errors.New("own")
	for _, c := range []struct {
		name  string
		mw    Middleware
		check func(t *testing.T, resp Response[int], err error, calls int64)
	}{
		{"refuses", func(context.Context, Attempt, func(context.Context) error) error { return errOwn },
			func(t *testing.T, _ Response[int], err error, calls int64) {
				require.ErrorIs(t, err, errOwn)
				assert.Zero(t, calls)
			}},
		{"forgets to call next", func(context.Context, Attempt, func(context.Context) error) error { return nil },
			func(t *testing.T, _ Response[int], err error, calls int64) {
				require.ErrorContains(t, err, "without calling next")
				assert.Zero(t, calls)
			}},
		{"panics", func(context.Context, Attempt, func(context.Context) error) error { panic("mw") },
			func(t *testing.T, _ Response[int], err error, _ int64) {
				var p *PanicError
				require.ErrorAs(t, err, &p)
				assert.Equal(t, "mw", p.Value)
			}},
		{"exits its goroutine", func(context.Context, Attempt, func(context.Context) error) error { runtime.Goexit(); return nil },
			func(t *testing.T, _ Response[int], err error, calls int64) {
				var p *PanicError
				require.ErrorAs(t, err, &p)
				assert.Zero(t, calls)
			}},
		{"hides a failure", func(ctx context.Context, _ Attempt, next func(context.Context) error) error {
			_ = next(ctx)
			return nil
		}, func(t *testing.T, resp Response[int], err error, calls int64) {
			require.NoError(t, err)
			assert.Zero(t, resp.Result)
			assert.EqualValues(t, 1, calls)
		}},
		{"turns a failure into another", func(ctx context.Context, _ Attempt, next func(context.Context) error) error {
			_ = next(ctx)
			return Permanent(errOwn)
		}, func(t *testing.T, _ Response[int], err error, calls int64) {
			require.ErrorIs(t, err, errOwn)
			assert.EqualValues(t, 1, calls)
		}},
		{"tries twice itself", func(ctx context.Context, _ Attempt, next func(context.Context) error) error {
			if next(ctx) == nil {
				return errOwn
			}
			return next(ctx)
		}, func(t *testing.T, resp Response[int], err error, calls int64) {
			require.NoError(t, err)
			assert.Equal(t, 2, resp.Result, "the second call's result")
			assert.EqualValues(t, 2, calls)
		}},
		{"calls next on another goroutine", func(ctx context.Context, _ Attempt, next func(context.Context) error) error {
			done := make(chan error)
			go func() { done <- next(ctx) }()
			return <-done
		}, func(t *testing.T, _ Response[int], err error, calls int64) {
			require.ErrorIs(t, err, errBoom)
			assert.EqualValues(t, 1, calls)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var calls atomic.Int64
			q := newQueue(t, func(context.Context, Request[int]) (int, error) {
				if n := calls.Add(1); n == 2 {
					return int(n), nil
				}
				return 0, errBoom
			}, WithUnlimited(), WithMiddleware(c.mw))
			resp, err := q.Submit(t.Context(), Request[int]{})
			c.check(t, resp, err, calls.Load())
			addsUp(t, q)
		})
	}
}

// Each attempt goes through the middleware anew, and what it marks as retryable is
// retried.
func TestMiddlewareSeesEachAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var numbers []int
		var starts []time.Duration
		begin := time.Now()
		q := newQueue(t, echo, WithUnlimited(), WithMiddleware(func(ctx context.Context, a Attempt, next func(context.Context) error) error {
			numbers, starts = append(numbers, a.Number), append(starts, a.StartedAt.Sub(begin))
			assert.Equal(t, begin, a.CreatedAt)
			if a.Number < 3 {
				return RateLimited(errBoom, time.Minute)
			}
			return next(ctx)
		}))
		resp, err := q.Submit(t.Context(), Request[int]{Params: 4})
		require.NoError(t, err)
		assert.Equal(t, 4, resp.Result)
		assert.Equal(t, 3, resp.Attempts)
		assert.Equal(t, []int{1, 2, 3}, numbers)
		assert.Equal(t, []time.Duration{0, time.Minute, 2 * time.Minute}, starts)
	})
}

// A middleware gives up on a slow call (a timeout of its own) and returns while next still runs
// on another goroutine: the late result must not race with the worker.
func TestMiddlewareReturnsBeforeNext(t *testing.T) {
	release, late := make(chan struct{}), make(chan struct{})
	started := make(chan struct{})
	q := newQueue(t, func(context.Context, Request[int]) (string, error) {
		close(started)
		<-release
		return "late", nil
	}, WithUnlimited(), WithMiddleware(func(ctx context.Context, _ Attempt, next func(context.Context) error) error {
		go func() { defer close(late); _ = next(ctx) }()
		<-started
		close(release) // from here on the processor's return and ours are concurrent
		return Permanent(errors.New("gave up"))
	}))
	_, err := q.Submit(t.Context(), Request[int]{})
	require.ErrorContains(t, err, "gave up")
	<-late
}

// Two concurrent calls of next, the first answer wins (a hedged request).
func TestMiddlewareHedges(t *testing.T) {
	q := newQueue(t, func(_ context.Context, r Request[int]) (int, error) { return r.Params, nil },
		WithUnlimited(), WithMiddleware(func(ctx context.Context, _ Attempt, next func(context.Context) error) error {
			done := make(chan error, 2)
			for range 2 {
				go func() { done <- next(ctx) }()
			}
			defer func() { <-done }()
			return <-done
		}))
	got, err := q.Do(t.Context(), 5)
	require.NoError(t, err)
	require.Equal(t, 5, got)
}

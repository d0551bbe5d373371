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

// Faults that these tests were seen to catch: the timer not set for the end of a provider's
// pause; Until of the endpoint that failed, though another is free; Waited from the request's
// acceptance instead of the end of the attempt before; Took told twice.

// heardOf is what an event says, for comparison.
type heardOf struct {
	Type         EventType
	ID           string
	At           time.Duration
	Endpoint     string
	Waited, Took time.Duration
	Outcome      Outcome
	Until        time.Duration
}

// telling collects the events of a queue, timed from now.
func telling(events *[]heardOf) Option {
	begin := time.Now()
	return WithObserver(func(e Event) {
		t := heardOf{Type: e.Type, ID: e.RequestID, At: e.Time.Sub(begin), Endpoint: e.Endpoint, Waited: e.Waited, Took: e.Took, Outcome: e.Outcome}
		if !e.Until.IsZero() {
			t.Until = e.Until.Sub(begin)
		}
		*events = append(*events, t)
	})
}

// of leaves what happened to one request, or with "" to the queue.
func of(events []heardOf, id string) (some []heardOf) {
	for _, e := range events {
		if e.ID == id {
			some = append(some, e)
		}
	}
	return some
}

// Who reads the events sees how long each attempt waited and ran and what it came to,
// and that the provider's pause began and ended, although nobody resumed it.
func TestEventsTellTimesAndPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const s = time.Second
		var events []heardOf
		calls := 0
		q, err := NewQueue("m", func(context.Context, Request[int]) (int, error) {
			time.Sleep(s)
			if calls++; calls == 1 {
				return 0, RateLimited(errBoom, 10*s)
			}
			return 0, nil
		}, WithLimits(Concurrent(1)), telling(&events))
		require.NoError(t, err)
		post(t, q, Request[int]{ID: "a"})
		post(t, q, Request[int]{ID: "b"})
		time.Sleep(time.Minute) // nothing waits when the second pause ends
		q.Pause()
		q.Resume()
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, []heardOf{
			{EventQueued, "a", 0, "", 0, 0, "", 0},
			{EventStarted, "a", 0, "m", 0, 0, "", 0},
			{EventQueued, "b", 0, "", 0, 0, "", 0},
			{EventPaused, "", s, "m", 0, 0, "", 11 * s},
			{EventRetried, "a", s, "m", 0, s, OutcomeRateLimited, 11 * s},
			{EventResumed, "", 11 * s, "m", 0, 0, "", 0},
			{EventStarted, "a", 11 * s, "m", 10 * s, 0, "", 0},
			{EventCompleted, "a", 12 * s, "m", 0, s, OutcomeServed, 0},
			{EventStarted, "b", 12 * s, "m", 12 * s, 0, "", 0},
			{EventCompleted, "b", 13 * s, "m", 0, s, OutcomeServed, 0},
			{EventPaused, "", time.Minute, "", 0, 0, "", 0},
			{EventResumed, "", time.Minute, "", 0, 0, "", 0},
		}, events)
		info := q.Info()
		assert.EqualValues(t, 3, info.Attempts)
		assert.EqualValues(t, 1, info.Refused)
		assert.Equal(t, 22*s, info.Waited)
		assert.Equal(t, 3*s, info.Worked)
	})
}

// A provider's pause that gets longer is told again, and its end once; it is told though
// nothing waits for it. The end of a quota's pause by hand is told as well.
func TestEventsOfAPauseThatGetsLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const s = time.Second
		var events []heardOf
		var refused sync.Map
		q, err := NewQueue("m", func(ctx context.Context, r Request[int]) (int, error) {
			time.Sleep(s)
			if _, again := refused.LoadOrStore(r.ID, true); again {
				return 0, nil
			}
			if r.Params < 0 {
				Observe(ctx, Observation{Outcome: OutcomeQuotaExhausted, Delay: time.Hour})
				return 0, errBoom
			}
			return 0, RateLimited(errBoom, time.Duration(r.Params)*s)
		}, WithUnlimited(), WithWaitForQuota(), telling(&events))
		require.NoError(t, err)
		for _, after := range []int{10, 5, 20} {
			post(t, q, Request[int]{Params: after})
		}
		time.Sleep(time.Minute)
		post(t, q, Request[int]{ID: "quota", Params: -1})
		time.Sleep(time.Minute)
		q.Resume()
		q.Resume()
		time.Sleep(2 * time.Hour)
		require.NoError(t, q.Shutdown(t.Context()))
		var until, resumed []time.Duration
		for _, e := range of(events, "") {
			assert.Equal(t, "m", e.Endpoint)
			if e.Type == EventPaused {
				until = append(until, e.Until)
			} else {
				assert.Equal(t, EventResumed, e.Type)
				resumed = append(resumed, e.At)
			}
		}
		require.NotEmpty(t, until)
		assert.IsIncreasing(t, until)
		assert.Equal(t, time.Minute+s+time.Hour, until[len(until)-1])
		assert.Equal(t, []time.Duration{21 * s, 2 * time.Minute}, resumed, "the reader is told once that it goes on")
		assert.EqualValues(t, 4, q.Info().Refused)
	})
}

// With another endpoint free, a refused request says that it goes on at once, and where.
func TestEventsOfARequestThatMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const s = time.Second
		var events []heardOf
		q, err := NewQueue("m", func(context.Context, Request[int]) (int, error) {
			time.Sleep(s)
			return 0, RateLimited(errBoom, time.Minute)
		}, WithUnlimited(), telling(&events))
		require.NoError(t, err)
		post(t, q, Request[int]{ID: "r"}) // before there is another endpoint
		require.NoError(t, q.AddEndpoint("other", echo, WithUnlimited()))
		time.Sleep(2 * time.Minute)
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, []heardOf{
			{EventQueued, "r", 0, "", 0, 0, "", 0},
			{EventStarted, "r", 0, "m", 0, 0, "", 0},
			{EventRetried, "r", s, "m", 0, s, OutcomeRateLimited, s},
			{EventStarted, "r", s, "other", 0, 0, "", 0},
			{EventCompleted, "r", s, "other", 0, 0, OutcomeServed, 0},
		}, of(events, "r"))
		assert.Equal(t, []heardOf{
			{EventPaused, "", s, "m", 0, 0, "", s + time.Minute},
			{EventResumed, "", s + time.Minute, "m", 0, 0, "", 0},
		}, of(events, ""))
	})
}

// However a request ends, its last event says how long it waited in vain, or how long its
// attempt ran, and whose context it came with.
func TestEventsAtTheEnd(t *testing.T) {
	const s = time.Second
	type key struct{}
	for name, c := range map[string]struct {
		opts []Option
		ask  func(t *testing.T, q *Queue[int, int])
		want heardOf
	}{
		"canceled in line": {nil, func(t *testing.T, q *Queue[int, int]) {
			time.Sleep(3 * s)
			require.NoError(t, q.Cancel("r"))
		}, heardOf{Type: EventCanceled, Waited: 3 * s}},
		"waited too long": {nil, func(*testing.T, *Queue[int, int]) { time.Sleep(time.Hour) },
			heardOf{Type: EventFailed, Waited: 100 * s}},
		"canceled between two attempts": {[]Option{WithLimits(Concurrent(2)), WithRetry(RetryPolicy{BaseDelay: time.Hour, MaxDelay: time.Hour})},
			func(t *testing.T, q *Queue[int, int]) {
				time.Sleep(3 * s) // its attempt took one
				require.NoError(t, q.Cancel("r"))
			}, heardOf{Type: EventCanceled, Endpoint: "m", Waited: 2 * s}},
		"canceled while it runs": {[]Option{WithLimits(Concurrent(2))}, func(t *testing.T, q *Queue[int, int]) {
			time.Sleep(s / 2)
			require.NoError(t, q.Cancel("r"))
		}, heardOf{Type: EventCanceled, Endpoint: "m", Took: s / 2}},
		"timed out": {[]Option{WithLimits(Concurrent(2)), WithTimeout(s / 4)}, func(*testing.T, *Queue[int, int]) { time.Sleep(s) },
			heardOf{Type: EventFailed, Endpoint: "m", Took: s / 4}},
		"failed": {[]Option{WithLimits(Concurrent(2)), WithRetry(RetryPolicy{MaxAttempts: 1})}, func(*testing.T, *Queue[int, int]) { time.Sleep(2 * s) },
			heardOf{Type: EventFailed, Endpoint: "m", Took: s, Outcome: OutcomeRetryable}},
		"quota used up": {nil, func(t *testing.T, q *Queue[int, int]) {
			time.Sleep(2 * s)
			post(t, q, Request[int]{ID: "poor", Params: -1, Priority: 9})
			require.NoError(t, q.Cancel("first"))
			synctest.Wait()
		}, heardOf{Type: EventFailed, Waited: 2 * s}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var last Event
				opts := append([]Option{WithoutDeadlineCheck(), WithObserver(func(e Event) {
					if e.RequestID == "r" {
						last = e
						assert.Equal(t, "caller", e.Context.Value(key{}))
					}
				})}, c.opts...)
				q, err := NewManager[int, int](WithLimits(Concurrent(1))).Register("m", func(ctx context.Context, r Request[int]) (int, error) {
					if r.Params < 0 {
						Observe(ctx, Observation{Outcome: OutcomeQuotaExhausted})
						return 0, errBoom
					}
					if r.ID == "first" {
						<-ctx.Done()
						return 0, ctx.Err()
					}
					time.Sleep(s)
					return 0, Retryable(errBoom)
				}, opts...)
				require.NoError(t, err)
				ctx := context.WithValue(t.Context(), key{}, "caller")
				post(t, q, Request[int]{ID: "first"})
				_, err = q.Submit(ctx, Request[int]{ID: "r", NoWait: true, MaxWait: 100 * s})
				require.NoError(t, err)
				c.ask(t, q)
				_ = q.Cancel("first")
				require.NoError(t, q.Shutdown(t.Context()))
				assert.Equal(t, c.want, heardOf{Type: last.Type, Endpoint: last.Endpoint, Waited: last.Waited, Took: last.Took, Outcome: last.Outcome})
			})
		})
	}
}

// Of requests that share a call the first that still waits is told what happens to it,
// and only that one what it used and how long it ran.
func TestEventsOfASharedCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const s = time.Second
		var events []heardOf
		var noWait []bool
		calls := 0
		q, err := NewQueue("m", func(_ context.Context, r Request[int]) (int, error) {
			noWait = append(noWait, r.NoWait)
			time.Sleep(s)
			if calls++; calls == 2 {
				return 0, Retryable(errBoom)
			}
			return 0, nil
		}, WithLimits(Concurrent(1)), WithCoalescing(func(r Request[int]) string { return "same"[:r.Params*4] }),
			WithRetry(RetryPolicy{BaseDelay: 1}), telling(&events), WithMiddleware(func(ctx context.Context, a Attempt, next func(context.Context) error) error {
				assert.Equal(t, a.RequestID == "x", a.NoWait, "of the first request")
				return next(ctx)
			}))
		require.NoError(t, err)
		post(t, q, Request[int]{ID: "x"})
		go func() { _, _ = q.Submit(t.Context(), Request[int]{ID: "a", Params: 1}) }()
		synctest.Wait()
		post(t, q, Request[int]{ID: "b", Params: 1})
		post(t, q, Request[int]{ID: "c", Params: 1})
		post(t, q, Request[int]{ID: "d", Params: 1})
		time.Sleep(s / 2)
		require.NoError(t, q.Cancel("d"))
		time.Sleep(s) // it runs
		require.NoError(t, q.Cancel("a"))
		require.NoError(t, q.Shutdown(t.Context()))
		strip := func(id string) (some []heardOf) {
			for _, e := range of(events, id) {
				e.At, e.Until, e.Waited = 0, 0, e.Waited.Round(s/2)
				some = append(some, e)
			}
			return some
		}
		assert.Equal(t, []heardOf{{Type: EventQueued, ID: "a"}, {Type: EventStarted, ID: "a", Endpoint: "m", Waited: s}, {Type: EventCanceled, ID: "a"}}, strip("a"))
		assert.Equal(t, []heardOf{
			{Type: EventQueued, ID: "b"},
			{Type: EventRetried, ID: "b", Endpoint: "m", Took: s, Outcome: OutcomeRetryable},
			{Type: EventStarted, ID: "b", Endpoint: "m"},
			{Type: EventCompleted, ID: "b", Endpoint: "m", Took: s, Outcome: OutcomeServed},
		}, strip("b"))
		assert.Equal(t, []heardOf{{Type: EventQueued, ID: "c"}, {Type: EventCompleted, ID: "c", Endpoint: "m"}}, strip("c"))
		assert.Equal(t, []heardOf{{Type: EventQueued, ID: "d"}, {Type: EventCanceled, ID: "d", Waited: s / 2}}, strip("d"))
		assert.Equal(t, []bool{true, false, false}, noWait)
	})
}

// What went to another model says how long its last attempt here took.
func TestEventsOfAFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const s = time.Second
		var events []heardOf
		m := newManager[int, int](t)
		_, err := m.Register("m", func(context.Context, Request[int]) (int, error) {
			time.Sleep(s)
			return 0, Retryable(errBoom)
		}, WithUnlimited(), WithRetry(RetryPolicy{MaxAttempts: 1}), WithFallback("other"), telling(&events))
		require.NoError(t, err)
		_, err = m.Register("other", sleeper, WithUnlimited())
		require.NoError(t, err)
		_, err = m.Submit(t.Context(), Request[int]{ID: "r", ModelID: "m", Params: 5})
		require.NoError(t, err)
		require.NoError(t, m.Shutdown(t.Context()))
		assert.Equal(t, []heardOf{
			{EventQueued, "r", 0, "", 0, 0, "", 0},
			{EventStarted, "r", 0, "m", 0, 0, "", 0},
			{EventFallback, "r", s, "m", 0, s, OutcomeRetryable, 0},
			{EventCompleted, "r", 6 * s, "m", 0, 0, "", 0},
		}, events)
	})
}

// A middleware is told what the queue makes of the attempt when next has returned.
func TestMiddlewareSeesOutcomeAndUsage(t *testing.T) {
	observed := func(o Outcome, err error) Processor[int, int] {
		return func(ctx context.Context, _ Request[int]) (int, error) {
			Observe(ctx, Observation{Outcome: o, Usage: in(4)})
			return 0, err
		}
	}
	fails := func(err error) Processor[int, int] {
		return func(context.Context, Request[int]) (int, error) { return 0, err }
	}
	for name, c := range map[string]struct {
		process Processor[int, int]
		outcome Outcome
		usage   Usage
		refused int64
	}{
		"served":                        {observed(OutcomeServed, nil), OutcomeServed, in(4), 0},
		"nothing known":                 {fails(nil), OutcomeServed, Usage{}, 0},
		"not explained":                 {fails(errBoom), "", Usage{}, 0},
		"served, then failed":           {observed(OutcomeServed, errBoom), "", in(4), 0},
		"marked":                        {fails(Retryable(errBoom)), OutcomeRetryable, Usage{}, 0},
		"marked as refused":             {fails(RateLimited(errBoom, time.Hour)), OutcomeRateLimited, Usage{}, 1},
		"marked as hopeless":            {observed(OutcomeRateLimited, Permanent(errBoom)), OutcomeFatal, in(4), 1},
		"observed":                      {observed(OutcomeFatal, errBoom), OutcomeFatal, in(4), 0},
		"observed more exactly":         {observed(OutcomeOverloaded, Retryable(errBoom)), OutcomeOverloaded, in(4), 1},
		"refused, observed and marked":  {observed(OutcomeSlowDown, RateLimited(errBoom, time.Hour)), OutcomeSlowDown, in(4), 1},
		"observed otherwise and marked": {observed(OutcomeServed, Retryable(errBoom)), OutcomeRetryable, in(4), 0},
	} {
		t.Run(name, func(t *testing.T) {
			var event Event
			q := newQueue(t, c.process, WithUnlimited(), WithRetry(RetryPolicy{MaxAttempts: 1}),
				WithObserver(func(e Event) {
					if e.RequestID != "" {
						event = e
					}
				}),
				WithMiddleware(func(ctx context.Context, _ Attempt, next func(context.Context) error) error {
					err := next(ctx)
					assert.Equal(t, c.outcome, OutcomeOf(ctx, err))
					used, known := ReportedUsage(context.WithValue(ctx, traceKey{}, 1))
					assert.Equal(t, c.usage, used)
					assert.Equal(t, c.usage != (Usage{}), known)
					return err
				}))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // what is refused cannot start again before
			defer cancel()
			_, _ = q.Do(ctx, 1)
			require.NoError(t, q.Shutdown(t.Context()))
			assert.Equal(t, c.outcome, event.Outcome)
			assert.Equal(t, c.refused, q.Info().Refused)
		})
	}
	assert.Equal(t, OutcomeRetryable, OutcomeOf(t.Context(), Retryable(errBoom)), "outside an attempt the mark counts")
	_, known := ReportedUsage(t.Context())
	assert.False(t, known)
}

// counted is a result that says what it used.
type counted int64

func (c counted) TokenUsage() Usage { return in(int64(c)) }

// A result's own usage is known to the middleware as soon as next returns, is replaced by
// a later success's, and counts though the middleware makes a failure of it; what a
// processor reports wins.
func TestMiddlewareSeesTheResultsUsage(t *testing.T) {
	for name, c := range map[string]struct {
		report bool
		err    error
		want   []Usage
	}{
		"of the result": {false, nil, []Usage{in(1), in(2)}},
		"of a failure":  {false, errors.New("too short"), []Usage{in(1), in(2)}},
		"reported":      {true, nil, []Usage{in(70), in(70)}},
	} {
		t.Run(name, func(t *testing.T) {
			var calls counted
			q := newQueue(t, func(ctx context.Context, _ Request[int]) (counted, error) {
				if calls++; c.report {
					ReportUsage(ctx, in(70))
				}
				return calls, nil
			}, WithUnlimited(), WithMiddleware(func(ctx context.Context, _ Attempt, next func(context.Context) error) error {
				for _, want := range c.want {
					assert.NoError(t, next(ctx))
					used, _ := ReportedUsage(ctx)
					assert.Equal(t, want, used)
				}
				return c.err
			}))
			resp, err := q.Submit(t.Context(), Request[int]{})
			if c.err != nil {
				require.ErrorIs(t, err, c.err)
			}
			assert.Equal(t, c.want[1], resp.Usage)
		})
	}
}

// When a refusal makes the queue send fewer at once, or shorter bursts, the reader is told
// what is in force and why, and when it is as before.
func TestEventsOfLimitsThatShrink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []Event
		var refused sync.Map
		q, err := NewQueue("m", func(ctx context.Context, r Request[int]) (int, error) {
			time.Sleep(time.Second)
			says := Observation{Outcome: Outcome(r.Metadata["once"]), Delay: time.Duration(r.Params) * time.Second}
			if _, again := refused.LoadOrStore(r.ID, true); says.Outcome != "" && !again {
				Observe(ctx, says)
				return 0, errBoom
			}
			Observe(ctx, Observation{Outcome: OutcomeServed})
			return 0, nil
		}, WithLimits(RPM(600), Concurrent(8)), WithObserver(func(e Event) {
			if e.Type == EventLimitLearned {
				events = append(events, e)
			}
		}))
		require.NoError(t, err)
		once := func(o Outcome) map[string]string { return map[string]string{"once": string(o)} }
		for range 8 {
			post(t, q, Request[int]{Metadata: once(OutcomeOverloaded)})
		}
		time.Sleep(time.Minute)
		for range 100 {
			post(t, q, Request[int]{})
		}
		time.Sleep(time.Hour)
		post(t, q, Request[int]{Params: 1, Metadata: once(OutcomeSlowDown)})
		time.Sleep(time.Hour)
		post(t, q, Request[int]{})
		require.NoError(t, q.Shutdown(t.Context()))
		require.Len(t, events, 4)
		assert.Equal(t, []Limit{RPM(600), Concurrent(6)}, events[0].Limits)
		assert.ErrorContains(t, events[0].Err, "overloaded")
		assert.Equal(t, []Limit{RPM(600), Concurrent(8)}, events[1].Limits)
		assert.NoError(t, events[1].Err)
		assert.EqualValues(t, 75, events[2].Limits[0].Burst)
		assert.ErrorContains(t, events[2].Err, "slow_down")
		assert.EqualValues(t, 150, events[3].Limits[0].Burst)
		assert.NoError(t, events[3].Err)
	})
}

// A monitor reads the queue's figures from the beginning and is detached once when it
// ends, also when the manager does not take the queue in; a panic is NewQueue's error.
func TestMonitor(t *testing.T) {
	var read []func() QueueInfo
	detached := 0
	monitor := WithMonitor(func(info func() QueueInfo) func() {
		read = append(read, info)
		assert.Zero(t, info().Accepted)
		return func() { detached++; panic("detach") }
	})
	m := NewManager[int, int](WithUnlimited(), WithOptions(monitor, Option{}, WithMonitor(func(func() QueueInfo) func() { return nil })))
	q, err := m.Register("m", echo)
	require.NoError(t, err)
	require.NoError(t, m.RegisterAll([]ModelConfig{{ModelID: "n"}}, echo, monitor))
	require.Len(t, read, 3, "monitors add up")
	_, err = q.Do(t.Context(), 1)
	require.NoError(t, err)
	assert.EqualValues(t, 1, read[0]().Completed)
	assert.Equal(t, "n", read[2]().ModelID)
	assert.Zero(t, detached)
	require.NoError(t, q.Shutdown(t.Context()))
	require.NoError(t, q.Shutdown(t.Context()))
	assert.Equal(t, 1, detached)
	require.ErrorIs(t, m.RegisterAll([]ModelConfig{{ModelID: "k"}, {ModelID: "k"}}, echo), ErrInvalidConfiguration)
	assert.Equal(t, 2, detached)
	require.NoError(t, m.Shutdown(t.Context()))
	assert.Equal(t, 4, detached)

	_, err = NewQueue("m", echo, WithUnlimited(), monitor, WithMonitor(func(func() QueueInfo) func() { panic("attach") }))
	require.ErrorIs(t, err, ErrInvalidConfiguration)
	require.ErrorContains(t, err, "attach")
	assert.Equal(t, 5, detached, "what was attached before")
	_, err = NewQueue("m", echo, WithUnlimited(), WithMonitor(nil))
	require.ErrorIs(t, err, ErrInvalidConfiguration)
}

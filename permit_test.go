package llmqueue

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// asked is an Acquire, or an Again, on a goroutine of its own.
type asked struct {
	done   chan struct{}
	permit *Permit
	err    error
	at     time.Duration // since it was asked
}

func asking(f func() (*Permit, error)) *asked {
	r, begin := &asked{done: make(chan struct{})}, time.Now()
	go func() {
		defer close(r.done)
		r.permit, r.err = f()
		r.at = time.Since(begin)
	}()
	synctest.Wait()
	return r
}

func ask(ctx context.Context, a Acquirer, c Claim) *asked {
	return asking(func() (*Permit, error) { return a.Acquire(ctx, c) })
}

func askAgain(ctx context.Context, p *Permit) *asked {
	return asking(func() (*Permit, error) { return p, p.Again(ctx) })
}

// waits reports whether there is no answer yet.
func (r *asked) waits() bool {
	synctest.Wait()
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}

// granted waits for the permit, which has to come.
func (r *asked) granted(t *testing.T) *Permit {
	t.Helper()
	<-r.done
	require.NoError(t, r.err)
	return r.permit
}

// refused waits for the error, which has to come.
func (r *asked) refused(t *testing.T) error {
	t.Helper()
	<-r.done
	require.Error(t, r.err)
	return r.err
}

func acquire(t testing.TB, a Acquirer, c Claim) *Permit {
	t.Helper()
	p, err := a.Acquire(t.Context(), c)
	require.NoError(t, err)
	return p
}

type valueKey struct{}

func TestAcquireAndDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(Concurrent(1)))
		ctx := context.WithValue(t.Context(), valueKey{}, "mine")
		p, err := q.Acquire(ctx, Claim{ID: "p", Tenant: "acme"})
		require.NoError(t, err)
		assert.Equal(t, "m", p.Endpoint())
		assert.Equal(t, "mine", p.Context().Value(valueKey{}))
		assert.True(t, InAttempt(p.Context()))
		assert.NoError(t, p.Context().Err())
		assert.Equal(t, StatusProcessing, status(t, q, "p").Status)
		assert.Equal(t, 1, addsUp(t, q).Processing)
		list := q.Requests(RequestFilter{Tenant: "acme"})
		require.Len(t, list, 1)
		assert.Equal(t, "p", list[0].ID)
		assert.Equal(t, "m", list[0].Endpoint)

		require.NoError(t, p.Done(nil))
		assert.ErrorIs(t, p.Context().Err(), context.Canceled, "the attempt's context outlives it")
		r := status(t, q, "p")
		assert.Equal(t, StatusCompleted, r.Status)
		assert.Equal(t, 1, r.Attempts)
		i := addsUp(t, q)
		assert.EqualValues(t, 1, i.Completed)
		assert.Zero(t, i.Processing)

		second := p.Done(errBoom)
		assert.Error(t, second)
		assert.NotErrorIs(t, second, errBoom)
		assert.Equal(t, StatusCompleted, status(t, q, "p").Status, "a second Done changed something")
		assert.Error(t, p.Again(t.Context()), "there is no other attempt")
		acquire(t, q, Claim{})
		assert.EqualValues(t, 1, addsUp(t, q).Processing)
	})
}

// Permits and requests stand in one line: by priority, then by turns of tenants, then in order
// of arrival.
func TestPermitsAndRequestsShareOneLine(t *testing.T) {
	type entry struct {
		name, tenant string
		priority     int
		permit       bool
	}
	for name, c := range map[string]struct {
		line []entry
		want string
	}{
		"order":    {[]entry{{"a", "", 0, true}, {"b", "", 0, false}, {"c", "", 0, true}, {"d", "", 0, false}}, "[a b c d]"},
		"priority": {[]entry{{"a", "", 0, true}, {"b", "", 1, false}, {"c", "", 2, true}, {"d", "", 1, true}}, "[c b d a]"},
		"tenants":  {[]entry{{"x1", "x", 0, true}, {"x2", "x", 0, true}, {"x3", "x", 0, false}, {"y1", "y", 0, true}, {"y2", "y", 0, false}}, "[x1 y1 x2 y2 x3]"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var started []string // by one at a time
				q := newQueue(t, func(_ context.Context, r Request[int]) (int, error) {
					started = append(started, r.ID)
					time.Sleep(time.Second)
					return 0, nil
				}, WithLimits(Concurrent(1)))
				q.Pause()
				for _, e := range c.line {
					if e.permit {
						go func() {
							p, err := q.Acquire(t.Context(), Claim{ID: e.name, Tenant: e.tenant, Priority: e.priority})
							if assert.NoError(t, err) {
								started = append(started, e.name)
								time.Sleep(time.Second)
								assert.NoError(t, p.Done(nil))
							}
						}()
					} else {
						post(t, q, Request[int]{ID: e.name, Tenant: e.tenant, Priority: e.priority})
					}
					synctest.Wait()
				}
				assert.Equal(t, len(c.line), q.Len())
				for i, r := range q.Requests(RequestFilter{}) {
					assert.Equal(t, i+1, r.Position)
				}
				q.Resume()
				time.Sleep(time.Minute)
				synctest.Wait()
				assert.Equal(t, c.want, fmt.Sprint(started))
				assert.EqualValues(t, len(c.line), addsUp(t, q).Completed)
			})
		})
	}
}

func TestPermitsKeepTheLimits(t *testing.T) {
	for name, c := range map[string]struct {
		limit Limit
		claim Claim
		most  int // permits at once
		renew time.Duration
	}{
		"requests":   {RPM(2), Claim{}, 2, time.Minute},
		"tokens":     {TPM(100), Claim{Estimate: in(40)}, 2, time.Minute},
		"slots":      {Concurrent(3), Claim{}, 3, 0},
		"in a shard": {RPM(1).Per(time.Second), Claim{}, 1, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, echo, WithLimits(c.limit), WithMargin(0))
				var permits []*Permit
				for range c.most {
					permits = append(permits, acquire(t, q, c.claim))
				}
				next := ask(t.Context(), q, c.claim)
				require.True(t, next.waits(), "one more than the limit allows")
				assert.EqualValues(t, 0, q.Info().Limits[0].Available/40)
				if c.renew == 0 {
					require.NoError(t, permits[0].Done(nil))
				}
				next.granted(t)
				assert.Equal(t, c.renew, next.at)
			})
		})
	}
}

// What was reserved and not used is there for others at once.
func TestPermitsSettleWhatTheyUsed(t *testing.T) {
	for name, tell := range map[string]func(context.Context){
		"reported": func(ctx context.Context) { ReportUsage(ctx, in(20)) },
		"observed": func(ctx context.Context) { Observe(ctx, Observation{Outcome: OutcomeServed, Usage: in(20)}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, echo, WithLimits(TPM(100)))
				p := acquire(t, q, Claim{ID: "p", Estimate: in(80)})
				next := ask(t.Context(), q, Claim{Estimate: in(80)})
				tell(p.Context())
				require.True(t, next.waits())
				require.NoError(t, p.Done(nil))
				next.granted(t)
				assert.Zero(t, next.at)
				assert.Equal(t, in(20), status(t, q, "p").Usage)
				assert.EqualValues(t, 100, q.Info().Limits[0].Used)
				tell(p.Context())
				ReportUsage(p.Context(), in(1))
				assert.Equal(t, in(20), status(t, q, "p").Usage, "after Done nothing is heard")
			})
		})
	}
}

func TestPermitsHearTheProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLearnedLimits())
		p := acquire(t, q, Claim{})
		second := ask(t.Context(), q, Claim{})
		require.True(t, second.waits(), "the first finds the limits out")
		Observe(p.Context(), Observation{Outcome: OutcomeServed, Limits: []ObservedLimit{{Kind: KindRPM, Amount: 50, Remaining: 49, Reset: time.Second}}})
		synctest.Wait()
		assert.Equal(t, RPM(50).Amount, q.Info().Limits[0].Limit.Amount)
		require.NoError(t, p.Done(nil))
		require.NoError(t, second.granted(t).Done(nil))

		p = acquire(t, q, Claim{})
		Observe(p.Context(), Observation{Outcome: OutcomeRateLimited, Delay: 30 * time.Second})
		assert.EqualValues(t, 1, q.Info().Refused)
		next := ask(t.Context(), q, Claim{})
		next.granted(t)
		assert.Equal(t, 30*time.Second, next.at)
	})
}

func TestPermitsGoToEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := NewSharedLimits(Concurrent(3))
		q := newQueue(t, echo, WithLimits(Concurrent(1)), WithSharedLimits(shared))
		require.NoError(t, q.AddEndpoint("east", echo, WithLimits(Concurrent(2)), WithSharedLimits(shared)))
		other := newQueue(t, echo, WithSharedLimits(shared))
		names := map[string]int{}
		var permits []*Permit
		for range 3 {
			p := acquire(t, q, Claim{})
			names[p.Endpoint()]++
			permits = append(permits, p)
		}
		assert.Equal(t, map[string]int{"m": 1, "east": 2}, names)
		next := ask(t.Context(), other, Claim{})
		require.True(t, next.waits(), "the shared limits are used up")
		require.NoError(t, permits[1].Done(nil))
		next.granted(t)
	})
}

// A claim is refused as a request is, in the same words.
func TestAcquireRefusesWhatSubmitRefuses(t *testing.T) {
	deadline := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		t.Cleanup(cancel)
		return ctx
	}
	plain := func(t *testing.T) context.Context { return t.Context() }
	for name, c := range map[string]struct {
		opts  []Option
		ready func(t *testing.T, q *Queue[int, int])
		ctx   func(t *testing.T) context.Context
		claim Claim
		want  error
	}{
		"too large":    {opts: []Option{WithLimits(TPM(10))}, claim: Claim{Estimate: in(11)}, want: ErrRequestTooLarge},
		"duplicate":    {opts: []Option{WithUnlimited()}, claim: Claim{ID: "there"}, want: ErrDuplicateRequest},
		"wrong model":  {opts: []Option{WithUnlimited()}, claim: Claim{ModelID: "other"}, want: ErrModelNotRegistered},
		"negative":     {opts: []Option{WithUnlimited()}, claim: Claim{Estimate: in(-1)}, want: ErrInvalidParams},
		"no time left": {opts: []Option{WithUnlimited()}, ctx: func(*testing.T) context.Context { return ended() }, want: ErrCanceled},
		"full": {opts: []Option{WithLimits(Concurrent(1)), WithMaxQueued(1)}, ready: func(t *testing.T, q *Queue[int, int]) {
			ask(t.Context(), q, Claim{})
		}, want: ErrQueueFull},
		"quota": {opts: []Option{WithUnlimited()}, ready: func(t *testing.T, q *Queue[int, int]) {
			Observe(acquire(t, q, Claim{}).Context(), Observation{Outcome: OutcomeQuotaExhausted, Delay: time.Hour})
		}, want: ErrQuotaExhausted},
		"closed": {opts: []Option{WithUnlimited()}, ready: func(t *testing.T, q *Queue[int, int]) {
			go func() { _ = q.Shutdown(t.Context()) }()
			synctest.Wait()
		}, want: ErrQueueClosed},
		"deadline": {opts: []Option{WithLimits(RPM(1))}, ctx: deadline, want: ErrQueueTimeout},
		"MaxWait":  {opts: []Option{WithLimits(RPM(1))}, claim: Claim{MaxWait: time.Second}, want: ErrQueueTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, echo, c.opts...)
				first := acquire(t, q, Claim{ID: "there", Estimate: in(1)})
				if c.ready != nil {
					c.ready(t, q)
				}
				if c.ctx == nil {
					c.ctx = plain
				}
				before := q.Info().Accepted
				_, submitted := q.Submit(c.ctx(t), Request[int]{
					ID: c.claim.ID, ModelID: c.claim.ModelID, Estimate: c.claim.Estimate, MaxWait: c.claim.MaxWait,
				})
				p, err := q.Acquire(c.ctx(t), c.claim)
				require.Nil(t, p)
				require.ErrorIs(t, err, c.want)
				assert.Equal(t, submitted.Error(), err.Error())
				assert.Equal(t, before, addsUp(t, q).Accepted)
				assert.NoError(t, first.Done(nil))
			})
		})
	}
	q := newQueue(t, echo, WithUnlimited())
	_, err := q.Acquire(t.Context(), Claim{MaxWait: -1})
	assert.ErrorIs(t, err, ErrInvalidParams)
	_, err = new(Queue[int, int]).Acquire(t.Context(), Claim{})
	assert.ErrorIs(t, err, ErrInvalidConfiguration)
	assert.ErrorIs(t, new(Queue[int, int]).Call(t.Context(), Claim{}, nil), ErrInvalidConfiguration)
}

func TestPermitThatWaitsTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(Concurrent(1)))
		first := acquire(t, q, Claim{})
		next := ask(t.Context(), q, Claim{ID: "late", MaxWait: time.Minute})
		assert.ErrorIs(t, next.refused(t), ErrQueueTimeout)
		assert.Equal(t, time.Minute, next.at)
		assert.Equal(t, StatusFailed, status(t, q, "late").Status)
		require.NoError(t, first.Done(nil))
		acquire(t, q, Claim{})
		assert.EqualValues(t, 1, addsUp(t, q).Failed)
	})
}

// How Done's error decides, as that of a processor does.
func TestDoneSaysHowTheAttemptEnded(t *testing.T) {
	never := WithRetry(RetryPolicy{MaxAttempts: 1})
	for name, c := range map[string]struct {
		opts  []Option
		first func(ctx context.Context)
		err   error
		again bool
	}{
		"plain error":   {err: errBoom},
		"permanent":     {err: Permanent(Retryable(errBoom))},
		"retryable":     {err: Retryable(errBoom), again: true},
		"rate limited":  {err: RateLimited(errBoom, time.Second), again: true},
		"no more":       {opts: []Option{never}, err: Retryable(errBoom)},
		"streamed":      {first: Streamed, err: Retryable(errBoom)},
		"observed":      {first: func(ctx context.Context) { Observe(ctx, Observation{Outcome: OutcomeOverloaded}) }, err: errBoom, again: true},
		"ErrTryAgain":   {err: ErrTryAgain},
		"a panic's own": {err: &PanicError{Value: errBoom}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, echo, append(c.opts, WithLimits(Concurrent(1)))...)
				p := acquire(t, q, Claim{ID: "p"})
				if c.first != nil {
					c.first(p.Context())
				}
				done := make(chan error)
				go func() { done <- p.Done(c.err) }() // any goroutine may
				err := <-done
				if c.again {
					assert.Equal(t, ErrTryAgain, err)
					assert.Equal(t, StatusPending, status(t, q, "p").Status)
					require.NoError(t, p.Again(t.Context()))
					assert.Equal(t, 2, status(t, q, "p").Attempts)
					assert.NoError(t, p.Context().Err(), "the second attempt has a context of its own")
					require.NoError(t, p.Done(nil))
					assert.EqualValues(t, 1, addsUp(t, q).Retries)
					return
				}
				var failed *ProcessingError
				require.ErrorAs(t, err, &failed)
				assert.Equal(t, ProcessingError{"m", "p", 1, c.err}, *failed)
				assert.Equal(t, StatusFailed, status(t, q, "p").Status)
				assert.Equal(t, err, p.Again(t.Context()), "Again says how the request ended")
				assert.EqualValues(t, 1, addsUp(t, q).Failed)
				acquire(t, q, Claim{})
			})
		})
	}
}

// After a passing fault the request waits for its backoff, and then goes before who came later.
func TestAgainKeepsThePlaceInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(Concurrent(1)))
		p := acquire(t, q, Claim{})
		second := ask(t.Context(), q, Claim{})
		third := ask(t.Context(), q, Claim{})
		require.Equal(t, ErrTryAgain, p.Done(Retryable(errBoom)))
		again := askAgain(t.Context(), p)
		running := second.granted(t)
		time.Sleep(time.Minute) // the backoff is over
		require.True(t, again.waits(), "its slot is another's")
		require.NoError(t, running.Done(nil))
		again.granted(t)
		require.True(t, third.waits(), "who came first goes first")
		require.NoError(t, p.Done(nil))
		require.NoError(t, third.granted(t).Done(nil))
		i := addsUp(t, q)
		assert.EqualValues(t, 3, i.Completed)
		assert.EqualValues(t, 4, i.Attempts)
	})
}

// A refusal pauses the whole endpoint, and the request goes first when that is over.
func TestRateLimitedPermitPausesTheEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(Concurrent(1)))
		p := acquire(t, q, Claim{})
		next := ask(t.Context(), q, Claim{})
		require.Equal(t, ErrTryAgain, p.Done(RateLimited(errBoom, 10*time.Second)))
		assert.Equal(t, 10*time.Second, time.Until(q.Info().PausedUntil))
		again := askAgain(t.Context(), p)
		again.granted(t)
		assert.Equal(t, 10*time.Second, again.at)
		require.True(t, next.waits())
		require.NoError(t, p.Done(nil))
		next.granted(t)
	})
}

func TestAttemptsOfAPermitAreUsedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithUnlimited(), WithRetry(RetryPolicy{MaxAttempts: 3}))
		p := acquire(t, q, Claim{Estimate: in(1)})
		for range 2 {
			ReportUsage(p.Context(), in(5))
			require.Equal(t, ErrTryAgain, p.Done(Retryable(errBoom)))
			require.NoError(t, p.Again(t.Context()))
		}
		ReportUsage(p.Context(), in(5))
		err := p.Done(Retryable(errBoom))
		var failed *ProcessingError
		require.ErrorAs(t, err, &failed)
		assert.Equal(t, 3, failed.Attempts)
		assert.ErrorIs(t, err, errBoom)
		assert.Equal(t, in(15), addsUp(t, q).Usage)
	})
}

// Until Again, a second Done is that of the attempt that is over, also when the next one has
// started meanwhile.
func TestSecondDoneDoesNotEndTheNextAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(Concurrent(1)))
		p := acquire(t, q, Claim{ID: "p"})
		require.Equal(t, ErrTryAgain, p.Done(Retryable(errBoom)))
		assert.Error(t, p.Done(nil))
		assert.Equal(t, StatusPending, status(t, q, "p").Status)
		time.Sleep(time.Minute)
		require.Equal(t, StatusProcessing, status(t, q, "p").Status, "the next attempt has its slot")
		assert.Error(t, p.Done(nil))
		assert.Equal(t, StatusProcessing, status(t, q, "p").Status)
		require.NoError(t, p.Again(t.Context()))
		require.NoError(t, p.Done(nil))
		assert.EqualValues(t, 1, addsUp(t, q).Completed)
	})
}

// Again without ErrTryAgain, and a second one beside the first, do nothing.
func TestAgainOutOfTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(Concurrent(1)))
		p := acquire(t, q, Claim{})
		assert.Error(t, p.Again(t.Context()), "its attempt is not over")
		require.Equal(t, ErrTryAgain, p.Done(RateLimited(errBoom, time.Minute)))
		first, second := askAgain(t.Context(), p), askAgain(t.Context(), p)
		require.True(t, first.waits())
		assert.Error(t, second.refused(t))
		assert.Zero(t, second.at)
		first.granted(t)
		assert.Error(t, p.Again(t.Context()))
		require.NoError(t, p.Done(nil))
		assert.EqualValues(t, 1, addsUp(t, q).Completed)
	})
}

// A permit stays here while a fallback takes requests: it is refused, or waits, as if there
// were none. It shares no call either.
func TestPermitsStayWithTheirModel(t *testing.T) {
	t.Run("quota", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := managerOf(t, served{"a", answering, []Option{WithLimits(Concurrent(1)), WithFallback("b")}}, served{"b", answering, nil})
			p := acquire(t, m, Claim{ModelID: "a"})
			waiting := ask(t.Context(), m, Claim{ModelID: "a"})
			Observe(p.Context(), Observation{Outcome: OutcomeQuotaExhausted, Delay: time.Hour})
			assert.ErrorIs(t, waiting.refused(t), ErrQuotaExhausted)
			_, err := m.Acquire(t.Context(), Claim{ModelID: "a"})
			assert.ErrorIs(t, err, ErrQuotaExhausted)
			assert.ErrorIs(t, p.Done(errBoom), ErrQuotaExhausted)
			r, err := m.Submit(t.Context(), NewRequest("a", 1))
			require.NoError(t, err)
			assert.Equal(t, "b", r.Result)
		})
	})
	t.Run("breaker", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := managerOf(t, served{"a", answering, []Option{WithLimits(Concurrent(1)), opening(), WithFallback("b")}}, served{"b", answering, nil})
			a, _ := m.Queue("a")
			p := acquire(t, m, Claim{ModelID: "a"})
			waiting := ask(t.Context(), m, Claim{ModelID: "a"})
			before := post(t, a, Request[int]{})
			require.Equal(t, ErrTryAgain, p.Done(Retryable(errDown)), "it waits for the probe")
			late := ask(t.Context(), m, Claim{ModelID: "a"})
			require.True(t, waiting.waits(), "%v", waiting.err)
			require.True(t, late.waits())
			r, err := a.Wait(t.Context(), before)
			require.NoError(t, err)
			assert.Equal(t, "b", r.Result, "what may go elsewhere goes at once")
			i := addsUp(t, a)
			assert.EqualValues(t, 1, i.Fallbacks)
			assert.Equal(t, 3, i.Pending)
			require.NoError(t, p.Again(t.Context()))
			require.NoError(t, p.Done(nil))
			require.NoError(t, waiting.granted(t).Done(nil))
			require.NoError(t, late.granted(t).Done(nil))
			assert.EqualValues(t, 4, addsUp(t, a).Completed)
		})
	})
	t.Run("coalescing", func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(Concurrent(2)), WithCoalescing(func(Request[int]) string { return "same" }))
		p, other := acquire(t, q, Claim{}), acquire(t, q, Claim{})
		assert.Equal(t, 2, q.Info().Processing)
		assert.Zero(t, q.Info().Coalesced)
		require.NoError(t, errors.Join(p.Done(nil), other.Done(nil)))
	})
}

func TestManagerAcquireRoutesByModel(t *testing.T) {
	m := newManager[int, string](t, WithUnlimited())
	for _, id := range []string{"a", "b"} {
		_, err := m.Register(id, answering)
		require.NoError(t, err)
	}
	p := acquire(t, m, Claim{ModelID: "b"})
	assert.Equal(t, "b", p.Endpoint())
	require.NoError(t, p.Done(nil))
	require.NoError(t, m.Call(t.Context(), Claim{ModelID: "b"}, func(context.Context) error { return nil }))
	info, err := m.Info("b")
	require.NoError(t, err)
	assert.EqualValues(t, 2, info.Completed)
	for _, model := range []string{"", "c"} {
		_, err = m.Acquire(t.Context(), Claim{ModelID: model})
		assert.ErrorIs(t, err, ErrModelNotRegistered)
		assert.ErrorIs(t, m.Call(t.Context(), Claim{ModelID: model}, nil), ErrModelNotRegistered)
	}
}

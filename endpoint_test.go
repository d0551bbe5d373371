package llmqueue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/accounting"
)

// callLog notes which endpoint was called, when and by whom.
type callLog struct {
	mu  sync.Mutex
	all []called
}

type called struct {
	endpoint string
	at       time.Time
	params   int
	tokens   int64
}

// at is a processor of that endpoint which works as long as d says.
func (c *callLog) at(endpoint string, d time.Duration) Processor[int, string] {
	return func(ctx context.Context, r Request[int]) (string, error) {
		c.mu.Lock()
		c.all = append(c.all, called{endpoint, time.Now(), r.Params, r.Estimate.Total()})
		c.mu.Unlock()
		nap(ctx, d)
		return endpoint, ctx.Err()
	}
}

func (c *callLog) of(endpoint string) (at []called) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.all {
		if e.endpoint == endpoint {
			at = append(at, e)
		}
	}
	return at
}

// inOrder checks that whoever came first, by params, did not start after others.
func (c *callLog) inOrder(t *testing.T) {
	t.Helper()
	at := make([]time.Time, len(c.all))
	for _, call := range c.all {
		at[call.params] = call.at
	}
	for i := range at[1:] {
		require.False(t, at[i].After(at[i+1]), "one line, one order: %d started after %d", i, i+1)
	}
}

func TestEndpointsAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c callLog
		q, err := NewQueue("m", c.at("m", time.Second), WithLimits(RPM(10)), WithMargin(0))
		require.NoError(t, err)
		require.NoError(t, q.AddEndpoint("eu", c.at("eu", time.Second), WithLimits(RPM(30), Concurrent(5)), WithMargin(0)))
		for i := range 80 {
			post(t, q, Request[int]{Params: i})
		}
		time.Sleep(59 * time.Second)
		assert.Len(t, c.of("m"), 10, "the queue's own in the first minute")
		assert.Len(t, c.of("eu"), 30, "the added one in the first minute")
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Len(t, c.of("m"), 20)
		assert.Len(t, c.of("eu"), 60)
		c.inOrder(t)
	})
}

// In random stories over endpoints with limits of their own, no endpoint's window ever
// holds more than its limit, order is kept, and every request ends once.
func TestEndpointsKeepTheirLimits(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 5))
			var c callLog
			limits := map[string][]Limit{}
			random := func(name string) []Limit {
				limits[name] = []Limit{RPM(1 + rnd.Int64N(10)), TPM(100 + rnd.Int64N(300)), Concurrent(1 + rnd.Int64N(6))}
				return limits[name]
			}
			q, err := NewQueue("a", c.at("a", 3*time.Second), WithLimits(random("a")...), WithMargin(0))
			require.NoError(t, err)
			for _, name := range []string{"b", "c"} {
				require.NoError(t, q.AddEndpoint(name, c.at(name, time.Second), WithLimits(random(name)...), WithMargin(0)))
			}
			total := 0
			for range 60 {
				for range rnd.IntN(4) {
					post(t, q, Request[int]{Params: total, Estimate: in(1 + rnd.Int64N(100))})
					total++
				}
				time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
			}
			require.NoError(t, q.Shutdown(t.Context()))
			i := addsUp(t, q)
			assert.EqualValues(t, total, i.Completed)
			for name, l := range limits {
				starts := c.of(name)
				for k, last := range starts {
					var n, tokens int64
					for _, s := range starts[:k+1] {
						if last.at.Sub(s.at) < time.Minute {
							n, tokens = n+1, tokens+s.tokens
						}
					}
					require.LessOrEqual(t, n, l[0].Amount, "seed %d: %s within a minute of %s", seed, l[0], name)
					require.LessOrEqual(t, tokens, l[1].Amount, "seed %d: %s within a minute of %s", seed, l[1], name)
				}
			}
			c.inOrder(t)
		})
	}
}

func TestARequestGoesWhereItFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c callLog
		q, err := NewQueue("m", c.at("m", 0), WithLimits(TPM(100)))
		require.NoError(t, err)
		_, err = q.Submit(t.Context(), Request[int]{Estimate: in(500)})
		require.ErrorIs(t, err, ErrRequestTooLarge)
		require.NoError(t, q.AddEndpoint("large", c.at("large", 0), WithLimits(TPM(1000))))
		r, err := q.Submit(t.Context(), Request[int]{Estimate: in(500)})
		require.NoError(t, err)
		assert.Equal(t, "large", r.Result)
		// What waits for the large one alone cannot stay when that leaves.
		id := post(t, q, Request[int]{Estimate: in(800)})
		require.NoError(t, q.RemoveEndpoint(t.Context(), "large"))
		assert.ErrorIs(t, status(t, q, id).Err, ErrRequestTooLarge)
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

func TestAPausedEndpointIsPassedOver(t *testing.T) {
	for name, says := range map[string]Observation{
		"rate limited": {Outcome: OutcomeRateLimited, Delay: time.Hour},
		"quota":        {Outcome: OutcomeQuotaExhausted, Delay: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var c callLog
				var events []Event
				q, err := NewQueue("m", func(ctx context.Context, _ Request[int]) (string, error) {
					nap(ctx, time.Second)
					Observe(ctx, says)
					return "", errBoom
				}, WithLimits(RPM(1000)), WithObserver(func(e Event) { events = append(events, e) }))
				require.NoError(t, err)
				begin := time.Now()
				post(t, q, Request[int]{ID: "r"}) // before there is another endpoint
				require.NoError(t, q.AddEndpoint("eu", c.at("eu", time.Second), WithLimits(RPM(1000))))
				r, err := q.Wait(t.Context(), "r")
				require.NoError(t, err)
				assert.Equal(t, "eu", r.Result)
				assert.Equal(t, 2, r.Attempts)
				assert.Equal(t, 2*time.Second, time.Since(begin), "nothing waits for an endpoint that is paused")
				info := q.Info()
				assert.Zero(t, info.PausedUntil, "the other one serves")
				assert.Equal(t, begin.Add(time.Second+time.Hour), info.Endpoints[0].PausedUntil)
				assert.Contains(t, info.Endpoints[0].PauseReason, string(says.Outcome))
				assert.Equal(t, "eu", info.Endpoints[1].Name)
				assert.Equal(t, "eu", q.Requests(RequestFilter{Limit: 1})[0].Endpoint)
				require.NoError(t, q.Shutdown(t.Context()))
				var got []string
				for _, e := range events {
					if e.Type != EventLimitLearned { // shorter bursts, after an unexpected refusal
						got = append(got, fmt.Sprint(e.Type, " ", e.Endpoint))
					}
				}
				assert.Equal(t, []string{"queued ", "started m", "paused m", "retried m", "started eu", "completed eu"}, got)
			})
		})
	}
}

func TestRemoveEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c callLog
		q, err := NewQueue("m", c.at("m", time.Minute), WithLimits(Concurrent(1)))
		require.NoError(t, err)
		require.NoError(t, q.AddEndpoint("eu", c.at("eu", time.Second), WithLimits(Concurrent(1))))
		for i := range 4 {
			post(t, q, Request[int]{Params: i})
		}
		synctest.Wait()
		require.Len(t, c.of("m"), 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, q.RemoveEndpoint(ctx, "m"), context.DeadlineExceeded)
		begin := time.Now()
		require.ErrorIs(t, q.RemoveEndpoint(t.Context(), "m"), ErrInvalidConfiguration, "it is gone already")
		require.ErrorIs(t, q.RemoveEndpoint(t.Context(), "eu"), ErrInvalidConfiguration, "it is the last one")
		require.NoError(t, q.AddEndpoint("m", c.at("m again", time.Minute), WithLimits(Concurrent(1))))
		require.NoError(t, q.RemoveEndpoint(t.Context(), "m"), "it waits for what runs there")
		assert.Equal(t, time.Minute, time.Since(begin))
		require.NoError(t, q.Shutdown(t.Context()))
		assert.EqualValues(t, 4, addsUp(t, q).Completed)
		assert.ErrorIs(t, q.AddEndpoint("x", c.at("x", 0), WithUnlimited()), ErrQueueClosed)
	})
}

func TestEndpointsThatMakeNoSense(t *testing.T) {
	q := newQueue(t, echo, WithLimits(RPM(10)))
	require.NoError(t, q.AddEndpoint("b", echo, WithUnlimited()))
	shared := NewSharedLimits()
	for name, add := range map[string]func() error{
		"no name":      func() error { return q.AddEndpoint("", echo, WithUnlimited()) },
		"name in use":  func() error { return q.AddEndpoint("b", echo, WithUnlimited()) },
		"the first's":  func() error { return q.AddEndpoint("m", echo, WithUnlimited()) },
		"no processor": func() error { return q.AddEndpoint("c", nil, WithUnlimited()) },
		"no limits":    func() error { return q.AddEndpoint("c", echo) },
		"bad limit":    func() error { return q.AddEndpoint("c", echo, WithLimits(RPM(0))) },
		"bad shared":   func() error { return q.AddEndpoint("c", echo, WithSharedLimits(shared)) },
		"queue option": func() error { return q.AddEndpoint("c", echo, WithUnlimited(), WithTimeout(time.Second)) },
		"an observer":  func() error { return q.AddEndpoint("c", echo, WithUnlimited(), WithObserver(func(Event) {})) },
		"nil breaker": func() error {
			return q.AddEndpoint("c", echo, WithUnlimited(), WithBreaker(func(string) Breaker { return nil }))
		},
		"accounting": func() error {
			return q.AddEndpoint("c", echo, WithUnlimited(), WithAccounting(accounting.Policy{Reserve: "x"}))
		},
		"output factor": func() error {
			return q.AddEndpoint("c", echo, WithUnlimited(), WithAccounting(accounting.Policy{OutputFactor: -1}))
		},
		"unknown":       func() error { return q.SetEndpointLimits("c", RPM(1)) },
		"no limit left": func() error { return q.SetEndpointLimits("m") },
	} {
		err := add()
		require.ErrorIs(t, err, ErrInvalidConfiguration, name)
		assert.NotContains(t, err.Error(), "\n", name)
	}
	require.Len(t, q.Info().Endpoints, 2)
	require.NoError(t, q.SetEndpointLimits("b", RPM(7)))
	assert.Equal(t, RPM(7), q.Info().Endpoints[1].Limits[0].Limit)
	assert.Equal(t, RPM(10), q.Info().Limits[0].Limit)
}

// A shared set that is full does not hold up what another endpoint can take, and its
// place there goes to who still needs it.
func TestEndpointsWithSharedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c callLog
		shared := NewSharedLimits(RPM(2))
		q, err := NewQueue("m", c.at("m", time.Second), WithSharedLimits(shared))
		require.NoError(t, err)
		require.NoError(t, q.AddEndpoint("own", c.at("own", time.Second), WithLimits(RPM(3))))
		other, err := NewQueue("n", c.at("n", time.Second), WithSharedLimits(shared))
		require.NoError(t, err)
		for i := range 5 {
			post(t, q, Request[int]{Params: i})
		}
		synctest.Wait()
		assert.Len(t, c.of("m"), 2)
		assert.Len(t, c.of("own"), 3)
		id := post(t, other, Request[int]{})
		require.NoError(t, q.Shutdown(t.Context()))
		r, err := other.Wait(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, time.Minute+250*time.Millisecond, r.WaitTime())
		require.NoError(t, other.Shutdown(t.Context()))
	})
}

// scripted is a breaker that opens after so many failures in a row, for a minute, and
// lets one probe through then.
type scripted struct {
	failures, limit int
	until           time.Time
	open, probing   bool
}

func (b *scripted) TryAcquirePermit() bool {
	if !b.open {
		return true
	}
	if b.probing || b.RemainingDelay() > 0 {
		return false
	}
	b.probing = true
	return true
}

func (b *scripted) RecordSuccess() { *b = scripted{limit: b.limit} }

func (b *scripted) RecordFailure() {
	if b.failures++; b.open || b.failures >= b.limit {
		*b = scripted{limit: b.limit, open: true, until: time.Now().Add(time.Minute)}
	}
}

func (b *scripted) IsClosed() bool { return !b.open }

func (b *scripted) RemainingDelay() time.Duration {
	if !b.open || b.probing {
		return 0
	}
	return max(time.Until(b.until), 0)
}

func TestBreakerOpensIsProbedAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		healthyAfter := begin.Add(90 * time.Second)
		var at []time.Duration
		var mu sync.Mutex
		var events []string
		q, err := NewQueue("m", func(context.Context, Request[int]) (string, error) {
			mu.Lock()
			at = append(at, time.Since(begin))
			mu.Unlock()
			time.Sleep(time.Second)
			if time.Now().Before(healthyAfter) {
				return "", errBoom
			}
			return "ok", nil
		}, WithLimits(Concurrent(1)), WithBreaker(func(string) Breaker { return &scripted{limit: 3} }), WithObserver(func(e Event) {
			if e.RequestID == "" {
				events = append(events, fmt.Sprint(e.Type, " ", e.Endpoint, " ", e.Time.Sub(begin)))
			}
		}))
		require.NoError(t, err)
		for range 8 {
			post(t, q, Request[int]{})
		}
		time.Sleep(4 * time.Second)
		info := q.Info()
		assert.True(t, info.Endpoints[0].Open)
		assert.Equal(t, 5, info.Pending, "what waits is not burnt")
		id := post(t, q, Request[int]{})
		r := status(t, q, id)
		assert.Equal(t, begin.Add(63*time.Second), r.EstimatedStart.Truncate(time.Second))
		assert.Equal(t, "breaker", r.WaitsFor)
		require.NoError(t, q.Shutdown(t.Context()))
		const s = time.Second
		// Three failures open it; the probe after a minute fails, the one after another
		// minute succeeds, and the rest follows.
		assert.Equal(t, []time.Duration{0, s, 2 * s, 63 * s, 124 * s, 125 * s, 126 * s, 127 * s, 128 * s}, at)
		assert.Equal(t, []string{"opened m 3s", "opened m 1m4s", "closed m 2m5s"}, events)
		i := addsUp(t, q)
		assert.EqualValues(t, 4, i.Failed)
		assert.EqualValues(t, 5, i.Completed)
	})
}

func TestAnOpenEndpointIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c callLog
		down := func(context.Context, Request[int]) (string, error) { return "", Retryable(errBoom) }
		q, err := NewQueue("m", down, WithLimits(Concurrent(1)), WithBreaker(func(string) Breaker { return &scripted{limit: 2} }))
		require.NoError(t, err)
		require.NoError(t, q.AddEndpoint("eu", c.at("eu", time.Second), WithLimits(Concurrent(1))))
		for range 20 { // more than the other one has room for
			post(t, q, Request[int]{})
		}
		require.NoError(t, q.Shutdown(t.Context()))
		assert.EqualValues(t, 2, q.Info().Retries, "two failures open it, and then it is left alone")
		assert.EqualValues(t, 20, addsUp(t, q).Completed)
	})
}

// What the breaker of an endpoint counts as its failure.
func TestWhatABreakerCounts(t *testing.T) {
	says := func(o Outcome) func(context.Context) error {
		return func(ctx context.Context) error {
			Observe(ctx, Observation{Outcome: o})
			return errBoom
		}
	}
	for _, c := range []struct {
		name  string
		call  func(context.Context) error
		opens bool
	}{
		{"success", func(context.Context) error { return nil }, false},
		{"an error without a mark", func(context.Context) error { return errBoom }, true},
		{"a passing fault", func(context.Context) error { return Retryable(errBoom) }, true},
		{"permanent", func(context.Context) error { return Permanent(errBoom) }, false},
		{"rate limited", func(context.Context) error { return RateLimited(errBoom, time.Second) }, false},
		{"a panic", func(context.Context) error { panic("x") }, true},
		{"a timeout", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, true},
		{"a timeout that is ignored", func(context.Context) error { time.Sleep(time.Hour); return nil }, true},
		{"seen: overloaded", says(OutcomeOverloaded), true},
		{"seen: overloaded, after output", func(ctx context.Context) error { Streamed(ctx); return says(OutcomeOverloaded)(ctx) }, true},
		{"seen: rate limited", says(OutcomeRateLimited), false},
		{"seen: quota", says(OutcomeQuotaExhausted), false},
		{"seen: fatal", says(OutcomeFatal), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &scripted{limit: 1}
				q, err := NewQueue("m", func(ctx context.Context, _ Request[int]) (int, error) { return 0, c.call(ctx) },
					WithUnlimited(), WithTimeout(time.Minute), WithRetry(RetryPolicy{MaxAttempts: 1}), WithBreaker(func(string) Breaker { return b }))
				require.NoError(t, err)
				_, _ = q.Submit(t.Context(), Request[int]{})
				require.NoError(t, q.Shutdown(t.Context()))
				assert.Equal(t, c.opens, b.open)
			})
		})
	}
}

// A caller who goes away says nothing about the endpoint, but a probe that was
// canceled has to be made again.
func TestBreakerAndCanceledCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &scripted{limit: 1}
		var c callLog
		q, err := NewQueue("m", c.at("m", time.Second), WithUnlimited(), WithBreaker(func(string) Breaker { return b }))
		require.NoError(t, err)
		cancel := func() {
			id := post(t, q, Request[int]{})
			synctest.Wait()
			require.NoError(t, q.Cancel(id))
			synctest.Wait()
		}
		cancel()
		assert.True(t, b.IsClosed())
		b.RecordFailure()
		time.Sleep(time.Minute)
		cancel()
		assert.NotZero(t, b.RemainingDelay(), "the probe told nothing")
		_, err = q.Submit(t.Context(), Request[int]{})
		require.NoError(t, err)
		assert.True(t, b.IsClosed())
		require.NoError(t, q.Shutdown(t.Context()))
		require.Error(t, errors.Join(ErrQueueClosed, q.AddEndpoint("x", c.at("x", 0), WithUnlimited())))
	})
}

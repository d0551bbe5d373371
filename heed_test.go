package llmqueue

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// says is a processor whose nth call observes the nth outcome and fails with it; when
// there are no more, it serves. Each call takes a second.
type says struct {
	startsOf
	script []Observation
}

func (s *says) process(ctx context.Context, r Request[int]) (int, error) {
	n := s.note()
	nap(ctx, time.Second)
	if n > len(s.script) || s.script[n-1].Outcome == OutcomeServed {
		Observe(ctx, Observation{Outcome: OutcomeServed})
		return r.Params, nil
	}
	Observe(ctx, s.script[n-1])
	return 0, errBoom
}

// seconds gives when requests started, from the first start on.
func (s *says) seconds() (at []float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.at {
		at = append(at, t.Sub(s.at[0]).Seconds())
	}
	return at
}

func TestRateLimitedAnswerPausesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &says{script: []Observation{{Outcome: OutcomeRateLimited, Delay: 90 * time.Second, Code: "rate_limit_exceeded"}}}
		q := newQueue(t, s.process, WithLimits(RPM(100), Concurrent(1)))
		first := post(t, q, Request[int]{Params: 1})
		post(t, q, Request[int]{Params: 2})
		time.Sleep(2 * time.Second)
		i := q.Info()
		assert.Equal(t, 89*time.Second, time.Until(i.PausedUntil))
		assert.Contains(t, i.Endpoints[0].PauseReason, "rate_limit_exceeded")
		resp, err := q.Wait(t.Context(), first)
		require.NoError(t, err)
		assert.Equal(t, 2, resp.Attempts)
		assert.Equal(t, []float64{0, 91}, s.seconds()[:2], "exactly as long as the provider says, and in its place")
	})
}

// The lane stops when the answer is there, not when an SDK has slept through its own
// retries; a shorter pause that comes later does not shorten the longer one.
func TestPauseBeginsWithTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts startsOf
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			if starts.note() == 1 {
				Observe(ctx, Observation{Outcome: OutcomeRateLimited, Delay: time.Minute})
				nap(ctx, time.Second)
				Observe(ctx, Observation{Outcome: OutcomeRateLimited, Delay: time.Second})
				nap(ctx, 10*time.Second) // an SDK's own backoff
				Observe(ctx, Observation{Outcome: OutcomeServed})
			}
			return r.Params, nil
		}, WithLimits(RPM(100)))
		first := post(t, q, Request[int]{Params: 1})
		synctest.Wait()
		second := post(t, q, Request[int]{Params: 2})
		begin := time.Now()
		resp, err := q.Wait(t.Context(), first)
		require.NoError(t, err)
		assert.Equal(t, 1, resp.Attempts, "the SDK got it in the end")
		resp, err = q.Wait(t.Context(), second)
		require.NoError(t, err)
		assert.Equal(t, time.Minute, resp.StartedAt.Sub(begin))
	})
}

// A refusal although there was room everywhere, as of a server that enforces by the
// second: bursts become short, and grow again.
func TestRefusalWithRoomShortensBursts(t *testing.T) {
	for _, outcome := range []Outcome{OutcomeRateLimited, OutcomeSlowDown} {
		t.Run(string(outcome), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &says{script: []Observation{{Outcome: outcome, Delay: time.Second}}}
				q := newQueue(t, s.process, WithLimits(RPM(600), Concurrent(1000)))
				assert.Zero(t, q.Info().Limits[0].Limit.Burst)
				_, err := q.Submit(t.Context(), Request[int]{})
				require.NoError(t, err)
				assert.EqualValues(t, 75, q.Info().Limits[0].Limit.Burst)
				time.Sleep(time.Minute)
				for range 300 {
					post(t, q, Request[int]{})
				}
				synctest.Wait()
				assert.Equal(t, 77, s.count(), "75 at once, after the two before")
				for range 12 {
					time.Sleep(2 * time.Minute)
					_, err := q.Submit(t.Context(), Request[int]{})
					require.NoError(t, err)
				}
				assert.Zero(t, q.Info().Limits[0].Limit.Burst, "calm for long enough")
			})
		})
	}
}

// A refusal that the answer's own figures explain is no matter of pace.
func TestRefusalOfAUsedUpLimitKeepsBursts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &says{script: []Observation{{Outcome: OutcomeRateLimited, Delay: time.Second,
			Limits: []ObservedLimit{{Kind: KindRPM, Amount: 600, Remaining: 0, Reset: time.Second}}}}}
		q := newQueue(t, s.process, WithLimits(RPM(600)))
		post(t, q, Request[int]{})
		time.Sleep(1500 * time.Millisecond)
		assert.Zero(t, q.Info().Limits[0].Limit.Burst)
		assert.EqualValues(t, 600, q.Info().Limits[0].Used, "others hold it all")
	})
}

func TestOverloadLowersConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var overloaded atomic.Bool
		overloaded.Store(true)
		var running, peak atomic.Int64
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			peak.Store(max(peak.Load(), running.Add(1)))
			defer running.Add(-1)
			nap(ctx, time.Second)
			if overloaded.Load() {
				Observe(ctx, Observation{Outcome: OutcomeOverloaded})
				return 0, errBoom
			}
			return r.Params, nil
		}, WithLimits(RPM(100_000), Concurrent(40)), WithRetry(RetryPolicy{MaxAttempts: 100, BaseDelay: time.Second, MaxDelay: time.Second}))
		for i := range 2000 {
			post(t, q, Request[int]{Params: i})
		}
		time.Sleep(1001 * time.Millisecond)
		assert.EqualValues(t, 30, q.Info().Slots, "a quarter less, once for the forty that failed together")
		time.Sleep(time.Minute)
		assert.EqualValues(t, 1, q.Info().Slots)
		overloaded.Store(false)
		time.Sleep(10 * time.Second)
		slow := q.Info().Slots
		assert.Greater(t, slow, int64(1))
		assert.Less(t, slow, int64(40), "one more for each round, not all at once")
		time.Sleep(10 * time.Minute)
		assert.EqualValues(t, 40, q.Info().Slots)
		assert.EqualValues(t, 2000, addsUp(t, q).Completed, "backed off, and none lost")
		assert.EqualValues(t, 40, peak.Load())
	})
}

func TestExhaustedQuotaFailsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &says{script: []Observation{{Outcome: OutcomeQuotaExhausted, Code: "insufficient_quota"}}}
		q := newQueue(t, s.process, WithLimits(RPM(100), Concurrent(1)))
		hit := post(t, q, Request[int]{})
		waiting := post(t, q, Request[int]{})
		for _, id := range []string{hit, waiting} {
			resp, err := q.Wait(t.Context(), id)
			require.ErrorIs(t, err, ErrQuotaExhausted)
			assert.Equal(t, StatusFailed, resp.Status)
		}
		assert.ErrorIs(t, status(t, q, hit).Err, errBoom)
		_, err := q.Submit(t.Context(), Request[int]{})
		require.ErrorIs(t, err, ErrQuotaExhausted, "refused at once")
		assert.Contains(t, q.Info().Endpoints[0].PauseReason, "insufficient_quota")
		assert.Len(t, s.seconds(), 1, "one call, no hammering")

		q.Resume()
		_, err = q.Submit(t.Context(), Request[int]{})
		require.NoError(t, err, "after Resume")
		addsUp(t, q)
	})
}

func TestExhaustedQuotaKeepsWhatWaitsWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &says{script: []Observation{
			{Outcome: OutcomeQuotaExhausted}, // does not say for how long
			{Outcome: OutcomeQuotaExhausted, Delay: 3 * time.Hour},
		}}
		q := newQueue(t, s.process, WithLimits(RPM(100), Concurrent(1)), WithWaitForQuota())
		a, b := post(t, q, Request[int]{Params: 1}), post(t, q, Request[int]{Params: 2})
		for _, id := range []string{a, b} {
			_, err := q.Wait(t.Context(), id)
			require.NoError(t, err)
		}
		assert.Equal(t, []float64{0, 3601, 3601 + 3*3600 + 1, 3601 + 3*3600 + 2}, s.seconds())
	})
}

func TestFatalAnswerFailsThatRequestOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &says{script: []Observation{{Outcome: OutcomeFatal}, {Outcome: OutcomeServed}}}
		q := newQueue(t, s.process, WithLimits(RPM(100), Concurrent(1)))
		a, b := post(t, q, Request[int]{}), post(t, q, Request[int]{})
		resp, err := q.Wait(t.Context(), a)
		require.ErrorIs(t, err, errBoom)
		assert.Equal(t, 1, resp.Attempts)
		_, err = q.Wait(t.Context(), b)
		require.NoError(t, err)
		assert.Equal(t, []float64{0, 1}, s.seconds())
	})
}

// What the processor says about its error counts more than what the answer said.
func TestMarksWinOverOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
			Observe(ctx, Observation{Outcome: OutcomeRetryable})
			return 0, Permanent(errBoom)
		}, WithUnlimited())
		resp, err := q.Submit(t.Context(), Request[int]{})
		require.ErrorIs(t, err, errBoom)
		assert.Equal(t, 1, resp.Attempts)
	})
}

func TestStreamedOutputIsNotReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, fail := range map[string]func(context.Context) error{
			"marked":     func(context.Context) error { return Retryable(errBoom) },
			"observed":   func(ctx context.Context) error { Observe(ctx, Observation{Outcome: OutcomeRetryable}); return errBoom },
			"overloaded": func(ctx context.Context) error { Observe(ctx, Observation{Outcome: OutcomeOverloaded}); return errBoom },
			"limited":    func(context.Context) error { return RateLimited(errBoom, time.Second) },
		} {
			q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
				Streamed(ctx)
				return 0, fail(ctx)
			}, WithUnlimited())
			resp, err := q.Submit(t.Context(), Request[int]{})
			require.ErrorIs(t, err, errBoom, name)
			assert.Equal(t, 1, resp.Attempts, name)
		}
	})
}

// Every other first attempt fails: without a bound the retries were half as many as
// the first attempts. They all come, but no faster than the budget allows.
func TestRetryBudgetSpreadsRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var retries, served atomic.Int64
		var mu sync.Mutex
		worst := 0.0
		const down = time.Minute // for every second request
		begin := time.Now()
		seen := make(map[string]bool)
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			mu.Lock()
			again := seen[r.ID]
			seen[r.ID] = true
			if again {
				retries.Add(1)
			}
			allowed := 20 + 0.2*float64(served.Load()) + time.Since(begin).Seconds()
			if time.Since(begin) < down {
				worst = max(worst, float64(retries.Load())-allowed)
			}
			mu.Unlock()
			nap(ctx, 100*time.Millisecond)
			if r.Params%2 == 0 && time.Since(begin) < down {
				return 0, Retryable(errBoom)
			}
			served.Add(1)
			return r.Params, nil
		}, WithLimits(RPM(1_000_000), Concurrent(50)), WithRetry(RetryPolicy{MaxAttempts: 1000, BaseDelay: time.Millisecond, MaxDelay: time.Millisecond}))
		for i := range 2000 {
			post(t, q, Request[int]{Params: i})
		}
		require.NoError(t, q.Shutdown(t.Context()))
		assert.EqualValues(t, 2000, addsUp(t, q).Completed)
		assert.LessOrEqual(t, worst, 1.0, "retries beyond the budget")
		assert.Less(t, time.Since(begin), down+10*time.Second, "it recovers with the provider")
	})
}

func TestEstimateSaysWhenAndWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithLimits(RPM(2), TPM(1000), Concurrent(10)), WithMargin(0))
		f, err := q.Forecast(t.Context(), Request[int]{Estimate: in(10)})
		require.NoError(t, err)
		assert.Equal(t, Forecast{EstimatedStart: time.Now()}, f)

		post(t, q, Request[int]{Estimate: in(900)})
		f, err = q.Forecast(t.Context(), Request[int]{Estimate: in(200)})
		require.NoError(t, err)
		assert.Equal(t, Forecast{Position: 1, EstimatedStart: time.Now().Add(time.Minute), WaitsFor: "1000 tpm"}, f)

		post(t, q, Request[int]{Estimate: in(10)})
		resp, err := q.Submit(t.Context(), Request[int]{NoWait: true, Estimate: in(10)})
		require.NoError(t, err)
		assert.Equal(t, "2 rpm", resp.WaitsFor)
		assert.Equal(t, time.Now().Add(time.Minute), resp.EstimatedStart)
		f, err = q.Forecast(t.Context(), Request[int]{Estimate: in(10)})
		require.NoError(t, err)
		assert.Equal(t, Forecast{Position: 2, EstimatedStart: time.Now().Add(time.Minute), WaitsFor: "2 rpm"}, f)
		f, err = q.Forecast(t.Context(), Request[int]{Estimate: in(10), Priority: 1})
		require.NoError(t, err)
		assert.Equal(t, 1, f.Position)

		_, err = q.Forecast(t.Context(), Request[int]{Estimate: in(2000)})
		require.ErrorIs(t, err, ErrRequestTooLarge)
		q.Pause()
		f, err = q.Forecast(t.Context(), Request[int]{Estimate: in(10)})
		require.NoError(t, err)
		assert.Equal(t, Forecast{Position: 2, WaitsFor: "resume"}, f)
		assert.Equal(t, 1, q.Len(), "nothing was submitted")
	})
}

func TestDeadlineBeforeTheStartIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithLimits(RPM(1)), WithMargin(0))
		post(t, q, Request[int]{})
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 59*time.Second)
		defer cancel()

		var late *DeadlineError
		_, err := q.Submit(ctx, Request[int]{})
		require.ErrorAs(t, err, &late)
		require.ErrorIs(t, err, ErrQueueTimeout)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, begin.Add(time.Minute), late.EstimatedStart)
		assert.Equal(t, "1 rpm", late.WaitsFor)

		_, err = q.Submit(t.Context(), Request[int]{NoWait: true, MaxWait: time.Second})
		require.ErrorAs(t, err, &late)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		_, err = q.Forecast(t.Context(), Request[int]{MaxWait: time.Second})
		require.ErrorAs(t, err, &late)
		assert.Zero(t, q.Len())
		assert.Equal(t, begin, time.Now(), "nothing waited")

		_, err = q.Submit(ctx, Request[int]{NoWait: true})
		require.NoError(t, err, "fire and forget does not depend on the caller's deadline")
		_, err = q.Submit(t.Context(), Request[int]{MaxWait: 2 * time.Minute})
		require.NoError(t, err, "just in time")
	})
}

// Outside an attempt, and after it, nobody listens and nothing breaks.
func TestObserveOutsideAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		Observe(t.Context(), states(1, 0, time.Minute))
		Streamed(t.Context())
		assert.False(t, InAttempt(t.Context()))
		var kept context.Context
		q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
			assert.True(t, InAttempt(ctx))
			Observe(ctx, Observation{Usage: in(3)})
			Observe(ctx, Observation{Usage: in(4)})
			kept = ctx
			return 0, nil
		}, WithLimits(RPM(10), TPM(100)))
		resp, err := q.Submit(t.Context(), Request[int]{Estimate: in(50)})
		require.NoError(t, err)
		assert.Equal(t, in(7), resp.Usage, "the calls of an attempt add up")
		Observe(kept, states(1, 0, time.Minute))
		assert.EqualValues(t, 10, q.Info().Limits[0].Limit.Amount)
		assert.EqualValues(t, 7, q.Info().Limits[1].Used)
		require.False(t, errors.Is(kept.Err(), errBoom))
	})
}

func TestManagerEstimate(t *testing.T) {
	m := NewManager[int, int](WithLimits(RPM(10)))
	defer m.Shutdown(t.Context())
	_, err := m.Register("a", echo)
	require.NoError(t, err)
	f, err := m.Forecast(t.Context(), NewRequest("a", 1))
	require.NoError(t, err)
	assert.Zero(t, f.Position)
	_, err = m.Forecast(t.Context(), NewRequest("b", 1))
	require.ErrorIs(t, err, ErrModelNotRegistered)
}

// A processor that leaves a goroutine behind, which goes on observing: what comes too
// late is heeded by nobody, least of all by another request.
func TestObserveRacesTheEnd(t *testing.T) {
	q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
		if r.Params == 0 {
			started := make(chan struct{})
			go func() {
				for i := 0; ctx.Err() == nil || i < 100; i++ {
					Observe(ctx, Observation{Outcome: OutcomeServed, Usage: in(1), Limits: []ObservedLimit{{Kind: KindRPM, Amount: maxAmount, Remaining: maxAmount}}})
					Streamed(ctx)
					if i == 0 {
						close(started)
					}
				}
			}()
			<-started
		}
		return r.Params, nil
	}, WithLimits(RPM(maxAmount)), WithHistory(0, 0))
	for i := range 2000 {
		got, err := q.Do(t.Context(), i%2)
		require.NoError(t, err)
		require.Equal(t, i%2, got)
	}
	require.NoError(t, q.Shutdown(t.Context()))
	addsUp(t, q)
}

// A busy server that works on one call at a time is asked by one request after its
// backoff, not by everything that waits in turn; one that says how long to wait is left
// alone until then.
func TestABusyServerIsLeftAlone(t *testing.T) {
	for _, c := range []struct {
		name  string
		slots int64
		delay time.Duration
		most  int
	}{
		{"one slot", 1, 0, 15},
		{"told how long", 20, time.Minute, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				free := time.Now().Add(30 * time.Second)
				var turnedAway startsOf
				q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
					if time.Now().Before(free) {
						turnedAway.note()
						Observe(ctx, Observation{Outcome: OutcomeOverloaded, Delay: c.delay})
						return 0, errBoom
					}
					return 0, nil
				}, WithLimits(Concurrent(c.slots)), WithRetry(RetryPolicy{MaxAttempts: 100, BaseDelay: 10 * time.Second, MaxDelay: 10 * time.Second, Budget: -1}))
				for range 100 {
					post(t, q, Request[int]{})
				}
				require.NoError(t, q.Shutdown(t.Context()))
				assert.EqualValues(t, 100, q.Info().Completed)
				assert.LessOrEqual(t, turnedAway.count(), c.most)
			})
		})
	}
}

// The provider counts calls when they come. A first burst that goes out late, over cold
// connections, is counted later than it started; the next one may not come too early.
func TestCallsThatGoOutLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var arrivals startsOf
		begin := time.Now()
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			if time.Since(begin) < time.Minute {
				nap(ctx, time.Duration(r.Params)*200*time.Millisecond)
			}
			arrivals.note()
			Observe(ctx, Observation{Outcome: OutcomeServed, SentAt: time.Now()})
			return 0, nil
		}, WithLimits(RPM(10)), WithMargin(0))
		for i := range 50 {
			post(t, q, Request[int]{Params: i % 10})
		}
		require.NoError(t, q.Shutdown(t.Context()))
		for i, at := range arrivals.at {
			if i >= 10 {
				require.GreaterOrEqual(t, at.Sub(arrivals.at[i-10]), time.Minute, "call %d came within a minute of ten others", i)
			}
		}
		assert.Less(t, arrivals.at[49].Sub(begin), 4*time.Minute+5*time.Second, "once all go out at once, nothing is held longer")
	})
}

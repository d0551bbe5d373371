package llmqueue

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// states is an observation of a served call that states one limit of requests.
func states(amount, remaining int64, reset time.Duration) Observation {
	return Observation{Outcome: OutcomeServed, Limits: []ObservedLimit{
		{Kind: KindRPM, Amount: amount, Remaining: remaining, Reset: reset}}}
}

// nap sleeps for d or until ctx ends.
func nap(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// startsOf notes when requests start.
type startsOf struct {
	mu sync.Mutex
	at []time.Time
}

func (s *startsOf) note() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = append(s.at, time.Now())
	return len(s.at)
}

func (s *startsOf) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.at)
}

func TestAnswersCorrectLimits(t *testing.T) {
	for _, c := range []struct {
		name                     string
		opts                     []Option
		configured, stated, want int
	}{
		{"lower at once", nil, 100, 10, 10},
		{"never upward unasked", nil, 10, 100, 10},
		{"upward when asked", []Option{WithLearnedLimits()}, 10, 100, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var starts startsOf
				var learned []Event
				var mu sync.Mutex
				q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
					n := starts.note()
					Observe(ctx, states(int64(c.stated), int64(max(c.stated-n, 0)), time.Minute))
					nap(ctx, time.Second)
					return 0, nil
				}, append(c.opts, WithLimits(RPM(int64(c.configured)), Concurrent(1000)), WithObserver(func(e Event) {
					if e.Type == EventLimitLearned {
						mu.Lock()
						defer mu.Unlock()
						learned = append(learned, e)
					}
				}))...)
				post(t, q, Request[int]{})
				synctest.Wait() // one answer states the limit
				for range 200 {
					post(t, q, Request[int]{})
				}
				time.Sleep(59 * time.Second)
				assert.Equal(t, c.want, starts.count(), "started in the first minute")
				assert.EqualValues(t, c.want, q.Info().Limits[0].Limit.Amount)
				mu.Lock()
				defer mu.Unlock()
				if c.want != c.configured {
					require.Len(t, learned, 1)
					assert.EqualValues(t, c.want, learned[0].Limits[0].Amount)
				} else {
					assert.Empty(t, learned)
				}
				require.NoError(t, q.SetLimits(RPM(5)))
			})
		})
	}
}

// The answer to a call that was sent before the limits fell comes after one that says
// so: it tells of how it was.
func TestAnswersThatAreOvertakenDoNotRaiseLimits(t *testing.T) {
	for _, sentAt := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
				o := states(100, 90, time.Minute)
				if sentAt {
					o.SentAt = time.Now()
				}
				switch r.Params {
				case 1: // slow, and counted before the limit fell
					nap(ctx, 10*time.Second)
				case 2:
					o.Limits[0].Amount, o.Limits[0].Remaining = 20, 10
				}
				Observe(ctx, o)
				return 0, nil
			}, WithLearnedLimits(), WithLimits(RPM(100)))
			amount := func() int64 { return q.Info().Limits[0].Limit.Amount }
			_, err := q.Do(t.Context(), 0)
			require.NoError(t, err)
			slow := post(t, q, Request[int]{Params: 1})
			time.Sleep(time.Second)
			_, err = q.Do(t.Context(), 2)
			require.NoError(t, err)
			require.EqualValues(t, 20, amount())
			_, err = q.Wait(t.Context(), slow)
			require.NoError(t, err)
			assert.EqualValues(t, 20, amount(), "the slow answer is the older one")
			_, err = q.Do(t.Context(), 3)
			require.NoError(t, err)
			assert.EqualValues(t, 100, amount(), "a later one raises it again")
		})
	}
}

// A queue without limits sends one request, and all that it learned it may send when
// the answers' headers are there, not when the answers end: first a few, then twice as
// many with each round. A bound on concurrency is none of the limits that it waits for.
func TestLimitsAreLearnedFromTheFirstAnswer(t *testing.T) {
	for name, opts := range map[string][]Option{
		"nothing configured":   {WithLearnedLimits()},
		"concurrency is known": {WithLearnedLimits(), WithLimits(Concurrent(250))},
	} {
		// One call is within the noise of the larger limit.
		for _, limit := range []int{20, 200} {
			t.Run(fmt.Sprint(name, " ", limit), func(t *testing.T) { testLearning(t, limit, opts...) })
		}
	}
}

func testLearning(t *testing.T, limit int, opts ...Option) {
	synctest.Test(t, func(t *testing.T) {
		var starts startsOf
		q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
			n := starts.note()
			nap(ctx, time.Second)
			Observe(ctx, states(int64(limit), int64(limit-n), time.Minute))
			nap(ctx, 10*time.Second)
			return 0, nil
		}, opts...)
		for range limit + 30 {
			post(t, q, Request[int]{})
		}
		time.Sleep(999 * time.Millisecond)
		require.Equal(t, 1, starts.count(), "before the first answer")
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		for _, started := range []int{34, 100, 200} {
			require.Equal(t, min(limit, started), starts.count(), "once the limit is known, in steps")
			time.Sleep(time.Second)
			synctest.Wait()
		}
		require.Equal(t, limit, starts.count(), "before the first has ended")
		assert.Equal(t, []Limit{RPM(int64(limit)).Per(0)}, []Limit{q.Info().Limits[0].Limit})
	})
}

// The call that taught the limits is charged to them like any other: what it reserved,
// then what it used. The provider's figures are too coarse to tell.
func TestFirstAnswerIsCharged(t *testing.T) {
	for _, c := range []struct {
		name                    string
		tokens, reserved, after int64
	}{
		{"small", 100_000, 500, 300},
		{"larger than the limit", 400, 500, 500},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
					Observe(ctx, Observation{Outcome: OutcomeServed, Limits: []ObservedLimit{
						{Kind: KindRPM, Amount: 200, Remaining: -1},
						{Kind: KindTPM, Amount: c.tokens, Remaining: -1},
					}})
					nap(ctx, time.Second)
					ReportUsage(ctx, Usage{InputTokens: 100, OutputTokens: 200})
					return 0, nil
				}, WithLearnedLimits())
				used := func() (rpm, tpm int64) {
					limits := q.Info().Limits
					require.Len(t, limits, 2)
					return limits[0].Used, limits[1].Used
				}
				post(t, q, Request[int]{Estimate: Usage{InputTokens: 100, OutputTokens: 400}})
				synctest.Wait()
				rpm, tpm := used()
				assert.Equal(t, []int64{1, c.reserved}, []int64{rpm, tpm}, "while it runs")
				time.Sleep(2 * time.Second)
				rpm, tpm = used()
				assert.Equal(t, []int64{1, c.after}, []int64{rpm, tpm}, "afterwards")
				time.Sleep(time.Minute + 2*time.Second)
				rpm, tpm = used()
				assert.Equal(t, []int64{0, 0}, []int64{rpm, tpm}, "a minute later")
			})
		})
	}
}

func TestProviderThatStatesNoLimits(t *testing.T) {
	for name, observe := range map[string]func(context.Context){
		"answers without":   func(ctx context.Context) { Observe(ctx, Observation{Outcome: OutcomeServed}) },
		"nothing observes":  func(context.Context) {},
		"only of no import": func(ctx context.Context) { Observe(ctx, Observation{Usage: in(5)}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var starts startsOf
				var log bytes.Buffer
				q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
					starts.note()
					observe(ctx)
					nap(ctx, time.Second)
					return 0, nil
				}, WithLearnedLimits(), WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
				for range 50 {
					post(t, q, Request[int]{})
				}
				time.Sleep(2500 * time.Millisecond) // one call first, then slowly
				assert.Equal(t, 50, starts.count())
				require.NoError(t, q.Shutdown(t.Context()))
				assert.Contains(t, log.String(), "the provider states none")
			})
		})
	}
}

func TestNonsenseInAnswersIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
			for _, l := range []ObservedLimit{
				{Kind: KindRPM, Amount: -1, Remaining: -1},
				{Kind: KindRPM, Amount: 0, Remaining: 0},
				{Kind: KindRPM, Amount: 50, Remaining: 3, Reset: -time.Second},
				{Kind: "images", Amount: 5},
				{Kind: KindTPM, Amount: 1 << 60},
				{Kind: KindConcurrent, Amount: 2},
				{Kind: KindRPM, Amount: 10, Remaining: 70},
			} {
				Observe(ctx, Observation{Outcome: OutcomeServed, Limits: []ObservedLimit{l}})
			}
			return 0, nil
		}, WithLimits(RPM(10), TPM(1000)), WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
		_, err := q.Submit(t.Context(), Request[int]{Estimate: in(10)})
		require.NoError(t, err)
		i := q.Info()
		assert.Equal(t, LimitInfo{Limit: RPM(10), Used: 1, Available: 9, ResetAt: i.Limits[0].ResetAt}, i.Limits[0])
		assert.EqualValues(t, 1000, i.Limits[1].Limit.Amount)
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, 6, bytes.Count(log.Bytes(), []byte("limit in an answer ignored")))
	})
}

// provider counts requests as one that several processes share does: in an exact
// sliding window, at their arrival after a delay on the way.
type provider struct {
	mu       sync.Mutex
	limit    int
	period   time.Duration
	accepted []time.Time
	refused  int
}

func (p *provider) arrive() (o Observation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	in := 0
	for _, at := range p.accepted {
		if now.Sub(at) < p.period {
			in++
		}
	}
	o = Observation{Outcome: OutcomeServed}
	if in >= p.limit {
		p.refused++
		o.Outcome, o.Delay = OutcomeRateLimited, p.accepted[len(p.accepted)-p.limit].Add(p.period).Sub(now)
	} else {
		p.accepted = append(p.accepted, now)
		in++
	}
	reset := p.accepted[len(p.accepted)-1].Add(p.period).Sub(now)
	o.Limits = []ObservedLimit{{Kind: KindRPM, Period: p.period, Amount: int64(p.limit), Remaining: int64(p.limit - in), Reset: reset}}
	return o
}

func (p *provider) counts() (accepted, refused int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.accepted), p.refused
}

func (p *provider) process(ctx context.Context, r Request[int]) (int, error) {
	sent := time.Now()
	nap(ctx, time.Duration(10+r.Params%7)*time.Millisecond)
	o := p.arrive()
	o.SentAt = sent
	nap(ctx, 20*time.Millisecond)
	Observe(ctx, o)
	if o.Outcome != OutcomeServed {
		return 0, errBoom
	}
	nap(ctx, time.Duration(500+100*(r.Params%13))*time.Millisecond)
	return r.Params, nil
}

// Alone, a queue takes nothing that it did itself for somebody else's: it uses its
// limit as fully as without the headers.
func TestAloneAQueueUsesAllThatHeadersGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{limit: 300, period: time.Minute}
		q := newQueue(t, p.process, WithLearnedLimits(), WithLimits(RPM(300)), WithMargin(200*time.Millisecond))
		for i := range 3000 {
			post(t, q, Request[int]{Params: i})
		}
		begin := time.Now()
		time.Sleep(9*(time.Minute+200*time.Millisecond) + 5*time.Second)
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, int64(3000), addsUp(t, q).Completed)
		assert.Zero(t, p.refused)
		took := p.accepted[2999].Sub(begin)
		assert.LessOrEqual(t, took, 9*(time.Minute+200*time.Millisecond)+time.Second, "ten windows, the first of which is free")
	})
}

// Several queues that know of each other from headers only.
func TestQueuesShareAKeyByHeaders(t *testing.T) {
	for _, queues := range []int{2, 4, 8} {
		t.Run(fmt.Sprint(queues), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &provider{limit: 300, period: time.Minute}
				var all []*Queue[int, int]
				for range queues {
					q := newQueue(t, p.process, WithLimits(RPM(300)), WithRetry(RetryPolicy{MaxAttempts: 1000}))
					for i := range 6000 {
						post(t, q, Request[int]{Params: i})
					}
					all = append(all, q)
				}
				time.Sleep(time.Minute)
				had, first := p.counts()
				begin := time.Now()
				time.Sleep(10 * time.Minute)
				served, refused := p.counts()
				served, refused = served-had, refused-first
				t.Logf("%d queues: %d refused in the first window, then %d refused and %d served in %v", queues, first, refused, served, time.Since(begin))
				for i, q := range all {
					done := q.Info().Completed
					t.Logf("queue %d completed %d", i, done)
					ctx, cancel := context.WithCancel(t.Context())
					cancel()
					_ = q.Shutdown(ctx)
				}
				assert.LessOrEqual(t, refused, served*queues/400, "refused after the first window")
				assert.GreaterOrEqual(t, served, 10*300*95/100)
			})
		})
	}
}

// Who shares a key and stops leaves its part to the other, in a few periods.
func TestShareOfAKeyGrowsWhenOthersStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{limit: 300, period: time.Minute}
		var both [2]*Queue[int, int]
		for i := range both {
			both[i] = newQueue(t, p.process, WithLimits(RPM(300)), WithRetry(RetryPolicy{MaxAttempts: 1000}))
			for n := range 6000 {
				post(t, both[i], Request[int]{Params: n})
			}
		}
		end := func(q *Queue[int, int]) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_ = q.Shutdown(ctx)
		}
		time.Sleep(5 * time.Minute)
		end(both[0])
		var minutes []int
		for range 6 {
			had, _ := p.counts()
			time.Sleep(time.Minute + 250*time.Millisecond)
			now, _ := p.counts()
			minutes = append(minutes, now-had)
		}
		end(both[1])
		t.Log("a minute, alone again:", minutes)
		assert.GreaterOrEqual(t, minutes[3], 250)
		assert.GreaterOrEqual(t, minutes[5], 285)
	})
}

// Who comes to a key that is used up gets a part of it, without many calls in vain.
func TestLatecomerGetsAShareOfAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{limit: 120, period: time.Minute}
		var all [4]*Queue[int, int]
		for i := range all {
			all[i] = newQueue(t, p.process, WithLearnedLimits(), WithRetry(RetryPolicy{MaxAttempts: 1000}))
			for n := range 6000 {
				post(t, all[i], Request[int]{Params: n})
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		had, first := p.counts()
		time.Sleep(10 * time.Minute)
		served, refused := p.counts()
		served, refused = served-had, refused-first
		t.Logf("%d refused in the first window, then %d and %d served", first, refused, served)
		assert.LessOrEqual(t, refused, served/5)
		assert.GreaterOrEqual(t, served, 10*120*90/100)
		for i, q := range all {
			assert.GreaterOrEqual(t, q.Info().Completed, int64(50), "queue %d", i)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_ = q.Shutdown(ctx)
		}
	})
}

// A shared set is corrected too, for all its queues, and never above what it was
// configured with.
func TestAnswersCorrectSharedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := NewSharedLimits(Concurrent(1000), RPM(100))
		stated := states(10, 9, time.Minute)
		q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
			Observe(ctx, stated)
			return 0, nil
		}, WithSharedLimits(shared), WithLearnedLimits())
		var starts startsOf
		other := newQueue(t, func(context.Context, Request[int]) (int, error) { return starts.note(), nil }, WithSharedLimits(shared))
		_, err := q.Do(t.Context(), 0)
		require.NoError(t, err)
		for range 50 {
			post(t, other, Request[int]{})
		}
		time.Sleep(time.Second)
		assert.Equal(t, 9, starts.count(), "after the one that learned it")
		assert.EqualValues(t, 10, shared.Info()[0].Limit.Amount)
		assert.Empty(t, q.Info().Limits, "the limit is the set's, not the queue's as well")

		time.Sleep(10 * time.Minute)
		stated = states(500, 100, time.Minute)
		_, err = q.Do(t.Context(), 0)
		require.NoError(t, err)
		assert.EqualValues(t, 100, shared.Info()[0].Limit.Amount, "as configured")
		assert.Zero(t, shared.Info()[0].Available, "others hold the rest")
	})
}

// An answer to an earlier call that arrives late tells of how a shared limit was: it
// does not raise what a newer one lowered. Faults seen to fail here: no guard; no event;
// an event for each answer.
func TestAnswersThatOvertakeEachOtherDoNotRaiseSharedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := NewSharedLimits(Concurrent(10), RPM(100))
		var told [][]Limit
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			stated := states(100, 90, time.Minute)
			if r.Params == 0 {
				time.Sleep(5 * time.Second) // it stays on the way for long
			} else {
				stated = states(10, 5, time.Minute)
			}
			Observe(ctx, stated)
			return 0, nil
		}, WithSharedLimits(shared), WithObserver(func(e Event) {
			if e.Type == EventLimitLearned {
				told = append(told, e.Limits)
			}
		}))
		early := post(t, q, Request[int]{Params: 0})
		time.Sleep(time.Second)
		_, err := q.Do(t.Context(), 1)
		require.NoError(t, err)
		require.EqualValues(t, 10, shared.Info()[0].Limit.Amount, "the newer answer lowers it")
		_, err = q.Wait(t.Context(), early)
		require.NoError(t, err)
		assert.EqualValues(t, 10, shared.Info()[0].Limit.Amount, "an answer to an older call raised it again")
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, [][]Limit{{RPM(10), Concurrent(10)}}, told, "observers hear of the change, once")
	})
}

// An answer may tell that a configured limit is enforced in slices of its period: that
// only lowers it. A longer period, or a kind that is not configured, is not taken over
// unasked.
func TestAnswersTellHowALimitIsEnforced(t *testing.T) {
	for _, c := range []struct {
		name   string
		stated ObservedLimit
		want   []Limit
	}{
		{"slices", ObservedLimit{Kind: KindRPM, Period: 10 * time.Second, Amount: 20}, []Limit{RPM(120), RPM(20).Per(10 * time.Second)}},
		{"a day", ObservedLimit{Kind: KindRPD, Amount: 20}, []Limit{RPM(120)}},
		{"tokens", ObservedLimit{Kind: KindTPM, Period: 10 * time.Second, Amount: 20}, []Limit{RPM(120)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
				Observe(ctx, Observation{Outcome: OutcomeServed, Limits: []ObservedLimit{c.stated}})
				return 0, nil
			}, WithLimits(RPM(120)))
			_, err := q.Submit(t.Context(), Request[int]{})
			require.NoError(t, err)
			var got []Limit
			for _, l := range q.Info().Limits {
				got = append(got, l.Limit)
			}
			assert.Equal(t, c.want, got)
		})
	}
}

package llmqueue

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// admissions notes what started when, as a provider would see it arrive.
type admissions struct {
	mu  sync.Mutex
	log []admission
}

type admission struct {
	at time.Time
	id string
	u  Usage
}

func (a *admissions) note(r string, u Usage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.log = append(a.log, admission{time.Now(), r, u})
}

// process is an instant processor that notes its start.
func (a *admissions) process(_ context.Context, r Request[int]) (int, error) {
	a.note(r.ID, r.Estimate)
	return r.Params, nil
}

// seconds is when each started after begin.
func (a *admissions) seconds(begin time.Time) (s []float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.log {
		s = append(s, e.at.Sub(begin).Seconds())
	}
	slices.Sort(s)
	return s
}

// within checks that no window of the length saw more than amount.
func (a *admissions) within(t *testing.T, period time.Duration, amount int64, count func(Usage) int64) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	slices.SortStableFunc(a.log, func(x, y admission) int { return x.at.Compare(y.at) })
	sum, first := int64(0), 0
	for _, e := range a.log {
		sum += count(e.u)
		for e.at.Sub(a.log[first].at) >= period {
			sum -= count(a.log[first].u)
			first++
		}
		require.LessOrEqual(t, sum, amount, "admitted in the %v before %v", period, e.at)
	}
}

func one(Usage) int64 { return 1 }

// Every kind, its own period and another: a backlog of one unit each starts amount by
// amount, to the instant.
func TestEveryKindOfLimit(t *testing.T) {
	minute, day := 60.0, 86400.0
	for name, c := range map[string]struct {
		limit  Limit
		u      Usage
		period float64
	}{
		"rpm":         {RPM(2), in(1), minute},
		"rpd":         {RPD(2), in(1), day},
		"tpm":         {TPM(20), Usage{InputTokens: 4, OutputTokens: 6}, minute},
		"tpd":         {TPD(20), Usage{InputTokens: 4, OutputTokens: 6}, day},
		"itpm":        {ITPM(8), Usage{InputTokens: 4, OutputTokens: 600}, minute},
		"otpm":        {OTPM(12), Usage{InputTokens: 400, OutputTokens: 6}, minute},
		"rpm per 7s":  {RPM(2).Per(7 * time.Second), in(1), 7},
		"tpd per 1h":  {TPD(20).Per(time.Hour), Usage{InputTokens: 4, OutputTokens: 6}, 3600},
		"rpm per 7d":  {RPM(2).Per(7 * 24 * time.Hour), in(1), 7 * day},
		"otpm per 1s": {OTPM(13).Per(time.Second), Usage{OutputTokens: 6}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var a admissions
				q := newQueue(t, a.process, WithLimits(c.limit), WithMargin(0))
				begin := time.Now()
				for range 7 {
					post(t, q, Request[int]{Estimate: c.u})
				}
				require.NoError(t, q.Shutdown(t.Context()))
				p := c.period
				assert.Equal(t, []float64{0, 0, p, p, 2 * p, 2 * p, 3 * p}, a.seconds(begin))
			})
		})
	}
}

// The window slides: each charge leaves a period after it came.
func TestWindowSlides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a admissions
		q := newQueue(t, a.process, WithLimits(RPM(3)), WithMargin(0))
		begin := time.Now()
		for range 3 {
			post(t, q, Request[int]{})
			time.Sleep(10 * time.Second)
		}
		for range 4 {
			post(t, q, Request[int]{})
		}
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, []float64{0, 10, 20, 60, 70, 80, 120}, a.seconds(begin))
	})
}

func TestMargin(t *testing.T) {
	for _, c := range []struct {
		limit Limit
		opts  []Option
		hold  time.Duration
	}{
		{RPM(1), nil, time.Minute + 250*time.Millisecond},
		{RPM(1).Per(time.Second), nil, time.Second + 20*time.Millisecond},
		{RPD(1), nil, 24*time.Hour + 250*time.Millisecond},
		{RPM(1), []Option{WithMargin(0)}, time.Minute},
		{RPM(1), []Option{WithMargin(2 * time.Second)}, time.Minute + 2*time.Second},
		{RPM(1), []Option{WithMargin(2 * time.Second), WithMargin(-1)}, time.Minute + 250*time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(t, echo, append(c.opts, WithLimits(c.limit))...)
			for n := range 3 {
				resp, err := q.Submit(t.Context(), Request[int]{})
				require.NoError(t, err)
				assert.Equal(t, min(time.Duration(n), 1)*c.hold, resp.WaitTime(), "%v", c.limit)
			}
		})
	}
}

// Concurrent bounds what runs, not what starts; without one the bound is 256.
func TestConcurrent(t *testing.T) {
	for want, opt := range map[int]Option{
		1: WithLimits(Concurrent(1)), 3: WithLimits(Concurrent(3), RPM(1000)), 256: WithLimits(RPM(1000)), 257: WithLimits(Concurrent(257)),
	} {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(t, sleeper, opt)
			begin := time.Now()
			for range 2 * want {
				post(t, q, Request[int]{Params: 1})
			}
			i := addsUp(t, q)
			assert.Equal(t, want, i.Processing)
			assert.Equal(t, want, i.Pending)
			require.NoError(t, q.Shutdown(t.Context()))
			assert.Equal(t, 2*time.Second, time.Since(begin))
		})
	}
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithUnlimited())
		for range 300 {
			post(t, q, Request[int]{Params: 1})
		}
		assert.Equal(t, 256, q.Info().Processing)
	})
}

// In any interval d at most Burst + Amount·d/Period starts, as well as the window.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a admissions
		q := newQueue(t, a.process, WithLimits(RPM(60).WithBurst(1)), WithMargin(0))
		begin := time.Now()
		for range 5 {
			post(t, q, Request[int]{})
		}
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, []float64{0, 1, 2, 3, 4}, a.seconds(begin))
	})
	synctest.Test(t, func(t *testing.T) {
		var a admissions
		q := newQueue(t, a.process, WithLimits(TPM(600).WithBurst(100)), WithMargin(0))
		for i := range 200 {
			post(t, q, Request[int]{Estimate: in(int64(1 + i*7%90))})
		}
		require.NoError(t, q.Shutdown(t.Context()))
		a.within(t, time.Minute, 600, Usage.Total)
		for i := range a.log {
			sum := int64(0)
			for j := i; j < len(a.log); j++ {
				sum += a.log[j].u.Total()
				d := a.log[j].at.Sub(a.log[i].at)
				require.LessOrEqual(t, float64(sum), 100+600*d.Minutes()+1e-6, "in %v", d)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) { // one above Burst starts when the allowance is full and leaves debt
		var a admissions
		q := newQueue(t, a.process, WithLimits(TPM(600).WithBurst(100)), WithMargin(0))
		begin := time.Now()
		for _, n := range []int64{50, 300, 10} {
			post(t, q, Request[int]{Estimate: in(n)})
		}
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, []float64{0, 5, 5 + 21}, a.seconds(begin))
	})
}

// A daily limit counts from midnight to midnight, however long the day is.
func TestDaily(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	for name, c := range map[string]struct {
		from  time.Time
		hours []float64
	}{
		"plain":           {time.Date(2000, 6, 1, 15, 0, 0, 0, berlin), []float64{0, 0, 9, 9, 33, 33, 57}},
		"clocks forward":  {time.Date(2000, 3, 25, 15, 0, 0, 0, berlin), []float64{0, 0, 9, 9, 32, 32, 56}},
		"clocks backward": {time.Date(2000, 10, 28, 15, 0, 0, 0, berlin), []float64{0, 0, 9, 9, 34, 34, 58}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(c.from))
				var a admissions
				q := newQueue(t, a.process, WithLimits(RPD(2).Daily(berlin)), WithMargin(0))
				begin := time.Now()
				for range 7 {
					post(t, q, Request[int]{})
				}
				l := q.Info().Limits[0]
				assert.EqualValues(t, 2, l.Used)
				assert.Equal(t, 9*time.Hour, l.ResetAt.Sub(begin))
				require.NoError(t, q.Shutdown(t.Context()))
				hours := a.seconds(begin)
				for i := range hours {
					hours[i] /= 3600
				}
				assert.Equal(t, c.hours, hours)
			})
		})
	}
	_, err = NewQueue("m", echo, WithLimits(RPM(1).Daily(berlin)))
	assert.ErrorIs(t, err, ErrInvalidConfiguration)
}

// A request takes from all limits at once, or from none.
func TestAllOrNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := NewSharedLimits(TPM(300), RPM(100))
		q := newQueue(t, sleeper, WithLimits(RPM(100), TPM(200), ITPM(100), OTPM(90), RPD(100), TPD(1000), Concurrent(2)), WithSharedLimits(shared))
		used := func(want ...int64) {
			t.Helper()
			i := q.Info()
			var got []int64
			for _, l := range append(i.Limits, i.Endpoints[0].Shared...) {
				got = append(got, l.Used)
			}
			assert.Equal(t, want, got)
		}
		post(t, q, Request[int]{Params: 1, Estimate: Usage{InputTokens: 20, OutputTokens: 50}})
		used(1, 70, 20, 50, 1, 70, 1, 70, 1)
		post(t, q, Request[int]{Params: 1, Estimate: Usage{InputTokens: 1, OutputTokens: 41}}) // OTPM is short of 1
		post(t, q, Request[int]{Params: 1, Estimate: in(1)})
		used(1, 70, 20, 50, 1, 70, 1, 70, 1)
		assert.Equal(t, 2, q.Len(), "the head is not overtaken")
		require.NoError(t, q.SetLimits(RPM(100), TPM(200), ITPM(100), OTPM(91), RPD(100), TPD(1000), Concurrent(2)))
		used(2, 112, 21, 91, 2, 112, 2, 112, 2)
	})
}

// What can never start is refused at once, and told why.
func TestLargerThanALimit(t *testing.T) {
	for _, c := range []struct {
		limit Limit
		u     Usage
		words []string
	}{
		{TPM(100), Usage{InputTokens: 60, OutputTokens: 41}, []string{"100", "tpm", "60", "41"}},
		{ITPM(100), in(101), []string{"100", "itpm", "101"}},
		{OTPM(100), Usage{OutputTokens: 101}, []string{"100", "otpm", "101"}},
		{TPD(100), in(101), []string{"100", "tpd", "101"}},
		{TPM(100).Per(time.Second), in(101), []string{"100", "tpm", "1s", "101"}},
	} {
		for _, opts := range [][]Option{{WithLimits(c.limit, RPM(9))}, {WithSharedLimits(NewSharedLimits(RPM(9), c.limit))}} {
			q := newQueue(t, echo, opts...)
			resp, err := q.Submit(t.Context(), Request[int]{Estimate: c.u})
			require.ErrorIs(t, err, ErrRequestTooLarge)
			assert.Zero(t, resp)
			for _, word := range c.words {
				assert.ErrorContains(t, err, word)
			}
			assert.Zero(t, q.Info().Accepted)
			exact := c.u
			if exact.InputTokens > exact.OutputTokens {
				exact.InputTokens--
			} else {
				exact.OutputTokens--
			}
			_, err = q.Submit(t.Context(), Request[int]{Estimate: exact})
			assert.NoError(t, err, "exactly the limit fits")
		}
	}
}

func TestLimitsThatAreWrong(t *testing.T) {
	for _, limits := range [][]Limit{
		{RPM(0)}, {RPM(-1)}, {{Kind: "rps", Amount: 1}}, {{}}, {RPM(1), RPM(2)}, {RPM(1), RPM(1).Per(time.Minute)},
		{RPM(1).Per(-1)}, {RPM(1).WithBurst(-1)}, {Concurrent(1).Per(time.Second)}, {Concurrent(1).WithBurst(1)}, {Concurrent(1), Concurrent(2)},
		{RPD(1), RPD(2).Daily(nil)}, {},
	} {
		_, err := NewQueue("m", echo, WithLimits(limits...))
		assert.ErrorIs(t, err, ErrInvalidConfiguration, "%v", limits)
		_, err = NewQueue("m", echo, WithSharedLimits(NewSharedLimits(limits...)))
		assert.ErrorIs(t, err, ErrInvalidConfiguration, "shared %v", limits)
		q := newQueue(t, echo, WithLimits(RPM(5)))
		assert.ErrorIs(t, q.SetLimits(limits...), ErrInvalidConfiguration, "SetLimits %v", limits)
		assert.Equal(t, RPM(5), q.Info().Limits[0].Limit, "and nothing changed")
	}
}

func TestSetLimits(t *testing.T) {
	run := func(name string, before, after []Limit, used ...int64) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, echo, WithLimits(before...), WithMargin(0))
				for range 3 {
					_, err := q.Submit(t.Context(), Request[int]{Estimate: Usage{InputTokens: 10, OutputTokens: 20}})
					require.NoError(t, err)
					time.Sleep(20 * time.Second)
				}
				require.NoError(t, q.SetLimits(after...))
				var got []int64
				for _, l := range q.Info().Limits {
					got = append(got, l.Used)
				}
				assert.Equal(t, used, got)
			})
		})
	}
	// At 60 s; the charges came at 0, 20 and 40 s.
	run("the same identity keeps its charges", []Limit{RPM(10), TPM(100)}, []Limit{TPM(500), RPM(1)}, 60, 2)
	run("a longer period starts from the longest window", []Limit{RPM(10), RPM(100).Per(30 * time.Second)}, []Limit{RPM(10).Per(time.Hour)}, 2)
	run("a shorter period, too", []Limit{RPM(10), RPM(100).Per(time.Hour)}, []Limit{RPM(10).Per(30 * time.Second), RPM(9).Per(time.Hour)}, 1, 3)
	run("a new kind starts from what the others know", []Limit{RPM(10)}, []Limit{RPM(10), TPM(100), ITPM(5)}, 2, 60, 20)
	run("a limit left out is gone", []Limit{RPM(10), TPM(100)}, []Limit{TPM(100)}, 60)
}

// Lower limits hold back, higher ones let go at that moment.
func TestSetLimitsTakesEffectAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithLimits(RPM(2), Concurrent(100)), WithMargin(0))
		for range 10 {
			post(t, q, Request[int]{Params: 100})
		}
		running := func(want int) {
			t.Helper()
			synctest.Wait()
			assert.Equal(t, want, q.Info().Processing)
		}
		running(2)
		time.Sleep(time.Second)
		require.NoError(t, q.SetLimits(RPM(4), Concurrent(100)))
		running(4)
		require.NoError(t, q.SetLimits(RPM(1), Concurrent(100)))
		time.Sleep(59 * time.Second) // the first two have left, two more than 1 are still there
		running(4)
		time.Sleep(time.Second)
		running(5)
		require.NoError(t, q.SetLimits(RPM(100), Concurrent(6)))
		running(6)
		require.NoError(t, q.SetLimits(RPM(100)))
		running(10)
	})
}

// Leaving Concurrent out restores its default.
func TestSetLimitsRestoresTheDefaultConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithLimits(RPM(1000), Concurrent(1)))
		for range 300 {
			post(t, q, Request[int]{Params: 1})
		}
		assert.Equal(t, 1, q.Info().Processing)
		require.NoError(t, q.SetLimits(RPM(1000)))
		assert.Equal(t, 256, q.Info().Processing)
	})
}

// A waiting request that can no longer ever start fails; the others go on.
func TestSetLimitsFailsTheImpossible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithLimits(TPM(100), Concurrent(2)), WithMargin(0))
		post(t, q, Request[int]{ID: "running", Params: 10, Estimate: in(90)})
		for id, n := range map[string]int64{"big": 80, "small": 40, "huge": 100, "exact": 50} {
			post(t, q, Request[int]{ID: id, Params: 1, Estimate: in(n)})
		}
		require.NoError(t, q.SetLimits(TPM(50)))
		for id, want := range map[string]Status{"running": StatusProcessing, "big": StatusFailed, "huge": StatusFailed, "small": StatusPending, "exact": StatusPending} {
			resp := status(t, q, id)
			assert.Equal(t, want, resp.Status, id)
			if want == StatusFailed {
				assert.ErrorIs(t, resp.Err, ErrRequestTooLarge)
			}
		}
		addsUp(t, q)
		require.NoError(t, q.Shutdown(t.Context()))
		assert.EqualValues(t, 3, addsUp(t, q).Completed)
	})
}

func TestPauseAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithLimits(Concurrent(1)))
		running := post(t, q, Request[int]{Params: 10})
		q.Pause()
		q.Pause()
		waiting := post(t, q, Request[int]{Params: 1})
		resp, err := q.Wait(t.Context(), running)
		require.NoError(t, err, "what runs goes on")
		assert.Equal(t, 10, resp.Result)
		time.Sleep(time.Hour)
		assert.Equal(t, StatusPending, status(t, q, waiting).Status)
		assert.Zero(t, status(t, q, waiting).EstimatedStart, "nobody knows when it is resumed")
		assert.True(t, q.Info().Paused)
		q.Resume() // not counted
		resp, err = q.Wait(t.Context(), waiting)
		require.NoError(t, err)
		assert.Equal(t, time.Hour+10*time.Second, resp.WaitTime())
		q.Resume()
		assert.False(t, q.Info().Paused)
	})
}

// The provider says slow down: the whole queue pauses, the request keeps its place.
func TestProviderPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a admissions
		first := true
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			a.note(r.ID, r.Estimate)
			if first {
				first = false
				time.Sleep(time.Second)
				return 0, RateLimited(errBoom, 30*time.Second)
			}
			return r.Params, nil
		}, WithLimits(Concurrent(1)))
		begin := time.Now()
		for _, id := range []string{"a", "b", "c"} {
			post(t, q, Request[int]{ID: id})
		}
		time.Sleep(2 * time.Second)
		i := addsUp(t, q)
		assert.Equal(t, 31*time.Second, i.PausedUntil.Sub(begin))
		assert.False(t, i.Paused, "that is for Pause")
		assert.Equal(t, 1, status(t, q, "a").Position)
		assert.Equal(t, 31*time.Second, status(t, q, "a").EstimatedStart.Sub(begin))
		post(t, q, Request[int]{ID: "urgent", Priority: 1})
		q.Pause()
		q.Resume() // lifts only the manual pause
		time.Sleep(time.Second)
		assert.Equal(t, 4, q.Len())
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, []float64{0, 31, 31, 31, 31}, a.seconds(begin))
		var order []string
		for _, e := range a.log {
			order = append(order, e.id)
		}
		assert.Equal(t, []string{"a", "urgent", "a", "b", "c"}, order)
		assert.EqualValues(t, 1, q.Info().Retries)
	})
}

// On a queue that is not paused by hand, Resume ends the pause of its provider, whatever its
// reason. What waits starts slowly, as after its end.
func TestResumeEndsAProviderPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a admissions
		first := true
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			a.note(r.ID, r.Estimate)
			if first {
				first = false
				return 0, RateLimited(errBoom, 30*time.Minute)
			}
			nap(ctx, time.Second)
			return r.Params, nil
		}, WithUnlimited())
		begin := time.Now()
		post(t, q, Request[int]{})
		synctest.Wait()
		for range 3 {
			post(t, q, Request[int]{})
		}
		time.Sleep(time.Second)
		assert.Equal(t, 4, q.Len())
		q.Resume()
		assert.Zero(t, q.Info().PausedUntil)
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, []float64{0, 1, 1.5, 2, 2}, a.seconds(begin))
	})
}

// With tenants too, who was told to slow down is next.
func TestProviderPauseKeepsThePlaceAmongTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		first := true
		q := newQueue(t, func(_ context.Context, r Request[int]) (int, error) {
			order = append(order, r.ID)
			if first {
				first = false
				time.Sleep(time.Second)
				return 0, RateLimited(nil, time.Second)
			}
			time.Sleep(time.Second)
			return r.Params, nil
		}, WithLimits(Concurrent(1)))
		for _, id := range []string{"x1", "x2", "x3", "y1", "y2"} {
			post(t, q, Request[int]{ID: id, Tenant: id[:1]})
		}
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, []string{"x1", "x1", "x2", "y1", "x3", "y2"}, order, "as without the pause")
	})
}

// A pause only ever lengthens, and Permanent around RateLimited is no pause.
func TestProviderPauseOnlyLengthens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refused sync.Map
		q := newQueue(t, func(_ context.Context, r Request[int]) (int, error) {
			time.Sleep(time.Duration(r.Priority) * time.Second)
			if _, again := refused.LoadOrStore(r.ID, true); again {
				return 0, nil
			}
			err := RateLimited(nil, time.Duration(r.Params)*time.Second)
			if r.Params == 1000 {
				err = Permanent(err)
			}
			return 0, err
		}, WithUnlimited(), WithRetry(RetryPolicy{MaxAttempts: 1}))
		begin := time.Now()
		for at, params := range map[int]int{1: 60, 2: 10, 3: 1000, 4: 57, 5: 90} {
			post(t, q, Request[int]{Priority: at, Params: params})
		}
		for _, until := range []int{61, 61, 61, 61, 95} {
			time.Sleep(time.Second)
			synctest.Wait()
			assert.Equal(t, time.Duration(until)*time.Second, q.Info().PausedUntil.Sub(begin))
		}
		i := addsUp(t, q)
		assert.Equal(t, 4, i.Pending, "a refusal uses up no attempt")
		assert.EqualValues(t, 1, i.Failed, "the hopeless one")
		time.Sleep(90 * time.Second)
		assert.Zero(t, q.Info().PausedUntil)
		require.NoError(t, q.Shutdown(t.Context()))
		assert.EqualValues(t, 4, addsUp(t, q).Completed)
	})
}

// Without a time from the provider the pause is the backoff's.
func TestProviderPauseWithoutATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, func(context.Context, Request[int]) (int, error) { return 0, RateLimited(nil, -1) },
			WithUnlimited(), WithRetry(RetryPolicy{MaxAttempts: 3, BaseDelay: time.Second, MaxDelay: time.Second}))
		resp, err := q.Submit(t.Context(), Request[int]{})
		require.Error(t, err)
		assert.Equal(t, 30, resp.Attempts, "so often in a row, with nothing served")
		assert.LessOrEqual(t, resp.FinishedAt.Sub(resp.CreatedAt), 29*time.Second)
	})
}

// The slot is free while a retry waits, and every attempt is charged.
func TestRetryFreesItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			if r.ID == "r" && n.Add(1) < 3 {
				return 0, Retryable(errBoom)
			}
			return sleeper(ctx, r)
		}, WithLimits(Concurrent(1), RPM(100)), WithRetry(RetryPolicy{BaseDelay: time.Hour, MaxDelay: time.Hour}))
		post(t, q, Request[int]{ID: "r"})
		synctest.Wait()
		other, err := q.Submit(t.Context(), Request[int]{Params: 1})
		require.NoError(t, err)
		assert.Zero(t, other.WaitTime())
		resp, err := q.Wait(t.Context(), "r")
		require.NoError(t, err)
		assert.Equal(t, 3, resp.Attempts)
	})
}

// What was spent before this process started counts.
func TestChargesFromBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		prior := func(yield func(time.Time, Usage) bool) {
			for _, p := range []struct {
				ago time.Duration
				n   int64
			}{{10 * time.Second, 30}, {50 * time.Second, 20}, {2 * time.Hour, 5}, {-time.Hour, 40}, {48 * time.Hour, 99}} {
				if !yield(now.Add(-p.ago), in(p.n)) {
					return
				}
			}
		}
		q := newQueue(t, echo, WithLimits(TPM(100), RPD(10), RPM(10)), WithMargin(0), WithPriorUsage(prior))
		l := q.Info().Limits
		assert.EqualValues(t, 90, l[0].Used)
		assert.EqualValues(t, 4, l[1].Used)
		assert.EqualValues(t, 3, l[2].Used)
		for _, c := range []struct {
			n    int64
			wait time.Duration
		}{{10, 0}, {20, 10 * time.Second}, {30, 40 * time.Second}} {
			resp, err := q.Submit(t.Context(), Request[int]{Estimate: in(c.n)})
			require.NoError(t, err)
			assert.Equal(t, c.wait, resp.WaitTime())
		}
	})
}

// A day's journal given to the second charges as much as one given to the nanosecond.
func TestPriorUsageOfTheSameInstantAddsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := time.Now().Add(-time.Minute)
		prior := func(yield func(time.Time, Usage) bool) {
			for i := range 10_000 {
				if !yield(at.Add(time.Duration(i/1000)*time.Second), in(2)) {
					return
				}
			}
		}
		q := newQueue(t, echo, WithLimits(TPD(30_000), RPD(20_000), TPM(30_000).Per(55*time.Second)), WithMargin(0), WithPriorUsage(prior))
		l := q.Info().Limits
		assert.EqualValues(t, 20_000, l[0].Used, "tokens of the day")
		assert.EqualValues(t, 10_000, l[1].Used, "requests of the day")
		assert.EqualValues(t, 8_000, l[2].Used, "tokens since 55 s ago: those of the last four seconds")
	})
}

// Shared limits hold for all queues together, whatever they do, and none is idle
// while another is served.
func TestSharedLimitsAreNeverExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a admissions
		var running, peak atomic.Int64
		shared := NewSharedLimits(RPM(30), TPM(1000), Concurrent(5))
		process := func(ctx context.Context, r Request[int]) (int, error) {
			a.note(r.ID, r.Estimate)
			n := running.Add(1)
			defer running.Add(-1)
			for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
			}
			return sleeper(ctx, r)
		}
		rng := rand.New(rand.NewPCG(1, 2))
		queues := []*Queue[int, int]{
			newQueue(t, process, WithSharedLimits(shared), WithoutDeadlineCheck()),
			newQueue(t, process, WithSharedLimits(shared), WithLimits(RPM(15)), WithoutDeadlineCheck()),
			newQueue(t, process, WithLimits(TPM(500), Concurrent(2)), WithSharedLimits(shared), WithoutDeadlineCheck()),
		}
		accepted := 0
		for _, q := range queues {
			for range 100 {
				id := post(t, q, Request[int]{Params: rng.IntN(4), Estimate: in(1 + rng.Int64N(200)), MaxWait: time.Duration(rng.IntN(2)) * 10 * time.Minute})
				accepted++
				if rng.IntN(10) == 0 {
					require.NoError(t, q.Cancel(id))
				}
			}
			time.Sleep(time.Duration(rng.Int64N(int64(time.Minute))))
		}
		for _, q := range queues {
			require.NoError(t, q.Shutdown(t.Context()))
			i := addsUp(t, q)
			assert.Zero(t, i.Pending+i.Processing)
			accepted -= int(i.Accepted)
		}
		assert.Zero(t, accepted)
		assert.LessOrEqual(t, peak.Load(), int64(5))
		a.within(t, time.Minute, 30, one)
		a.within(t, time.Minute, 1000, Usage.Total)
		for _, l := range shared.Info() {
			if l.Limit.Kind == KindConcurrent {
				assert.Zero(t, l.Used, "all slots are back")
			}
		}
	})
}

// Queues that wait for the same limits take turns.
func TestSharedLimitsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a admissions
		shared := NewSharedLimits(RPM(1).Per(10 * time.Second))
		var queues []*Queue[int, int]
		for range 3 {
			queues = append(queues, newQueue(t, a.process, WithSharedLimits(shared)))
		}
		for range 100 {
			post(t, queues[0], Request[int]{ID: "", Estimate: in(1)})
		}
		for _, q := range queues[1:] {
			for range 5 {
				post(t, q, Request[int]{Estimate: in(2)})
			}
		}
		time.Sleep(155 * time.Second)
		assert.Zero(t, queues[1].Len(), "a backlog elsewhere delays by one turn each")
		assert.Zero(t, queues[2].Len())
		assert.Equal(t, 100-6, queues[0].Len(), "and nothing goes unused")
	})
}

// A big request of one queue is not starved by the small ones of another.
func TestSharedLimitsDoNotStarveTheBig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := NewSharedLimits(TPM(100))
		small, big := newQueue(t, echo, WithSharedLimits(shared)), newQueue(t, echo, WithSharedLimits(shared))
		for range 200 {
			post(t, small, Request[int]{Estimate: in(10)})
		}
		time.Sleep(time.Second)
		resp, err := big.Submit(t.Context(), Request[int]{Estimate: in(100)})
		require.NoError(t, err)
		assert.LessOrEqual(t, resp.WaitTime(), 3*time.Minute)
		require.NoError(t, small.Shutdown(t.Context()))
	})
}

// A slot given back in one queue starts a request of another at that moment.
func TestSharedSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := NewSharedLimits(Concurrent(1))
		a, b := newQueue(t, sleeper, WithSharedLimits(shared)), newQueue(t, sleeper, WithSharedLimits(shared))
		post(t, a, Request[int]{Params: 10})
		resp, err := b.Submit(t.Context(), Request[int]{Params: 1})
		require.NoError(t, err)
		assert.Equal(t, 10*time.Second, resp.WaitTime())
	})
}

// A refund in one queue starts a request of another at that moment.
func TestSharedRefund(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := NewSharedLimits(TPM(100))
		a, b := newQueue(t, settling, WithSharedLimits(shared)), newQueue(t, settling, WithSharedLimits(shared))
		post(t, a, Request[[2]int64]{Params: [2]int64{10, 10}, Estimate: in(90)})
		resp, err := b.Submit(t.Context(), Request[[2]int64]{Estimate: in(90)})
		require.NoError(t, err)
		assert.Equal(t, 10*time.Second, resp.WaitTime())
	})
}

// A queue that is first in the shared line and pauses, empties, shuts down or waits
// for its own limits does not hold the others up.
func TestSharedLimitsPassTheTurnOn(t *testing.T) {
	for name, way := range map[string]func(t *testing.T, q *Queue[int, int], id string){
		"Pause":    func(_ *testing.T, q *Queue[int, int], _ string) { q.Pause() },
		"Cancel":   func(t *testing.T, q *Queue[int, int], id string) { require.NoError(t, q.Cancel(id)) },
		"MaxWait":  func(*testing.T, *Queue[int, int], string) { time.Sleep(10 * time.Second) },
		"Shutdown": func(_ *testing.T, q *Queue[int, int], _ string) { _ = q.Shutdown(ended()) },
		"Pause, Shutdown": func(t *testing.T, q *Queue[int, int], _ string) {
			q.Pause()
			require.NoError(t, q.Shutdown(t.Context()))
		},
		"SetLimits": func(t *testing.T, q *Queue[int, int], _ string) {
			require.NoError(t, q.SetLimits(RPM(1).Per(24*time.Hour)))
		},
		"SetLimits, never": func(t *testing.T, q *Queue[int, int], _ string) { require.NoError(t, q.SetLimits(TPM(1))) },
		"UpdateUsage":      func(t *testing.T, q *Queue[int, int], id string) { require.NoError(t, q.UpdateUsage(id, in(1))) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shared := NewSharedLimits(TPM(100).Per(time.Hour), Concurrent(10))
				own := WithLimits(RPM(5).Per(24 * time.Hour))
				first, second := newQueue(t, echo, WithSharedLimits(shared), own, WithoutDeadlineCheck()), newQueue(t, echo, WithSharedLimits(shared))
				_, err := first.Submit(t.Context(), Request[int]{Estimate: in(50)})
				require.NoError(t, err)
				id := post(t, first, Request[int]{Estimate: in(60), MaxWait: 20 * time.Second})
				time.Sleep(10 * time.Second)
				post(t, second, Request[int]{ID: "r", Estimate: in(20)})
				synctest.Wait()
				require.Equal(t, 1, second.Len(), "it is not its turn")
				way(t, first, id)
				synctest.Wait()
				assert.Zero(t, second.Len(), "now it is")
			})
		})
	}
}

// Two sets crossed: no deadlock, nothing lost.
func TestSharedLimitsCrossed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := NewSharedLimits(RPM(3).Per(time.Second), Concurrent(2)), NewSharedLimits(TPM(30).Per(time.Second), Concurrent(2))
		var ax, ay admissions
		process := func(inX, inY bool) Processor[int, int] {
			return func(ctx context.Context, r Request[int]) (int, error) {
				if inX {
					ax.note("", r.Estimate)
				}
				if inY {
					ay.note("", r.Estimate)
				}
				time.Sleep(time.Duration(r.Params) * time.Millisecond)
				ReportUsage(ctx, in(r.Estimate.Total()))
				return 0, nil
			}
		}
		queues := []*Queue[int, int]{
			newQueue(t, process(true, true), WithSharedLimits(x), WithSharedLimits(y)),
			newQueue(t, process(true, true), WithSharedLimits(y), WithSharedLimits(x)),
			newQueue(t, process(true, false), WithSharedLimits(x)),
			newQueue(t, process(false, true), WithSharedLimits(y)),
		}
		rng := rand.New(rand.NewPCG(3, 4))
		for range 100 {
			for _, q := range queues {
				post(t, q, Request[int]{Params: rng.IntN(300), Estimate: in(1 + rng.Int64N(20))})
			}
		}
		for _, q := range queues {
			require.NoError(t, q.Shutdown(t.Context()))
			assert.EqualValues(t, 100, addsUp(t, q).Completed)
		}
		ax.within(t, time.Second, 3, one)
		ay.within(t, time.Second, 30, Usage.Total)
	})
}

// Shutting one queue down under load leaves the others and the limits intact.
func TestSharedLimitsOutliveAQueue(t *testing.T) {
	shared := NewSharedLimits(Concurrent(4), RPM(1<<40))
	var wg sync.WaitGroup
	queues := make([]*Queue[int, int], 4)
	for i := range queues {
		queues[i] = newQueue(t, echo, WithSharedLimits(shared))
	}
	for _, q := range queues {
		for range 200 {
			post(t, q, Request[int]{})
		}
		wg.Go(func() { _ = q.Shutdown(ended()) })
	}
	wg.Wait()
	for _, q := range queues {
		require.NoError(t, q.Shutdown(t.Context()))
		i := addsUp(t, q)
		assert.EqualValues(t, 200, i.Completed+i.Failed)
	}
	last := newQueue(t, echo, WithSharedLimits(shared))
	_, err := last.Do(t.Context(), 1)
	require.NoError(t, err)
	assert.Zero(t, shared.Info()[1].Used)
}

// A queue whose request left at the moment at which it first asked the shared limits
// is not in their line.
func TestSharedLimitsAfterMaxWait(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			shared := NewSharedLimits(Concurrent(1))
			a := newQueue(t, sleeper, WithSharedLimits(shared))
			b := newQueue(t, sleeper, WithSharedLimits(shared), WithLimits(RPM(1).Per(10*time.Second)), WithMargin(0))
			_, err := b.Do(t.Context(), 0)
			require.NoError(t, err)
			time.Sleep(time.Second)
			post(t, a, Request[int]{Params: 20})
			post(t, b, Request[int]{MaxWait: 9 * time.Second})
			time.Sleep(30 * time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			_, err = a.Do(ctx, 0)
			assert.NoError(t, err, "queue a hangs behind queue b, which has no requests")
		})
	}
}

// A guess above several shared limits is capped at each of them.
func TestSharedLimitsCapTheMean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := NewSharedLimits(ITPM(100), OTPM(100), TPD(1000))
		a, b := newQueue(t, reports, WithSharedLimits(shared)), newQueue(t, reports, WithSharedLimits(shared))
		for range 3 {
			for _, q := range []*Queue[int64, int]{a, b} {
				_, err := q.Submit(t.Context(), Request[int64]{Params: 200})
				require.NoError(t, err)
				time.Sleep(10 * time.Minute)
			}
		}
	})
}

// A queue in two sets gets its turn although both are busy all the time.
func TestSharedLimitsDoNotStarveAQueueInTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := NewSharedLimits(RPM(1).Per(time.Second)), NewSharedLimits(RPM(1).Per(time.Second))
		both := newQueue(t, echo, WithSharedLimits(x), WithSharedLimits(y))
		onlyX, onlyY := newQueue(t, echo, WithSharedLimits(x)), newQueue(t, echo, WithSharedLimits(y))
		for range 300 {
			post(t, onlyX, Request[int]{})
		}
		time.Sleep(500 * time.Millisecond) // the two open at different moments
		for range 300 {
			post(t, onlyY, Request[int]{})
		}
		resp, err := both.Submit(t.Context(), Request[int]{})
		require.NoError(t, err)
		assert.Less(t, resp.WaitTime(), 10*time.Second)
	})
}

// The provider's word counts even when nobody waits for the request any more.
func TestProviderPauseByACanceledAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
			<-ctx.Done()
			return 0, RateLimited(nil, time.Minute)
		}, WithUnlimited())
		require.NoError(t, q.Cancel(post(t, q, Request[int]{})))
		synctest.Wait()
		assert.Equal(t, time.Minute, time.Until(q.Info().PausedUntil))
	})
}

// Durations that mean for ever do not overflow.
func TestForever(t *testing.T) {
	const forever = time.Duration(math.MaxInt64)
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(RPM(1)), WithHistory(10, forever), WithTimeout(forever), WithShutdownGrace(forever))
		time.Sleep(time.Second)
		post(t, q, Request[int]{ID: "first"})
		_, err := q.Submit(t.Context(), Request[int]{MaxWait: forever})
		require.NoError(t, err)
		assert.Equal(t, StatusCompleted, status(t, q, "first").Status)
	})
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, func(context.Context, Request[int]) (int, error) { return 0, RateLimited(nil, forever) },
			WithUnlimited(), WithMaxPause(forever), WithoutDeadlineCheck())
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err := q.Do(ctx, 1)
		assert.ErrorIs(t, err, ErrCanceled, "paused for ever")
	})
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, func(context.Context, Request[int]) (int, error) { return 0, Retryable(errBoom) }, WithUnlimited(),
			WithRetry(RetryPolicy{BaseDelay: forever, MaxDelay: forever}))
		post(t, q, Request[int]{ID: "r"})
		synctest.Wait()
		assert.Equal(t, StatusPending, status(t, q, "r").Status)
	})
}

// Between two attempts a request waits, and fails when it can no longer start.
func TestSetLimitsFailsTheImpossibleBetweenAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, func(context.Context, Request[int]) (int, error) { return 0, Retryable(errBoom) },
			WithLimits(TPM(100)), WithRetry(RetryPolicy{BaseDelay: 1000 * time.Hour, MaxDelay: 1000 * time.Hour}))
		post(t, q, Request[int]{ID: "r", Estimate: in(90)})
		synctest.Wait()
		require.NoError(t, q.SetLimits(TPM(50)))
		resp, err := q.Wait(t.Context(), "r")
		assert.ErrorIs(t, err, ErrRequestTooLarge)
		assert.Equal(t, 1, resp.Attempts)
		addsUp(t, q)
	})
}

package endpoint

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ends ends an attempt now.
func (e *told) ends(l *Lease, r Result) {
	if r == Answered {
		e.Succeeded(l)
	}
	e.Ended(e.now, l, r)
	l.Release(e.now)
}

// call makes a call that ends at once.
func (e *told) call(t *testing.T, r Result) {
	t.Helper()
	e.ends(e.starts(t, Usage{}), r)
}

// heldOut is an endpoint whose calls fail, with so many slots.
func heldOut(t *testing.T, slots int64, r Result) *told {
	e := newTold(Config{Limits: []Limit{{Kind: Concurrent, Amount: slots}}})
	for !e.HeldOut() {
		e.call(t, r)
	}
	return e
}

// One wrong key says enough, unless calls were served of late: then two in a row have to.
func TestAFaultOfItsOwnHoldsAnEndpointOut(t *testing.T) {
	e := newTold(Config{Unlimited: true})
	e.call(t, OwnFault)
	assert.True(t, e.HeldOut())
	assert.True(t, e.AtFault())
	require.Len(t, e.events, 1)
	assert.Equal(t, Event{Kind: HeldOut, Endpoint: e.Endpoint, Until: second}, e.events[0])

	e = newTold(Config{Unlimited: true})
	e.call(t, Answered)
	e.call(t, OwnFault)
	assert.False(t, e.HeldOut(), "a model that one request asks for may be unknown")
	e.call(t, Answered)
	e.call(t, OwnFault)
	assert.False(t, e.HeldOut(), "two, but not in a row")
	e.call(t, OwnFault)
	assert.True(t, e.HeldOut())

	e = newTold(Config{Unlimited: true})
	e.call(t, Answered)
	e.now = 60 * second
	e.call(t, OwnFault)
	assert.True(t, e.HeldOut(), "what was served a minute ago says little")
}

// Passing faults hold an endpoint out when nearly all calls end so, the last three among them.
func TestPassingFaultsHoldAnEndpointOut(t *testing.T) {
	after := func(served int, alternate bool) (failures int) {
		e := newTold(Config{Unlimited: true})
		for range served {
			e.call(t, Answered)
		}
		for !e.HeldOut() {
			if failures++; failures > 100 {
				return failures
			}
			e.call(t, Failed)
			if alternate && failures%2 == 0 {
				e.call(t, Answered)
			}
		}
		assert.False(t, e.AtFault())
		return failures
	}
	assert.Equal(t, 3, after(0, false))
	assert.Equal(t, 8, after(50, false), "three quarters of the last calls")
	assert.Equal(t, 101, after(0, true), "never three in a row")

	e := newTold(Config{Unlimited: true})
	for range 10 {
		e.call(t, RefusedCall)
		e.call(t, Nothing)
	}
	assert.False(t, e.HeldOut(), "who refuses is there")
	recent := e.Recent(0)
	assert.Equal(t, Recent{Refusals: 10}, recent)
	assert.InDelta(t, 5, e.Recent(30*second).Refusals, 1e-9, "half as much 30 s later")
	assert.InDelta(t, 5, e.Recent(0).Refusals, 1e-9, "time does not go back")
}

// Probes come ever later: after passing faults every 5 s at most, after faults of the endpoint's
// own every 30 s. What can go nowhere else comes every second.
func TestProbesComeEverLater(t *testing.T) {
	for r, delays := range map[Result][]int64{Failed: {1, 2, 4, 5, 5}, OwnFault: {1, 2, 4, 8, 16, 30, 30}} {
		e := heldOut(t, 10, r)
		for _, d := range delays {
			failed := e.now
			e.now = failed + d*second - 1
			assert.False(t, e.ProbeDue(e.now, false), "after %d s", d)
			assert.Equal(t, failed+d*second, e.ProbeAt(false))
			assert.False(t, e.ProbeDue(failed+second-1, true))
			assert.True(t, e.ProbeDue(failed+second, true), "it is of use sooner where there is nothing else")
			e.now++
			require.True(t, e.ProbeDue(e.now, false))
			probe := e.starts(t, Usage{})
			assert.False(t, e.ProbeDue(e.now, false), "one is under way")
			assert.False(t, e.ProbeDue(e.now, true))
			assert.Zero(t, e.ProbeAt(false))
			e.ends(probe, r)
		}
	}
	e := heldOut(t, 1, Failed)
	e.ProbeNow(1)
	assert.True(t, e.ProbeDue(1, false))
	assert.False(t, newTold(Config{Unlimited: true}).ProbeDue(0, true), "it is not held out")
}

// A probe that ends without a word leaves its turn to the next one. One that has timed out has
// told, though it may be under way for long; one that is refused lets the next one wait.
func TestProbesThatSayLittle(t *testing.T) {
	e := heldOut(t, 10, Failed)
	e.now = second
	e.ends(e.starts(t, Usage{}), Nothing)
	assert.True(t, e.ProbeDue(e.now, false), "who asked had gone")

	late := e.starts(t, Usage{})
	e.Ended(e.now, late, Failed)
	e.now += 2 * second
	assert.True(t, e.ProbeDue(e.now, false), "nobody probes as long as the late one does not return")
	probe := e.starts(t, Usage{})
	late.Release(e.now)
	assert.False(t, e.ProbeDue(e.now, false), "another one is under way")
	e.ends(probe, RefusedCall)
	assert.True(t, e.HeldOut())
	assert.False(t, e.ProbeDue(e.now+second-1, true), "refusals follow each other at once")
	assert.True(t, e.ProbeDue(e.now+second, false))
}

// A call that started before the latest failure says nothing of what comes after it.
func TestOnlyALaterServedCallLetsIn(t *testing.T) {
	e := newTold(Config{Limits: []Limit{{Kind: Concurrent, Amount: 8}}})
	early := e.starts(t, Usage{})
	e.now = 1
	for range 3 {
		e.call(t, Failed)
	}
	other := e.starts(t, Usage{})
	e.now = 2
	last := e.starts(t, Usage{})
	e.now = 3
	e.ends(early, Answered)
	assert.True(t, e.HeldOut(), "it started before the calls that failed")
	e.ends(other, Answered)
	assert.True(t, e.HeldOut(), "it started with them")
	e.kinds()
	e.ends(last, Answered)
	assert.False(t, e.HeldOut())
	assert.Equal(t, []EventKind{LetIn}, e.kinds())
	assert.EqualValues(t, 1, e.SlotsNow(), "calls do not all come back at once")
	e.call(t, Failed)
	e.call(t, Failed)
	assert.False(t, e.HeldOut(), "it begins anew")
	e.call(t, Failed)
	assert.True(t, e.HeldOut())

	e = heldOut(t, 8, OwnFault)
	e.now = second
	e.call(t, Answered)
	assert.False(t, e.HeldOut())
	assert.EqualValues(t, 8, e.SlotsNow(), "a key that works again takes all")
}

// Of endpoints with room those go first that work, then slow ones, then those whose calls fail.
func TestRankOfEndpoints(t *testing.T) {
	e := newTold(Config{Unlimited: true})
	assert.Equal(t, 0, e.Rank(0, 0))
	e.FirstOutput(300)
	assert.Equal(t, 0, e.Rank(0, 0), "no other is known")
	assert.Equal(t, 0, e.Rank(0, 100))
	assert.Equal(t, 1, e.Rank(0, 99), "it is more than three times as slow")
	for range 100 {
		e.FirstOutput(90)
	}
	assert.InDelta(t, 90, e.Recent(0).FirstOutput, 10, "the mean follows")
	for range 3 {
		e.call(t, Answered)
	}
	e.call(t, Failed)
	assert.Equal(t, 2, e.Rank(0, 0))
	e.call(t, Answered)
	assert.Equal(t, 0, e.Rank(0, 0), "the latest call was served")

	e = newTold(Config{Unlimited: true})
	e.FirstOutput(0)
	assert.EqualValues(t, 1, e.Recent(0).FirstOutput, "0 says that it is not known")
}

// After a pause one call is made; each answer allows one more, and each half second without a
// refusal twice as many.
func TestCallsComeSlowlyAfterAPause(t *testing.T) {
	paused := func(slots int64) *told {
		e := newTold(Config{Limits: []Limit{{Kind: Concurrent, Amount: slots}}})
		e.starts(t, Usage{}).Observe(0, &Observation{Outcome: RateLimited, Delay: second})
		e.now = second
		e.Advance(e.now)
		return e
	}
	e := paused(100)
	starts := func() (n int) {
		for ; e.MayStart(e.now); n++ {
			e.starts(t, Usage{})
		}
		return n
	}
	assert.Equal(t, 1, starts())
	assert.Equal(t, e.now+500*int64(time.Millisecond), e.Next(e.now), "then there is room")
	e.now += 500 * int64(time.Millisecond)
	e.Advance(e.now - 1)
	assert.Zero(t, starts())
	e.Advance(e.now)
	assert.Equal(t, 1, starts(), "two of which nothing came")
	e.now += second
	e.Advance(e.now)
	assert.Equal(t, 6, starts(), "eight")
	for e.slowStart.doublesAt != 0 {
		e.now += 500 * int64(time.Millisecond)
		e.Advance(e.now)
	}
	assert.Equal(t, 9*second/2, e.now, "100 slots bound less than 128 calls")
	assert.Equal(t, 100-9, starts(), "one has been under way since before the pause")

	e = paused(100)
	l := e.starts(t, Usage{})
	assert.Zero(t, starts())
	l.Observe(e.now, &Observation{Outcome: Served})
	l.Observe(e.now, &Observation{Outcome: Served})
	e.ends(l, Answered)
	assert.Equal(t, 2, starts(), "one more for an answer, however often it is told")

	e = paused(100)
	var round []*Lease
	for n := range 5 {
		for range len(round) {
			e.ends(round[0], Answered)
			round = round[1:]
		}
		for e.MayStart(e.now) {
			round = append(round, e.starts(t, Usage{}))
		}
		assert.Len(t, round, 1<<n, "they double with each round")
	}

	e = newTold(Config{Limits: []Limit{{Kind: Concurrent, Amount: 3}}})
	e.starts(t, Usage{})
	old := e.starts(t, Usage{})
	old.Observe(0, &Observation{Outcome: RateLimited, Delay: second})
	e.now = second
	e.Advance(e.now)
	assert.Equal(t, 1, starts(), "what was under way before does not count")
}

// Resume ends a pause, and what waits starts slowly then too.
func TestEndPause(t *testing.T) {
	e := newTold(Config{Limits: []Limit{{Kind: Concurrent, Amount: 5}}})
	e.starts(t, Usage{}).Observe(0, &Observation{Outcome: QuotaExhausted})
	assert.EqualValues(t, 3600*second, e.PausedUntil())
	assert.EqualValues(t, 3600*second, e.HeldUntil(5))
	e.kinds()
	e.now = 5
	e.EndPause(e.now)
	assert.Equal(t, []EventKind{Resumed}, e.kinds())
	assert.LessOrEqual(t, e.ExhaustedUntil(), e.now)
	assert.EqualValues(t, e.now, e.HeldUntil(e.now))
	e.starts(t, Usage{})
	assert.False(t, e.MayStart(e.now))
	e.EndPause(e.now)
	assert.Empty(t, e.kinds(), "there is none")
}

// A refusal that the processor marks says nothing of how fast calls came.
func TestMarkedRefusalsShortenNoBursts(t *testing.T) {
	for _, marked := range []bool{false, true} {
		e := newTold(Config{Limits: []Limit{{Kind: RPM, Amount: 64}}})
		e.starts(t, Usage{}).Observe(second, &Observation{Outcome: RateLimited, Marked: marked, Delay: 1})
		assert.Equal(t, marked, e.Limits()[0].Burst == 0)
	}
}

// While nobody knows how large requests are, each is taken for a sixteenth of the smallest limit
// on tokens, for 1,000 at least, and for no more than fits.
func TestFirstGuess(t *testing.T) {
	shared := &setOf{limits: []Limit{{Kind: ITPM, Amount: 80_000}}}
	for name, c := range map[string]struct {
		config Config
		want   Usage
	}{
		"no tokens":        {Config{Limits: []Limit{{Kind: RPM, Amount: 5}, {Kind: Concurrent, Amount: 1}}}, Usage{}},
		"tokens":           {Config{Limits: []Limit{{Kind: TPM, Amount: 32_000}}}, Usage{Input: 2000}},
		"the smallest":     {Config{Limits: []Limit{{Kind: TPD, Amount: 64_000}, {Kind: TPM, Amount: 32_000}}}, Usage{Input: 2000}},
		"input and output": {Config{Limits: []Limit{{Kind: ITPM, Amount: 160_000}, {Kind: OTPM, Amount: 32_000}}}, Usage{Input: 10_000, Output: 2000}},
		"few":              {Config{Limits: []Limit{{Kind: TPM, Amount: 5000}}}, Usage{Input: 1000}},
		"very few":         {Config{Limits: []Limit{{Kind: TPM, Amount: 500}}}, Usage{Input: 500}},
		"shared":           {Config{Limits: []Limit{{Kind: TPM, Amount: 320_000}}, Shared: []Shared{shared}}, Usage{Input: 5000}},
	} {
		e := newTold(c.config)
		assert.Equal(t, c.want, e.Reservation(Usage{}, false, UnknownMean), name)
		assert.Equal(t, Usage{Input: 7}, e.Reservation(Usage{Input: 7}, true, UnknownMean), "its size is known")
	}
}

// setOf is a shared set of which only the limits count.
type setOf struct {
	lineOf
	limits []Limit
}

func (s *setOf) Limits(int64) []Limit { return s.limits }

// The earliest start rests on nothing that may turn out better: attempts under way may give back
// what they reserved, and what is ahead may use nothing.
func TestEarliestIsCertain(t *testing.T) {
	e := newTold(Config{Limits: []Limit{{Kind: TPM, Amount: 100}, {Kind: RPM, Amount: 4}}})
	l := e.starts(t, Usage{Input: 80})
	e.starts(t, Usage{Input: 10})
	e.now = second
	assert.Equal(t, e.now, e.Earliest(e.now, 0, Usage{Input: 100}, true, Usage{}).At, "they may use nothing")
	l.Settle(e.now, Usage{Input: 60})
	l.Release(e.now)
	w := e.Earliest(e.now, 0, Usage{Input: 41}, true, Usage{})
	assert.Equal(t, 60*second, w.At, "60 were used, and 10 may come back")
	assert.Equal(t, WindowLimit, w.Cause)
	assert.Equal(t, e.now, e.Earliest(e.now, 0, Usage{Input: 40}, true, Usage{}).At)
	assert.Equal(t, e.now, e.Earliest(e.now, 0, Usage{}, false, Usage{Input: 90}).At, "a mean is a guess")
	assert.Equal(t, e.now, e.Earliest(e.now, 1, Usage{}, true, Usage{}).At)
	assert.Equal(t, 60*second, e.Earliest(e.now, 2, Usage{}, true, Usage{}).At, "four in a minute")

	e.starts(t, Usage{}).Observe(e.now, &Observation{Outcome: SlowDown, Delay: 3 * second})
	w = e.Earliest(e.now, 10, Usage{}, true, Usage{})
	assert.Equal(t, Wait{At: 4 * second, Cause: Pause}, w, "how long bursts have to be is a guess")
}

package endpoint

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const minute = 60 * second

// What holds a request longest is what it is said to wait for.
func TestCheckGivesWhatHoldsLongest(t *testing.T) {
	e := newTold(Config{Limits: []Limit{{Kind: RPM, Amount: 2}, {Kind: TPM, Amount: 100}, {Kind: Concurrent, Amount: 2}}})
	check := func(ahead Load, u Usage, ends Ends) Wait { return e.Check(e.now, ahead, u, true, Usage{}, ends) }
	assert.Equal(t, Wait{}, check(Load{}, Usage{Input: 100}, Ends{}))
	e.starts(t, Usage{Input: 60})
	assert.Equal(t, Wait{At: minute, Cause: WindowLimit, Limit: e.Limits()[1]}, check(Load{}, Usage{Input: 50}, Ends{}))
	assert.Equal(t, Wait{}, check(Load{}, Usage{Input: 40}, Ends{}))
	assert.Equal(t, minute, check(Load{Requests: 1}, Usage{}, Ends{}).At, "what is ahead takes some too")
	e.starts(t, Usage{})
	assert.Equal(t, Wait{At: minute, Cause: WindowLimit, Limit: e.Limits()[0]}, check(Load{}, Usage{}, Ends{}))
	assert.Equal(t, Wait{At: 2 * minute, Cause: Slot, Guessed: true}, check(Load{}, Usage{}, Ends{Mean: float64(4 * minute)}), "half as long as attempts take, with two slots")
	assert.Equal(t, Wait{At: 2 * minute, Cause: Slot}, check(Load{}, Usage{}, Ends{Next: 2 * minute}))
	assert.Equal(t, WindowLimit, check(Load{}, Usage{}, Ends{Next: second}).Cause)
	e.Pause(3 * minute)
	w := check(Load{}, Usage{}, Ends{})
	assert.Equal(t, 3*minute, w.At)
	assert.Equal(t, Pause, w.Cause)

	unknown := e.Check(e.now, Load{Requests: 1, Unsized: 1}, Usage{}, false, Usage{Input: 90}, Ends{})
	assert.True(t, unknown.Guessed, "the mean is a guess")

	e = newTold(Config{Limits: []Limit{{Kind: TPM, Amount: 100}}, Accounting: more{}})
	w = e.Check(0, Load{Requests: 2, Input: 75}, Usage{Input: 1}, true, Usage{}, Ends{})
	assert.Equal(t, WindowLimit, w.Cause, "it reserves 10 more for each")
	assert.True(t, w.Guessed)
}

// What remains of a limit that ours do not explain, others took: it is left to them for a while.
func TestOthersHoldTheirPartOfALimit(t *testing.T) {
	e := newTold(Config{Limits: []Limit{{Kind: RPM, Amount: 100}}})
	left := func() int64 { _, n, _ := e.WindowUsage(e.now, 0); return n }
	answer := func(remaining int64) {
		l := e.starts(t, Usage{})
		defer l.Release(e.now)
		e.now += second
		l.Observe(e.now, &Observation{Outcome: Served, Limits: []Stated{{Limit: Limit{Kind: RPM, Amount: 100}, Remaining: remaining, Reset: minute}}})
	}
	answer(99)
	assert.EqualValues(t, 99, left(), "nobody else calls")
	answer(58)
	assert.EqualValues(t, 100-2-40-3, left(), "others took 40, and one in 24 of the rest is left to them")
	answer(37)
	assert.EqualValues(t, 100-3-60-2, left())
	e.now += 4 * minute
	assert.EqualValues(t, 100, left(), "nothing was heard of them for long")

	answer(-1)
	assert.EqualValues(t, 99, left(), "it did not say")
	answer(0)
	assert.Less(t, left(), int64(6), "nothing is left")
}

// Over a longer period others are expected to give back what they hold by the reset.
func TestOthersGiveBackByTheReset(t *testing.T) {
	day := Limit{Kind: RPD, Amount: 1000}
	e := newTold(Config{Limits: []Limit{day}})
	left := func() int64 { _, n, _ := e.WindowUsage(e.now, 0); return n }
	for range 2 {
		l := e.starts(t, Usage{})
		l.Observe(e.now, &Observation{Outcome: Served, Limits: []Stated{{Limit: day, Remaining: 700, Reset: 3600 * second}}})
	}
	assert.InDelta(t, 700, left(), 2)
	e.now += 3601 * second
	assert.InDelta(t, 998, left(), 2)
}

// A limit that starts anew at midnight follows the wall clock, and a pause ends sooner when the
// machine has slept.
func TestAdjust(t *testing.T) {
	e := newTold(Config{Limits: []Limit{{Kind: RPD, Amount: 1, Resets: time.UTC}}})
	assert.True(t, e.WallClock())
	assert.False(t, newTold(Config{Limits: []Limit{{Kind: RPM, Amount: 1}}}).WallClock())
	noon := int64(12 * time.Hour)
	e.Adjust(0, noon, 0)
	e.starts(t, Usage{})
	require.Equal(t, NotNow, e.Admit(0, Usage{}, &Lease{}))
	assert.Equal(t, noon, e.Next(0), "midnight")
	e.Adjust(1, int64(24*time.Hour)+1, 0)
	e.starts(t, Usage{})

	e.Pause(100 * second)
	e.Exhaust(90 * second)
	e.Adjust(1, 0, 60*second)
	assert.Equal(t, 40*second, e.PausedUntil())
	assert.Equal(t, 30*second, e.ExhaustedUntil())
	e.Adjust(1, 0, 1000*second)
	assert.Zero(t, e.PausedUntil())
}

// Calls that go out late keep their charges for longer: the provider counts them when they come.
func TestLateCallsCountForLonger(t *testing.T) {
	e := newTold(Config{Limits: []Limit{{Kind: RPM, Amount: 2}}})
	for _, late := range []int64{0, second} {
		l := e.starts(t, Usage{})
		l.Observe(5*second, &Observation{Outcome: Served, SentAt: 1 + late})
	}
	e.now = minute
	require.Equal(t, NotNow, e.Admit(e.now, Usage{}, &Lease{}))
	assert.Equal(t, minute+second, e.Next(e.now))
}

func TestWhatAnEndpointIs(t *testing.T) {
	set := &setOf{limits: []Limit{{Kind: TPM, Amount: 10}}}
	e := newTold(Config{Limits: []Limit{{Kind: RPM, Amount: 120}, {Kind: TPM, Amount: 600}, {Kind: Concurrent, Amount: 9}}, Shared: []Shared{set}})
	assert.InDelta(t, 2, e.PerSecond(Usage{}), 1e-9)
	assert.InDelta(t, 1, e.PerSecond(Usage{Input: 10}), 1e-9)
	assert.InDelta(t, 0.5, e.Share(Usage{Input: 300}), 1e-9)
	assert.Equal(t, []Shared{set}, e.Shared())
	assert.False(t, e.NeedsLimit())
	assert.True(t, newTold(Config{}).NeedsLimit())
	assert.False(t, newTold(Config{Unlimited: true}).NeedsLimit())
	assert.True(t, e.CountsTokens())
	assert.Zero(t, e.Margin())
	e.Pause(second)
	assert.Equal(t, second, e.Announces())
	e.Stop()
	assert.Zero(t, e.Announces(), "nothing more is told")
	e.Remove(0)
	assert.True(t, e.Removed())
	assert.EqualValues(t, math.MaxInt64, After(math.MaxInt64-1, 2))
	assert.EqualValues(t, 3, RoundUp(2.1))
	assert.EqualValues(t, 2, RoundUp(2+1e-9))

	prior := newTold(Config{Limits: []Limit{{Kind: RPM, Amount: 3}}, Prior: []Prior{{At: -second, Requests: 2}}})
	used, _, _ := prior.WindowUsage(0, 0)
	assert.EqualValues(t, 2, used, "what was started before counts")
}

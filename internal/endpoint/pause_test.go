package endpoint

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// told is an endpoint that keeps what it tells.
type told struct {
	*Endpoint
	events []Event
	now    int64
}

func newTold(c Config) *told {
	e := &told{}
	c.Margin = 0
	c.Emit = func(ev Event) { e.events = append(e.events, ev) }
	e.Endpoint = New(0, time.Unix(0, 0), c)
	return e
}

func (e *told) kinds() (kinds []EventKind) {
	for _, ev := range e.events {
		kinds = append(kinds, ev.Kind)
	}
	e.events = nil
	return kinds
}

// starts begins an attempt that takes u.
func (e *told) starts(t *testing.T, u Usage) *Lease {
	t.Helper()
	l := &Lease{}
	e.Reset()
	require.Equal(t, Admitted, e.Admit(e.now, u, l))
	return l
}

const second = int64(time.Second)

func TestPausesAreTold(t *testing.T) {
	e := newTold(Config{Unlimited: true})
	l := e.starts(t, Usage{})
	l.Observe(1, &Observation{Outcome: RateLimited, Delay: 10})
	assert.EqualValues(t, 11, e.Announces())
	l.Observe(2, &Observation{Outcome: RateLimited, Delay: 3}) // ends sooner: it changes nothing
	assert.EqualValues(t, 11, e.PausedUntil())
	assert.False(t, e.MayStart(10))
	e.Advance(10)
	assert.Equal(t, []EventKind{Paused}, e.kinds())
	e.Advance(11)
	assert.True(t, e.MayStart(11))
	assert.Equal(t, []EventKind{Resumed}, e.kinds())
	e.Advance(12)
	assert.Empty(t, e.kinds(), "it is told once")
	assert.Zero(t, e.Announces())
}

// votes is a breaker that counts.
type votes struct {
	closed             bool
	successes, failure int
	delay              time.Duration
}

func (v *votes) TryAcquirePermit() bool        { return v.closed }
func (v *votes) RecordSuccess()                { v.successes++ }
func (v *votes) RecordFailure()                { v.failure++ }
func (v *votes) IsClosed() bool                { return v.closed }
func (v *votes) RemainingDelay() time.Duration { return v.delay }

func TestCallersThatLeaveSayNothingToTheBreaker(t *testing.T) {
	v := &votes{closed: true}
	e := newTold(Config{Unlimited: true, Breaker: v})
	e.Judge(0, Left)
	assert.Zero(t, v.failure+v.successes, "callers that leave open the breaker")
	e.Judge(0, Success)
	e.Judge(0, Failure)
	assert.Equal(t, 1, v.successes)
	assert.Equal(t, 1, v.failure)
	v.closed = false
	e.Judge(0, Left)
	assert.Equal(t, 2, v.failure, "a probe hangs on it")

	v.delay = time.Second
	assert.True(t, e.Judge(5, Failure))
	require.Len(t, e.events, 1)
	assert.Equal(t, 5+second, e.events[0].Until)
	v.delay, v.closed = 0, true
	assert.False(t, e.Judge(6, Success))
	assert.Equal(t, []EventKind{Opened, Closed}, e.kinds())
}

// What a breaker refuses takes nothing of the limits.
func TestBreakerRefusesAndNothingIsCharged(t *testing.T) {
	v := &votes{}
	e := newTold(Config{Limits: []Limit{{Kind: RPM, Amount: 3}}, Breaker: v})
	var l Lease
	for range 5 {
		require.Equal(t, NotNow, e.Admit(0, Usage{}, &l))
	}
	used, _, _ := e.WindowUsage(0, 0)
	assert.Zero(t, used)
	assert.Zero(t, e.Running())
}

// While the first limit is to be learned, one call at a time finds out.
func TestLimitsToBeLearnedAreWaitedFor(t *testing.T) {
	e := newTold(Config{Learn: true})
	l := e.starts(t, Usage{})
	assert.Equal(t, NotNow, e.Admit(0, Usage{}, &Lease{}))
	l.Observe(1, &Observation{Outcome: Served, Limits: []Stated{{Limit: Limit{Kind: RPM, Amount: 50}, Remaining: 49}}})
	assert.Equal(t, []EventKind{LimitsLearned}, e.kinds())
	used, left, _ := e.WindowUsage(1, 0)
	assert.EqualValues(t, 1, used, "the call that taught them counts")
	assert.EqualValues(t, 49, left)
	for range 31 {
		e.starts(t, Usage{})
	}

	silent := newTold(Config{Learn: true})
	l = silent.starts(t, Usage{})
	l.Observe(1, &Observation{Outcome: Served})
	assert.Equal(t, []EventKind{NoLimits}, silent.kinds())
	silent.starts(t, Usage{})
}

// What a provider says is below the configured limit holds; what is above does not, unless
// limits are learned.
func TestStatedLimitsLowerConfiguredOnes(t *testing.T) {
	for _, learn := range []bool{false, true} {
		e := newTold(Config{Limits: []Limit{{Kind: RPM, Amount: 10}}, Learn: learn})
		state := func(amount int64) (lowered bool) {
			e.now += 10 * second
			l := e.starts(t, Usage{})
			defer l.Release(e.now)
			return l.Observe(e.now, &Observation{Outcome: Served, Limits: []Stated{{Limit: Limit{Kind: RPM, Amount: amount}, Remaining: -1}}})
		}
		assert.True(t, state(4), "something that waits may never fit")
		assert.EqualValues(t, 4, e.Limits()[0].Amount)
		assert.False(t, state(20))
		want := int64(10)
		if learn {
			want = 20
		}
		assert.Equal(t, want, e.Limits()[0].Amount)
	}
}

func TestSetLimitsTellsWhetherSomethingBecameSmaller(t *testing.T) {
	e := newTold(Config{Limits: []Limit{{Kind: TPM, Amount: 10}, {Kind: Concurrent, Amount: 5}}})
	assert.False(t, e.SetLimits(0, []Limit{{Kind: TPM, Amount: 11}, {Kind: Concurrent, Amount: 1}}))
	assert.True(t, e.SetLimits(0, []Limit{{Kind: TPM, Amount: 9}}))
	assert.EqualValues(t, DefaultSlots, e.Slots())
	assert.True(t, e.SetLimits(0, []Limit{{Kind: TPM, Amount: 9}, {Kind: RPM, Amount: 100}}), "it is new")
}

// All calls of one burst that are refused are one lesson: bursts shorten once for them, and
// grow again when nothing is refused for two minutes.
func TestOneBurstIsOneLesson(t *testing.T) {
	e := newTold(Config{Limits: []Limit{{Kind: RPM, Amount: 64}}})
	var burst []*Lease
	for range 8 {
		burst = append(burst, e.starts(t, Usage{}))
	}
	for _, l := range burst {
		l.Observe(second, &Observation{Outcome: SlowDown, Delay: 1})
		assert.EqualValues(t, 8, e.Limits()[0].Burst)
	}
	e.now = 2 * second
	l := e.starts(t, Usage{})
	l.Observe(3*second, &Observation{Outcome: SlowDown, Delay: 1})
	assert.EqualValues(t, 1, e.Limits()[0].Burst, "it was too much still")
	for i := range int64(6) {
		e.now += 121 * second
		l := e.starts(t, Usage{})
		l.Observe(e.now, &Observation{Outcome: Served})
		want := int64(2) << i
		if want == 64 {
			want = 0
		}
		assert.Equal(t, want, e.Limits()[0].Burst)
	}
}

// An overload cuts what runs at once by a quarter, once for all that ran, and successes let
// it grow until the configured limit is all there is.
func TestConcurrencyAfterAnOverload(t *testing.T) {
	e := newTold(Config{Limits: []Limit{{Kind: Concurrent, Amount: 8}}})
	var all []*Lease
	for range 8 {
		all = append(all, e.starts(t, Usage{}))
	}
	for _, l := range all {
		l.Observe(second, &Observation{Outcome: Overloaded})
		assert.EqualValues(t, 6, e.SlotsNow())
	}
	for _, l := range all {
		l.Release(second)
	}
	rounds := 0
	for ; e.SlotsNow() < 8; rounds++ {
		require.Less(t, rounds, 50, "after an overload concurrency stays low forever")
		e.Succeeded(&Lease{answered: true})
	}
	assert.Greater(t, rounds, 10, "it grows by one for each round of successes")
	assert.Equal(t, LimitsLearned, slices.MaxFunc(e.events, func(a, b Event) int { return int(a.Kind) - int(b.Kind) }).Kind)
}

// A request that passes the head leaves it a slot and all room that it will need.
func TestBackfillLeavesTheHeadItsRoom(t *testing.T) {
	e := newTold(Config{Limits: []Limit{{Kind: TPM, Amount: 100}, {Kind: Concurrent, Amount: 3}}})
	head := Usage{Input: 60}
	e.starts(t, Usage{Input: 50})
	e.now = 10 * second
	require.Equal(t, NotNow, e.Admit(e.now, head, &Lease{}))
	require.True(t, e.FindSlack(e.now, head))
	ok, _ := e.Backfill(e.now, Usage{Input: 41}, &Lease{})
	assert.False(t, ok, "the head would wait for longer")
	ok, _ = e.Backfill(e.now, Usage{Input: 40}, &Lease{})
	assert.True(t, ok)
	assert.False(t, e.FindSlack(e.now, head), "the last slot is the head's")
}

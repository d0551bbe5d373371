package engine

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

const millisecond = second / 1000

// hedged is an engine with two endpoints and a request that is hedged after 100 ms, with the
// numbers of its two attempts.
func hedged(t *testing.T, cfg Config) (b *bench, h, first, hedge uint32) {
	cfg.Hedge = Hedge{After: 100 * millisecond, Share: 1}
	cfg.RetryBudget = -1
	b = newBench(t, cfg, limited(concurrent(1)))
	b.add(limited(concurrent(1)))
	h = b.submit(Request{Sized: true})
	first = b.View(h).Attempt
	b.wake(100*millisecond - 1)
	require.EqualValues(t, 1, b.Running())
	require.EqualValues(t, 100*millisecond, b.Next())
	b.effects()
	b.wake(100 * millisecond)
	effects := b.effects()
	require.Len(t, effects, 1)
	hedge = effects[0].Attempt
	assert.Equal(t, Start, effects[0].Kind)
	assert.True(t, effects[0].Hedge)
	assert.Equal(t, 2, effects[0].Count)
	assert.NotEqual(t, b.at(h), effects[0].Endpoint, "another endpoint first")
	var j Job
	b.Job(hedge, &j)
	assert.True(t, j.Hedge)
	assert.Equal(t, h, j.Handle)
	assert.EqualValues(t, 1, b.Counts().Hedges)
	assert.Zero(t, b.Counts().Retries)
	assert.Equal(t, first, b.View(h).Attempt, "the first is the latest until the hedge has won")
	return b, h, first, hedge
}

// used is how an attempt ends that used n tokens.
func used(n int64, v Verdict) *Ending {
	return &Ending{Verdict: v, Reported: true, Used: endpoint.Usage{Input: n}}
}

// The first output decides between two attempts. The other one is cut off, and what it uses is
// settled when it ends.
func TestTheFirstOutputDecides(t *testing.T) {
	for name, hedgeWins := range map[string]bool{"the hedge wins": true, "the first attempt wins": false} {
		for _, loserFirst := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				b, h, first, hedge := hedged(t, Config{})
				winner, loser := first, hedge
				if hedgeWins {
					winner, loser = hedge, first
				}
				b.Output(b.now, winner, true)
				assert.Equal(t, []Effect{{Kind: Cut, Code: Outrun, Handle: h, Attempt: loser}}, b.effects())
				assert.Equal(t, winner, b.View(h).Attempt)
				assert.Equal(t, 2, b.View(h).Attempts)
				assert.True(t, b.IsCut(loser))
				assert.Equal(t, 1, b.Counts().Abandoned)
				b.Output(b.now, loser, true)
				assert.Empty(t, b.effects(), "it is too late")
				if loserFirst {
					b.Conclude(b.now, loser, used(5, RequestFault))
					assert.Equal(t, Running, b.State(h), "the end of the one that lost ends the request")
				}
				b.Conclude(b.now, winner, used(7, Served))
				assert.Equal(t, Completed, b.State(h))
				assert.Equal(t, []EffectKind{End}, kinds(b.effects()))
				if !loserFirst {
					assert.EqualValues(t, 1, b.Running())
					b.Conclude(b.now, loser, used(5, Served))
				}
				assert.Equal(t, endpoint.Usage{Input: 12}, b.View(h).Usage, "both are charged")
				assert.Equal(t, endpoint.Usage{Input: 12}, b.Counts().Usage)
				assert.Zero(t, b.Counts().Abandoned)
				assert.Zero(t, b.Running())
				gone, _ := b.Forget(h)
				assert.True(t, gone)
				assert.Len(t, b.free, len(b.attempts))
			})
		}
	}
}

// Without output the first that is served decides.
func TestTheFirstEndDecides(t *testing.T) {
	for name, hedgeWins := range map[string]bool{"the hedge wins": true, "the first attempt wins": false} {
		t.Run(name, func(t *testing.T) {
			b, h, first, hedge := hedged(t, Config{})
			winner, loser := first, hedge
			if hedgeWins {
				winner, loser = hedge, first
			}
			b.Conclude(b.now, winner, used(7, Served))
			assert.Equal(t, []EffectKind{Cut, End}, kinds(b.effects()))
			assert.Equal(t, Completed, b.State(h))
			gone, _ := b.Forget(h)
			assert.False(t, gone, "the other one is under way")
			b.Conclude(b.now, loser, used(5, Served))
			assert.Equal(t, []EffectKind{Gone}, kinds(b.effects()))
			assert.Zero(t, b.Live())
		})
	}
	b, h, first, hedge := hedged(t, Config{})
	b.Conclude(b.now, hedge, &Ending{Verdict: PassingFault, CallerLeft: true})
	assert.Equal(t, CanceledState, b.State(h))
	assert.Equal(t, []EffectKind{Cut, End}, kinds(b.effects()))
	b.Conclude(b.now, first, used(1, Served))
	assert.Equal(t, CanceledState, b.State(h))
}

// When one of two attempts fails, the request is left to the other one, unless that would fail too.
func TestTheOtherOfTwoGoesOn(t *testing.T) {
	b, h, first, hedge := hedged(t, Config{})
	b.Conclude(b.now, hedge, used(5, RequestFault))
	assert.Equal(t, []EffectKind{Cut, End}, kinds(b.effects()))
	assert.Equal(t, Failed, b.State(h))
	b.Conclude(b.now, first, used(7, Served))
	assert.Equal(t, Failed, b.State(h))
	for _, v := range []Verdict{EndpointFault, PassingFault, Refused} {
		for _, hedgeFails := range []bool{true, false} {
			b, h, first, hedge := hedged(t, Config{})
			loser, other := first, hedge
			if hedgeFails {
				loser, other = hedge, first
			}
			b.Conclude(b.now, loser, used(5, v))
			assert.Empty(t, b.effects())
			assert.Equal(t, Running, b.State(h))
			assert.Equal(t, other, b.View(h).Attempt)
			assert.EqualValues(t, 1, b.Running())
			b.Conclude(b.now, other, used(7, PassingFault))
			assert.Equal(t, Retry, b.effects()[0].Kind, "nothing of it is under way any more")
			b.wake(b.now)
			require.Equal(t, Running, b.State(h))
			assert.Equal(t, 3, b.View(h).Attempts)
			b.ends(h, *used(1, Served))
			assert.Equal(t, endpoint.Usage{Input: 13}, b.View(h).Usage)
		}
	}
}

// A fault of the request ends it, and the other attempt with it: that would fail too.
func TestAFaultOfTheRequestEndsBothAttempts(t *testing.T) {
	for _, hedgeFails := range []bool{true, false} {
		b, h, first, hedge := hedged(t, Config{})
		loser, other := first, hedge
		if hedgeFails {
			loser, other = hedge, first
		}
		b.Conclude(b.now, loser, used(5, RequestFault))
		effects := b.effects()
		assert.Equal(t, Effect{Kind: Cut, Code: Outrun, Handle: h, Attempt: other}, effects[0])
		assert.Equal(t, End, effects[1].Kind)
		assert.Equal(t, Failed, b.State(h))
		assert.Equal(t, 1, b.Counts().Abandoned)
	}
}

// A timeout of one of two attempts leaves the request to the other one, and Cancel ends both.
func TestTwoAttemptsAreCutOff(t *testing.T) {
	b, h, first, hedge := hedged(t, Config{Timeout: 150 * millisecond})
	b.wake(150 * millisecond)
	assert.Equal(t, []Effect{{Kind: Cut, Code: TimedOut, Handle: h, Attempt: first}}, b.effects())
	assert.Equal(t, Running, b.State(h))
	assert.Equal(t, hedge, b.View(h).Attempt)
	b.Conclude(b.now, first, used(5, PassingFault))
	assert.EqualValues(t, 250*millisecond, b.Next())
	b.wake(250 * millisecond)
	assert.Equal(t, []Code{TimedOut}, codes(b.effects(), Retry))

	b, h, first, hedge = hedged(t, Config{})
	require.True(t, b.Cancel(b.now, h, CanceledState, Canceled))
	effects := b.effects()
	assert.Equal(t, []EffectKind{Cut, Cut, End}, kinds(effects))
	assert.ElementsMatch(t, []uint32{first, hedge}, []uint32{effects[0].Attempt, effects[1].Attempt})
	assert.Equal(t, 2, b.Counts().Abandoned)
	b.Conclude(b.now, first, used(5, Served))
	b.Conclude(b.now, hedge, used(7, Served))
	assert.Equal(t, CanceledState, b.State(h))
	assert.Zero(t, b.Counts().Abandoned)
	assert.Equal(t, endpoint.Usage{Input: 12}, b.View(h).Usage)
}

// hedging makes an engine that hedges after 100 ms.
func hedging(t *testing.T, share float64, slots int64) *bench {
	return newBench(t, Config{Hedge: Hedge{After: 100 * millisecond, Share: share}}, limited(concurrent(slots)))
}

// A hedge starts only from room that nobody waits for, on the same endpoint when there is no other.
func TestHedgesTakeRoomThatNobodyWaitsFor(t *testing.T) {
	b := hedging(t, 1, 2)
	b.submit(Request{Sized: true})
	b.wake(100 * millisecond)
	assert.EqualValues(t, 1, b.Counts().Hedges, "there is a slot")

	b = hedging(t, 1, 1)
	h := b.submit(Request{Sized: true})
	b.wake(100 * millisecond)
	assert.Zero(t, b.Counts().Hedges, "there is none")
	b.SetLimits(b.now, b.way, []endpoint.Limit{concurrent(2)})
	b.wake(150*millisecond - 1)
	assert.Zero(t, b.Counts().Hedges)
	b.wake(150 * millisecond)
	assert.EqualValues(t, 1, b.Counts().Hedges, "it is looked at again")
	b.ends(h, Ending{})

	b = hedging(t, 1, 3)
	h = b.submit(Request{Sized: true})
	b.ends(h, Ending{Verdict: PassingFault, Delay: second})
	require.Equal(t, BackingOff, b.State(h))
	b.submit(Request{Sized: true})
	b.wake(500 * millisecond)
	assert.Zero(t, b.Counts().Hedges, "a retry will need the room")
	b.wake(second)
	require.Equal(t, Running, b.State(h))
	b.wake(second + 50*millisecond)
	assert.EqualValues(t, 1, b.Counts().Hedges)

	b = hedging(t, 1, 3)
	b.submit(Request{Sized: true})
	b.Pause(50 * millisecond)
	b.wake(100 * millisecond)
	assert.Zero(t, b.Counts().Hedges, "nothing starts")
	b.Resume(120 * millisecond)
	b.wake(150 * millisecond)
	assert.EqualValues(t, 1, b.Counts().Hedges)

	b = newBench(t, Config{Hedge: Hedge{After: 100 * millisecond, Share: 1}}, limited(tpm(100), concurrent(5)))
	b.submit(tokens(60))
	b.wake(100 * millisecond)
	assert.Zero(t, b.Counts().Hedges, "limits are exceeded by a hedge")
}

// Nothing is hedged of which output came, a permit, or what has a hedge.
func TestWhatIsNotHedged(t *testing.T) {
	b := hedging(t, 1, 5)
	h := b.submit(Request{Sized: true})
	b.Output(50*millisecond, b.View(h).Attempt, false)
	assert.Zero(t, b.Next())
	b.submit(Request{Sized: true, Held: true, Stays: true})
	b.wake(second)
	assert.Zero(t, b.Counts().Hedges)
	b.submit(Request{Sized: true})
	b.wake(2 * second)
	assert.EqualValues(t, 1, b.Counts().Hedges)
	b.wake(3 * second)
	assert.EqualValues(t, 1, b.Counts().Hedges, "it has one")
	assert.Zero(t, b.Next())

	b, _, good := failing(t, Config{Hedge: Hedge{After: 100 * millisecond, Share: 1}}, true)
	b.submit(Request{Sized: true})
	b.wake(5 * second)
	b.wake(b.Next())
	assert.EqualValues(t, 2, good.Running(), "not on an endpoint that is held out")
}

// Hedges keep to their share of all calls: one may start at first, ten are saved up at most.
func TestHedgesKeepToTheirShare(t *testing.T) {
	b := hedging(t, 0.125, 1000)
	submit := func(n int) int64 {
		before := b.Counts().Hedges
		for range n {
			b.submit(Request{Sized: true})
		}
		for range 20 {
			b.wake(b.now + 50*millisecond)
		}
		return b.Counts().Hedges - before
	}
	assert.EqualValues(t, 1, submit(1))
	assert.EqualValues(t, 0, submit(6))
	assert.EqualValues(t, 1, submit(1))
	assert.EqualValues(t, 5, submit(40))
	var fast []uint32
	for range 300 {
		fast = append(fast, b.submit(Request{Sized: true}))
	}
	for _, h := range fast {
		b.ends(h, Ending{})
	}
	assert.EqualValues(t, 10, submit(16))
}

// With a quantile, what is slower than most is hedged, once enough times to first output are known.
func TestHedgesAfterAQuantile(t *testing.T) {
	b := newBench(t, Config{Hedge: Hedge{Quantile: 0.9, Share: 1}}, limited(concurrent(1000)))
	call := func(took int64) {
		h := b.submit(Request{Sized: true})
		b.now += took
		b.Output(b.now, b.View(h).Attempt, false)
		b.ends(h, Ending{})
	}
	for i := range int64(19) {
		call((i + 1) * millisecond)
	}
	h := b.submit(Request{Sized: true})
	assert.Zero(t, b.Next(), "too little is known")
	b.ends(h, Ending{}) // the 20th, which took nothing
	b.submit(Request{Sized: true})
	assert.Equal(t, b.now+18*millisecond, b.Next(), "nine of ten took less")
	b.wake(b.Next())
	assert.EqualValues(t, 1, b.Counts().Hedges)

	for range 15 {
		call(40 * millisecond)
	}
	b.effects()
	slow := b.submit(Request{Sized: true})
	at, _ := b.hedges.due.At(b.View(slow).Attempt)
	assert.Equal(t, b.now+18*millisecond, at, "found anew after 16 times")
	call(40 * millisecond)
	slow = b.submit(Request{Sized: true})
	at, _ = b.hedges.due.At(b.View(slow).Attempt)
	assert.Equal(t, b.now+40*millisecond, at)

	for range 300 {
		call(2 * millisecond)
	}
	slow = b.submit(Request{Sized: true})
	at, _ = b.hedges.due.At(b.View(slow).Attempt)
	assert.Equal(t, b.now+2*millisecond, at, "the latest 256 count")
	assert.Len(t, b.hedges.times, 256)

	s := hedges{}
	for range 30 {
		s.seen(millisecond)
	}
	assert.Equal(t, 5*millisecond, s.after(&Hedge{After: 5 * millisecond, Quantile: 0.5}), "at least After")
}

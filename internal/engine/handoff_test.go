package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// refuseFor lets the provider ask for a pause.
func (b *bench) refuseFor(h uint32, delay int64) {
	b.Observe(b.now, b.View(h).Attempt, &endpoint.Observation{Outcome: endpoint.RateLimited, Delay: delay})
}

// away is an engine whose waiting request is to go to another model for the given reason, with one
// that stays. It works again at the instant back.
var away = map[Code]func(t *testing.T) (b *bench, back int64){
	PausedLong: func(t *testing.T) (*bench, int64) {
		b := newBench(t, Config{Fallback: true, MaxDelay: 10 * second}, limited(concurrent(1)))
		h := b.waitingBehind()
		b.refuseFor(h, 10*second)
		require.Equal(t, 2, b.Waiting(), "a pause no longer than a backoff")
		b.refuseFor(h, 11*second)
		return b, 11 * second
	},
	HeldOut: func(t *testing.T) (*bench, int64) {
		b := newBench(t, Config{Fallback: true, RetryBudget: -1}, limited(concurrent(1)))
		h := b.waitingBehind()
		b.ends(h, Ending{Verdict: EndpointFault})
		return b, 0 // calls go there all the same, where there is nothing else
	},
	BreakersOpen: func(t *testing.T) (*bench, int64) {
		opened := &breaker{now: new(int64), delay: 60 * second, failures: 2}
		b := newBench(t, Config{Fallback: true}, endpoint.Config{Limits: []endpoint.Limit{concurrent(1)}, Breaker: opened})
		t.Cleanup(func() { *opened.now = 0 })
		h := b.waitingBehind()
		b.ends(h, Ending{Verdict: RequestFault, Ballot: endpoint.Failure})
		opened.half, opened.openUntil = true, 60*second
		b.clock = opened.now
		return b, 60 * second
	},
}

// waitingBehind submits a request that runs, one that waits and one that waits and stays.
func (b *bench) waitingBehind() (running uint32) {
	running = b.submit(Request{Sized: true})
	b.submit(Request{Sized: true})
	b.submit(Request{Sized: true, Stays: true})
	b.effects()
	return running
}

// What waits goes to another model as soon as this one can serve nothing for longer than a backoff,
// and comes back where no other takes it: then it waits until this one may be called.
func TestWhatWaitsGoesToAnotherModel(t *testing.T) {
	for code, begin := range away {
		b, back := begin(t)
		effects := b.effects()
		var h uint32
		for _, e := range effects {
			if e.Kind == Handoff && e.Code != AttemptFailed {
				require.Zero(t, h, "one may go")
				require.Equal(t, code, e.Code)
				if h = e.Handle; code == PausedLong {
					assert.Equal(t, back, e.At, "then it is served here")
				}
			}
		}
		require.NotZero(t, h)
		assert.LessOrEqual(t, b.Waiting(), 1, "only what stays waits")
		no := b.Unserved(&Request{Sized: true})
		require.NotNil(t, no, "what comes goes there as well")
		assert.Equal(t, code, no.Code)
		assert.Nil(t, b.Unserved(&Request{Sized: true, Stays: true}))

		require.True(t, b.TakeBack(b.now, h, false))
		assert.Equal(t, InLine, b.State(h))
		b.wake(b.now + 1)
		assert.Empty(t, codes(b.effects(), Handoff), "it went there and back")
		for b.State(h) != Running && b.now < 100*second {
			for _, u := range b.Engine.UnderWay() {
				b.ends(u, Ending{})
			}
			b.wake(b.now + second/2)
		}
		assert.Equal(t, Running, b.State(h), "%d", code)
		assert.GreaterOrEqual(t, b.now, back)
	}
}

// A retry that the budget does not allow goes to another model at once, and waits for it where none
// takes it.
func TestWhatTheBudgetDoesNotAllowGoesToAnotherModel(t *testing.T) {
	b := newBench(t, Config{Fallback: true, MaxDelay: second}, limited(concurrent(1000)))
	var gone []uint32
	for range 25 {
		served, h := b.submit(Request{Sized: true}), b.submit(Request{Sized: true})
		b.ends(served, Ending{}) // it is not held out
		b.ends(h, Ending{Verdict: PassingFault})
		for _, e := range b.effects() {
			if e.Kind == Handoff {
				assert.Equal(t, BudgetSpent, e.Code)
				gone = append(gone, e.Handle)
			}
		}
	}
	require.Len(t, gone, 5)
	running := func() (all []uint32) {
		for _, h := range gone {
			if b.State(h) == Running {
				all = append(all, h)
			}
		}
		return all
	}
	for _, h := range gone {
		assert.Equal(t, HandedOff, b.State(h))
		require.True(t, b.TakeBack(b.now, h, false))
		assert.Equal(t, BackingOff, b.State(h), "the budget does not allow it")
	}
	b.wake(b.now + second - 1)
	assert.Empty(t, running())
	for b.now < 30*second && len(running()) == 0 {
		b.wake(b.now + second/10)
	}
	first := running()
	require.Len(t, first, 1, "one a second")
	b.ends(first[0], Ending{})
	assert.Len(t, running(), 2, "a retry that is served gives back two")
}

// A request is not taken back when its time is over, or when nothing starts any more.
func TestWhatIsNotTakenBack(t *testing.T) {
	elsewhere := func(cfg Config, in Request) (b *bench, h uint32) {
		cfg.Fallback = true
		b = newBench(t, cfg, limited(concurrent(1)))
		b.submit(Request{Sized: true})
		b.refuseFor(0, 50)
		h = b.Submit(0, &in, &Refusal{Code: PausedLong})
		require.Equal(t, HandedOff, b.State(h))
		return b, h
	}
	long := Config{MaxDelay: second}
	late := Request{Sized: true, Deadline: 40}
	b, h := elsewhere(long, late)
	assert.False(t, b.TakeBack(1, h, false), "nothing starts before its deadline")
	assert.Equal(t, HandedOff, b.State(h))
	b.Finish(1, h, Failed, true)
	assert.Equal(t, Failed, b.State(h))

	b, h = elsewhere(Config{MaxDelay: second, NoDeadlineCheck: true}, late)
	assert.True(t, b.TakeBack(1, h, false), "deadlines are not checked")
	b, h = elsewhere(Config{MaxDelay: second, NoDeadlineCheck: true}, late)
	assert.False(t, b.TakeBack(40, h, false), "it is over")

	hasty := Request{Sized: true, MaxWait: 60}
	b, h = elsewhere(long, hasty)
	assert.False(t, b.TakeBack(60, h, false), "it has waited for too long")
	b, h = elsewhere(long, hasty)
	require.True(t, b.TakeBack(59, h, true), "it started there in time")
	b.wake(100)
	assert.NotEqual(t, Failed, b.State(h))
	b, h = elsewhere(long, hasty)
	require.True(t, b.TakeBack(59, h, false))
	b.effects()
	b.wake(60)
	assert.Equal(t, []Code{WaitedTooLong}, codes(b.effects(), Handoff))
	assert.Equal(t, HandedOff, b.State(h))

	b, h = elsewhere(long, Request{Sized: true})
	b.Pause(1)
	b.Close(1)
	assert.False(t, b.TakeBack(1, h, false))
	b, h = elsewhere(long, Request{Sized: true})
	b.CutOff(1)
	assert.Equal(t, Failed, b.State(h))
}

// A request whose deadline lies before the end of all pauses ends, or goes to another model, as
// soon as that is known; with another endpoint it waits.
func TestDoomedRequestsDoNotWait(t *testing.T) {
	doomed := func(cfg Config, other bool) (b *bench, waits, runs uint32) {
		b = newBench(t, cfg, limited(concurrent(1)))
		if other {
			b.add(limited(concurrent(1)))
			b.submit(Request{Sized: true})
		}
		runs = b.submit(Request{Sized: true, Deadline: 90})
		waits = b.submit(Request{Sized: true, Deadline: 100})
		patient := b.submit(Request{Sized: true, Deadline: 300})
		b.effects()
		b.refuseFor(runs, 200)
		assert.Equal(t, InLine, b.State(patient))
		return b, waits, runs
	}
	b, waits, runs := doomed(Config{MaxDelay: second}, false)
	assert.Equal(t, Failed, b.State(waits))
	assert.Equal(t, []Code{DeadlinePasses}, codes(b.effects(), End))
	no := b.DeadlinePasses(waits)
	assert.EqualValues(t, 100, no.Deadline)
	assert.True(t, no.Context)
	assert.Equal(t, endpoint.Wait{At: 200, Cause: endpoint.Pause}, no.Wait)
	b.ends(runs, Ending{Verdict: Refused})
	assert.Equal(t, []Code{DeadlinePasses}, codes(b.effects(), End), "nor does what comes back")

	b, waits, runs = doomed(Config{MaxDelay: second, Fallback: true}, false)
	assert.Equal(t, HandedOff, b.State(waits))
	assert.Equal(t, []Code{DeadlinePasses}, codes(b.effects(), Handoff))
	b.ends(runs, Ending{Verdict: Refused})
	assert.Equal(t, []Code{DeadlinePasses}, codes(b.effects(), Handoff))

	b, _, runs = doomed(Config{MaxDelay: second, RetryBudget: -1}, false)
	b.effects()
	b.ends(runs, Ending{Verdict: PassingFault, Delay: 50})
	assert.Equal(t, []Code{DeadlinePasses}, codes(b.effects(), End), "it waits for its backoff in vain")

	b, waits, _ = doomed(Config{MaxDelay: second, NoDeadlineCheck: true}, false)
	assert.Equal(t, InLine, b.State(waits))

	b, waits, _ = doomed(Config{MaxDelay: second}, true)
	assert.Equal(t, InLine, b.State(waits), "another endpoint takes it")

	// While others serve what a fallback serves otherwise, what is held out is of no use, except to
	// what stays.
	b, bad, good := failing(t, Config{Fallback: true, MaxDelay: 100 * second}, true)
	var first uint32
	for range 4 {
		first = b.submit(Request{Sized: true})
	}
	require.Equal(t, good, b.at(first))
	waits = b.submit(Request{Sized: true, Deadline: 50 * second})
	stays := b.submit(Request{Sized: true, Deadline: 50 * second, Stays: true})
	b.refuseFor(first, 60*second)
	assert.Equal(t, HandedOff, b.State(waits))
	assert.Equal(t, InLine, b.State(stays))
	no = b.Unserved(&Request{Sized: true, Deadline: 50 * second})
	require.NotNil(t, no)
	assert.Equal(t, DeadlinePasses, no.Code)
	assert.Nil(t, b.Unserved(&Request{Sized: true, Deadline: 50 * second, Stays: true}))
	b.wake(second)
	assert.Equal(t, bad, b.at(stays), "it probes")
}

// With another model to go to, a request leaves while there is time for an attempt there.
func TestWhatRunsOutOfTimeLeavesForAnotherModel(t *testing.T) {
	b := newBench(t, Config{Fallback: true}, limited(concurrent(1)))
	h := b.submit(Request{Sized: true})
	b.wake(10 * second)
	b.ends(h, Ending{})
	b.submit(Request{Sized: true})
	waits := b.submit(Request{Sized: true, Deadline: 40 * second})
	stays := b.submit(Request{Sized: true, Deadline: 40 * second, Stays: true})
	b.effects()
	assert.Equal(t, 25*second, b.Next(), "an attempt and a half take 15 s")
	b.wake(25*second - 1)
	assert.Equal(t, InLine, b.State(waits))
	b.wake(25 * second)
	assert.Equal(t, []Code{RunsOut}, codes(b.effects(), Handoff))
	assert.Equal(t, HandedOff, b.State(waits))
	assert.Equal(t, InLine, b.State(stays))
	require.True(t, b.TakeBack(b.now, waits, false), "no other model takes it")
	b.wake(39 * second)
	assert.Equal(t, InLine, b.State(waits))

	at := b.submit(Request{Sized: true, Deadline: 50 * second})
	assert.Equal(t, HandedOff, b.State(at), "there is no time already")
}

// When the head of the line goes to another model, what stays is next.
func TestWhatStaysIsNextWhenOthersGo(t *testing.T) {
	b := newBench(t, Config{Fallback: true}, limited(tpm(100), concurrent(3)))
	b.ends(b.submit(tokens(1)), Ending{Verdict: EndpointFault})
	b.wake(second)
	b.Pause(b.now)
	probe, large := b.submit(tokens(60)), b.submit(tokens(60))
	small := tokens(5)
	small.Stays = true
	stays := b.submit(small)
	b.Resume(b.now)
	for b.Sweeping() {
		b.Sweep(b.now)
	}
	assert.Equal(t, Running, b.State(probe))
	assert.Equal(t, HandedOff, b.State(large), "there is one probe at a time")
	assert.Equal(t, Running, b.State(stays))
}

// Who waited for a shared set and went to another model stands in nobody's way there.
func TestWhatGoesLeavesTheLineOfASharedSet(t *testing.T) {
	shared, tickets := &set{limit: endpoint.Limit{Kind: endpoint.RPM, Amount: 2, Period: time.Minute}}, uint64(0)
	b := newBench(t, Config{Fallback: true}, endpoint.Config{
		Limits: []endpoint.Limit{concurrent(5)}, Shared: []endpoint.Shared{&member{set: shared}},
		Ticket: func() uint64 { tickets++; return tickets },
	})
	b.ends(b.submit(Request{Sized: true}), Ending{Verdict: EndpointFault})
	b.wake(second)
	b.Pause(b.now)
	probe, next := b.submit(Request{Sized: true}), b.submit(Request{Sized: true})
	b.Resume(b.now)
	assert.Equal(t, Running, b.State(probe))
	assert.Equal(t, HandedOff, b.State(next))
	assert.Empty(t, shared.waiting)
}

// What comes from another model goes back there as unserved.
func TestGuestsGoBack(t *testing.T) {
	b := newBench(t, Config{MaxDelay: 10 * second}, limited(concurrent(1)))
	h := b.submit(Request{Sized: true})
	own := b.submit(Request{Sized: true})
	guest := b.submit(Request{Sized: true, Guest: true})
	b.effects()
	b.refuseFor(h, 20*second)
	for b.Sweeping() {
		b.Sweep(b.now)
	}
	assert.Equal(t, InLine, b.State(own))
	assert.Equal(t, Failed, b.State(guest))
	ends := b.effects()
	require.Len(t, ends, 1)
	assert.True(t, ends[0].Unserved)
	assert.Equal(t, PausedLong, ends[0].Code)
	require.NotNil(t, b.Unserved(&Request{Sized: true, Guest: true}))
	assert.Nil(t, b.Unserved(&Request{Sized: true}))
}

// A retry that no other model took, after a timeout, earns as much as any that is served.
func TestARetryThatWasTakenBackEarnsTwo(t *testing.T) {
	b := newBench(t, Config{Fallback: true, Timeout: 10 * second, MaxDelay: second}, limited(concurrent(10)))
	h := b.submit(Request{Sized: true})
	b.wake(b.now + 10*second)
	require.Equal(t, HandedOff, b.State(h))
	require.True(t, b.TakeBack(b.now, h, false))
	for b.now < 30*second && b.State(h) != Running {
		b.wake(b.now + second/100)
	}
	require.Equal(t, Running, b.State(h))
	require.InDelta(t, budgetAllowance-1, b.budget.left, 0.01)
	b.ends(h, Ending{})
	assert.InDelta(t, budgetAllowance, b.budget.left, 0.01)
}

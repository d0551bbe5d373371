package engine

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// failedTogether is an engine with many requests whose first attempts failed at once.
func failedTogether(t *testing.T, cfg Config, many int) (b *bench, all []uint32) {
	cfg.MaxAttempts = 100
	b = newBench(t, cfg, limited(concurrent(1000)))
	for range many {
		all = append(all, b.submit(Request{Sized: true}))
	}
	for _, h := range all {
		b.ends(h, Ending{Verdict: PassingFault})
	}
	return b, all
}

func (b *bench) retries() int64 { return b.Counts().Retries }

// Retries of passing faults wait for the budget: 20 may come at once, one a second always may, and
// each call that is served adds its share.
func TestRetryBudget(t *testing.T) {
	b, _ := failedTogether(t, Config{}, 60)
	assert.EqualValues(t, 20, b.retries(), "at once")
	for s := range int64(5) {
		require.Equal(t, (s+1)*second, b.Next(), "the next may in a second")
		b.wake(b.Next() - 1)
		assert.EqualValues(t, 20+s, b.retries())
		b.wake((s + 1) * second)
		assert.EqualValues(t, 21+s, b.retries())
	}

	b, _ = failedTogether(t, Config{RetryBudget: -1}, 60)
	assert.EqualValues(t, 60, b.retries(), "there is no budget")

	b, _ = failedTogether(t, Config{RetryBudget: 0.5}, 60)
	assert.EqualValues(t, 20, b.retries(), "what was left over adds nothing beyond 20")
	var fresh []uint32
	for range 10 {
		fresh = append(fresh, b.submit(Request{Sized: true}))
	}
	assert.EqualValues(t, 20, b.retries(), "a call that is under way earns nothing")
	for _, h := range fresh {
		b.ends(h, Ending{})
	}
	assert.EqualValues(t, 25, b.retries(), "half a retry for each that was served")
	b.wake(100 * second)
	assert.EqualValues(t, 45, b.retries(), "a calm time saves up 20 at most")
}

// When the provider is back, each retry that is served lets two others go: they double with each
// round.
func TestRetriesDoubleWhenTheyAreServed(t *testing.T) {
	b, all := failedTogether(t, Config{}, 500)
	seen := b.retries()
	require.EqualValues(t, 20, seen)
	for _, h := range all {
		if b.State(h) == Running {
			b.ends(h, Ending{Verdict: PassingFault})
		}
	}
	require.Equal(t, seen, b.retries(), "none is left for those that failed again")
	b.wake(4 * second)
	for round := 4; round < 100; {
		before := b.retries()
		var under []uint32
		for _, h := range all {
			if b.State(h) == Running {
				under = append(under, h)
			}
		}
		require.GreaterOrEqual(t, len(under), round)
		for _, h := range under {
			b.ends(h, Ending{})
		}
		b.wake(b.now + second/2)
		round = 2 * len(under)
		require.InDelta(t, before+int64(round), b.retries(), 1, "half a second allows one more at most")
	}
}

// What another endpoint can take at once needs no budget, and what is refused neither.
func TestWhatNeedsNoBudget(t *testing.T) {
	b := newBench(t, Config{}, limited(concurrent(100)))
	b.add(limited(concurrent(100)))
	var all []uint32
	for range 60 {
		all = append(all, b.submit(Request{Sized: true}))
	}
	failed := 0
	for _, h := range all {
		if b.at(h) != b.way {
			b.ends(h, Ending{})
			continue
		}
		failed++
		b.ends(h, Ending{Verdict: PassingFault})
		require.Equal(t, Running, b.State(h))
	}
	assert.Equal(t, 30, failed)
	assert.EqualValues(t, failed, b.retries())

	b = newBench(t, Config{}, limited(concurrent(100)))
	all = nil
	for range 60 {
		all = append(all, b.submit(Request{Sized: true}))
	}
	for _, h := range all {
		b.ends(h, Ending{Verdict: Refused, Marked: true, Unobserved: true, Delay: 1})
	}
	for range 20 {
		b.wake(b.now + second)
	}
	assert.EqualValues(t, 60, b.retries())
}

// A refused request keeps its place and uses up no attempt, until nothing was served in 30.
func TestRefusalsUseUpNoAttempt(t *testing.T) {
	b := newBench(t, Config{MaxAttempts: 1}, limited(concurrent(1)))
	h := b.submit(Request{Sized: true})
	refused := Ending{Verdict: Refused, Marked: true, Unobserved: true, Delay: second}
	for n := range 29 {
		require.Equal(t, Running, b.State(h), "after %d refusals", n)
		e := refused
		b.ends(h, e)
		assert.Equal(t, InLine, b.State(h))
		assert.Equal(t, b.now+second, b.PausesEnd())
		b.wake(b.now + second)
	}
	b.effects()
	b.ends(h, refused)
	ends := b.effects()
	require.Len(t, ends, 1)
	assert.Equal(t, Failed, ends[0].State)
	assert.Equal(t, AttemptFailed, ends[0].Code)
	assert.True(t, ends[0].Unserved, "another model may serve it")
	assert.EqualValues(t, 30, b.Counts().Refused)

	b = newBench(t, Config{MaxAttempts: 1}, limited(concurrent(1)))
	h = b.submit(Request{Sized: true})
	b.ends(h, Ending{Verdict: PassingFault})
	assert.Equal(t, Failed, b.State(h), "a passing fault does")
}

// A request that alone is refused again and again, while others are served that start later, is
// itself at fault. It goes to no other model.
func TestRefusedAlone(t *testing.T) {
	for _, others := range []bool{false, true} {
		b := newBench(t, Config{Fallback: true, MaxDelay: 100 * second}, limited(concurrent(10)))
		h := b.submit(Request{Sized: true})
		refused := Ending{Verdict: Refused, Marked: true, Unobserved: true, Delay: 1}
		rounds := 0
		for ; b.State(h) == Running && rounds < 20; rounds++ {
			e := refused
			b.ends(h, e)
			b.wake(b.now + 2*second)
			other := b.submit(Request{Sized: true})
			b.wake(b.now + 2*second)
			if others && rounds%3 == 2 {
				e = refused
				b.ends(other, e)
				b.wake(b.now + 2*second)
			}
			b.ends(other, Ending{})
		}
		if others {
			assert.Equal(t, 20, rounds, "others are refused as well")
			continue
		}
		assert.Equal(t, 5, rounds)
		assert.Equal(t, Failed, b.State(h))
		for _, e := range b.effects() {
			assert.NotEqual(t, Handoff, e.Kind)
			if e.Kind == End && e.Handle == h {
				assert.False(t, e.Unserved)
			}
		}
	}
}

// Who is refused again lets others try first: only so it shows whose fault it is.
func TestWhoIsRefusedAgainLetsOthersTryFirst(t *testing.T) {
	b := newBench(t, Config{}, limited(concurrent(1)))
	h := b.submit(Request{Sized: true})
	other := b.submit(Request{Sized: true})
	refused := Ending{Verdict: Refused, Marked: true, Unobserved: true, Delay: second}
	e := refused
	b.ends(h, e)
	assert.Equal(t, InLine, b.State(h))
	head, _, _ := b.Head(0)
	assert.Equal(t, h, head, "it kept its place")
	b.wake(second)
	require.Equal(t, Running, b.State(h))
	e = refused
	b.ends(h, e)
	assert.Equal(t, BackingOff, b.State(h))
	assert.Equal(t, 2*second, b.RetryAt(h), "no sooner than the provider said")
	b.now = 2 * second
	b.Wake(b.now - 1)
	assert.Equal(t, InLine, b.State(other))

	b = newBench(t, Config{BaseDelay: 10 * second, MaxDelay: 10 * second, Seed: 3}, limited(concurrent(1)))
	h, other = b.submit(Request{Sized: true}), b.submit(Request{Sized: true})
	for range 2 {
		e = refused
		b.ends(h, e)
		b.wake(b.now + second)
	}
	assert.Equal(t, BackingOff, b.State(h))
	assert.Equal(t, Running, b.State(other))
	b.ends(other, Ending{})
	b.wake(b.Next())
	assert.Equal(t, Running, b.State(h))
}

// A longer pause than is waited for is an exhausted quota, whoever says so.
func TestMaxPause(t *testing.T) {
	const hour = 3600 * second
	for name, refuse := range map[string]func(b *bench, h uint32, delay int64){
		"observed": func(b *bench, h uint32, delay int64) {
			b.Observe(b.now, b.View(h).Attempt, &endpoint.Observation{Outcome: endpoint.RateLimited, Delay: delay})
			b.ends(h, Ending{Verdict: Refused})
		},
		"marked": func(b *bench, h uint32, delay int64) {
			b.ends(h, Ending{Verdict: Refused, Marked: true, Unobserved: true, Delay: delay})
		},
		"marked, and less observed": func(b *bench, h uint32, delay int64) {
			b.Observe(b.now, b.View(h).Attempt, &endpoint.Observation{Outcome: endpoint.RateLimited, Delay: 1})
			b.ends(h, Ending{Verdict: Refused, Marked: true, Delay: delay})
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, wait := range []bool{false, true} {
				b := newBench(t, Config{MaxPause: hour, WaitForQuota: wait}, limited(concurrent(1)))
				h := b.submit(Request{Sized: true})
				b.submit(Request{Sized: true})
				refuse(b, h, hour)
				assert.Equal(t, InLine, b.State(h), "that is a pause")
				b.wake(hour)
				require.Equal(t, Running, b.State(h))
				b.effects()
				refuse(b, h, hour+1)
				if wait {
					assert.Equal(t, 2, b.Waiting())
					continue
				}
				assert.ElementsMatch(t, []Code{QuotaRefused, QuotaExhausted}, codes(b.effects(), End))
				no := b.Unserved(&Request{Sized: true})
				require.NotNil(t, no)
				assert.Equal(t, QuotaExhausted, no.Code)
				assert.Equal(t, 2*hour+1, no.At)
				b.Resume(b.now)
				assert.Nil(t, b.Unserved(&Request{Sized: true}), "Resume ends it")
			}
		})
	}
}

// Resume ends a pause by hand if there is one, else the providers' pauses; what is held out is
// probed at once.
func TestResume(t *testing.T) {
	b := newBench(t, Config{}, limited(concurrent(2)))
	h, other := b.submit(Request{Sized: true}), b.submit(Request{Sized: true})
	b.Observe(0, b.View(h).Attempt, &endpoint.Observation{Outcome: endpoint.RateLimited, Delay: 100 * second})
	b.ends(h, Ending{Verdict: Refused})
	b.Pause(0)
	b.Resume(1)
	assert.Equal(t, InLine, b.State(h), "the provider's pause goes on")
	assert.EqualValues(t, 100*second, b.PausesEnd())
	b.wake(1)
	b.Resume(1)
	assert.Equal(t, Running, b.State(h))
	b.ends(other, Ending{})

	b, bad, _ := failing(t, Config{}, true)
	b.wake(second)
	probe := b.submit(Request{Sized: true})
	require.Equal(t, bad, b.at(probe))
	b.ends(probe, Ending{Verdict: EndpointFault})
	b.wake(second + 1)
	assert.NotEqual(t, bad, b.at(b.submit(Request{Sized: true})))
	b.Resume(b.now)
	assert.Equal(t, bad, b.at(b.submit(Request{Sized: true})))
}

// What the provider says to an attempt that was cut off counts, though nobody waits for it.
func TestRefusalOfWhatWasCanceled(t *testing.T) {
	b := newBench(t, Config{}, limited(concurrent(5)))
	h := b.submit(Request{Sized: true})
	number := b.View(h).Attempt
	require.True(t, b.Cancel(0, h, CanceledState, Canceled))
	b.Conclude(0, number, &Ending{Verdict: Refused, Marked: true, Unobserved: true, Delay: second})
	assert.Equal(t, second, b.PausesEnd())
	assert.Equal(t, InLine, b.State(b.submit(Request{Sized: true})))
}

package engine

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

func tokens(n int64) Request { return Request{Sized: true, Estimate: endpoint.Usage{Input: n}} }

func tpm(n int64) endpoint.Limit { return endpoint.Limit{Kind: endpoint.TPM, Amount: n} }

// wideAndNarrow is an engine whose first endpoint takes large requests, and whose second one does
// not. Both have a slot.
func wideAndNarrow(t *testing.T, cfg Config) (b *bench, narrow *endpoint.Endpoint) {
	b = newBench(t, cfg, limited(tpm(1000), concurrent(1)))
	return b, b.add(limited(tpm(40), concurrent(1)))
}

// A request that fits one endpoint only, and waits for it, holds nobody up elsewhere.
func TestWhatFitsOneEndpointOnlyStepsAside(t *testing.T) {
	b, narrow := wideAndNarrow(t, Config{})
	first, second := b.submit(tokens(50)), b.submit(tokens(50))
	assert.Equal(t, b.way, b.at(first))
	assert.Equal(t, InLine, b.State(second))
	small := b.submit(tokens(5))
	assert.Equal(t, narrow, b.at(small), "there is room for it")
	third, behind := b.submit(tokens(50)), b.submit(tokens(5))
	assert.Equal(t, InLine, b.State(behind))
	h, _, _ := b.Head(0)
	assert.Equal(t, second, h)
	assert.Equal(t, 3, b.Waiting())

	b.ends(first, Ending{})
	assert.Equal(t, b.way, b.at(second), "it kept its place from those behind")
	assert.Equal(t, InLine, b.State(behind))
	b.ends(small, Ending{})
	assert.Equal(t, narrow, b.at(behind))
	b.ends(second, Ending{})
	assert.Equal(t, b.way, b.at(third))
	assert.Zero(t, b.Waiting())
	assert.Empty(t, b.aside)
}

// What stepped aside goes before what came later, and after what has a higher priority.
func TestWhatSteppedAsideKeepsItsPlace(t *testing.T) {
	b, narrow := wideAndNarrow(t, Config{})
	running, large := b.submit(tokens(50)), b.submit(tokens(50))
	require.Len(t, b.asideOrder, 1)
	small, late := b.submit(tokens(5)), b.submit(tokens(5))
	urgent := tokens(5)
	urgent.Priority = 1
	high := b.submit(urgent)
	var order []uint32
	for h, forecast := range b.InLine() {
		rank, _ := forecast()
		got, _ := b.ForecastOf(h)
		assert.GreaterOrEqual(t, got, rank, "a better rank than it has")
		order = append(order, h)
	}
	assert.Equal(t, []uint32{high, large, late}, order)
	b.ends(running, Ending{})
	assert.Equal(t, b.way, b.at(high), "it is more urgent than what stepped aside")
	b.ends(high, Ending{})
	assert.Equal(t, b.way, b.at(large), "it came before the one that may go there too")
	assert.Equal(t, InLine, b.State(late))
	b.ends(small, Ending{})
	assert.Equal(t, narrow, b.at(late))
}

// The room that a request waits for which stepped aside is not for what came later.
func TestWhatSteppedAsideKeepsItsRoom(t *testing.T) {
	b := newBench(t, Config{}, limited(tpm(1000), concurrent(5)))
	narrow := b.add(limited(tpm(40), concurrent(1)))
	b.submit(tokens(900))
	large := b.submit(tokens(500))
	require.Len(t, b.asideOrder, 1)
	assert.Equal(t, narrow, b.at(b.submit(tokens(5))))
	late := b.submit(tokens(5))
	assert.Equal(t, InLine, b.State(late), "100 tokens are left where the large one waits for 500")
	b.wake(60 * second)
	assert.Equal(t, b.way, b.at(large))
	assert.Equal(t, Running, b.State(late))
}

// Of hundreds that step aside some do in one decision, and the next follows at once.
func TestManyStepAside(t *testing.T) {
	b, narrow := wideAndNarrow(t, Config{})
	b.submit(tokens(50))
	small := b.submit(tokens(5))
	for range 200 {
		b.submit(tokens(50))
	}
	behind := b.submit(tokens(5))
	require.LessOrEqual(t, len(b.asideOrder), 1)
	b.now = 10
	b.ends(small, Ending{})
	assert.LessOrEqual(t, len(b.asideOrder), 65)
	assert.Equal(t, InLine, b.State(behind), "the lock was held for all of them")
	for looks := 0; b.State(behind) == InLine; looks++ {
		require.Less(t, looks, 5, "it waits behind what it does not wait for")
		assert.Equal(t, b.now, b.Next(), "there is more to do")
		before := len(b.asideOrder)
		b.wake(b.now)
		assert.LessOrEqual(t, len(b.asideOrder)-before, 64, "the lock was held for all of them")
	}
	assert.Equal(t, narrow, b.at(behind))
	assert.Equal(t, 200, b.Waiting())
	assert.NotEqual(t, b.now, b.Next())

	b.SetLimits(b.now, narrow, []endpoint.Limit{tpm(100_000), concurrent(300)})
	for looks := 0; b.Waiting() > 0; looks++ {
		require.Less(t, looks, 10, "the other endpoint takes them now")
		b.wake(b.Next())
	}
}

// Whatever ends a request, or changes it, finds it also where it stepped aside.
func TestWhatSteppedAsideIsFound(t *testing.T) {
	aside := func(in Request) (b *bench, narrow *endpoint.Endpoint, first, second uint32) {
		b, narrow = wideAndNarrow(t, Config{})
		b.submit(tokens(50))
		first, second = b.submit(tokens(50)), b.submit(in)
		require.Len(t, b.asideOrder, 2)
		b.effects()
		return b, narrow, first, second
	}
	b, _, first, second := aside(tokens(50))
	require.True(t, b.Cancel(0, first, CanceledState, Canceled))
	assert.Equal(t, 1, b.Waiting())
	h, _, _ := b.Head(0)
	assert.Equal(t, second, h)

	hasty := tokens(50)
	hasty.MaxWait = 100
	b, _, _, second = aside(hasty)
	b.wake(100)
	assert.Equal(t, Failed, b.State(second))

	b, narrow, first, second := aside(tokens(50))
	b.UpdateEstimate(0, second, endpoint.Usage{Input: 5}, true)
	assert.Equal(t, narrow, b.at(second), "it fits there now")
	assert.Equal(t, InLine, b.State(first))

	b, narrow, first, second = aside(tokens(30 + 20))
	b.SetLimits(0, narrow, []endpoint.Limit{tpm(60), concurrent(1)})
	assert.Equal(t, narrow, b.at(first))
	assert.Equal(t, InLine, b.State(second))

	b, narrow, _, second = aside(tokens(45))
	b.SetLimits(0, narrow, []endpoint.Limit{tpm(48), concurrent(1)})
	assert.Equal(t, narrow, b.at(second), "the one before it does not fit there")

	b, _, first, second = aside(tokens(50))
	b.RemoveEndpoint(0, b.way)
	assert.Equal(t, Failed, b.State(first), "nothing takes it")
	assert.Equal(t, Failed, b.State(second))

	b, _, _, _ = aside(tokens(50))
	call := tokens(50)
	call.Call = true
	h = b.Submit(0, &call, nil)
	b.Join(0, h, &Request{Sized: true}, true)
	require.Len(t, b.asideOrder, 3)
	b.Raise(0, h, 5, "")
	head, _, _ := b.Head(0)
	assert.Equal(t, h, head)
	assert.EqualValues(t, 1, b.Ahead(5))
	assert.EqualValues(t, 3, b.Ahead(0))
}

// failing is an engine with two endpoints, of which the one is held out for a fault of its own.
func failing(t *testing.T, cfg Config, own bool) (b *bench, bad, good *endpoint.Endpoint) {
	b = newBench(t, cfg, limited(concurrent(4)))
	other := b.add(limited(concurrent(4)))
	h := b.submit(Request{Sized: true})
	bad, good = b.way, other
	if b.at(h) == other {
		bad, good = other, b.way
	}
	verdict := EndpointFault
	if !own {
		verdict = PassingFault
	}
	for !bad.HeldOut() {
		a := b.View(h).Attempt
		if b.at(h) != bad { // it goes on elsewhere
			b.ends(h, Ending{})
			h = b.submit(Request{Sized: true})
			continue
		}
		b.Conclude(b.now, a, &Ending{Verdict: verdict})
	}
	if b.State(h) == Running {
		b.ends(h, Ending{})
	}
	b.effects()
	return b, bad, good
}

// A wrong key costs one attempt, which does not count: the request goes to another endpoint at
// once, and the endpoint gets a probe now and then.
func TestAnEndpointAtFaultIsLeftOut(t *testing.T) {
	b, bad, good := failing(t, Config{MaxAttempts: 2}, true)
	var all []uint32
	for range 4 {
		h := b.submit(Request{Sized: true})
		assert.Equal(t, good, b.at(h))
		all = append(all, h)
	}
	waits := b.submit(Request{Sized: true})
	assert.Equal(t, InLine, b.State(waits), "it waits for the other one")
	assert.Equal(t, second, b.Next(), "then a probe is due")
	b.wake(second)
	assert.Equal(t, bad, b.at(waits))
	next := b.submit(Request{Sized: true})
	assert.Equal(t, InLine, b.State(next), "a probe is under way")
	b.ends(waits, Ending{Verdict: EndpointFault})
	assert.Equal(t, InLine, b.State(waits))
	b.ends(all[0], Ending{})
	assert.Equal(t, good, b.at(waits), "it kept its place")
	b.ends(waits, Ending{Verdict: PassingFault})
	assert.NotEqual(t, Failed, b.State(waits), "the probe used up no attempt")

	b.wake(3 * second)
	assert.Equal(t, bad, b.at(next))
	b.ends(next, Ending{})
	assert.False(t, bad.HeldOut())
	assert.Equal(t, bad, b.at(b.submit(Request{Sized: true})), "it has the fewest attempts")
}

// With nowhere to go a request fails, and what waits uses what there is.
func TestAllEndpointsAtFault(t *testing.T) {
	b, bad, good := failing(t, Config{}, true)
	h := b.submit(Request{Sized: true})
	require.Equal(t, good, b.at(h))
	b.ends(h, Ending{Verdict: EndpointFault})
	b.ends(h, Ending{Verdict: EndpointFault})
	assert.Equal(t, Failed, b.State(h))
	assert.Equal(t, []Code{AttemptFailed}, codes(b.effects(), End))
	assert.True(t, bad.HeldOut())
	good2 := b.submit(Request{Sized: true})
	b.ends(good2, Ending{Verdict: EndpointFault})
	require.True(t, good.HeldOut())
	for range 4 {
		assert.Equal(t, Running, b.State(b.submit(Request{Sized: true})), "somebody has to find out when they work again")
	}

	b = newBench(t, Config{}, limited(concurrent(1)))
	h = b.submit(Request{Sized: true})
	b.ends(h, Ending{Verdict: EndpointFault})
	assert.Equal(t, Failed, b.State(h))
	assert.Equal(t, Running, b.State(b.submit(Request{Sized: true})), "the only one is used whatever it does")
}

func codes(effects []Effect, kind EffectKind) (codes []Code) {
	for _, e := range effects {
		if e.Kind == kind {
			codes = append(codes, e.Code)
		}
	}
	return codes
}

// A request goes to another endpoint than the one that failed it, at once when that has room, and
// else it waits for that. When all have failed it, it goes anywhere but where it was last.
func TestAFailedRequestGoesElsewhere(t *testing.T) {
	b := newBench(t, Config{MaxAttempts: 10, BaseDelay: second, MaxDelay: second, RetryBudget: -1}, limited(concurrent(1)))
	b.add(limited(concurrent(1)))
	h := b.submit(Request{Sized: true})
	first := b.at(h)
	b.ends(h, Ending{Verdict: PassingFault})
	second := b.at(h)
	assert.NotEqual(t, first, second)
	assert.Equal(t, Running, b.State(h), "it needs no backoff")
	busy := b.submit(Request{Sized: true})
	require.Equal(t, first, b.at(busy))
	b.ends(h, Ending{Verdict: PassingFault})
	assert.Equal(t, BackingOff, b.State(h), "all have failed it")
	b.wake(b.Next())
	assert.Equal(t, InLine, b.State(h), "it does not go back to where it was")
	b.ends(busy, Ending{})
	assert.Equal(t, first, b.at(h))
	assert.Equal(t, Running, b.State(h))

	b = newBench(t, Config{MaxAttempts: 10, RetryBudget: -1}, limited(concurrent(1)))
	b.add(limited(concurrent(1)))
	h, busy = b.submit(Request{Sized: true}), b.submit(Request{Sized: true})
	b.ends(h, Ending{Verdict: PassingFault})
	assert.Equal(t, InLine, b.State(h), "the other one is busy, and works")
	b.Observe(0, b.View(busy).Attempt, &endpoint.Observation{Outcome: endpoint.RateLimited, Delay: 100})
	b.wake(1)
	assert.Equal(t, Running, b.State(h), "the other one can take nothing")
}

// A black hole fails fast and always has room: what comes goes where calls are served.
func TestAFailingEndpointGoesLast(t *testing.T) {
	b := newBench(t, Config{RetryBudget: -1}, limited(concurrent(100)))
	hole := b.add(limited(concurrent(100)))
	served, failed := 0, 0
	for i := range int64(200) {
		b.wake(i)
		h := b.submit(Request{Sized: true})
		for b.State(h) == Running {
			if b.at(h) == hole {
				failed++
				b.ends(h, Ending{Verdict: PassingFault})
			} else {
				served++
				b.ends(h, Ending{})
			}
		}
	}
	assert.Equal(t, 200, served)
	assert.LessOrEqual(t, failed, 3)
}

// What one endpoint refuses for want of capacity goes to another one, and backs off when all
// refuse it. That uses up no attempt.
func TestRefusedWithoutAPause(t *testing.T) {
	b := newBench(t, Config{BaseDelay: second, MaxDelay: second, MaxAttempts: 1}, limited(concurrent(4)))
	b.add(limited(concurrent(4)))
	h := b.submit(Request{Sized: true})
	var others []uint32
	for range 3 { // two on each: one that runs alone and is refused is a reason for a pause
		others = append(others, b.submit(Request{Sized: true}))
	}
	first := b.at(h)
	refuse := func() {
		b.Observe(b.now, b.View(h).Attempt, &endpoint.Observation{Outcome: endpoint.Overloaded})
		b.ends(h, Ending{Verdict: Refused})
	}
	b.wake(1)
	refuse()
	assert.Equal(t, Running, b.State(h))
	assert.NotEqual(t, first, b.at(h))
	b.wake(2)
	refuse()
	assert.Equal(t, BackingOff, b.State(h))
	for _, o := range others {
		b.ends(o, Ending{})
	}
	b.wake(b.Next())
	assert.Equal(t, Running, b.State(h))
}

// Where nothing is tried again, an endpoint is probed all the same: a probe that fails goes to
// another endpoint at no cost, once.
func TestAProbeIsFree(t *testing.T) {
	b := newBench(t, Config{MaxAttempts: 1}, limited(concurrent(4)))
	b.add(limited(concurrent(4)))
	bad := b.way
	for range 8 {
		b.submit(Request{Sized: true})
	}
	for _, h := range b.Engine.UnderWay() {
		if b.at(h) == bad {
			b.ends(h, Ending{Verdict: PassingFault})
			require.Equal(t, Failed, b.State(h))
		} else {
			b.ends(h, Ending{})
		}
	}
	require.True(t, bad.HeldOut())
	assert.NotEqual(t, bad, b.at(b.submit(Request{Sized: true})))
	b.wake(second)
	h := b.submit(Request{Sized: true})
	require.Equal(t, bad, b.at(h), "a probe is due")
	b.ends(h, Ending{Verdict: PassingFault})
	assert.NotEqual(t, bad, b.at(h))
	assert.Equal(t, Running, b.State(h))
	b.ends(h, Ending{Verdict: PassingFault})
	assert.Equal(t, Failed, b.State(h))

	b.wake(10 * second)
	h = b.submit(Request{Sized: true})
	require.Equal(t, bad, b.at(h))
	b.ends(h, Ending{})
	assert.False(t, bad.HeldOut())

	b = newBench(t, Config{MaxAttempts: 1}, limited(concurrent(4)))
	for range 5 {
		h = b.submit(Request{Sized: true})
		b.ends(h, Ending{Verdict: PassingFault})
		assert.Equal(t, Failed, b.State(h), "there is no other endpoint")
	}
}

// What happens to the only endpoint is not told where requests have nowhere else to go: they go
// there all the same.
func TestTheOnlyEndpointIsNotHeldOut(t *testing.T) {
	for _, c := range []struct {
		cfg   Config
		guest bool
		told  bool
	}{{Config{}, false, false}, {Config{Fallback: true}, false, true}, {Config{}, true, true}} {
		b := newBench(t, c.cfg, limited(concurrent(4)))
		if c.guest {
			b.ends(b.submit(Request{Sized: true, Guest: true}), Ending{})
		}
		told := 0
		for range 3 {
			b.ends(b.submit(Request{Sized: true, Stays: true}), Ending{Verdict: EndpointFault})
		}
		for _, e := range b.Effects {
			if e.Kind == EndpointEvent && e.Event.Kind == endpoint.HeldOut {
				told++
			}
		}
		assert.Equal(t, c.told, told > 0)
		assert.Equal(t, !c.told, b.Alone())
		assert.Equal(t, Running, b.State(b.submit(Request{Sized: true, Stays: true})))
	}
}

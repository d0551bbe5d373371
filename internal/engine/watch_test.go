package engine

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

var timedOut = map[string]Config{
	"timeout":    {Timeout: 100},
	"first byte": {FirstByte: 100},
}

// An attempt that takes too long is cut off, and its request goes on while it still runs. Its slot
// is taken until it ends, and what it used counts.
func TestARequestGoesOnWithoutAnAttemptThatIsLate(t *testing.T) {
	for name, cfg := range timedOut {
		t.Run(name, func(t *testing.T) {
			code := map[string]Code{"timeout": TimedOut, "first byte": FirstByteLate}[name]
			b := newBench(t, cfg, limited(concurrent(1)))
			h := b.submit(Request{Sized: true})
			late := b.View(h).Attempt
			assert.EqualValues(t, 100, b.Next())
			b.wake(99)
			b.effects()
			b.wake(100)
			effects := b.effects()
			require.Len(t, effects, 2)
			assert.Equal(t, Effect{Kind: Cut, Code: code, Handle: h, Attempt: late}, effects[0])
			assert.Equal(t, Retry, effects[1].Kind)
			assert.Equal(t, code, effects[1].Code)
			assert.EqualValues(t, 100, effects[1].Took)
			assert.Equal(t, InLine, b.State(h), "its slot is taken")
			assert.True(t, b.IsCut(late))
			assert.Equal(t, 1, b.Counts().Abandoned)
			assert.Equal(t, 1, b.Counts().Pending)

			b.now = 150
			b.Conclude(150, late, &Ending{Reported: true, Used: endpoint.Usage{Input: 3}}) // served, too late
			started := b.effects()
			require.Len(t, started, 1)
			assert.Equal(t, Start, started[0].Kind)
			assert.EqualValues(t, 50, started[0].Waited, "since it was cut off")
			assert.Zero(t, b.Counts().Abandoned)
			b.ends(h, Ending{Reported: true, Used: endpoint.Usage{Input: 4}})
			v := b.View(h)
			assert.Equal(t, Completed, v.State)
			assert.Equal(t, endpoint.Usage{Input: 7}, v.Usage, "both attempts used some")
			assert.Equal(t, 2, v.Attempts)
		})
	}
}

// With a slot for it the next attempt runs beside the late one, which may end at any time.
func TestTheNextAttemptRunsBesideTheLateOne(t *testing.T) {
	for name, lateLast := range map[string]bool{"the late one ends first": false, "last": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Config{Timeout: 100, RetryBudget: -1}, limited(concurrent(2)))
			h := b.submit(Request{Sized: true})
			late := b.View(h).Attempt
			b.wake(100)
			next := b.View(h)
			require.Equal(t, Running, next.State)
			assert.NotEqual(t, late, next.Attempt)
			assert.EqualValues(t, 2, b.Running())
			assert.Equal(t, []uint32{h}, b.Engine.UnderWay())
			end := func(late_ bool) {
				if late_ {
					b.Conclude(b.now, late, &Ending{Verdict: RequestFault, Reported: true, Used: endpoint.Usage{Input: 3}})
				} else {
					b.Conclude(b.now, next.Attempt, &Ending{Reported: true, Used: endpoint.Usage{Input: 4}})
				}
			}
			b.now = 120
			end(!lateLast)
			if lateLast {
				assert.Equal(t, Completed, b.State(h))
				gone, _ := b.Forget(h)
				assert.False(t, gone, "an attempt of it runs")
				b.effects()
			} else {
				assert.Equal(t, Running, b.State(h), "nobody asks the late one any more")
			}
			end(lateLast)
			if lateLast {
				assert.Equal(t, []EffectKind{Gone}, kinds(b.effects()))
				assert.Zero(t, b.Live())
			} else {
				assert.Equal(t, Completed, b.State(h))
				assert.Equal(t, endpoint.Usage{Input: 7}, b.View(h).Usage)
			}
			assert.Equal(t, endpoint.Usage{Input: 7}, b.Counts().Usage)
			assert.Zero(t, b.Running())
		})
	}
}

func kinds(effects []Effect) (kinds []EffectKind) {
	for _, e := range effects {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// Timeouts count as attempts, and are passing faults of their endpoint.
func TestTimeoutsCount(t *testing.T) {
	b := newBench(t, Config{Timeout: 100, MaxAttempts: 2, RetryBudget: -1}, limited(concurrent(5)))
	other := b.add(limited(concurrent(5)))
	h := b.submit(Request{Sized: true})
	first := b.at(h)
	b.wake(100)
	assert.NotEqual(t, first, b.at(h), "another endpoint first")
	assert.Positive(t, first.Recent(b.now).Failures)
	b.effects()
	b.wake(200)
	assert.Equal(t, Failed, b.State(h))
	assert.Equal(t, []Code{TimedOut}, codes(b.effects(), End))
	_ = other

	b = newBench(t, Config{Timeout: 100}, limited(concurrent(5)))
	h = b.submit(Request{Sized: true})
	b.Output(50, b.View(h).Attempt, true)
	b.wake(100)
	assert.Equal(t, Failed, b.State(h), "what was handed on comes twice")
}

// The first byte is in time when anything of the answer is.
func TestTheFirstByteIsInTime(t *testing.T) {
	for name, comes := range map[string]func(b *bench, number uint32){
		"output":   func(b *bench, number uint32) { b.Output(99, number, false) },
		"observed": func(b *bench, number uint32) { b.Observe(99, number, &endpoint.Observation{Outcome: endpoint.Served}) },
	} {
		b := newBench(t, Config{FirstByte: 100, Timeout: 1000}, limited(concurrent(1)))
		h := b.submit(Request{Sized: true})
		comes(b, b.View(h).Attempt)
		assert.EqualValues(t, 1000, b.Next(), name)
		b.wake(999)
		assert.Equal(t, 1, b.View(h).Attempts, name)
	}
	b := newBench(t, Config{FirstByte: 100}, limited(concurrent(1)))
	h := b.submit(Request{Sized: true})
	b.Observe(50, b.View(h).Attempt, &endpoint.Observation{Outcome: endpoint.RateLimited, Delay: 1})
	b.wake(100)
	assert.Equal(t, InLine, b.State(h), "a refusal is no answer")
}

// Once an answer has begun, more of it has to come. The owner knows when some came last.
func TestStalledAnswers(t *testing.T) {
	b := newBench(t, Config{Stall: 100, FirstByte: 1000, RetryBudget: -1}, limited(concurrent(1)))
	h := b.submit(Request{Sized: true})
	number := b.View(h).Attempt
	b.wake(500)
	b.Output(500, number, false)
	assert.EqualValues(t, 600, b.Next())
	b.effects()
	b.wake(600)
	assert.Equal(t, []Effect{{Kind: CheckStall, Handle: h, Attempt: number}}, b.effects())
	b.Stalled(600, number, 550)
	assert.Empty(t, b.effects(), "some came meanwhile")
	assert.EqualValues(t, 650, b.Next())
	b.Output(620, number, false)
	assert.EqualValues(t, 720, b.Next())
	b.wake(720)
	require.Equal(t, []EffectKind{CheckStall}, kinds(b.effects()))
	b.now = 720
	b.Stalled(720, number, 550)
	effects := b.effects()
	require.Equal(t, []EffectKind{Cut, Retry}, kinds(effects))
	assert.Equal(t, StalledCode, effects[0].Code)
	b.Stalled(721, number, 721)
	assert.Empty(t, b.effects(), "it is cut off")
	b.Conclude(722, number, &Ending{Verdict: RequestFault})
	assert.Equal(t, Running, b.State(h))
	b.ends(h, Ending{})
	b.Stalled(730, number, 730)
	b.Output(730, number, true)
	assert.Equal(t, []EffectKind{Start, End}, kinds(b.effects()), "nothing of it is under way")
	assert.Zero(t, b.Next())
}

// Of a permit only the context ends, once: its holder says how it goes on.
func TestTheHolderOfAPermitIsToldThatItIsLate(t *testing.T) {
	for name, cfg := range timedOut {
		cfg.RetryBudget = -1
		b := newBench(t, cfg, limited(concurrent(1)))
		h := b.submit(Request{Sized: true, Held: true, Stays: true})
		number := b.View(h).Attempt
		b.effects()
		b.wake(100)
		assert.Equal(t, []EffectKind{Cut}, kinds(b.effects()), name)
		assert.Equal(t, Running, b.State(h), name)
		assert.Zero(t, b.Counts().Abandoned, name)
		b.Output(150, number, false)
		assert.Zero(t, b.Next(), "%s: it is told already", name)
		b.now = 200
		b.ends(h, Ending{Verdict: PassingFault})
		assert.Equal(t, Running, b.State(h), name)
		assert.EqualValues(t, 300, b.Next(), "%s: the next attempt is watched", name)
		b.ends(h, Ending{})
		assert.Equal(t, Completed, b.State(h), name)
	}
}

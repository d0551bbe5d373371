package plan

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/accounting"
	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// A request of 600 tokens leaves no room for one of 900 for a minute. When it comes, 100
// are left over: two requests of 50 may use them at once, a third would put it off.
func TestSmallRequestsPassOneThatDoesNotNeedTheRoom(t *testing.T) {
	load := []Request{{Estimate: in(600)}, {At: time.Second, Estimate: in(900)}}
	for range 3 {
		load = append(load, Request{At: 2 * time.Second, Estimate: in(50)})
	}
	load = append(load, Request{At: 3 * time.Second, Estimate: in(200)})
	limits := []llmqueue.Option{llmqueue.WithLimits(llmqueue.TPM(1000)), llmqueue.WithMargin(0)}
	_, without := played(t, load, limits...)
	assert.Equal(t, []time.Duration{0, time.Minute, time.Minute, time.Minute, 2 * time.Minute, 2 * time.Minute}, without)
	_, with := played(t, load, append(limits, llmqueue.WithBackfill())...)
	assert.Equal(t, []time.Duration{0, time.Minute, 2 * time.Second, 2 * time.Second, 62 * time.Second, 2 * time.Minute}, with)
}

// Forty requests that leave four tenths of each minute unused, and 160 behind them that
// would fit there.
func TestBackfillUsesMoreOfAMixedLoad(t *testing.T) {
	var load []Request
	for i := range 200 {
		r := Request{Estimate: in(600), Duration: 5 * time.Second}
		if i >= 40 {
			r.Estimate = in(100)
		}
		load = append(load, r)
	}
	opts := []llmqueue.Option{llmqueue.WithLimits(llmqueue.TPM(1000), llmqueue.Concurrent(8)), llmqueue.WithMargin(0)}
	without, err := Run(slices.Values(load), opts...)
	require.NoError(t, err)
	with, err := Run(slices.Values(load), append(opts, llmqueue.WithBackfill())...)
	require.NoError(t, err)
	assert.Equal(t, 55*time.Minute, without.LastStart.Round(time.Minute))
	assert.Equal(t, 39*time.Minute, with.LastStart.Round(time.Minute))
	assert.InDelta(t, 1, limitOf(t, with, "1000 tpm").Quota, 1e-9)
}

func TestBackfillWakesForWhoFitsEarlierThanTheHead(t *testing.T) {
	// At 30 s 100 tokens leave, which the head does not need at 60 s.
	load := []Request{
		{Estimate: in(900)}, {At: 1, Estimate: in(100)}, {At: 2, Estimate: in(900)},
		{At: 3, Estimate: in(50)},
	}
	prior := func(yield func(time.Time, llmqueue.Usage) bool) { yield(time.Now().Add(-30*time.Second), in(100)) }
	synctest.Test(t, func(t *testing.T) {
		opts := []llmqueue.Option{llmqueue.WithLimits(llmqueue.TPM(1100)), llmqueue.WithMargin(0), llmqueue.WithPriorUsage(prior), llmqueue.WithBackfill()}
		_, got := played(t, load, opts...)
		assert.Equal(t, []time.Duration{0, 1, time.Minute, 30 * time.Second}, got)
	})
}

func TestBackfillLeavesASlot(t *testing.T) {
	load := []Request{
		{Estimate: in(900), Duration: time.Second}, {At: 1, Estimate: in(900)},
		{At: 2, Estimate: in(1), Duration: time.Hour}, {At: 3, Estimate: in(1)},
	}
	_, got := played(t, load, llmqueue.WithLimits(llmqueue.TPM(1000), llmqueue.Concurrent(2)), llmqueue.WithMargin(0), llmqueue.WithBackfill())
	assert.Equal(t, []time.Duration{0, time.Minute, time.Second, time.Minute}, got)
}

func TestWhatPassesGoesInOrder(t *testing.T) {
	// Until 10 s the only other slot is kept for the head. Then one at a time passes.
	load := []Request{{Estimate: in(600), Duration: 10 * time.Second}, {At: 1, Estimate: in(900), Priority: 2}}
	for i := range 6 {
		load = append(load, Request{
			At: 2, Estimate: in(10), Duration: time.Second, Tenant: []string{"a", "a", "a", "b", "", ""}[i], Priority: i / 5,
		})
	}
	_, got := played(t, load, llmqueue.WithLimits(llmqueue.TPM(1000), llmqueue.Concurrent(2)), llmqueue.WithMargin(0), llmqueue.WithBackfill())
	s := time.Second
	assert.Equal(t, []time.Duration{0, 60 * s, 11 * s, 14 * s, 15 * s, 12 * s, 13 * s, 10 * s}, got)
}

func TestWhatPassesCountsAsAShare(t *testing.T) {
	// a passes with 90 tokens. When the head is gone it is the turn of b.
	load := []Request{
		{Estimate: in(600)}, {At: 1, Estimate: in(900), Priority: 1},
		{At: 2, Estimate: in(90), Tenant: "a"}, {At: 2, Estimate: in(990), Tenant: "a"}, {At: 3, Estimate: in(990), Tenant: "b"},
	}
	load[3].At = 2
	load = slices.Insert(load, 2, Request{At: 1, Estimate: in(990), Tenant: "a"})
	load = append(load, Request{At: 4, Estimate: in(990), Tenant: "b"})
	_, got := played(t, load, llmqueue.WithLimits(llmqueue.TPM(1000)), llmqueue.WithMargin(0), llmqueue.WithBackfill())
	order := []int{0, 1, 2, 3, 4, 5, 6}
	slices.SortStableFunc(order, func(i, j int) int { return int(got[i] - got[j]) })
	assert.Equal(t, []int{0, 3, 1, 2, 5, 6, 4}, order)
}

func TestWhatIsOfUnknownSizePassesOnceThereIsAMean(t *testing.T) {
	opts := []llmqueue.Option{llmqueue.WithLimits(llmqueue.TPM(1000)), llmqueue.WithMargin(0), llmqueue.WithBackfill()}
	load := []Request{
		{Estimate: in(600), Used: in(50), Duration: 10 * time.Second}, {At: 1, Estimate: in(900)}, {At: 2, Used: in(1)},
	}
	_, got := played(t, load, opts...)
	assert.Equal(t, []time.Duration{0, 10 * time.Second, 10 * time.Second}, got)
	load = []Request{
		{Estimate: in(10)}, {At: 1, Estimate: in(600), Duration: time.Hour}, {At: 2, Estimate: in(900)}, {At: 3, Used: in(1)},
	}
	_, got = played(t, load, opts...)
	assert.Equal(t, []time.Duration{0, 1, time.Minute + 1, 3}, got)
}

// headOf is the head of the line, when it is first and what its start waits for.
type headOf struct {
	waits bool
	index int
	at    int64         // the limits admit it
	least time.Duration // that, or a slot, when it became the head
}

// TestBackfillNeverPutsTheHeadOff plays random loads without overruns: priorities,
// tenants, refunds, several limits, pacing, slots. The instant at which the limits admit
// the head, as computed at each decision, never moves back while it is the head. It
// starts no later than at the instant computed when it became the head, or when a slot
// that was taken then is free, if that is later: without refunds that is when it would start
// if nothing passed from then on. And whoever may pass is not let wait.
//
// The faults that it is there for:
//   - what passes leaves no room, or no slot, for the head
//   - the slack room is not computed again after a start
//   - a new request behind a head that waits is not looked at
//   - the queue does not wake for who fits before the head
func TestBackfillNeverPutsTheHeadOff(t *testing.T) {
	seeds := 1500
	if testing.Short() || raceEnabled {
		seeds = 150
	}
	passed := 0
	for seed := range uint64(seeds) {
		load, opts := randomLoad(seed)
		refunds, alone := seed%2 == 1, seed%3 > 0
		for i := range load {
			r := &load[i]
			if alone {
				r.Tenant = ""
			}
			if r.Estimate == (llmqueue.Usage{}) {
				r.Estimate = r.Used
			}
			if r.Used = (llmqueue.Usage{}); refunds && i%2 == 0 {
				r.Used = in(1)
			}
		}
		opts = append(opts, llmqueue.WithAccounting(accounting.Policy{}), llmqueue.WithBackfill())
		var head headOf
		starts, started := make([]time.Duration, len(load)), make([]bool, len(load))
		look := func(p *player) {
			cameFirst := false // somebody started at once for whom the head had to wait in any case
			for i := range underWay(p) {
				if !started[i] {
					starts[i], started[i] = time.Duration(p.now-begin), true
					cameFirst = cameFirst || load[i].At == starts[i] && (!alone || load[i].Priority > load[head.index].Priority)
				}
			}
			if head.waits && started[head.index] {
				require.LessOrEqual(t, starts[head.index], head.least, "seed %d: request %d was put off", seed, head.index)
			}
			if cameFirst {
				head = headOf{}
			}
			now := headNow(p)
			if now.waits && head.waits && now.index == head.index {
				require.LessOrEqual(t, now.at, max(head.at, p.now), "seed %d: at %v the start of request %d moved", seed, time.Duration(p.now), now.index)
				now.least = head.least
			}
			if head = now; head.waits {
				mayPass(t, p, seed)
			}
		}
		p, got := watched(t, load, look, opts...)
		if !refunds {
			holds(t, load, got, p, seed)
		}
		for i := range load {
			for j := range i {
				if load[i].Tenant == load[j].Tenant && load[i].Priority == load[j].Priority && got[i] < got[j] {
					passed++
				}
			}
		}
	}
	assert.Greater(t, passed, seeds, "requests that passed another")
}

func headNow(p *player) (h headOf) {
	handle, _, ok := p.engine.Head(0)
	if !ok {
		return h
	}
	h.waits, h.index, h.at = true, inLoad(p, handle), p.now
	if wait := check(p, handle); wait.Cause == endpoint.WindowLimit {
		h.at = wait.At
	}
	h.least = time.Duration(h.at - begin)
	if p.endpoint.Running() == p.endpoint.Slots() {
		_, slot, _ := p.running.First()
		h.least = max(h.least, time.Duration(slot-begin))
	}
	return h
}

// check says when the limits admit a waiting request, whatever holds the slots.
func check(p *player, h uint32) endpoint.Wait {
	return p.endpoint.Check(p.now, endpoint.Load{}, p.engine.View(h).Estimate, true, endpoint.Usage{}, endpoint.Ends{})
}

// reach is how far behind the head the engine looks for one that may pass.
const reach = 64

// mayPass requires that nobody who may pass was left waiting, and that the engine wakes
// for whoever may pass later.
func mayPass(t *testing.T, p *player, seed uint64) {
	head, _, _ := p.engine.Head(0)
	if !p.endpoint.FindSlack(p.now, reserved(p, head)) {
		return
	}
	looked := 0
	for h := range p.engine.InLine() {
		if looked++; h == head || looked > reach {
			continue
		}
		var lease endpoint.Lease
		admitted, at := p.endpoint.Backfill(p.now, reserved(p, h), &lease)
		require.False(t, admitted, "seed %d: at %v request %d waits, and may pass", seed, time.Duration(p.now), inLoad(p, h))
		if at != 0 {
			require.NotZero(t, p.engine.Next())
			require.LessOrEqual(t, p.engine.Next(), at, "seed %d: request %d may pass and nobody wakes", seed, inLoad(p, h))
		}
	}
}

// reserved is what a waiting request takes if it starts now.
func reserved(p *player, h uint32) endpoint.Usage {
	return p.endpoint.Reservation(p.engine.View(h).Estimate, true, endpoint.Usage{})
}

// holds requires that no limit was ever exceeded, from the starts alone.
func holds(t *testing.T, load []Request, starts []time.Duration, p *player, seed uint64) {
	for i, l := range p.endpoint.Limits() {
		var hold time.Duration
		if l.Kind != endpoint.Concurrent {
			hold = l.Hold(p.endpoint.Margin())
		}
		for at := range load {
			var sum int64
			for j := range load {
				switch {
				case starts[j] > starts[at]:
				case l.Kind == endpoint.Concurrent:
					if starts[j]+load[j].Duration > starts[at] {
						sum++
					}
				case starts[at]-starts[j] < hold:
					sum += l.Takes(fromUsage(load[j].Estimate))
				}
			}
			require.LessOrEqual(t, sum, l.Amount, "seed %d: %s at %v", seed, p.settings.Limits[i], starts[at])
		}
	}
}

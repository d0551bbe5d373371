package llmqueue

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/accounting"
)

// A request of 600 tokens leaves no room for one of 900 for a minute. When it comes, 100
// are left over: two requests of 50 may use them at once, a third would put it off.
func TestSmallRequestsPassOneThatDoesNotNeedTheRoom(t *testing.T) {
	load := []PlannedRequest{{Estimate: in(600)}, {At: time.Second, Estimate: in(900)}}
	for range 3 {
		load = append(load, PlannedRequest{At: 2 * time.Second, Estimate: in(50)})
	}
	load = append(load, PlannedRequest{At: 3 * time.Second, Estimate: in(200)})
	limits := []Option{WithLimits(TPM(1000)), WithMargin(0)}
	_, without := played(t, load, limits...)
	assert.Equal(t, []time.Duration{0, time.Minute, time.Minute, time.Minute, 2 * time.Minute, 2 * time.Minute}, without)
	_, with := played(t, load, append(limits, WithBackfill())...)
	assert.Equal(t, []time.Duration{0, time.Minute, 2 * time.Second, 2 * time.Second, 62 * time.Second, 2 * time.Minute}, with)
}

// Forty requests that leave four tenths of each minute unused, and 160 behind them that
// would fit there.
func TestBackfillUsesMoreOfAMixedLoad(t *testing.T) {
	var load []PlannedRequest
	for i := range 200 {
		r := PlannedRequest{Estimate: in(600), Duration: 5 * time.Second}
		if i >= 40 {
			r.Estimate = in(100)
		}
		load = append(load, r)
	}
	opts := []Option{WithLimits(TPM(1000), Concurrent(8)), WithMargin(0)}
	without, err := Plan(slices.Values(load), opts...)
	require.NoError(t, err)
	with, err := Plan(slices.Values(load), append(opts, WithBackfill())...)
	require.NoError(t, err)
	assert.Equal(t, 55*time.Minute, without.LastStart.Round(time.Minute))
	assert.Equal(t, 39*time.Minute, with.LastStart.Round(time.Minute))
	assert.InDelta(t, 1, limitOf(t, with, "1000 tpm").Quota, 1e-9)
}

func TestBackfillWakesForWhoFitsEarlierThanTheHead(t *testing.T) {
	// At 30 s 100 tokens leave, which the head does not need at 60 s.
	load := []PlannedRequest{
		{Estimate: in(900)}, {At: 1, Estimate: in(100)}, {At: 2, Estimate: in(900)},
		{At: 3, Estimate: in(50)},
	}
	prior := func(yield func(time.Time, Usage) bool) { yield(time.Now().Add(-30*time.Second), in(100)) }
	synctest.Test(t, func(t *testing.T) {
		opts := []Option{WithLimits(TPM(1100)), WithMargin(0), WithPriorUsage(prior), WithBackfill()}
		_, got := played(t, load, opts...)
		assert.Equal(t, []time.Duration{0, 1, time.Minute, 30 * time.Second}, got)
	})
}

func TestBackfillLeavesASlot(t *testing.T) {
	load := []PlannedRequest{
		{Estimate: in(900), Duration: time.Second}, {At: 1, Estimate: in(900)},
		{At: 2, Estimate: in(1), Duration: time.Hour}, {At: 3, Estimate: in(1)},
	}
	_, got := played(t, load, WithLimits(TPM(1000), Concurrent(2)), WithMargin(0), WithBackfill())
	assert.Equal(t, []time.Duration{0, time.Minute, time.Second, time.Minute}, got)
}

func TestWhatPassesGoesInOrder(t *testing.T) {
	// Until 10 s the only other slot is kept for the head. Then one at a time passes.
	load := []PlannedRequest{{Estimate: in(600), Duration: 10 * time.Second}, {At: 1, Estimate: in(900), Priority: 2}}
	for i := range 6 {
		load = append(load, PlannedRequest{
			At: 2, Estimate: in(10), Duration: time.Second, Tenant: []string{"a", "a", "a", "b", "", ""}[i], Priority: i / 5,
		})
	}
	_, got := played(t, load, WithLimits(TPM(1000), Concurrent(2)), WithMargin(0), WithBackfill())
	s := time.Second
	assert.Equal(t, []time.Duration{0, 60 * s, 11 * s, 14 * s, 15 * s, 12 * s, 13 * s, 10 * s}, got)
}

func TestWhatPassesCountsAsAShare(t *testing.T) {
	// a passes with 90 tokens. When the head is gone it is the turn of b.
	load := []PlannedRequest{
		{Estimate: in(600)}, {At: 1, Estimate: in(900), Priority: 1},
		{At: 2, Estimate: in(90), Tenant: "a"}, {At: 2, Estimate: in(990), Tenant: "a"}, {At: 3, Estimate: in(990), Tenant: "b"},
	}
	load[3].At = 2
	load = slices.Insert(load, 2, PlannedRequest{At: 1, Estimate: in(990), Tenant: "a"})
	load = append(load, PlannedRequest{At: 4, Estimate: in(990), Tenant: "b"})
	_, got := played(t, load, WithLimits(TPM(1000)), WithMargin(0), WithBackfill())
	order := []int{0, 1, 2, 3, 4, 5, 6}
	slices.SortStableFunc(order, func(i, j int) int { return int(got[i] - got[j]) })
	assert.Equal(t, []int{0, 3, 1, 2, 5, 6, 4}, order)
}

func TestWhatIsOfUnknownSizePassesOnceThereIsAMean(t *testing.T) {
	opts := []Option{WithLimits(TPM(1000)), WithMargin(0), WithBackfill()}
	load := []PlannedRequest{
		{Estimate: in(600), Used: in(50), Duration: 10 * time.Second}, {At: 1, Estimate: in(900)}, {At: 2, Used: in(1)},
	}
	_, got := played(t, load, opts...)
	assert.Equal(t, []time.Duration{0, 10 * time.Second, 10 * time.Second}, got)
	load = []PlannedRequest{
		{Estimate: in(10)}, {At: 1, Estimate: in(600), Duration: time.Hour}, {At: 2, Estimate: in(900)}, {At: 3, Used: in(1)},
	}
	_, got = played(t, load, opts...)
	assert.Equal(t, []time.Duration{0, 1, time.Minute + 1, 3}, got)
}

func TestNothingPassesUnderSharedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", echo, WithLimits(TPM(1000)), WithSharedLimits(NewSharedLimits(RPM(100))), WithBackfill())
		require.NoError(t, err)
		post(t, q, Request[int]{Estimate: in(600)})
		post(t, q, Request[int]{Estimate: in(900)})
		small := post(t, q, Request[int]{Estimate: in(10)})
		assert.Equal(t, StatusPending, status(t, q, small).Status)
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// headOf is the head of the line, when it is first and what its start waits for.
type headOf struct {
	ref
	index int
	at    time.Time     // the limits admit it
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
//   - the spare room is not computed again after a start
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
			if r.Estimate.isZero() {
				r.Estimate = r.Used
			}
			if r.Used = (Usage{}); refunds && i%2 == 0 {
				r.Used = in(1)
			}
		}
		opts = append(opts, WithAccounting(accounting.Policy{}), WithBackfill())
		var head headOf
		starts, started := make([]time.Duration, len(load)), make([]bool, len(load))
		look := func(p *plan) {
			cameFirst := false // somebody started at once for whom the head had to wait in any case
			for _, e := range p.running {
				if i := e.w.req.Params.index; !started[i] {
					starts[i], started[i] = time.Duration(p.now), true
					cameFirst = cameFirst || load[i].At == starts[i] && (!alone || load[i].Priority > load[head.index].Priority)
				}
			}
			if head.seq != 0 && started[head.index] {
				require.LessOrEqual(t, starts[head.index], head.least, "seed %d: request %d was put off", seed, head.index)
			}
			if cameFirst {
				head = headOf{}
			}
			now := headNow(p)
			if now.ref == head.ref {
				require.False(t, now.at.After(head.at) && now.at.After(p.time()), "seed %d: at %v the start of request %d moved from %v to %v",
					seed, time.Duration(p.now), now.index, head.at.Sub(p.q.epoch), now.at.Sub(p.q.epoch))
				now.least = head.least
			}
			if head = now; head.seq != 0 {
				mayPass(t, p, seed)
			}
		}
		_, got := watched(t, load, look, opts...)
		if !refunds {
			holds(t, load, got, opts, seed)
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

func headNow(p *plan) (h headOf) {
	handle, ok := p.q.line.Head()
	if !ok {
		return h
	}
	rec, e := p.q.records.at(handle), p.q.endpoints[0]
	h.ref, h.index = rec.ref(), rec.params.index
	h.at, _ = e.own.Next(p.time(), charge(rec.estimate))
	h.least = h.at.Sub(p.q.epoch)
	if e.running == e.slots {
		h.least = max(h.least, time.Duration(p.running[0].at))
	}
	return h
}

// mayPass requires that nobody who may pass was left waiting, and that the queue wakes for
// whoever may pass later.
func mayPass(t *testing.T, p *plan, seed uint64) {
	q, e := p.q, p.q.endpoints[0]
	if e.running+1 >= e.slots {
		return
	}
	handle, _ := q.line.Head()
	head := q.records.at(handle)
	spare := e.own.Spare(p.time(), charge(head.estimate))
	looked := 0
	for handle := range q.line.All() {
		rec := q.records.at(handle)
		if looked++; rec == head || looked > backfillReach {
			continue
		}
		if c := charge(rec.estimate); spare.Holds(c) {
			at, limit := e.own.Next(p.time(), c)
			require.GreaterOrEqual(t, limit, 0, "seed %d: at %v request %d waits, and may pass", seed, time.Duration(p.now), rec.params.index)
			require.NotZero(t, q.armed)
			require.LessOrEqual(t, q.armed, q.since(at), "seed %d: request %d may pass and nobody wakes", seed, rec.params.index)
		}
	}
}

// holds requires that no limit was ever exceeded, from the starts alone.
func holds(t *testing.T, load []PlannedRequest, starts []time.Duration, opts []Option, seed uint64) {
	s := newSettings(opts)
	for _, l := range s.limits {
		var hold time.Duration
		if l.Kind != KindConcurrent {
			hold = l.period() + windowLimits([]Limit{l}, s.margin)[0].Margin
		}
		for i := range load {
			var sum int64
			for j := range load {
				switch {
				case starts[j] > starts[i]:
				case l.Kind == KindConcurrent:
					if starts[j]+load[j].Duration > starts[i] {
						sum++
					}
				case starts[i]-starts[j] < hold:
					sum += amountOf(charge(load[j].Estimate), l.Kind)
				}
			}
			require.LessOrEqual(t, sum, l.Amount, "seed %d: %s at %v", seed, l, starts[i])
		}
	}
}

package engine

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// A request that is refused for its deadline could not have started in time, however well things go
// from then on: all that runs ends at once and used nothing, nothing else comes, and what is ahead
// is served at once and uses nothing.
func TestDeadlineChecksAreCertain(t *testing.T) {
	refused, exact := 0, 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 5))
		oneIn := func(n int) bool { return r.IntN(n) == 0 }
		b := newBench(t, Config{Backfill: oneIn(3), Seed: seed, RetryBudget: -1}, manyLimits(r))
		for range r.IntN(3) {
			b.add(manyLimits(r))
		}
		usage := func() endpoint.Usage { return endpoint.Usage{Input: r.Int64N(30), Output: r.Int64N(10)} }
		any := func() Request {
			return Request{Sized: !oneIn(4), Estimate: usage(), Priority: r.IntN(3), Tenant: []string{"", "a", "b"}[r.IntN(3)]}
		}
		for range r.IntN(40) {
			b.wake(b.now + r.Int64N(3*second))
			in := any()
			if b.Refuse(b.now, &in, false) == nil {
				b.Submit(b.now, &in, nil)
			}
			if under := b.Engine.UnderWay(); len(under) > 0 && oneIn(2) {
				h := under[r.IntN(len(under))]
				if oneIn(8) {
					b.refuseFor(h, r.Int64N(10*second))
				}
				b.ends(h, Ending{Verdict: []Verdict{Served, Served, PassingFault}[r.IntN(3)], Reported: oneIn(2), Used: usage()})
			}
		}
		in := any()
		if b.Refuse(b.now, &in, false) != nil {
			continue
		}
		in.Deadline = b.now + 1
		no := b.Unserved(&in)
		if no == nil {
			continue
		}
		require.Equal(t, DeadlinePasses, no.Code)
		refused++
		at := no.Wait.At
		in.Deadline = 0
		h := b.Submit(b.now, &in, nil)
		for b.State(h) != Running {
			if under := b.Engine.UnderWay(); len(under) > 0 {
				b.ends(under[0], Ending{Reported: true})
				continue
			}
			next := b.Next()
			require.NotZero(t, next, "seed %d: it never starts", seed)
			b.wake(max(next, b.now))
		}
		require.GreaterOrEqual(t, b.now, at, "seed %d: it was said to start at %v and does at %v", seed, time.Duration(at), time.Duration(b.now))
		if b.now == at {
			exact++
		}
	}
	require.Greater(t, refused, 300)
	require.Greater(t, exact, refused/5, "it is far from the truth")
}

// manyLimits are random ones of an endpoint.
func manyLimits(r *rand.Rand) endpoint.Config {
	var c endpoint.Config
	for _, l := range []endpoint.Limit{
		{Kind: endpoint.RPM, Amount: 1 + r.Int64N(6), Period: 10 * time.Second}, {Kind: endpoint.RPM, Amount: 2 + r.Int64N(20)},
		{Kind: endpoint.TPM, Amount: 40 + r.Int64N(100)}, {Kind: endpoint.OTPM, Amount: 10 + r.Int64N(60), Period: 5 * time.Second},
		concurrent(1 + r.Int64N(4)),
	} {
		if r.IntN(2) == 0 {
			c.Limits = append(c.Limits, l)
		}
	}
	return c
}

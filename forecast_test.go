package llmqueue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// forecastLoad is what is submitted to see whether EstimatedStart comes true.
type forecastLoad struct {
	name    string
	opts    func(r *rand.Rand) []Option
	unknown bool // nobody says how large requests are, until each reports it
	trickle bool // they come one by one, not all at once
	tenants int
}

// EstimatedStart, as Submit returns it, against what then happens when nothing comes
// that starts earlier: within one period of the limits for at least 99 in 100 requests.
// Requests take about a tenth of a limit at most; large ones are hard to foresee, because
// what does not fit leaves much of a window free.
func TestEstimatedStartComesTrue(t *testing.T) {
	own := func(limits ...Limit) func(*rand.Rand) []Option {
		return func(*rand.Rand) []Option { return []Option{WithLimits(limits...)} }
	}
	anyLimits := func(r *rand.Rand) []Limit { // of a minute at most
		per := func() time.Duration { return time.Duration(20+r.IntN(41)) * time.Second }
		limits := []Limit{RPM(10 + r.Int64N(90)).Per(per()), TPM(3200 + r.Int64N(8000)).Per(per()), ITPM(2200 + r.Int64N(8000)), OTPM(1200 + r.Int64N(8000))}
		r.Shuffle(len(limits), func(i, j int) { limits[i], limits[j] = limits[j], limits[i] })
		return limits[:1+r.IntN(len(limits))]
	}
	random := func(r *rand.Rand) []Option {
		opts := []Option{WithLimits(anyLimits(r)...)}
		if r.IntN(2) == 0 {
			opts = append(opts, WithSharedLimits(NewSharedLimits(anyLimits(r)...)))
		}
		return opts
	}
	shared := func(r *rand.Rand) Option { return WithSharedLimits(NewSharedLimits(RPM(40), TPM(3000))) }
	for _, load := range []forecastLoad{
		{name: "requests", opts: own(RPM(60))},
		{name: "tokens", opts: own(TPM(5000))},
		{name: "both, and slots", opts: own(RPM(60), TPM(5000), Concurrent(8))},
		{name: "slots", opts: own(RPM(10_000), Concurrent(2))},
		{name: "input and output", opts: own(RPM(50), ITPM(2000), OTPM(2000))},
		{name: "bursts", opts: own(RPM(60).WithBurst(5), TPM(6000).WithBurst(1000))},
		{name: "shared", opts: func(r *rand.Rand) []Option { return []Option{shared(r)} }},
		{name: "own and shared", opts: func(r *rand.Rand) []Option { return []Option{shared(r), WithLimits(TPM(2500))} }},
		{name: "unknown sizes", opts: own(RPM(60), TPM(5000)), unknown: true},
		{name: "several tenants", opts: own(RPM(60)), tenants: 5},
		{name: "any limits", opts: random},
		{name: "any limits, one by one", opts: random, trickle: true},
		{name: "any limits, unknown sizes", opts: random, unknown: true, trickle: true},
	} {
		t.Run(load.name, func(t *testing.T) {
			seeds := 20
			if testing.Short() || raceEnabled {
				seeds = 4
			}
			good, all := 0, 0
			for seed := range uint64(seeds) {
				synctest.Test(t, func(t *testing.T) {
					g, a := load.foretold(t, rand.New(rand.NewPCG(seed, 8)))
					good, all = good+g, all+a
				})
			}
			t.Logf("%d of %d within a period", good, all)
			assert.GreaterOrEqual(t, good, all*99/100, "of %d requests, so many started within a period of their EstimatedStart", all)
		})
	}
}

// foretold plays a load and counts the requests that started when they were said to.
func (load forecastLoad) foretold(t *testing.T, r *rand.Rand) (good, all int) {
	type job struct {
		size  Usage
		lasts time.Duration
	}
	const period = time.Minute + 250*time.Millisecond // with the margin
	var mu sync.Mutex                                 // guards started
	started := map[string]time.Time{}
	q, err := NewQueue("m", func(ctx context.Context, req Request[job]) (int, error) {
		mu.Lock()
		started[req.ID] = time.Now()
		mu.Unlock()
		time.Sleep(req.Params.lasts)
		ReportUsage(ctx, req.Params.size)
		return 0, nil
	}, append(load.opts(r), WithHistory(0, 0))...)
	require.NoError(t, err)
	next := func() Request[job] {
		j := job{Usage{InputTokens: 20 + r.Int64N(200), OutputTokens: 20 + r.Int64N(100)}, time.Duration(1+r.IntN(3000)) * time.Millisecond}
		req := Request[job]{Params: j}
		if !load.unknown {
			req.Estimate = j.size
		}
		return req
	}
	before := 50 // so that the queue has seen some end
	if load.unknown {
		before = 300 // and knows how large they are
	}
	for range before {
		_, err := q.Submit(t.Context(), next())
		require.NoError(t, err)
	}
	said := map[string]time.Time{}
	for i := range 400 {
		req := next()
		req.NoWait = true
		if load.tenants > 0 {
			req.Tenant = fmt.Sprint(i % load.tenants)
		}
		if load.trickle {
			time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
		}
		resp, err := q.Submit(t.Context(), req)
		require.NoError(t, err)
		said[resp.RequestID] = resp.EstimatedStart
		if resp.Position == 0 {
			said[resp.RequestID] = resp.CreatedAt // it starts at once
		}
	}
	require.NoError(t, q.Shutdown(t.Context()))
	for id, at := range said {
		if load.tenants > 0 && started[id].Before(at) {
			at = started[id] // with several tenants it is the latest that it may be
		}
		if started[id].Sub(at).Abs() <= period {
			good++
		}
	}
	return good, len(said)
}

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

// EstimatedStart, as Submit returns it, against what then happens when nothing else
// arrives: within one period of the limits for at least 99 in 100 requests.
func TestEstimatedStartComesTrue(t *testing.T) {
	shared := func() SharedLimiter { return NewSharedLimits(RPM(40), TPM(3000)) }
	for _, c := range []struct {
		name    string
		opts    func() []Option
		unknown bool // the size of requests
		reports bool // what they really used, less than reserved
		tenants int
	}{
		{name: "requests", opts: func() []Option { return []Option{WithLimits(RPM(60))} }},
		{name: "tokens", opts: func() []Option { return []Option{WithLimits(TPM(5000))} }},
		{name: "both, and slots", opts: func() []Option { return []Option{WithLimits(RPM(60), TPM(5000), Concurrent(8))} }},
		{name: "input and output", opts: func() []Option { return []Option{WithLimits(RPM(50), ITPM(2000), OTPM(2000))} }},
		{name: "bursts", opts: func() []Option { return []Option{WithLimits(RPM(60).WithBurst(5), TPM(6000).WithBurst(1000))} }},
		{name: "shared", opts: func() []Option { return []Option{WithSharedLimits(shared())} }},
		{name: "own and shared", opts: func() []Option { return []Option{WithSharedLimits(shared()), WithLimits(TPM(2500))} }},
		{name: "unknown sizes", opts: func() []Option { return []Option{WithLimits(RPM(60), TPM(5000))} }, unknown: true, reports: true},
		{name: "several tenants", opts: func() []Option { return []Option{WithLimits(RPM(60))} }, tenants: 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			const period = time.Minute + 250*time.Millisecond // with the margin
			good, all := 0, 0
			for seed := range uint64(5) {
				synctest.Test(t, func(t *testing.T) {
					r := rand.New(rand.NewPCG(seed, 8))
					var mu sync.Mutex // guards r and started
					started := map[string]time.Time{}
					q, err := NewQueue("m", func(ctx context.Context, req Request[Usage]) (int, error) {
						mu.Lock()
						started[req.ID] = time.Now()
						lasts := time.Duration(1+r.IntN(3000)) * time.Millisecond
						mu.Unlock()
						time.Sleep(lasts)
						if c.reports {
							ReportUsage(ctx, req.Params)
						}
						return 0, nil
					}, append(c.opts(), WithHistory(0, 0))...)
					require.NoError(t, err)
					size := func() Usage {
						mu.Lock()
						defer mu.Unlock()
						return Usage{InputTokens: 20 + r.Int64N(200), OutputTokens: 20 + r.Int64N(100)}
					}
					before := 5 // so that the queue has seen some end
					if c.unknown {
						before = 300 // and knows how large they are
					}
					for range before {
						_, err := q.Submit(t.Context(), Request[Usage]{Params: size(), Estimate: in(1)})
						require.NoError(t, err)
					}
					said := map[string]time.Time{}
					now := time.Now()
					for i := range 400 {
						req := Request[Usage]{Params: size(), NoWait: true}
						if !c.unknown {
							req.Estimate = req.Params
						}
						if c.tenants > 0 {
							req.Tenant = fmt.Sprint(i % c.tenants)
						}
						resp, err := q.Submit(t.Context(), req)
						require.NoError(t, err)
						said[resp.RequestID] = resp.EstimatedStart
						if resp.Position == 0 {
							said[resp.RequestID] = now
						}
					}
					require.NoError(t, q.Shutdown(t.Context()))
					for id, at := range said {
						if c.tenants > 0 && started[id].Before(at) {
							at = started[id] // with several tenants it is the latest that it may be
						}
						all++
						if started[id].Sub(at).Abs() <= period {
							good++
						}
					}
				})
			}
			t.Logf("%d of %d within a period", good, all)
			assert.GreaterOrEqual(t, good, all*99/100)
		})
	}
}

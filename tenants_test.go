package llmqueue

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A tenant with 100,000 waiting requests delays another one's single request by no
// more than the request that starts before it.
func TestManyRequestsOfOneTenantHardlyDelayAnother(t *testing.T) {
	crowd := 100_000
	if testing.Short() || raceEnabled {
		crowd = 10_000
	}
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, func(context.Context, Request[int]) (int, error) { return 0, nil },
			WithLimits(RPM(1).Per(time.Second), TPM(1<<40)), WithMargin(0), WithHistory(100, time.Hour))
		for i := range crowd {
			post(t, q, Request[int]{Params: i, Tenant: "crowd", Estimate: in(10)})
		}
		for _, c := range []struct {
			tenant string
			tokens int64
			most   time.Duration
		}{
			{"single", 10, 2 * time.Second},
			{"another", 10, 2 * time.Second},
			{"ten times as large", 100, 12 * time.Second}, // ten of the crowd's cost as much
		} {
			time.Sleep(500 * time.Millisecond)
			resp, err := q.Submit(t.Context(), Request[int]{Tenant: c.tenant, Estimate: in(c.tokens)})
			require.NoError(t, err)
			assert.LessOrEqual(t, resp.WaitTime(), c.most, c.tenant)
		}
		assert.Greater(t, q.Len(), crowd*9/10, "the crowd still waits")
		begin := time.Now()
		resp, err := q.Submit(t.Context(), Request[int]{Tenant: "crowd", Priority: 1, Estimate: in(10)})
		require.NoError(t, err)
		assert.LessOrEqual(t, resp.StartedAt.Sub(begin), time.Second, "a higher priority goes before all")
	})
}

// Tenants get equal shares of tokens, not of requests: one with requests four times as
// large starts a quarter as many.
func TestTenantsShareTokensEqually(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		tokens := map[string]int64{}
		q := newQueue(t, func(_ context.Context, r Request[int]) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			tokens[r.Tenant] += r.Estimate.InputTokens
			return 0, nil
		}, WithLimits(TPM(1200), Concurrent(1)), WithMargin(0))
		sizes := map[string]int64{}
		for i := range 20 {
			sizes[fmt.Sprint("tenant-", i)] = []int64{5, 10, 20}[i%3]
		}
		q.Pause() // until all are there
		for tenant, size := range sizes {
			for range 1200 / size {
				post(t, q, Request[int]{Tenant: tenant, Estimate: in(size)})
			}
		}
		q.Resume()
		time.Sleep(10*time.Minute - time.Second) // ten windows of 1,200 for 20 tenants
		mu.Lock()
		defer mu.Unlock()
		for tenant, size := range sizes {
			assert.InDelta(t, 600, tokens[tenant], float64(2*size), "%s with requests of %d", tenant, size)
		}
	})
}

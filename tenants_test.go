package llmqueue

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A tenant with 100,000 waiting requests delays another one's single request by a
// start or two of the same size, however many wait.
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
// large starts a quarter as many. Higher priorities come first and leave the shares of
// the rest equal.
func TestTenantsShareTokensEqually(t *testing.T) {
	tenants := 1000
	if testing.Short() || raceEnabled {
		tenants = 100
	}
	synctest.Test(t, func(t *testing.T) {
		tokens := make([]int64, tenants) // started, by tenant; one at a time
		var urgent int64
		q := newQueue(t, func(_ context.Context, r Request[int]) (int, error) {
			if r.Priority > 0 {
				urgent += r.Estimate.InputTokens
			} else {
				tokens[r.Params] += r.Estimate.InputTokens
			}
			return 0, nil
		}, WithLimits(TPM(int64(60*tenants)), Concurrent(1)), WithMargin(0), WithHistory(0, 0))
		size := func(tenant int) int64 { return []int64{5, 10, 20}[tenant%3] }
		q.Pause() // until all are there
		for tenant := range tenants {
			for range 400 / size(tenant) {
				post(t, q, Request[int]{Params: tenant, Tenant: fmt.Sprint(tenant), Estimate: in(size(tenant))})
			}
		}
		for range tenants { // one window full
			post(t, q, Request[int]{Tenant: "0", Priority: 1, Estimate: in(60)})
		}
		q.Resume()
		time.Sleep(59 * time.Second)
		synctest.Wait()
		assert.EqualValues(t, 60*tenants, urgent, "the whole first window is for the higher priority")
		time.Sleep(5 * time.Minute) // five windows of 60 for each
		synctest.Wait()
		for tenant, got := range tokens {
			if !assert.InDelta(t, 300, got, float64(size(tenant)), "tokens of tenant %d with requests of %d", tenant, size(tenant)) {
				break
			}
		}
	})
}

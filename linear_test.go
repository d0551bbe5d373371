package llmqueue_test

import (
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// What these tests count is what a call allocates, not what it takes: work that grows with
// all that waits shows in it, on any machine. What allocates nothing is in
// bench_linear_test.go.

// crowd is a paused queue in which n tenants wait.
func crowd(t testing.TB, n int, opts ...llmqueue.Option) *llmqueue.Queue[int, int] {
	t.Helper()
	q := open(t, give, append([]llmqueue.Option{llmqueue.WithLimits(llmqueue.RPM(1_000_000), llmqueue.TPM(1_000_000))}, opts...)...)
	q.Pause()
	for i := range n {
		send(t, q, llmqueue.Request[int]{Tenant: "t" + strconv.Itoa(i), Estimate: llmqueue.Usage{InputTokens: 10}})
	}
	return q
}

// allocated is how many bytes f allocates, in the median: now and then something grows.
func allocated(f func()) float64 {
	var each []float64
	for range 21 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		each = append(each, float64(after.TotalAlloc-before.TotalAlloc))
	}
	slices.Sort(each)
	return each[len(each)/2]
}

// A page of what waits costs as much as the page, however many tenants wait: an operator's
// glance would hold every caller up.
func TestPageCostsNoMoreWithMoreTenants(t *testing.T) {
	few, many := crowd(t, 500), crowd(t, 20_000)
	page := func(q *llmqueue.Queue[int, int]) func() {
		return func() { require.Len(t, q.Requests(llmqueue.RequestFilter{Limit: 200}), 200) }
	}
	assert.LessOrEqual(t, allocated(page(many)), 2*allocated(page(few)),
		"bytes allocated for a page of 200, with 20,000 tenants waiting against 500")
}

// Submit with backfill looks at the next few requests, not at all tenants: every caller
// would pay for all who wait.
func TestBackfillCostsNoMoreWithMoreTenants(t *testing.T) {
	cost := func(n int) float64 {
		q := crowd(t, n, llmqueue.WithBackfill())
		// A large head that waits for its tokens, and nothing behind it fits either.
		require.NoError(t, q.SetLimits(llmqueue.RPM(1_000_000), llmqueue.TPM(10).Per(time.Hour)))
		q.Resume()
		return allocated(func() { send(t, q, llmqueue.Request[int]{Tenant: "new", Estimate: llmqueue.Usage{InputTokens: 10}}) })
	}
	few := cost(500)
	assert.LessOrEqual(t, cost(20_000), 2*few, "bytes allocated for a Submit, with 20,000 tenants waiting against 500")
}

package llmqueue_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// BenchmarkGrowth measures what callers and operators wait for in a queue that is crowded,
// against one that is not, in the same run: "times" is how much longer it takes. Nothing
// under the queue's lock should grow with what waits, so it should stay near 1, and near
// the page's size where a page is asked for.
//
//	go test -run '^$' -bench Growth -benchtime 21x .
func BenchmarkGrowth(b *testing.B) {
	type queue = *llmqueue.Queue[int, int]
	ask := func(r llmqueue.Request[int]) func(testing.TB, queue) {
		return func(t testing.TB, q queue) { send(t, q, r) }
	}
	sized := llmqueue.Usage{InputTokens: 10}
	shared := llmqueue.WithCoalescing(func(r llmqueue.Request[int]) string { return strconv.Itoa(r.Params) })
	limits := llmqueue.WithLimits(llmqueue.RPM(1_000_000), llmqueue.TPM(1_000_000))
	changes := int64(0)
	for _, c := range []struct {
		name       string
		few, many  int // what waits
		opts       []llmqueue.Option
		each       func(i int) llmqueue.Request[int] // that waits
		measure    func(t testing.TB, q queue)
		measureFew func(t testing.TB, q queue) // the same, unless nil
		running    bool                        // not paused: held up by its limits
	}{
		{
			name: "list 20,000 of 20,000 against 200", few: 200, many: 20_000,
			each:       func(int) llmqueue.Request[int] { return llmqueue.Request[int]{Estimate: sized} },
			measure:    func(t testing.TB, q queue) { require.Len(t, q.Requests(llmqueue.RequestFilter{Limit: 20_000}), 20_000) },
			measureFew: func(t testing.TB, q queue) { require.Len(t, q.Requests(llmqueue.RequestFilter{Limit: 200}), 200) },
		},
		{
			name: "page of 200 with 100,000 tenants against 200", few: 200, many: 100_000,
			each: func(i int) llmqueue.Request[int] {
				return llmqueue.Request[int]{Tenant: strconv.Itoa(i), Estimate: sized}
			},
			measure: func(t testing.TB, q queue) { require.Len(t, q.Requests(llmqueue.RequestFilter{Limit: 200}), 200) },
		},
		{
			name: "Status at place 10,000 against place 10", few: 10_000, many: 10_000,
			each:       func(i int) llmqueue.Request[int] { return llmqueue.Request[int]{ID: strconv.Itoa(i), Estimate: sized} },
			measure:    func(t testing.TB, q queue) { look(t, q, "9999") },
			measureFew: func(t testing.TB, q queue) { look(t, q, "9") },
		},
		{
			name: "Submit that shares a call with 12,000 waiting against 100", few: 100, many: 12_000, opts: []llmqueue.Option{shared},
			each:       func(i int) llmqueue.Request[int] { return llmqueue.Request[int]{Params: i, Estimate: sized} },
			measure:    ask(llmqueue.Request[int]{Params: 11_999, Estimate: sized}),
			measureFew: ask(llmqueue.Request[int]{Params: 99, Estimate: sized}),
		},
		{
			name: "Len with 100,000 calls against 100", few: 100, many: 100_000, opts: []llmqueue.Option{shared},
			each:    func(i int) llmqueue.Request[int] { return llmqueue.Request[int]{Params: i, Estimate: sized} },
			measure: func(t testing.TB, q queue) { require.Positive(t, q.Len()) },
		},
		{
			name: "Submit with 40,000 priorities against 10", few: 10, many: 40_000,
			each:    func(i int) llmqueue.Request[int] { return llmqueue.Request[int]{Priority: i, Estimate: sized} },
			measure: ask(llmqueue.Request[int]{Priority: 5, Estimate: sized}),
		},
		{
			name: "Submit with backfill and 100,000 tenants against 100", few: 100, many: 100_000, opts: []llmqueue.Option{llmqueue.WithBackfill()},
			each: func(i int) llmqueue.Request[int] {
				return llmqueue.Request[int]{Tenant: strconv.Itoa(i), Estimate: sized}
			},
			measure: ask(llmqueue.Request[int]{Tenant: "new", Estimate: sized}), running: true,
		},
		{
			name: "a changed burst with 500,000 waiting against 100", few: 100, many: 500_000,
			each: func(int) llmqueue.Request[int] { return llmqueue.Request[int]{Estimate: sized} },
			measure: func(t testing.TB, q queue) {
				changes++ // of two queues in turn
				burst := 1000 * (1 + changes/2%2)
				require.NoError(t, q.SetLimits(llmqueue.RPM(1_000_000).WithBurst(burst), llmqueue.TPM(1_000_000)))
			},
		},
	} {
		b.Run(c.name, func(b *testing.B) {
			fill := func(n int) queue {
				q := open(b, give, append([]llmqueue.Option{limits}, c.opts...)...)
				q.Pause()
				for i := range n {
					send(b, q, c.each(i))
				}
				if c.running {
					require.NoError(b, q.SetLimits(llmqueue.RPM(1_000_000), llmqueue.TPM(10).Per(time.Hour)))
					q.Resume()
				}
				return q
			}
			few, many := fill(c.few), fill(c.many)
			measureFew := c.measureFew
			if measureFew == nil {
				measureFew = c.measure
			}
			var short, long []time.Duration
			for b.Loop() {
				begin := time.Now()
				measureFew(b, few)
				middle := time.Now()
				c.measure(b, many)
				short, long = append(short, middle.Sub(begin)), append(long, time.Since(middle))
			}
			b.ReportMetric(float64(median(long))/float64(max(median(short), 1)), "times")
			b.ReportMetric(float64(median(long)), "ns-crowded")
		})
	}
}

func look(t testing.TB, q *llmqueue.Queue[int, int], id string) {
	r, err := q.Status(id)
	require.NoError(t, err)
	require.Equal(t, llmqueue.StatusPending, r.Status, fmt.Sprint(id))
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

package plan

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/accounting"
	"github.com/llmqueue/llmqueue/internal/engine"
)

// in is a usage of n input tokens.
func in(n int64) llmqueue.Usage { return llmqueue.Usage{InputTokens: n} }

// limitOf finds one limit in a result.
func limitOf(t *testing.T, r Result, name string) Limit {
	t.Helper()
	i := slices.IndexFunc(r.Limits, func(l Limit) bool { return l.Limit == name })
	require.GreaterOrEqual(t, i, 0, "no limit %q in %+v", name, r.Limits)
	return r.Limits[i]
}

// played plays a load step by step and tells when each request started.
func played(t *testing.T, load []Request, opts ...llmqueue.Option) (*player, []time.Duration) {
	t.Helper()
	return watched(t, load, func(*player) {}, opts...)
}

// watched is played with a look at the engine after each decision.
func watched(t *testing.T, load []Request, look func(*player), opts ...llmqueue.Option) (*player, []time.Duration) {
	t.Helper()
	p, err := newPlayer(opts)
	require.NoError(t, err)
	starts, started := make([]time.Duration, len(load)), make(map[int]bool)
	note := func() {
		for i := range underWay(p) {
			if !started[i] {
				starts[i], started[i] = time.Duration(p.now-begin), true
			}
		}
		look(p)
	}
	for _, r := range load {
		require.NoError(t, p.check(&r))
		for p.step(instant(r.At)) {
			note()
		}
		p.arrive(&r)
		note()
	}
	for p.step(1 << 62) {
		note()
	}
	require.Len(t, started, len(load), "every request starts")
	return p, starts
}

// underWay gives the requests of the load that run.
func underWay(p *player) iter.Seq[int] {
	return func(yield func(int) bool) {
		for attempt := range p.running.All() {
			var j engine.Job
			if p.engine.Job(attempt, &j); !yield(inLoad(p, j.Handle)) {
				return
			}
		}
	}
}

// inLoad says which request of the load has this handle.
func inLoad(p *player, h uint32) int { return int(p.engine.Seq(h)) - 1 }

// randomLoad is one whose instants are random nanoseconds, so that no two of them
// coincide, under limits that hold it.
func randomLoad(seed uint64) (load []Request, opts []llmqueue.Option) {
	r := rand.New(rand.NewPCG(seed, 7))
	oneIn := func(n int) bool { return r.IntN(n) == 0 }
	limits := []llmqueue.Limit{llmqueue.TPM(100 + r.Int64N(200)).Per(time.Duration(1+r.IntN(60)) * time.Second)}
	if oneIn(2) {
		limits = append(limits, llmqueue.RPM(3+r.Int64N(20)))
	}
	if oneIn(2) {
		limits = append(limits, llmqueue.Concurrent(1+r.Int64N(6)))
	}
	if oneIn(4) {
		limits = append(limits, llmqueue.ITPM(100+r.Int64N(100)).Per(2*time.Hour))
	}
	if oneIn(3) {
		limits[0].Burst = 20 + r.Int64N(60)
	}
	opts = []llmqueue.Option{llmqueue.WithLimits(limits...)}
	if oneIn(3) {
		opts = append(opts, llmqueue.WithMargin(time.Duration(r.Int64N(int64(time.Second)))))
	}
	switch r.IntN(6) {
	case 0:
		opts = append(opts, llmqueue.WithAccounting(accounting.Policy{NoRefund: true}))
	case 1:
		opts = append(opts, llmqueue.WithAccounting(accounting.Policy{Reserve: accounting.ReserveLarger}))
	}
	most := int64(90)
	size := func() llmqueue.Usage {
		if oneIn(3) {
			return llmqueue.Usage{InputTokens: 1 + r.Int64N(most/2), OutputTokens: r.Int64N(most / 2)}
		}
		return llmqueue.Usage{InputTokens: 1 + r.Int64N(8), OutputTokens: r.Int64N(8)}
	}
	tenants, levels, unknown := 1+r.IntN(4), 1+r.IntN(2), oneIn(3)
	var at time.Duration
	for range 20 + r.IntN(60) {
		if !oneIn(3) {
			at += time.Duration(r.Int64N(int64(4 * time.Second)))
		}
		q := Request{
			At: at, Tenant: fmt.Sprint(r.IntN(tenants)), Priority: r.IntN(levels), Estimate: size(),
			Duration: 1 + time.Duration(r.Int64N(int64(10*time.Second))),
		}
		switch {
		case unknown && oneIn(3):
			q.Estimate, q.Used = llmqueue.Usage{}, size()
		case oneIn(2):
			q.Used = size() // a refund or an overrun
		}
		load = append(load, q)
	}
	return load, opts
}

// queued plays a load to a queue in a bubble and tells when each request started.
func queued(t *testing.T, load []Request, opts ...llmqueue.Option) []time.Duration {
	starts := make([]time.Duration, len(load))
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		q, err := llmqueue.NewQueue("m", func(ctx context.Context, r llmqueue.Request[int]) (int, error) {
			starts[r.Params] = time.Since(begin)
			time.Sleep(load[r.Params].Duration)
			used := load[r.Params].Used
			if used == (llmqueue.Usage{}) {
				used = load[r.Params].Estimate
			}
			if used != (llmqueue.Usage{}) {
				llmqueue.ReportUsage(ctx, used)
			}
			return 0, nil
		}, opts...)
		require.NoError(t, err)
		for i, r := range load {
			time.Sleep(r.At - time.Since(begin))
			_, err := q.Submit(t.Context(), llmqueue.Request[int]{Params: i, Tenant: r.Tenant, Priority: r.Priority, Estimate: r.Estimate, NoWait: true})
			require.NoError(t, err)
		}
		require.NoError(t, q.Shutdown(t.Context()))
	})
	return starts
}

// TestRunStartsWhatAQueueStarts plays random loads to Run and to a queue whose
// processor sleeps: tenants, priorities, unknown sizes, refunds, overruns, calls longer
// than their windows, pacing. Every request must start at the same nanosecond.
func TestRunStartsWhatAQueueStarts(t *testing.T) {
	seeds := 300
	if testing.Short() || raceEnabled {
		seeds = 60
	}
	for seed := range uint64(seeds) {
		load, opts := randomLoad(seed)
		if seed%2 == 1 {
			opts = append(opts, llmqueue.WithBackfill())
		}
		want := queued(t, load, opts...)
		p, got := played(t, load, opts...)
		require.Equal(t, want, got, "seed %d", seed)

		result, err := Run(slices.Values(load), opts...)
		require.NoError(t, err)
		again, err := Run(slices.Values(load), opts...)
		require.NoError(t, err)
		require.Equal(t, result, again, "seed %d: two plans of one load", seed)
		require.Equal(t, p.result(), result, "seed %d", seed)
		agrees(t, load, want, result)
	}
}

// agrees checks a result against the starts that it is about.
func agrees(t *testing.T, load []Request, starts []time.Duration, r Result) {
	t.Helper()
	var last, end, most, sum time.Duration
	var used llmqueue.Usage
	waits := make([]time.Duration, len(load))
	for i, q := range load {
		waits[i] = starts[i] - q.At
		last, end = max(last, starts[i]), max(end, starts[i]+q.Duration)
		most, sum = max(most, waits[i]), sum+waits[i]
		if q.Used == (llmqueue.Usage{}) {
			q.Used = q.Estimate
		}
		used = toUsage(fromUsage(used).Plus(fromUsage(q.Used)))
	}
	slices.Sort(waits)
	require.EqualValues(t, len(load), r.Requests)
	require.Equal(t, end-load[0].At, r.Makespan)
	require.Equal(t, last-load[0].At, r.LastStart)
	require.Equal(t, most, r.Wait.Max)
	require.InDelta(t, float64(sum)/float64(len(load)), float64(r.Wait.Mean), 2)
	for _, q := range []struct {
		share float64
		got   time.Duration
	}{{0.5, r.Wait.P50}, {0.95, r.Wait.P95}} {
		exact := waits[int(float64(len(waits))*q.share+0.9999999)-1]
		require.GreaterOrEqual(t, q.got, exact)
		require.LessOrEqual(t, float64(q.got), float64(exact)*(1+1./256))
	}
	require.Equal(t, used, r.Used)
	var held time.Duration
	for i, l := range r.Limits {
		require.LessOrEqual(t, l.Quota, 1.5, l.Limit) // overruns may lift it above 1
		require.True(t, i == 0 || l.Held <= r.Limits[i-1].Held, "the one that held longest first")
		held += l.Held
	}
	require.LessOrEqual(t, held, r.LastStart)
	if most > 0 {
		require.Positive(t, held)
	}
}

func TestALoadOfAMonthKeepsLittle(t *testing.T) {
	load := func(yield func(Request) bool) {
		for i := range 200_000 {
			if !yield(Request{At: time.Duration(i) * 13 * time.Second, Estimate: in(100), Duration: time.Second}) {
				return
			}
		}
	}
	p, err := newPlayer([]llmqueue.Option{llmqueue.WithLimits(llmqueue.RPM(5), llmqueue.TPM(10_000), llmqueue.RPD(10_000))})
	require.NoError(t, err)
	most := 0
	for r := range load {
		for p.step(instant(r.At)) {
		}
		p.arrive(&r)
		most = max(most, p.engine.Live())
	}
	assert.LessOrEqual(t, most, 2*engine.PageSize, "requests that have ended are forgotten")
	assert.LessOrEqual(t, len(p.jobs), 2*engine.PageSize)
	assert.Empty(t, p.engine.Effects)
}

func TestRunFollowsTenantsAndPriorities(t *testing.T) {
	var load []Request
	for range 6 {
		load = append(load, Request{Tenant: "backlog"})
	}
	load = append(load, Request{Tenant: "other", At: time.Second}, Request{Priority: 1, At: 2 * time.Second})
	p, starts := played(t, load, llmqueue.WithLimits(llmqueue.RPM(1)), llmqueue.WithMargin(0))
	assert.Zero(t, p.engine.Live())
	minutes := make([]int, len(starts))
	for i, at := range starts {
		minutes[i] = int(at / time.Minute)
	}
	assert.Equal(t, []int{0, 2, 4, 5, 6, 7, 3, 1}, minutes, "when each of them starts")
}

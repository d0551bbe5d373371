package llmqueue

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

	"github.com/llmqueue/llmqueue/accounting"
)

// alike is n requests that arrive at once.
func alike(n int, r PlannedRequest) iter.Seq[PlannedRequest] {
	return func(yield func(PlannedRequest) bool) {
		for range n {
			if !yield(r) {
				return
			}
		}
	}
}

// limitOf finds one limit in a result.
func limitOf(t *testing.T, r PlanResult, name string) PlanLimit {
	t.Helper()
	i := slices.IndexFunc(r.Limits, func(l PlanLimit) bool { return l.Limit == name })
	require.GreaterOrEqual(t, i, 0, "no limit %q in %+v", name, r.Limits)
	return r.Limits[i]
}

func TestPlanOfALoadThatCanBeComputedByHand(t *testing.T) {
	second := PlannedRequest{Duration: time.Second, Estimate: in(100)}
	late := second
	late.At = time.Hour
	tests := []struct {
		name      string
		load      iter.Seq[PlannedRequest]
		opts      []Option
		want      PlanResult
		tolerance time.Duration // of P50 and P95
	}{
		{
			name: "nothing", load: alike(0, second), opts: []Option{WithLimits(RPM(1))},
			want: PlanResult{Limits: []PlanLimit{{"1 rpm", 0, 0}, {"concurrent", 0, 0}}},
		},
		{
			name: "everything starts at once", load: alike(10, late), opts: []Option{WithLimits(RPM(10))},
			want: PlanResult{
				Requests: 10, Makespan: time.Second, Used: in(1000),
				Limits: []PlanLimit{{"10 rpm", 0, 1}, {"concurrent", 0, 10. / 256}},
			},
		},
		{
			name: "a limit of requests: three minutes, the third half full",
			load: alike(25, second), opts: []Option{WithLimits(TPM(10_000), RPM(10), Concurrent(10)), WithMargin(0)},
			want: PlanResult{
				Requests: 25, Makespan: 2*time.Minute + time.Second, LastStart: 2 * time.Minute, Used: in(2500),
				Wait: PlanWait{48 * time.Second, time.Minute, 2 * time.Minute, 2 * time.Minute},
				Limits: []PlanLimit{
					{"10 rpm", 2 * time.Minute, 25. / 30}, {"10000 tpm", 0, 2500. / 30_000}, {"concurrent", 0, 25. / 1210},
				},
			},
		},
		{
			name: "the margin counts", load: alike(2, second), opts: []Option{WithLimits(RPM(1))},
			want: PlanResult{
				Requests: 2, Makespan: time.Minute + 1250*time.Millisecond, LastStart: time.Minute + 250*time.Millisecond, Used: in(200),
				Wait:   PlanWait{(time.Minute + 250*time.Millisecond) / 2, 0, time.Minute + 250*time.Millisecond, time.Minute + 250*time.Millisecond},
				Limits: []PlanLimit{{"1 rpm", time.Minute + 250*time.Millisecond, 1}, {"concurrent", 0, 2 / 256. / 61.25}},
			},
		},
		{
			name: "slots", load: alike(6, second), opts: []Option{WithLimits(Concurrent(2))},
			want: PlanResult{
				Requests: 6, Makespan: 3 * time.Second, LastStart: 2 * time.Second, Used: in(600),
				Wait:   PlanWait{time.Second, time.Second, 2 * time.Second, 2 * time.Second},
				Limits: []PlanLimit{{"concurrent", 2 * time.Second, 1}},
			},
		},
		{
			// Each reserves the whole limit and gives half of it back after a second.
			name: "refunds", opts: []Option{WithLimits(TPM(100)), WithMargin(0)},
			load: alike(4, PlannedRequest{Duration: time.Second, Estimate: in(100), Used: in(50)}),
			want: PlanResult{
				Requests: 4, Makespan: 3*time.Minute + time.Second, LastStart: 3 * time.Minute, Used: in(200),
				Wait:   PlanWait{90 * time.Second, time.Minute, 3 * time.Minute, 3 * time.Minute},
				Limits: []PlanLimit{{"100 tpm", 3 * time.Minute, 200. / 400}, {"concurrent", 0, 4 / 256. / 181}},
			},
		},
		{
			name: "a provider that gives nothing back", opts: []Option{WithLimits(TPM(100)), WithMargin(0), WithAccounting(accounting.Policy{NoRefund: true})},
			load: alike(2, PlannedRequest{Duration: time.Second, Estimate: in(60), Used: in(10)}),
			want: PlanResult{
				Requests: 2, Makespan: time.Minute + time.Second, LastStart: time.Minute, Used: in(20),
				Wait:   PlanWait{30 * time.Second, 0, time.Minute, time.Minute},
				Limits: []PlanLimit{{"100 tpm", time.Minute, 120. / 200}, {"concurrent", 0, 2 / 256. / 61}},
			},
		},
		{
			// The first of unknown size tells after a second, then two more fit.
			name: "unknown sizes", opts: []Option{WithLimits(TPM(100)), WithMargin(0)},
			load: alike(4, PlannedRequest{Duration: time.Second, Used: in(30)}),
			want: PlanResult{
				Requests: 4, Makespan: time.Minute + time.Second, LastStart: time.Minute, Used: in(120),
				Wait: PlanWait{(2 + 60) * time.Second / 4, time.Second, time.Minute, time.Minute},
				Limits: []PlanLimit{
					{"100 tpm", 59 * time.Second, 120. / 200}, {"unknown size", time.Second, 0}, {"concurrent", 0, 4 / 256. / 61},
				},
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := Plan(test.load, test.opts...)
			require.NoError(t, err)
			for _, d := range []struct{ want, got *time.Duration }{{&test.want.Wait.P50, &got.Wait.P50}, {&test.want.Wait.P95, &got.Wait.P95}} {
				assert.InEpsilon(t, *d.want+1, *d.got+1, 1./256)
				*d.got = *d.want
			}
			require.Len(t, got.Limits, len(test.want.Limits))
			for i := range got.Limits {
				assert.InDelta(t, test.want.Limits[i].Quota, got.Limits[i].Quota, 1e-9, "quota of %s", got.Limits[i].Limit)
				got.Limits[i].Quota = test.want.Limits[i].Quota
			}
			assert.Equal(t, test.want, got)
		})
	}
}

func TestPlanHeedsTenantsAndPriorities(t *testing.T) {
	var load []PlannedRequest
	for range 6 {
		load = append(load, PlannedRequest{Tenant: "backlog"})
	}
	load = append(load, PlannedRequest{Tenant: "other", At: time.Second}, PlannedRequest{Priority: 1, At: 2 * time.Second})
	p, starts := played(t, load, WithLimits(RPM(1)), WithMargin(0))
	assert.Zero(t, p.q.Len())
	minutes := make([]int, len(starts))
	for i, at := range starts {
		minutes[i] = int(at / time.Minute)
	}
	assert.Equal(t, []int{0, 2, 4, 5, 6, 7, 3, 1}, minutes, "when each of them starts")
}

func TestPlanCountsWhatStartedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		prior := func(yield func(time.Time, Usage) bool) {
			for range 10 {
				yield(time.Now().Add(-20*time.Second), in(1))
			}
		}
		got, err := Plan(alike(1, PlannedRequest{}), WithLimits(RPM(10)), WithMargin(0), WithPriorUsage(prior))
		require.NoError(t, err)
		assert.Equal(t, 40*time.Second, got.LastStart)
		assert.InDelta(t, 0.1, limitOf(t, got, "10 rpm").Quota, 1e-9)

		got, err = Plan(alike(4, PlannedRequest{}), WithLimits(RPD(2).Daily(time.UTC)), WithMargin(0))
		require.NoError(t, err)
		assert.Equal(t, 24*time.Hour, got.LastStart, "a bubble begins at midnight")
		assert.InDelta(t, 1, got.Limits[0].Quota, 1e-9)
	})
}

func TestPlanRefuses(t *testing.T) {
	fine := PlannedRequest{Estimate: in(1)}
	with := func(change func(*PlannedRequest)) PlannedRequest {
		r := fine
		change(&r)
		return r
	}
	loads := []struct {
		bad  PlannedRequest
		want error
		text string
	}{
		{with(func(r *PlannedRequest) { r.At = time.Second - 1 }), ErrInvalidParams, "sort the load by At"},
		{with(func(r *PlannedRequest) { r.At = -1 }), ErrInvalidParams, "At is -1ns"},
		{with(func(r *PlannedRequest) { r.At, r.Duration = time.Second, -1 }), ErrInvalidParams, "Duration is -1ns"},
		{with(func(r *PlannedRequest) { r.At, r.Estimate = time.Second, in(-1) }), ErrInvalidParams, "Estimate"},
		{with(func(r *PlannedRequest) { r.At, r.Used = time.Second, in(-1) }), ErrInvalidParams, "Used"},
		{with(func(r *PlannedRequest) { r.At, r.Estimate = time.Second, in(101) }), ErrRequestTooLarge, "100 tpm"},
	}
	for _, l := range loads {
		later := with(func(r *PlannedRequest) { r.At = time.Second })
		got, err := Plan(slices.Values([]PlannedRequest{fine, later, l.bad, fine}), WithLimits(TPM(100)))
		assert.ErrorIs(t, err, l.want)
		assert.ErrorContains(t, err, "request 2 of the load: ")
		assert.ErrorContains(t, err, l.text)
		assert.Equal(t, PlanResult{}, got)
	}
	none := alike(0, fine)
	for name, opts := range map[string][]Option{
		"no limits":   nil,
		"a bad limit": {WithLimits(RPM(0))},
		"shared":      {WithSharedLimits(NewSharedLimits(RPM(1)))},
		"learned":     {WithLearnedLimits()},
		"a breaker":   {WithLimits(RPM(1)), WithBreaker(func(string) Breaker { return nil })},
		"a timeout":   {WithLimits(RPM(1)), WithTimeout(1)},
		"an observer": {WithLimits(RPM(1)), WithObserver(func(Event) {})},
		"a retry":     {WithLimits(RPM(1)), WithRetry(RetryPolicy{MaxAttempts: 2})},
	} {
		_, err := Plan(none, opts...)
		assert.ErrorIs(t, err, ErrInvalidConfiguration, name)
	}
	_, err := Plan(none, WithUnlimited())
	assert.NoError(t, err)

	// The mean of what others used can outgrow a limit for one that names no output.
	load := []PlannedRequest{{Estimate: in(60), Used: Usage{InputTokens: 10, OutputTokens: 60}, Duration: 1}, {Estimate: in(50)}}
	_, err = Plan(slices.Values(load), WithLimits(TPM(100)), WithAccounting(accounting.Policy{Reserve: accounting.ReserveMean}))
	assert.ErrorIs(t, err, ErrRequestTooLarge)
}

func TestPlanStopsPullingWhenItRefuses(t *testing.T) {
	pulled := 0
	_, err := Plan(func(yield func(PlannedRequest) bool) {
		for pulled++; yield(PlannedRequest{Duration: -1}); pulled++ {
		}
	}, WithUnlimited())
	assert.ErrorIs(t, err, ErrInvalidParams)
	assert.Equal(t, 1, pulled)
}

// played plays a load step by step and tells when each request started.
func played(t *testing.T, load []PlannedRequest, opts ...Option) (*plan, []time.Duration) {
	t.Helper()
	return watched(t, load, func(*plan) {}, opts...)
}

// watched is played with a look at the queue after each decision.
func watched(t *testing.T, load []PlannedRequest, look func(*plan), opts ...Option) (*plan, []time.Duration) {
	t.Helper()
	p, err := newPlan(opts)
	require.NoError(t, err)
	starts, seen := make([]time.Duration, len(load)), 0
	note := func() {
		before := seen
		for _, e := range p.running {
			if e.order > before {
				starts[e.w.req.Params.index] = time.Duration(p.now)
				seen++
			}
		}
		look(p)
	}
	for _, r := range load {
		require.NoError(t, p.check(&r))
		for p.step(int64(r.At)) {
			note()
		}
		p.arrive(&r)
		note()
	}
	for p.step(1 << 62) {
		note()
	}
	require.Equal(t, len(load), seen, "every request starts")
	return p, starts
}

// randomLoad is one whose instants are random nanoseconds, so that no two of them
// coincide, under limits that hold it.
func randomLoad(seed uint64) (load []PlannedRequest, opts []Option) {
	r := rand.New(rand.NewPCG(seed, 7))
	oneIn := func(n int) bool { return r.IntN(n) == 0 }
	limits := []Limit{TPM(100 + r.Int64N(200)).Per(time.Duration(1+r.IntN(60)) * time.Second)}
	if oneIn(2) {
		limits = append(limits, RPM(3+r.Int64N(20)))
	}
	if oneIn(2) {
		limits = append(limits, Concurrent(1+r.Int64N(6)))
	}
	if oneIn(4) {
		limits = append(limits, ITPM(100+r.Int64N(100)).Per(2*time.Hour))
	}
	if oneIn(3) {
		limits[0].Burst = 20 + r.Int64N(60)
	}
	opts = []Option{WithLimits(limits...)}
	if oneIn(3) {
		opts = append(opts, WithMargin(time.Duration(r.Int64N(int64(time.Second)))))
	}
	switch r.IntN(6) {
	case 0:
		opts = append(opts, WithAccounting(accounting.Policy{NoRefund: true}))
	case 1:
		opts = append(opts, WithAccounting(accounting.Policy{Reserve: accounting.ReserveLarger}))
	}
	most := int64(90)
	size := func() Usage {
		if oneIn(3) {
			return Usage{InputTokens: 1 + r.Int64N(most/2), OutputTokens: r.Int64N(most / 2)}
		}
		return Usage{InputTokens: 1 + r.Int64N(8), OutputTokens: r.Int64N(8)}
	}
	tenants, levels, unknown := 1+r.IntN(4), 1+r.IntN(2), oneIn(3)
	var at time.Duration
	for range 20 + r.IntN(60) {
		if !oneIn(3) {
			at += time.Duration(r.Int64N(int64(4 * time.Second)))
		}
		q := PlannedRequest{
			At: at, Tenant: fmt.Sprint(r.IntN(tenants)), Priority: r.IntN(levels), Estimate: size(),
			Duration: 1 + time.Duration(r.Int64N(int64(10*time.Second))),
		}
		switch {
		case unknown && oneIn(3):
			q.Estimate, q.Used = Usage{}, size()
		case oneIn(2):
			q.Used = size() // a refund or an overrun
		}
		load = append(load, q)
	}
	return load, opts
}

// queued plays a load to a queue in a bubble and tells when each request started.
func queued(t *testing.T, load []PlannedRequest, opts ...Option) []time.Duration {
	starts := make([]time.Duration, len(load))
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		q, err := NewQueue("m", func(ctx context.Context, r Request[int]) (int, error) {
			starts[r.Params] = time.Since(begin)
			time.Sleep(load[r.Params].Duration)
			used := load[r.Params].Used
			if used.isZero() {
				used = load[r.Params].Estimate
			}
			if !used.isZero() {
				ReportUsage(ctx, used)
			}
			return 0, nil
		}, opts...)
		require.NoError(t, err)
		for i, r := range load {
			time.Sleep(r.At - time.Since(begin))
			post(t, q, Request[int]{Params: i, Tenant: r.Tenant, Priority: r.Priority, Estimate: r.Estimate})
		}
		require.NoError(t, q.Shutdown(t.Context()))
	})
	return starts
}

// TestPlanStartsWhatAQueueStarts plays random loads to Plan and to a queue whose
// processor sleeps: tenants, priorities, unknown sizes, refunds, overruns, calls longer
// than their windows, pacing. Every request must start at the same nanosecond.
func TestPlanStartsWhatAQueueStarts(t *testing.T) {
	seeds := 300
	if testing.Short() || raceEnabled {
		seeds = 60
	}
	for seed := range uint64(seeds) {
		load, opts := randomLoad(seed)
		if seed%2 == 1 {
			opts = append(opts, WithBackfill())
		}
		want := queued(t, load, opts...)
		p, got := played(t, load, opts...)
		require.Equal(t, want, got, "seed %d", seed)

		result, err := Plan(slices.Values(load), opts...)
		require.NoError(t, err)
		again, err := Plan(slices.Values(load), opts...)
		require.NoError(t, err)
		require.Equal(t, result, again, "seed %d: two plans of one load", seed)
		require.Equal(t, p.result(), result, "seed %d", seed)
		agrees(t, load, want, result)
	}
}

// agrees checks a result against the starts that it is about.
func agrees(t *testing.T, load []PlannedRequest, starts []time.Duration, r PlanResult) {
	t.Helper()
	var last, end, most, sum time.Duration
	var used Usage
	waits := make([]time.Duration, len(load))
	for i, q := range load {
		waits[i] = starts[i] - q.At
		last, end = max(last, starts[i]), max(end, starts[i]+q.Duration)
		most, sum = max(most, waits[i]), sum+waits[i]
		if q.Used.isZero() {
			q.Used = q.Estimate
		}
		used = used.plus(q.Used)
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

func TestPlanOfAMonthKeepsLittle(t *testing.T) {
	load := func(yield func(PlannedRequest) bool) {
		for i := range 200_000 {
			if !yield(PlannedRequest{At: time.Duration(i) * 13 * time.Second, Estimate: in(100), Duration: time.Second}) {
				return
			}
		}
	}
	p, err := newPlan([]Option{WithLimits(RPM(5), TPM(10_000), RPD(10_000))})
	require.NoError(t, err)
	pages := 0
	for r := range load {
		for p.step(int64(r.At)) {
		}
		p.arrive(&r)
		pages = max(pages, len(p.q.records.pages))
	}
	assert.LessOrEqual(t, pages, 2, "records of requests that have ended")
	assert.LessOrEqual(t, cap(p.running), 64)
	assert.LessOrEqual(t, len(p.q.workers), 16)
}

func BenchmarkPlan(b *testing.B) {
	const n = 50_000
	b.ReportAllocs()
	for b.Loop() {
		r, err := Plan(alike(n, PlannedRequest{Duration: 8 * time.Second, Estimate: Usage{InputTokens: 600, OutputTokens: 400}}),
			WithLimits(RPM(5000), TPM(2_000_000), Concurrent(500)))
		require.NoError(b, err)
		require.EqualValues(b, n, r.Requests)
	}
}

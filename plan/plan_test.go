package plan_test

import (
	"iter"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/accounting"
	"github.com/llmqueue/llmqueue/plan"
)

// in is a usage of n input tokens.
func in(n int64) llmqueue.Usage { return llmqueue.Usage{InputTokens: n} }

// alike is n requests that arrive at once.
func alike(n int, r plan.Request) iter.Seq[plan.Request] {
	return func(yield func(plan.Request) bool) {
		for range n {
			if !yield(r) {
				return
			}
		}
	}
}

// limitOf finds one limit in a result.
func limitOf(t *testing.T, r plan.Result, name string) plan.Limit {
	t.Helper()
	i := slices.IndexFunc(r.Limits, func(l plan.Limit) bool { return l.Limit == name })
	require.GreaterOrEqual(t, i, 0, "no limit %q in %+v", name, r.Limits)
	return r.Limits[i]
}

func TestALoadThatCanBeComputedByHand(t *testing.T) {
	second := plan.Request{Duration: time.Second, Estimate: in(100)}
	late := second
	late.At = time.Hour
	tests := []struct {
		name      string
		load      iter.Seq[plan.Request]
		opts      []llmqueue.Option
		want      plan.Result
		tolerance time.Duration // of P50 and P95
	}{
		{
			name: "nothing", load: alike(0, second), opts: []llmqueue.Option{llmqueue.WithLimits(llmqueue.RPM(1))},
			want: plan.Result{Limits: []plan.Limit{{"1 rpm", 0, 0}, {"concurrent", 0, 0}}},
		},
		{
			name: "everything starts at once", load: alike(10, late), opts: []llmqueue.Option{llmqueue.WithLimits(llmqueue.RPM(10))},
			want: plan.Result{
				Requests: 10, Makespan: time.Second, Used: in(1000),
				Limits: []plan.Limit{{"10 rpm", 0, 1}, {"concurrent", 0, 10. / 256}},
			},
		},
		{
			name: "a limit of requests: three minutes, the third half full",
			load: alike(25, second), opts: []llmqueue.Option{llmqueue.WithLimits(llmqueue.TPM(10_000), llmqueue.RPM(10), llmqueue.Concurrent(10)), llmqueue.WithMargin(0)},
			want: plan.Result{
				Requests: 25, Makespan: 2*time.Minute + time.Second, LastStart: 2 * time.Minute, Used: in(2500),
				Wait: plan.Wait{48 * time.Second, time.Minute, 2 * time.Minute, 2 * time.Minute},
				Limits: []plan.Limit{
					{"10 rpm", 2 * time.Minute, 25. / 30}, {"10000 tpm", 0, 2500. / 30_000}, {"concurrent", 0, 25. / 1210},
				},
			},
		},
		{
			name: "the margin counts", load: alike(2, second), opts: []llmqueue.Option{llmqueue.WithLimits(llmqueue.RPM(1))},
			want: plan.Result{
				Requests: 2, Makespan: time.Minute + 1250*time.Millisecond, LastStart: time.Minute + 250*time.Millisecond, Used: in(200),
				Wait:   plan.Wait{(time.Minute + 250*time.Millisecond) / 2, 0, time.Minute + 250*time.Millisecond, time.Minute + 250*time.Millisecond},
				Limits: []plan.Limit{{"1 rpm", time.Minute + 250*time.Millisecond, 1}, {"concurrent", 0, 2 / 256. / 61.25}},
			},
		},
		{
			name: "slots", load: alike(6, second), opts: []llmqueue.Option{llmqueue.WithLimits(llmqueue.Concurrent(2))},
			want: plan.Result{
				Requests: 6, Makespan: 3 * time.Second, LastStart: 2 * time.Second, Used: in(600),
				Wait:   plan.Wait{time.Second, time.Second, 2 * time.Second, 2 * time.Second},
				Limits: []plan.Limit{{"concurrent", 2 * time.Second, 1}},
			},
		},
		{
			// Each reserves the whole limit and gives half of it back after a second.
			name: "refunds", opts: []llmqueue.Option{llmqueue.WithLimits(llmqueue.TPM(100)), llmqueue.WithMargin(0)},
			load: alike(4, plan.Request{Duration: time.Second, Estimate: in(100), Used: in(50)}),
			want: plan.Result{
				Requests: 4, Makespan: 3*time.Minute + time.Second, LastStart: 3 * time.Minute, Used: in(200),
				Wait:   plan.Wait{90 * time.Second, time.Minute, 3 * time.Minute, 3 * time.Minute},
				Limits: []plan.Limit{{"100 tpm", 3 * time.Minute, 200. / 400}, {"concurrent", 0, 4 / 256. / 181}},
			},
		},
		{
			name: "a provider that gives nothing back", opts: []llmqueue.Option{llmqueue.WithLimits(llmqueue.TPM(100)), llmqueue.WithMargin(0), llmqueue.WithAccounting(accounting.Policy{NoRefund: true})},
			load: alike(2, plan.Request{Duration: time.Second, Estimate: in(60), Used: in(10)}),
			want: plan.Result{
				Requests: 2, Makespan: time.Minute + time.Second, LastStart: time.Minute, Used: in(20),
				Wait:   plan.Wait{30 * time.Second, 0, time.Minute, time.Minute},
				Limits: []plan.Limit{{"100 tpm", time.Minute, 120. / 200}, {"concurrent", 0, 2 / 256. / 61}},
			},
		},
		{
			// The first of unknown size takes all that there is. It tells after a second, then
			// two more fit.
			name: "unknown sizes", opts: []llmqueue.Option{llmqueue.WithLimits(llmqueue.TPM(100)), llmqueue.WithMargin(0)},
			load: alike(4, plan.Request{Duration: time.Second, Used: in(30)}),
			want: plan.Result{
				Requests: 4, Makespan: time.Minute + time.Second, LastStart: time.Minute, Used: in(120),
				Wait: plan.Wait{(2 + 60) * time.Second / 4, time.Second, time.Minute, time.Minute},
				Limits: []plan.Limit{
					{"100 tpm", time.Minute, 120. / 200}, {"concurrent", 0, 4 / 256. / 61},
				},
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := plan.Run(test.load, test.opts...)
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

func TestRunCountsWhatStartedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		prior := func(yield func(time.Time, llmqueue.Usage) bool) {
			for range 10 {
				yield(time.Now().Add(-20*time.Second), in(1))
			}
		}
		got, err := plan.Run(alike(1, plan.Request{}), llmqueue.WithLimits(llmqueue.RPM(10)), llmqueue.WithMargin(0), llmqueue.WithPriorUsage(prior))
		require.NoError(t, err)
		assert.Equal(t, 40*time.Second, got.LastStart)
		assert.InDelta(t, 0.1, limitOf(t, got, "10 rpm").Quota, 1e-9)

		got, err = plan.Run(alike(4, plan.Request{}), llmqueue.WithLimits(llmqueue.RPD(2).Daily(time.UTC)), llmqueue.WithMargin(0))
		require.NoError(t, err)
		assert.Equal(t, 24*time.Hour, got.LastStart, "a bubble begins at midnight")
		assert.InDelta(t, 1, got.Limits[0].Quota, 1e-9)
	})
}

func TestRunRefuses(t *testing.T) {
	fine := plan.Request{Estimate: in(1)}
	with := func(change func(*plan.Request)) plan.Request {
		r := fine
		change(&r)
		return r
	}
	loads := []struct {
		bad  plan.Request
		want error
		text string
	}{
		{with(func(r *plan.Request) { r.At = time.Second - 1 }), llmqueue.ErrInvalidParams, "sort the load by At"},
		{with(func(r *plan.Request) { r.At = -1 }), llmqueue.ErrInvalidParams, "At is -1ns"},
		{with(func(r *plan.Request) { r.At, r.Duration = time.Second, -1 }), llmqueue.ErrInvalidParams, "Duration is -1ns"},
		{with(func(r *plan.Request) { r.At, r.Estimate = time.Second, in(-1) }), llmqueue.ErrInvalidParams, "Estimate"},
		{with(func(r *plan.Request) { r.At, r.Used = time.Second, in(-1) }), llmqueue.ErrInvalidParams, "Used"},
		{with(func(r *plan.Request) { r.At, r.Estimate = time.Second, in(101) }), llmqueue.ErrRequestTooLarge, "100 tpm"},
	}
	for _, l := range loads {
		later := with(func(r *plan.Request) { r.At = time.Second })
		got, err := plan.Run(slices.Values([]plan.Request{fine, later, l.bad, fine}), llmqueue.WithLimits(llmqueue.TPM(100)))
		assert.ErrorIs(t, err, l.want)
		assert.ErrorContains(t, err, "request 2 of the load: ")
		assert.ErrorContains(t, err, l.text)
		assert.Equal(t, plan.Result{}, got)
	}
	none := alike(0, fine)
	for name, opts := range map[string][]llmqueue.Option{
		"no limits":    nil,
		"a bad limit":  {llmqueue.WithLimits(llmqueue.RPM(0))},
		"shared":       {llmqueue.WithSharedLimits(llmqueue.NewSharedLimits(llmqueue.RPM(1)))},
		"learned":      {llmqueue.WithLearnedLimits()},
		"a breaker":    {llmqueue.WithLimits(llmqueue.RPM(1)), llmqueue.WithBreaker(func(string) llmqueue.Breaker { return nil })},
		"a timeout":    {llmqueue.WithLimits(llmqueue.RPM(1)), llmqueue.WithTimeout(1)},
		"an observer":  {llmqueue.WithLimits(llmqueue.RPM(1)), llmqueue.WithObserver(func(llmqueue.Event) {})},
		"limits twice": {llmqueue.WithLimits(llmqueue.RPM(1)), llmqueue.WithUnlimited()},
		"a retry":      {llmqueue.WithLimits(llmqueue.RPM(1)), llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 2})},
	} {
		_, err := plan.Run(none, opts...)
		assert.ErrorIs(t, err, llmqueue.ErrInvalidConfiguration, name)
	}
	_, err := plan.Run(none, llmqueue.WithUnlimited())
	assert.NoError(t, err)

	// The mean of what others used can outgrow a limit for one that names no output.
	load := []plan.Request{{Estimate: in(60), Used: llmqueue.Usage{InputTokens: 10, OutputTokens: 60}, Duration: 1}, {Estimate: in(50)}}
	got, err := plan.Run(slices.Values(load), llmqueue.WithLimits(llmqueue.TPM(100)), llmqueue.WithAccounting(accounting.Policy{Reserve: accounting.ReserveMean}))
	assert.ErrorIs(t, err, llmqueue.ErrRequestTooLarge)
	assert.Equal(t, plan.Result{}, got)
}

func TestRunStopsPullingWhenItRefuses(t *testing.T) {
	pulled := 0
	_, err := plan.Run(func(yield func(plan.Request) bool) {
		for pulled++; yield(plan.Request{Duration: -1}); pulled++ {
		}
	}, llmqueue.WithUnlimited())
	assert.ErrorIs(t, err, llmqueue.ErrInvalidParams)
	assert.Equal(t, 1, pulled)
}

func BenchmarkRun(b *testing.B) {
	const n = 50_000
	b.ReportAllocs()
	for b.Loop() {
		r, err := plan.Run(alike(n, plan.Request{Duration: 8 * time.Second, Estimate: llmqueue.Usage{InputTokens: 600, OutputTokens: 400}}),
			llmqueue.WithLimits(llmqueue.RPM(5000), llmqueue.TPM(2_000_000), llmqueue.Concurrent(500)))
		require.NoError(b, err)
		require.EqualValues(b, n, r.Requests)
	}
}

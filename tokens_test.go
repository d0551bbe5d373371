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

type measured struct{ In, Out int64 }

func (s measured) EstimateUsage() Usage { return Usage{InputTokens: s.In, OutputTokens: s.Out} }

type measuredByPointer struct{ In, Out int64 }

func (s *measuredByPointer) EstimateUsage() Usage {
	return Usage{InputTokens: s.In, OutputTokens: s.Out}
}

// charged is what the first request of a fresh queue takes from TPM, ITPM and OTPM
// while it runs, and what its processor is told.
func charged[P any](t *testing.T, req Request[P], opts ...Option) (total, input, output int64) {
	synctest.Test(t, func(t *testing.T) {
		var told Usage
		q := newQueue(t, func(_ context.Context, r Request[P]) (int, error) {
			told = r.Estimate
			time.Sleep(time.Second)
			return 0, nil
		}, append(opts, WithLimits(TPM(1000), ITPM(1000), OTPM(1000)))...)
		id := post(t, q, req)
		synctest.Wait()
		l := q.Info().Limits
		total, input, output = l[0].Used, l[1].Used, l[2].Used
		_, err := q.Wait(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, Usage{InputTokens: input, OutputTokens: output}, told, "Request.Estimate in the processor is what was reserved")
	})
	return total, input, output
}

func TestWhatIsReserved(t *testing.T) {
	check := func(name string, wantIn, wantOut int64) func(total, input, output int64) {
		return func(total, input, output int64) {
			t.Helper()
			assert.Equal(t, [3]int64{wantIn + wantOut, wantIn, wantOut}, [3]int64{total, input, output}, name)
		}
	}
	by := Usage{InputTokens: 1, OutputTokens: 2}
	option := WithEstimator(func(r Request[measured]) Usage { return Usage{InputTokens: r.Params.In + 1, OutputTokens: 40} })
	unsure := WithEstimator(func(Request[measured]) Usage { return Usage{} })
	params := measured{10, 20}
	check("nothing known", 1000, 0)(charged(t, Request[int]{}))
	check("Request.Estimate", 1, 2)(charged(t, Request[int]{Estimate: by}))
	check("Params by value", 10, 20)(charged(t, Request[measured]{Params: params}))
	check("Params as pointer", 10, 20)(charged(t, Request[*measured]{Params: &params}))
	check("method on the pointer, Params by value", 10, 20)(charged(t, Request[measuredByPointer]{Params: measuredByPointer{10, 20}}))
	check("method on the pointer, Params as pointer", 10, 20)(charged(t, Request[*measuredByPointer]{Params: &measuredByPointer{10, 20}}))
	check("Params as interface", 10, 20)(charged(t, Request[any]{Params: params}))
	check("Params as an interface without the method", 1000, 0)(charged(t, Request[any]{Params: 7}))
	check("WithEstimator before Params", 11, 40)(charged(t, Request[measured]{Params: params}, option))
	check("Request.Estimate before WithEstimator", 1, 2)(charged(t, Request[measured]{Params: params, Estimate: by}, option))
	check("the last WithEstimator", 11, 40)(charged(t, Request[measured]{Params: params}, unsure, option))
}

func TestWrongEstimators(t *testing.T) {
	_, err := NewQueue("m", echo, WithUnlimited(), WithEstimator(func(Request[string]) Usage { return Usage{} }))
	require.ErrorIs(t, err, ErrInvalidConfiguration)
	_, err = NewQueue("m", echo, WithUnlimited(), WithEstimator[int](nil))
	require.ErrorIs(t, err, ErrInvalidConfiguration)

	q := newQueue(t, echo, WithUnlimited(), WithEstimator(func(r Request[int]) Usage {
		if r.Params == 0 {
			panic("boom")
		}
		return in(-1)
	}))
	for params := range 2 {
		resp, err := q.Submit(t.Context(), Request[int]{Params: params})
		require.ErrorIs(t, err, ErrInvalidParams)
		assert.Zero(t, resp)
	}
	assert.Zero(t, addsUp(t, q).Accepted)
}

// reports is a processor that reports its params as input and twice that as output.
func reports(ctx context.Context, r Request[int64]) (int, error) {
	time.Sleep(time.Second)
	ReportUsage(ctx, Usage{InputTokens: r.Params, OutputTokens: 2 * r.Params})
	return 0, nil
}

// What nobody knows is guessed from what came before: input and output apart.
func TestRunningMean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, reports, WithLimits(TPM(1000), ITPM(1000).Per(time.Hour), OTPM(1000).Per(time.Hour)), WithMargin(0))
		for _, n := range []int64{10, 20, 60} {
			_, err := q.Submit(t.Context(), Request[int64]{Params: n, Estimate: in(1)})
			require.NoError(t, err)
		}
		time.Sleep(time.Minute)
		post(t, q, Request[int64]{})
		synctest.Wait()
		l := q.Info().Limits
		assert.EqualValues(t, 30+60, l[0].Used)
		assert.EqualValues(t, 90+30, l[1].Used)
		assert.EqualValues(t, 180+60, l[2].Used)
	})
}

// A guess never makes a request impossible.
func TestMeanIsCappedAtTheLimits(t *testing.T) {
	for name, limits := range map[string][]Limit{
		"tpm": {TPM(50)}, "itpm": {ITPM(10)}, "otpm": {OTPM(10)}, "tpd": {TPD(50)},
		"all": {TPM(50), ITPM(10), OTPM(15), TPD(20)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, reports, WithLimits(limits...), WithMargin(0))
				for range 3 {
					_, err := q.Submit(t.Context(), Request[int64]{Params: 40})
					require.NoError(t, err)
				}
			})
		})
		t.Run("shared "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, reports, WithSharedLimits(NewSharedLimits(limits...)))
				for range 3 {
					_, err := q.Submit(t.Context(), Request[int64]{Params: 40})
					require.NoError(t, err)
				}
			})
		})
	}
}

// Until something is known of sizes, each request of unknown size reserves a part of the
// smallest limit on tokens, and what stands behind them waits its turn.
func TestUnknownSizesReserveAPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
			time.Sleep(10 * time.Second)
			ReportUsage(ctx, in(10))
			return 0, nil
		}, WithLimits(TPM(20_000)))
		post(t, q, Request[int]{ID: "known before", Estimate: in(1)})
		for range 20 {
			post(t, q, Request[int]{})
		}
		behind := post(t, q, Request[int]{Estimate: in(1)})
		synctest.Wait()
		assert.Equal(t, 1+15, q.Info().Processing, "of 1,250 tokens each")
		assert.EqualValues(t, 1+15*1250, q.Info().Limits[0].Used)
		assert.Equal(t, StatusPending, status(t, q, behind).Status)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Equal(t, 5+1, q.Info().Processing, "all at once when some have settled")
		assert.EqualValues(t, 16*10+5*10+1, q.Info().Limits[0].Used, "they reserve the mean")
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

func TestWhatUnknownSizesReserve(t *testing.T) {
	for _, c := range []struct {
		limits []Limit
		want   int64
	}{
		{[]Limit{TPM(160_000)}, 10_000},
		{[]Limit{TPM(160_000), ITPM(48_000)}, 3000},
		{[]Limit{TPM(3000)}, 1000},
		{[]Limit{TPM(500)}, 500},
	} {
		t.Run(fmt.Sprint(c.limits), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, sleeper, WithLimits(c.limits...))
				post(t, q, Request[int]{Params: 1})
				synctest.Wait()
				assert.Equal(t, c.want, q.Info().Limits[0].Used)
			})
		})
	}
}

// An unknown one that fails without a report says nothing, and what it reserved stays taken.
func TestFailuresTellNoSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a admissions
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			a.note(r.ID, r.Estimate)
			time.Sleep(time.Second)
			if r.Params < 2 {
				return 0, errBoom
			}
			ReportUsage(ctx, in(10))
			return 0, nil
		}, WithLimits(TPM(1000)), WithMargin(0))
		begin := time.Now()
		for i := range 6 {
			post(t, q, Request[int]{Params: i})
		}
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, []float64{0, 60, 120, 121, 121, 121}, a.seconds(begin))
	})
}

// Without token limits nothing is reserved for it.
func TestUnknownSizesWithoutTokenLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithLimits(RPM(100)))
		for range 10 {
			post(t, q, Request[int]{Params: 1})
		}
		assert.Equal(t, 10, q.Info().Processing)
	})
}

// Nor does one that is canceled: what waits goes on without knowing.
func TestCanceledRequestsTellNoSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithLimits(TPM(1000)), WithMargin(0))
		id := post(t, q, Request[int]{Params: 10})
		next := post(t, q, Request[int]{Params: 1})
		require.NoError(t, q.Cancel(id))
		resp, err := q.Wait(t.Context(), next)
		require.NoError(t, err)
		assert.Equal(t, 61*time.Second, resp.FinishedAt.Sub(resp.CreatedAt))
	})
}

// A request that says that it uses no tokens is one of known size.
func TestEstimateOfOneIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithLimits(TPM(1000)))
		for range 5 {
			post(t, q, Request[int]{Params: 1, Estimate: in(1)})
		}
		assert.Equal(t, 5, q.Info().Processing)
	})
}

// settling runs one request that reserves, takes so long and reports.
func settling(ctx context.Context, r Request[[2]int64]) (int, error) {
	time.Sleep(time.Duration(r.Params[0]) * time.Second)
	if r.Params[1] >= 0 {
		ReportUsage(ctx, in(r.Params[1]))
	}
	return 0, nil
}

// A reservation is settled in the window entry that it was made in.
func TestSettling(t *testing.T) {
	for _, c := range []struct {
		name           string
		reserve, takes int64
		reports        int64
		used           []int64 // at 59, 61, 89, 91, 149 and 151 s
	}{
		{"as reserved", 50, 20, 50, []int64{50, 0, 0, 0, 0, 0}},
		{"no report: the reservation stands", 50, 20, -1, []int64{50, 0, 0, 0, 0, 0}},
		{"refund", 50, 20, 10, []int64{10, 0, 0, 0, 0, 0}},
		{"everything refunded", 50, 20, 0, []int64{0, 0, 0, 0, 0, 0}},
		{"overrun", 50, 20, 80, []int64{80, 0, 0, 0, 0, 0}},
		{"overrun above the limit", 50, 20, 300, []int64{300, 0, 0, 0, 0, 0}},
		{"refund after the window does nothing", 50, 90, 10, []int64{50, 0, 0, 0, 0, 0}},
		{"overrun after the window is charged when it is known", 50, 90, 80, []int64{50, 0, 0, 30, 30, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shared := NewSharedLimits(TPM(100))
				q := newQueue(t, settling, WithLimits(TPM(100), ITPM(100), OTPM(100)), WithMargin(0), WithSharedLimits(shared))
				post(t, q, Request[[2]int64]{Params: [2]int64{c.takes, c.reports}, Estimate: in(c.reserve)})
				synctest.Wait()
				assert.EqualValues(t, c.reserve, q.Info().Limits[0].Used)
				begin := time.Now()
				for i, at := range []time.Duration{59, 61, 89, 91, 149, 151} {
					time.Sleep(time.Until(begin.Add(at*time.Second + time.Duration(i%2)*250*time.Millisecond)))
					synctest.Wait()
					info := q.Info()
					assert.Equal(t, c.used[i], info.Limits[0].Used, "tpm at %v s", int(at))
					assert.Equal(t, c.used[i], info.Limits[1].Used, "itpm at %v s", int(at))
					assert.Zero(t, info.Limits[2].Used, "otpm")
					assert.Equal(t, max(100-c.used[i], 0), info.Limits[0].Available)
					if i%2 == 1 {
						assert.Equal(t, c.used[i], info.Endpoints[0].Shared[0].Used, "shared at %v s", int(at))
					}
				}
			})
		})
	}
}

// Nothing starts while an overrun fills the window, not even what reserves nothing.
func TestNothingStartsOverAnOverrun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, settling, WithLimits(TPM(100)), WithMargin(0))
		_, err := q.Submit(t.Context(), Request[[2]int64]{Params: [2]int64{10, 150}, Estimate: in(10)})
		require.NoError(t, err)
		resp, err := q.Submit(t.Context(), Request[[2]int64]{Params: [2]int64{0, 0}, Estimate: in(1)})
		require.NoError(t, err)
		assert.Equal(t, 50*time.Second, resp.WaitTime())
	})
}

// A refund lets the next start at that very moment.
func TestRefundStartsTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, settling, WithLimits(TPM(100)), WithMargin(0))
		post(t, q, Request[[2]int64]{Params: [2]int64{7, 20}, Estimate: in(100)})
		resp, err := q.Submit(t.Context(), Request[[2]int64]{Estimate: in(80)})
		require.NoError(t, err)
		assert.Equal(t, 7*time.Second, resp.WaitTime())
	})
}

func TestReportUsageReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept context.Context
		q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
			kept = ctx
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			ReportUsage(ctx, in(70))
			ReportUsage(derived, Usage{InputTokens: 20, OutputTokens: -5, CachedInputTokens: 10})
			return 0, nil
		}, WithLimits(TPM(100)))
		resp, err := q.Submit(t.Context(), Request[int]{ID: "r", Estimate: in(50)})
		require.NoError(t, err)
		assert.Equal(t, Usage{InputTokens: 20, CachedInputTokens: 10}, resp.Usage, "the last counts, negative is none")
		assert.EqualValues(t, 20, q.Info().Limits[0].Used)
		ReportUsage(kept, in(99))
		assert.Equal(t, resp.Usage, status(t, q, "r").Usage, "after the end it does nothing")
		assert.NotPanics(t, func() { ReportUsage(t.Context(), in(1)) })
	})
}

type paid struct{ In int64 }

func (p paid) TokenUsage() Usage { return in(p.In) }

type paidByPointer struct{ In int64 }

func (p *paidByPointer) TokenUsage() Usage { return in(p.In) }

// settledBy is what a request that reserved 50 counts for in the end.
func settledBy[T any](t *testing.T, process func(ctx context.Context) (T, error)) (used int64, reported Usage) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, func(ctx context.Context, _ Request[int]) (T, error) { return process(ctx) }, WithLimits(TPM(100)))
		resp, _ := q.Submit(t.Context(), Request[int]{Estimate: in(50)})
		used, reported = q.Info().Limits[0].Used, resp.Usage
	})
	return used, reported
}

func TestUsageReporter(t *testing.T) {
	expect := func(name string, want int64, known bool) func(used int64, reported Usage) {
		return func(used int64, reported Usage) {
			t.Helper()
			assert.Equal(t, want, used, name)
			if known {
				assert.Equal(t, in(want), reported, name)
			} else {
				assert.Zero(t, reported, name)
			}
		}
	}
	expect("by value", 30, true)(settledBy(t, func(context.Context) (paid, error) { return paid{30}, nil }))
	expect("value as pointer", 30, true)(settledBy(t, func(context.Context) (*paid, error) { return &paid{30}, nil }))
	expect("method on the pointer, by value", 30, true)(settledBy(t, func(context.Context) (paidByPointer, error) { return paidByPointer{30}, nil }))
	expect("method on the pointer, as pointer", 30, true)(settledBy(t, func(context.Context) (*paidByPointer, error) { return &paidByPointer{30}, nil }))
	expect("as interface", 30, true)(settledBy(t, func(context.Context) (any, error) { return paid{30}, nil }))
	expect("an interface without it", 50, false)(settledBy(t, func(context.Context) (any, error) { return 7, nil }))
	expect("zero is no report", 50, false)(settledBy(t, func(context.Context) (paid, error) { return paid{}, nil }))
	expect("beside an error is no report", 50, false)(settledBy(t, func(context.Context) (paid, error) { return paid{30}, errBoom }))
	expect("ReportUsage wins", 40, true)(settledBy(t, func(ctx context.Context) (paid, error) {
		ReportUsage(ctx, in(40))
		return paid{30}, nil
	}))
	expect("ReportUsage beside an error", 40, true)(settledBy(t, func(ctx context.Context) (paid, error) {
		ReportUsage(ctx, in(40))
		return paid{30}, errBoom
	}))
	expect("a result method that panics", 50, false)(settledBy(t, func(context.Context) (*paid, error) { return nil, nil }))
}

// Every attempt is charged, and Response.Usage is all of them together.
func TestUsageOfAllAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n int64
		q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
			n++
			if n == 2 {
				return 0, Retryable(errBoom) // no report
			}
			ReportUsage(ctx, in(10*n))
			if n < 4 {
				return 0, Retryable(errBoom)
			}
			return 0, nil
		}, WithLimits(RPM(100), TPM(1000)))
		resp, err := q.Submit(t.Context(), Request[int]{ID: "r", Estimate: in(50)})
		require.NoError(t, err)
		assert.Equal(t, 4, resp.Attempts)
		assert.Equal(t, in(10+30+40), resp.Usage)
		i := q.Info()
		assert.EqualValues(t, 4, i.Limits[0].Used)
		assert.EqualValues(t, 10+50+30+40, i.Limits[1].Used)
		assert.EqualValues(t, 3, i.Retries)
		assert.Equal(t, in(80), i.Usage)

		require.NoError(t, q.UpdateUsage("r", in(7)))
		assert.Equal(t, in(10+30+7), status(t, q, "r").Usage, "it replaces the last attempt's share")
		assert.EqualValues(t, 10+50+30+7, q.Info().Limits[1].Used)
	})
}

package llmqueue

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The benchmarks of docs/performance.md. Each measures the library and, in the same
// run, the bare channel construction that its ratio refers to.

// roomy limits are checked on every request and never bind.
func roomy(workers int64) Option {
	return WithLimits(RPM(1<<40), TPM(1<<40), Concurrent(workers))
}

// reporting is the processor of the benchmarks.
func reporting(ctx context.Context, r Request[int]) (int, error) {
	ReportUsage(ctx, Usage{InputTokens: 10, OutputTokens: 5})
	return r.Params, nil
}

var sized = Usage{InputTokens: 10, OutputTokens: 10}

// handoff is the bare construction: a channel of jobs, workers, and one reused result
// channel per caller, with a select on ctx.Done.
type handoff struct{ jobs chan handoffJob }

type handoffJob struct {
	params int
	result chan int
}

func newHandoff(workers int) *handoff {
	h := &handoff{jobs: make(chan handoffJob)}
	for range workers {
		go func() {
			for j := range h.jobs {
				j.result <- j.params
			}
		}()
	}
	return h
}

func (h *handoff) do(ctx context.Context, result chan int, params int) int {
	select {
	case h.jobs <- handoffJob{params, result}:
	case <-ctx.Done():
		return 0
	}
	select {
	case r := <-result:
		return r
	case <-ctx.Done():
		return 0
	}
}

// BenchmarkRoundTrip submits and waits: what is checked on every request are limits of
// requests, tokens and slots, the context can be canceled, and the processor reports its usage.
func BenchmarkRoundTrip(b *testing.B) {
	for _, load := range []struct{ callers, workers int }{{1, 16}, {128, 16}} {
		b.Run(fmt.Sprintf("callers=%d", load.callers), func(b *testing.B) {
			ctx := b.Context()
			h := newHandoff(load.workers)
			defer close(h.jobs)
			q := newQueue(b, reporting, roomy(int64(load.workers)))
			versus(b, "x-handoff", contestant{do: func(n int) {
				inParallel(load.callers, n, func() func() {
					return func() {
						if _, err := q.Submit(ctx, Request[int]{Params: 1, Estimate: sized}); err != nil {
							b.Error(err)
						}
					}
				})
			}}, contestant{do: func(n int) {
				inParallel(load.callers, n, func() func() {
					result := make(chan int, 1)
					return func() { h.do(ctx, result, 1) }
				})
			}})
		})
	}
}

// Acquire and Done without waiting, on the caller's goroutine, against the hand-off.
func BenchmarkAcquire(b *testing.B) {
	for _, load := range []struct{ callers, workers int }{{1, 16}, {128, 16}} {
		b.Run(fmt.Sprintf("callers=%d", load.callers), func(b *testing.B) {
			ctx := b.Context()
			h := newHandoff(load.workers)
			defer close(h.jobs)
			q := newQueue(b, reporting, roomy(int64(load.workers)))
			versus(b, "x-handoff", contestant{do: func(n int) {
				inParallel(load.callers, n, func() func() {
					return func() {
						p, err := q.Acquire(ctx, Claim{Estimate: sized})
						if err != nil {
							b.Error(err)
							return
						}
						ReportUsage(p.Context(), Usage{InputTokens: 10, OutputTokens: 5})
						if err := p.Done(nil); err != nil {
							b.Error(err)
						}
					}
				})
			}}, contestant{do: func(n int) {
				inParallel(load.callers, n, func() func() {
					result := make(chan int, 1)
					return func() { h.do(ctx, result, 1) }
				})
			}})
		})
	}
}

// versus measures subject beside reference, b.N operations each: both in every pass and in
// turns, so that what the machine does meanwhile strikes both alike. The medians of the
// passes are reported: the subject's time, bytes and allocations as the benchmark's own, the
// reference's time, and the ratio of the two, in unit. It needs a hundred thousand
// operations or so to say anything about operations of a microsecond.
//
// Two processors, as wherever the figures of docs/performance.md come from: with more, what
// hands over to another goroutine is measured differently.
func versus(b *testing.B, unit string, subject, reference contestant) {
	b.Helper()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	b.ReportAllocs()
	passes := min(b.N, 15)
	subject.measure(min(b.N, 20_000)) // more than the history holds, so that it is full
	reference.measure(min(b.N, 20_000))
	var ns, bare, ratios, bytes, allocs []float64
	b.ResetTimer()
	for pass := range passes {
		n := (b.N + pass) / passes // of all passes together b.N
		var own, other spent
		if pass%2 == 0 {
			other, own = reference.measure(n), subject.measure(n)
		} else {
			own, other = subject.measure(n), reference.measure(n)
		}
		ns, bare, ratios = append(ns, own.ns), append(bare, other.ns), append(ratios, own.ns/other.ns)
		bytes, allocs = append(bytes, own.bytes), append(allocs, own.allocs)
	}
	b.StopTimer()
	b.ReportMetric(median(ns), "ns/op")
	b.ReportMetric(median(bare), "reference-ns/op")
	b.ReportMetric(median(ratios), unit)
	b.ReportMetric(median(bytes), "B/op")
	b.ReportMetric(median(allocs), "allocs/op")
}

// contestant is one side of a comparison: do does n operations, and undo, if there is one, what
// brings everything back to where it was, which does not count.
type contestant struct {
	do   func(n int)
	undo func()
}

// spent is what one operation of several cost.
type spent struct{ ns, bytes, allocs float64 }

// measure does n operations, without the garbage of what came before.
func (c contestant) measure(n int) spent {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	c.do(n)
	took := time.Since(begin)
	runtime.ReadMemStats(&after)
	if c.undo != nil {
		c.undo()
	}
	per := func(total uint64) float64 { return float64(total) / float64(n) }
	return spent{per(uint64(took)), per(after.TotalAlloc - before.TotalAlloc), per(after.Mallocs - before.Mallocs)}
}

func median(values []float64) float64 {
	slices.Sort(values)
	half := len(values) / 2
	return (values[half] + values[(len(values)-1)/2]) / 2
}

// inParallel shares n calls between callers.
func inParallel(callers, n int, caller func() func()) {
	var left atomic.Int64
	left.Store(int64(n))
	var all sync.WaitGroup
	for range callers {
		do := caller()
		all.Go(func() {
			for left.Add(-1) >= 0 {
				do()
			}
		})
	}
	all.Wait()
}

// BenchmarkFireAndForget submits 100,000 and drains them, with 16 workers.
func BenchmarkFireAndForget(b *testing.B) {
	const n = 100_000
	b.Run("channel", func(b *testing.B) {
		for b.Loop() {
			jobs := make(chan int, n)
			var all sync.WaitGroup
			all.Add(n)
			for range 16 {
				go func() {
					for range jobs {
						all.Done()
					}
				}()
			}
			for i := range n {
				jobs <- i
			}
			all.Wait()
			close(jobs)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/item")
	})
	b.Run("queue", func(b *testing.B) {
		for b.Loop() {
			q := newQueue(b, reporting, roomy(16))
			for i := range n {
				if _, err := q.Submit(context.Background(), Request[int]{Params: i, NoWait: true, Estimate: sized}); err != nil {
					b.Fatal(err)
				}
			}
			if err := q.Shutdown(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/item")
	})
}

// BenchmarkBacklog submits with n waiting already and starts as many, so that the
// line stays n long.
func BenchmarkBacklog(b *testing.B) {
	for _, tenants := range []int{1, 1000} {
		for _, n := range []int{10_000, 1_000_000} {
			b.Run(fmt.Sprintf("tenants=%d/waiting=%d", tenants, n), func(b *testing.B) {
				names := make([]string, tenants)
				for i := range names {
					names[i] = fmt.Sprint("tenant-", i)
				}
				gate := make(chan struct{})
				q := newQueue(b, func(ctx context.Context, r Request[int]) (int, error) {
					select {
					case <-gate:
					case <-ctx.Done():
					}
					return reporting(ctx, r)
				}, roomy(1))
				i := 0
				submit := func() {
					i++
					r := Request[int]{Params: i, NoWait: true, Estimate: sized, Tenant: names[i%tenants]}
					if _, err := q.Submit(context.Background(), r); err != nil {
						b.Fatal(err)
					}
				}
				for range n {
					submit()
				}
				b.ResetTimer()
				for range b.N {
					submit()
					gate <- struct{}{}
				}
			})
		}
	}
}

// BenchmarkLateness measures how much later than its instant a request starts when a
// window opens, and how late a bare timer is in the same run.
func BenchmarkLateness(b *testing.B) {
	const period = 5 * time.Millisecond
	b.Run("timer", func(b *testing.B) {
		var late time.Duration
		for range b.N {
			due := time.Now().Add(period)
			fired := make(chan time.Time, 1)
			time.AfterFunc(period, func() { fired <- time.Now() })
			late += (<-fired).Sub(due)
		}
		b.ReportMetric(float64(late.Nanoseconds())/float64(b.N), "ns-late")
	})
	b.Run("queue", func(b *testing.B) {
		q := newQueue(b, func(context.Context, Request[int]) (time.Time, error) { return time.Now(), nil },
			WithLimits(RPM(1).Per(period)), WithMargin(0))
		var late time.Duration
		last := time.Now()
		for i := range b.N + 1 {
			resp, err := q.Submit(context.Background(), Request[int]{})
			if err != nil {
				b.Fatal(err)
			}
			if i > 0 {
				late += resp.Result.Sub(last.Add(period))
			}
			last = resp.StartedAt
		}
		b.ReportMetric(float64(late.Nanoseconds())/float64(b.N), "ns-late")
	})
}

// BenchmarkObservers is the round trip of one caller with what watches a queue, each
// against none: an observer, a logger that drops all lines by their level, one that
// formats each, and a middleware that does nothing.
func BenchmarkObservers(b *testing.B) {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	loud := slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, c := range []struct {
		name string
		opt  Option
	}{
		{"none", Option{}},
		{"observer", WithObserver(func(Event) {})},
		{"logger", WithLogger(quiet)},
		{"logger-debug", WithLogger(loud)},
		{"middleware", WithMiddleware(func(ctx context.Context, _ Attempt, next func(context.Context) error) error { return next(ctx) })},
	} {
		b.Run(c.name, func(b *testing.B) {
			ctx := b.Context()
			q := newQueue(b, reporting, roomy(16), c.opt)
			b.ReportAllocs()
			b.ResetTimer()
			inParallel(1, b.N, func() func() {
				return func() {
					if _, err := q.Submit(ctx, Request[int]{Params: 1, Estimate: sized}); err != nil {
						b.Error(err)
					}
				}
			})
			b.StopTimer()
			b.ReportMetric(float64(q.Info().Dropped)/float64(b.N), "dropped/op")
		})
	}
}

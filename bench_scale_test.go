package llmqueue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The benchmarks of what must not grow with what waits: docs/performance.md, "A long
// line". Where one says "versus", it measures the same operation with much and with little
// waiting, in turns, and the ratio of the two is its metric.

// firstPage is one page of what a queue holds.
func firstPage[P, T any](q *Queue[P, T], limit int) []RequestInfo {
	return q.Requests(RequestFilter{Limit: limit})
}

// blocked is a queue with one slot, which a first request holds until the benchmark ends:
// everything else waits.
func blocked(b *testing.B, opts ...Option) *Queue[int, int] {
	b.Helper()
	started := make(chan struct{})
	q := newQueue(b, func(ctx context.Context, _ Request[int]) (int, error) {
		close(started)
		<-ctx.Done()
		return 0, ctx.Err()
	}, append(opts, roomy(1))...)
	enqueue(b, q, Request[int]{Priority: 1 << 30, Tenant: "first"})
	<-started
	return q
}

// enqueue submits a request that nobody waits for. Without an estimate it gets one.
func enqueue(b *testing.B, q *Queue[int, int], r Request[int]) string {
	r.NoWait = true
	if r.Estimate == (Usage{}) {
		r.Estimate = sized
	}
	resp, err := q.Submit(context.Background(), r)
	if err != nil {
		b.Fatal(err)
	}
	return resp.RequestID
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkWaitingMemory is the memory of a waiting fire-and-forget request, its eight
// bytes of params included.
func BenchmarkWaitingMemory(b *testing.B) {
	const n = 1_000_000
	for _, tenants := range []int{1, 1000} {
		b.Run(fmt.Sprintf("waiting=%d/tenants=%d", n, tenants), func(b *testing.B) {
			names := make([]string, tenants)
			for i := range names {
				names[i] = fmt.Sprint("tenant-", i)
			}
			var each []float64
			for range b.N {
				q := blocked(b)
				before := heapInUse()
				for i := range n {
					enqueue(b, q, Request[int]{Params: i, Tenant: names[i%tenants]})
				}
				each = append(each, float64(heapInUse()-before)/n)
				_ = q.Shutdown(ended())
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(each), "B/request")
		})
	}
}

// BenchmarkIdleQueues is the memory of 100 queues that do nothing, each with three
// observers.
func BenchmarkIdleQueues(b *testing.B) {
	const queues = 100
	var each []float64
	for range b.N {
		before := heapInUse()
		all := make([]*Queue[int, int], queues)
		for i := range all {
			seen := WithObserver(func(Event) {})
			all[i] = newQueue(b, reporting, roomy(16), seen, seen, seen)
		}
		each = append(each, float64(heapInUse()-before)/1e6)
		for _, q := range all {
			_ = q.Shutdown(b.Context())
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(each), "heap-MB")
}

// BenchmarkPage lists requests that wait: a page of 200 where 100,000 do, each in a tenant
// of its own, and 20,000 requests at once that wait in one tenant. The metric ns/request is
// the time of each request that is listed.
func BenchmarkPage(b *testing.B) {
	for _, c := range []struct{ waiting, tenants, listed int }{{100_000, 100_000, 200}, {20_000, 1, 20_000}} {
		b.Run(fmt.Sprintf("waiting=%d/tenants=%d/listed=%d", c.waiting, c.tenants, c.listed), func(b *testing.B) {
			q := blocked(b)
			for i := range c.waiting {
				enqueue(b, q, Request[int]{Params: i, Tenant: fmt.Sprint("tenant-", i%c.tenants)})
			}
			b.ReportAllocs()
			for b.Loop() {
				if got := len(firstPage(q, c.listed)); got != c.listed {
					b.Fatalf("%d requests on a page of %d", got, c.listed)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*c.listed), "ns/request")
		})
	}
}

// submitting submits to q what next makes, and cancels it in the pause after each turn, so
// that the line stays as long as it was.
func submitting(b *testing.B, q *Queue[int, int], next func() Request[int]) contestant {
	var ids []string
	return contestant{
		do: func(n int) {
			for range n {
				ids = append(ids, enqueue(b, q, next()))
			}
		},
		undo: func() {
			for _, id := range ids {
				if err := q.Cancel(id); err != nil {
					b.Error(err)
				}
			}
			ids = ids[:0]
		},
	}
}

// BenchmarkSubmitPriorities submits into a line of 40,000: with as many priorities, versus
// ten.
func BenchmarkSubmitPriorities(b *testing.B) {
	const waiting = 40_000
	with := func(priorities int) contestant {
		q := blocked(b)
		// From the highest down, so that filling the line costs the same whatever finds a level.
		for i := range waiting {
			enqueue(b, q, Request[int]{Priority: (waiting - 1 - i) % priorities})
		}
		seed := rand.New(rand.NewPCG(1, 2))
		return submitting(b, q, func() Request[int] { return Request[int]{Priority: seed.IntN(priorities)} })
	}
	versus(b, "x-ten-priorities", with(waiting), with(10))
}

// BenchmarkSubmitCoalesced submits fire-and-forget requests that share calls, with 12,000
// waiting versus 120: all of them share one call, or each new one shares that of one that waits.
func BenchmarkSubmitCoalesced(b *testing.B) {
	const many, few = 12_000, 120
	with := func(b *testing.B, waiting, calls int) contestant {
		q := blocked(b, WithCoalescing(func(r Request[int]) string { return fmt.Sprint(r.Params) }))
		for i := range waiting {
			enqueue(b, q, Request[int]{Params: 1 + i%calls})
		}
		i := 0
		return submitting(b, q, func() Request[int] { i++; return Request[int]{Params: 1 + i%calls} })
	}
	for name, calls := range map[string]func(waiting int) int{
		"one-call":   func(int) int { return 1 },
		"call-each":  func(waiting int) int { return waiting },
		"ten-a-call": func(waiting int) int { return waiting / 10 },
	} {
		b.Run(name, func(b *testing.B) {
			versus(b, "x-120", with(b, many, calls(many)), with(b, few, calls(few)))
		})
	}
}

// BenchmarkSubmitBackfill submits to a queue that lets small requests pass, behind a head
// that waits for tokens and while nothing fits, with 100,000 waiting in as many tenants
// versus 10.
func BenchmarkSubmitBackfill(b *testing.B) {
	with := func(tenants int) contestant {
		q := newQueue(b, reporting, WithBackfill(), WithLimits(RPM(1<<40), TPM(1000).Per(time.Hour), Concurrent(16)))
		whole := Usage{InputTokens: 1000}
		if _, err := q.Submit(b.Context(), Request[int]{Estimate: whole}); err != nil {
			b.Fatal(err)
		}
		names := make([]string, tenants)
		q.Pause() // so that nothing looks for what may pass while the line is filled
		for i := range names {
			names[i] = fmt.Sprint("tenant-", i)
			enqueue(b, q, Request[int]{Tenant: names[i], Estimate: whole})
		}
		q.Resume()
		i := 0
		return submitting(b, q, func() Request[int] { i++; return Request[int]{Tenant: names[i%tenants], Estimate: whole} })
	}
	versus(b, "x-ten-tenants", with(100_000), with(10))
}

// BenchmarkLenCoalesced asks how many wait: 100,000 with a call each, versus 100.
func BenchmarkLenCoalesced(b *testing.B) {
	with := func(waiting int) contestant {
		q := blocked(b, WithCoalescing(func(r Request[int]) string { return fmt.Sprint(r.Params) }))
		for i := range waiting {
			enqueue(b, q, Request[int]{Params: i + 1})
		}
		return contestant{do: func(n int) {
			for range n {
				if got := q.Len(); got != waiting {
					b.Fatalf("%d wait, not %d", got, waiting)
				}
			}
		}}
	}
	versus(b, "x-100", with(100_000), with(100))
}

// BenchmarkObserve tells the queue, from inside a processor, of a provider's limit that
// changed, while 500,000 wait versus 50: one that lowers the amount by one each time. And
// it tells it once of calls that come too fast, which shortens the bursts.
func BenchmarkObserve(b *testing.B) {
	const many, few = 500_000, 50
	with := func(b *testing.B, waiting int) (observe func(Observation)) {
		say, said := make(chan Observation), make(chan struct{})
		q := newQueue(b, func(ctx context.Context, _ Request[int]) (int, error) {
			for {
				select {
				case o := <-say:
					Observe(ctx, o)
					said <- struct{}{}
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			}
		}, WithLimits(RPM(1<<30), TPM(1<<40), Concurrent(1)))
		for i := range waiting + 1 {
			enqueue(b, q, Request[int]{Params: i})
		}
		return func(o Observation) { say <- o; <-said }
	}
	b.Run("limit", func(b *testing.B) {
		lower := func(observe func(Observation)) contestant {
			amount := int64(1 << 29)
			return contestant{do: func(n int) {
				for range n {
					amount--
					observe(Observation{Limits: []ObservedLimit{{Kind: KindRPM, Amount: amount, Remaining: -1}}})
				}
			}}
		}
		versus(b, "x-50", lower(with(b, many)), lower(with(b, few)))
	})
	b.Run("burst", func(b *testing.B) {
		// Bursts are shortened once for each call that was refused: so once for a queue.
		var long, short []float64
		for range b.N {
			tooFast := func(waiting int) float64 {
				observe := with(b, waiting)
				return contestant{do: func(int) { observe(Observation{Outcome: OutcomeSlowDown, Delay: time.Hour}) }}.measure(1).ns
			}
			long, short = append(long, tooFast(many)), append(short, tooFast(few))
		}
		b.ReportMetric(median(long), "ns/op")
		b.ReportMetric(median(short), "reference-ns/op")
		b.ReportMetric(median(long)/median(short), "x-50")
	})
}

// BenchmarkStatusDeep asks where a request is, anywhere in a line: of 100,000 and of
// 10,000, versus one of 100.
func BenchmarkStatusDeep(b *testing.B) {
	with := func(b *testing.B, waiting int) contestant {
		q := blocked(b)
		ids := make([]string, waiting)
		for i := range ids {
			ids[i] = enqueue(b, q, Request[int]{Params: i})
		}
		seed := rand.New(rand.NewPCG(1, 2))
		return contestant{do: func(n int) {
			for range n {
				if _, err := q.Status(ids[seed.IntN(waiting)]); err != nil {
					b.Fatal(err)
				}
			}
		}}
	}
	for _, waiting := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			versus(b, "x-100", with(b, waiting), with(b, 100))
		})
	}
}

// BenchmarkPollers offers 3,000 calls a second and counts those that complete: half a
// second without pollers, then half a second while 200 of them ask every 10 ms where one of
// 10,000 requests is that wait behind the calls. The ratio of the two counts is its metric.
//
// A hundred callers make a call every 33 ms each and wait for it. One that is late makes the
// next at once, and what it missed is not made up. What waits behind them needs all tokens of a minute, of which every
// call takes some, so that none of it starts.
func BenchmarkPollers(b *testing.B) {
	const (
		callers, every  = 100, time.Second / 30
		pollers, asking = 200, 10 * time.Millisecond
		waiting, turn   = 10_000, 500 * time.Millisecond
	)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	q := newQueue(b, reporting, WithLimits(RPM(1<<40), TPM(1<<30), Concurrent(16)))
	call := Request[int]{Priority: 1, Estimate: sized}
	if _, err := q.Submit(b.Context(), call); err != nil {
		b.Fatal(err)
	}
	ids := make([]string, waiting)
	for i := range ids {
		resp, err := q.Submit(b.Context(), Request[int]{NoWait: true, Estimate: Usage{InputTokens: 1 << 30}})
		if err != nil {
			b.Fatal(err)
		}
		ids[i] = resp.RequestID
	}
	// during runs the callers and so many pollers for a turn.
	during := func(pollers int) (called, asked float64) {
		ctx, cancel := context.WithTimeout(b.Context(), turn)
		defer cancel()
		var calls, questions atomic.Int64
		var all sync.WaitGroup
		tick := func(each time.Duration, part float64, do func()) {
			all.Go(func() {
				// Not all at the same instant.
				select {
				case <-time.After(time.Duration(part * float64(each))):
				case <-ctx.Done():
					return
				}
				ticker := time.NewTicker(each)
				defer ticker.Stop()
				for ctx.Err() == nil {
					do()
					select {
					case <-ticker.C:
					case <-ctx.Done():
					}
				}
			})
		}
		for i := range callers {
			tick(every, float64(i)/callers, func() {
				if _, err := q.Submit(ctx, call); err == nil {
					calls.Add(1)
				}
			})
		}
		for i := range pollers {
			tick(asking, float64(i)/float64(pollers), func() {
				if _, err := q.Status(ids[waiting-1-i]); err != nil {
					b.Error(err)
				}
				questions.Add(1)
			})
		}
		all.Wait()
		return float64(calls.Load()) / turn.Seconds(), float64(questions.Load()) / turn.Seconds()
	}
	during(0) // warms up
	var alone, polled, asked, ratios []float64
	b.ResetTimer()
	for range b.N {
		a, _ := during(0)
		p, s := during(pollers)
		alone, polled, asked, ratios = append(alone, a), append(polled, p), append(asked, s), append(ratios, p/a)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(alone), "calls/s-alone")
	b.ReportMetric(median(polled), "calls/s-polled")
	b.ReportMetric(median(asked), "polls/s")
	b.ReportMetric(median(ratios), "x-alone")
}

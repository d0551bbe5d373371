//go:build unix

package llmprom_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmprom"
)

func reporting(ctx context.Context, r llmqueue.Request[int]) (int, error) {
	llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 10, OutputTokens: 5})
	return r.Params, nil
}

func benchQueue(b *testing.B, opts ...llmqueue.Option) *llmqueue.Queue[int, int] {
	b.Helper()
	q, err := llmqueue.NewQueue("gpt", reporting, append(opts,
		llmqueue.WithLimits(llmqueue.RPM(1<<40), llmqueue.TPM(1<<40), llmqueue.Concurrent(16)))...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { q.Shutdown(context.Background()) })
	return q
}

// BenchmarkObserved submits and waits, in turns of 20,000 calls without a collector and
// with one, so that both meet the same machine. Turns are long enough that the events
// which the observer still has when one ends, 4,096 at most, cost the next one little. The
// processor time of all goroutines is told too, which a busy machine disturbs less.
func BenchmarkObserved(b *testing.B) {
	const turn = 20_000
	for _, callers := range []int{1, 128} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			metrics := llmprom.New()
			bare, observed := benchQueue(b), benchQueue(b, metrics.Observe())
			if err := metrics.AddQueue(observed); err != nil {
				b.Fatal(err)
			}
			for _, q := range []*llmqueue.Queue[int, int]{bare, observed} {
				doAll(b, q, callers, turn/10) // warms up
			}
			var took, worked [2]time.Duration
			var calls [2]int
			b.ResetTimer()
			for left, i := 2*b.N, 0; left > 0; i++ {
				n := min(left, turn)
				begin, used := time.Now(), processorTime(b)
				doAll(b, []*llmqueue.Queue[int, int]{bare, observed}[i%2], callers, n)
				took[i%2] += time.Since(begin)
				worked[i%2] += processorTime(b) - used
				calls[i%2] += n
				left -= n
			}
			b.StopTimer()
			if calls[1] == 0 {
				return // a trial run
			}
			each := func(d [2]time.Duration, i int) float64 { return float64(d[i].Nanoseconds()) / float64(calls[i]) }
			b.ReportMetric(0, "ns/op") // of both together says nothing
			b.ReportMetric(each(took, 0), "bare-ns")
			b.ReportMetric(each(took, 1), "observed-ns")
			b.ReportMetric(each(took, 1)/each(took, 0), "ratio")
			b.ReportMetric(each(worked, 0), "bare-cpu-ns")
			b.ReportMetric(each(worked, 1), "observed-cpu-ns")
			b.ReportMetric(each(worked, 1)/each(worked, 0), "cpu-ratio")
			b.ReportMetric(float64(observed.Info().Dropped)/float64(calls[1]), "dropped/call")
		})
	}
}

func doAll(b *testing.B, q *llmqueue.Queue[int, int], callers, n int) {
	var left atomic.Int64
	left.Store(int64(n))
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := q.Submit(b.Context(), llmqueue.Request[int]{Params: 1, Estimate: llmqueue.Usage{InputTokens: 10, OutputTokens: 5}}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
}

func processorTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// discard is a response that nobody reads.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// BenchmarkScrape answers one scrape, of models with three limits each. The metric
// share/15s is what a scrape every 15 s takes of one processor.
func BenchmarkScrape(b *testing.B) {
	for _, models := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("models=%d", models), func(b *testing.B) {
			metrics := llmprom.New()
			m := llmqueue.NewManager[int, int](metrics.Observe(),
				llmqueue.WithLimits(llmqueue.RPM(1<<40), llmqueue.TPM(1<<40), llmqueue.Concurrent(16)))
			defer m.Shutdown(context.Background())
			for i := range models {
				id := fmt.Sprint("model-", i)
				if _, err := m.Register(id, reporting); err != nil {
					b.Fatal(err)
				}
				if _, err := m.Submit(b.Context(), llmqueue.Request[int]{ModelID: id}); err != nil {
					b.Fatal(err)
				}
			}
			if err := metrics.Add(m); err != nil {
				b.Fatal(err)
			}
			reg := prometheus.NewRegistry()
			reg.MustRegister(metrics)
			page := promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
			req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/metrics", nil)
			b.ReportAllocs()
			for b.Loop() {
				page.ServeHTTP(discard{http.Header{}}, req)
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(15*time.Second), "share/15s")
		})
	}
}

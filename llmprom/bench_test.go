package llmprom_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
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

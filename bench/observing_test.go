//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmotel"
	"github.com/llmqueue/llmqueue/llmprom"
)

// watched is a queue and who watches it.
type watched struct {
	name         string
	queue        *llmqueue.Queue[int, int]
	took, worked time.Duration
	calls        int
}

// BenchmarkObserving submits and waits, under three limits, with each way to watch a queue
// in turn: one run, one machine, the same calls. N is what each of them gets. The figures are
// per request: by the clock, and by the processor, which counts the goroutine of an
// observer too and which a busy machine disturbs less.
func BenchmarkObserving(b *testing.B) {
	for _, callers := range []int{1, 128} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			// Turns are long enough that what an observer has left when one ends, 4,096
			// events at most, costs the next little.
			const turn = 20_000
			all := contestants(b)
			for _, w := range all {
				w.submit(b, callers, turn/10) // warms up
				w.took, w.worked, w.calls = 0, 0, 0
			}
			b.ResetTimer()
			for left := b.N; left > 0; left -= turn {
				for _, w := range all {
					w.submit(b, callers, min(left, turn))
				}
			}
			b.StopTimer()
			b.ReportMetric(0, "ns/op") // of all together says nothing
			bare := all[0]
			for _, w := range all {
				b.ReportMetric(w.each(w.took), w.name+"-ns")
				b.ReportMetric(w.each(w.worked), w.name+"-cpu-ns")
				b.ReportMetric(w.each(w.worked)/bare.each(bare.worked), w.name+"-cpu-ratio")
				b.ReportMetric(float64(w.queue.Info().Dropped)/float64(w.calls), w.name+"-dropped/call")
			}
		})
	}
}

func contestants(b *testing.B) []*watched {
	b.Helper()
	metrics := llmprom.New()
	telemetry := func(opts ...llmotel.Option) llmqueue.Option {
		option, err := llmotel.New(append(opts,
			llmotel.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))))...)
		if err != nil {
			b.Fatal(err)
		}
		return option
	}
	spans := func(s sdktrace.Sampler) llmotel.Option {
		return llmotel.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSampler(s)))
	}
	logger := func(level slog.Level) llmqueue.Option {
		return llmqueue.WithLogger(slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: level})))
	}
	all := []*watched{
		{name: "bare", queue: watch(b)},
		{name: "observer", queue: watch(b, llmqueue.WithObserver(func(llmqueue.Event) {}))},
		{name: "log-info", queue: watch(b, logger(slog.LevelInfo))},
		{name: "log-debug", queue: watch(b, logger(slog.LevelDebug))},
		{name: "prometheus", queue: watch(b, metrics.Observe())},
		{name: "otel-metrics", queue: watch(b, telemetry())},
		{name: "otel-unsampled", queue: watch(b, telemetry(spans(sdktrace.NeverSample())))},
		{name: "otel-spans", queue: watch(b, telemetry(spans(sdktrace.AlwaysSample())))},
	}
	if err := metrics.AddQueue(all[4].queue); err != nil {
		b.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics)
	if _, err := registry.Gather(); err != nil {
		b.Fatal(err)
	}
	return all
}

func watch(b *testing.B, opts ...llmqueue.Option) *llmqueue.Queue[int, int] {
	b.Helper()
	queue, err := llmqueue.NewQueue("m", func(ctx context.Context, r llmqueue.Request[int]) (int, error) {
		llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 10, OutputTokens: 5})
		return r.Params, nil
	}, append(opts, llmqueue.WithLimits(llmqueue.RPM(1<<40), llmqueue.TPM(1<<40), llmqueue.Concurrent(16)))...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = queue.Shutdown(context.Background()) })
	return queue
}

func (w *watched) submit(b *testing.B, callers, n int) {
	b.Helper()
	begin, used := time.Now(), processorTime(b)
	var left atomic.Int64
	left.Store(int64(n))
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := w.queue.Submit(b.Context(), llmqueue.Request[int]{Params: 1, Estimate: llmqueue.Usage{InputTokens: 20}}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	w.took += time.Since(begin)
	w.worked += processorTime(b) - used
	w.calls += n
}

func (w *watched) each(d time.Duration) float64 { return float64(d.Nanoseconds()) / float64(w.calls) }

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

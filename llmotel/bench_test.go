package llmotel_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmotel"
)

// BenchmarkTelemetry is the round trip of one caller, without and with OpenTelemetry: the
// metrics alone, spans of which the sampler takes none, and spans that are all made and
// thrown away.
func BenchmarkTelemetry(b *testing.B) {
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	sampled := func(s sdktrace.Sampler) llmotel.Option {
		return llmotel.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSampler(s)))
	}
	for _, c := range []struct {
		name string
		opts []llmotel.Option
	}{
		{"none", nil},
		{"metrics", []llmotel.Option{llmotel.WithMeterProvider(meters)}},
		{"metrics-and-no-span-sampled", []llmotel.Option{llmotel.WithMeterProvider(meters), sampled(sdktrace.NeverSample())}},
		{"metrics-and-spans", []llmotel.Option{llmotel.WithMeterProvider(meters), sampled(sdktrace.AlwaysSample())}},
	} {
		b.Run(c.name, func(b *testing.B) {
			opts := []llmqueue.Option{llmqueue.WithLimits(llmqueue.RPM(1<<40), llmqueue.TPM(1<<40), llmqueue.Concurrent(16))}
			if c.opts != nil {
				option, err := llmotel.New(c.opts...)
				require.NoError(b, err)
				opts = append(opts, option)
			}
			q, err := llmqueue.NewQueue("m", func(ctx context.Context, r llmqueue.Request[int]) (int, error) {
				llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 10, OutputTokens: 5})
				return r.Params, nil
			}, opts...)
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := q.Submit(b.Context(), llmqueue.Request[int]{Params: 1, Estimate: llmqueue.Usage{InputTokens: 20}}); err != nil {
					b.Fatal(err)
				}
			}
			require.NoError(b, q.Shutdown(context.Background()))
		})
	}
}

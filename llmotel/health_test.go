package llmotel

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/llmqueue/llmqueue"
)

// inMemory is a telemetry whose SDK keeps everything.
func inMemory(t *testing.T) (*telemetry, *tracetest.SpanRecorder, *sdkmetric.ManualReader) {
	spans, reader := tracetest.NewSpanRecorder(), sdkmetric.NewManualReader()
	made, err := newTelemetry([]Option{
		WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))),
		WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))),
	})
	require.NoError(t, err)
	return made, spans, reader
}

// read is what the reader has, as lines: name, attributes and value, of a histogram its count.
func read(t *testing.T, reader sdkmetric.Reader) (lines []string) {
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &all))
	add := func(name string, set attribute.Set, value any) {
		lines = append(lines, fmt.Sprint(name, " ", set.Encoded(attribute.DefaultEncoder()), " ", value))
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					add(m.Name+" "+m.Unit, p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, p.Count)
				}
			}
		}
	}
	return lines
}

// The metrics tell which endpoint is held out, how calls ended there of late and how fast output
// comes, and how often a second attempt was started.
//
// Faults seen to fail here: two kinds swapped; a first output of 0 s told while none is known; an
// instrument missing from the callback.
func TestHealthOfEndpoints(t *testing.T) {
	telemetry, _, reader := inMemory(t)
	detach := telemetry.attach(func() llmqueue.QueueInfo {
		return llmqueue.QueueInfo{ModelID: "m", Hedges: 3, Endpoints: []llmqueue.EndpointInfo{
			{Name: "good", RecentServed: 12.5, RecentFailures: .25, RecentRefusals: 2, FirstOutput: 1500 * time.Millisecond},
			{Name: "bad", HeldOut: true, HeldOutReason: "401: the key is wrong", RecentFaults: 4},
		}}
	})
	const m = "gen_ai.operation.name=chat,gen_ai.request.model=m"
	lines := read(t, reader)
	for _, want := range []string{
		"llmqueue.hedges " + m + " 3",
		"llmqueue.endpoint.held_out " + m + ",llmqueue.endpoint=good 0",
		"llmqueue.endpoint.held_out " + m + ",llmqueue.endpoint=bad 1",
		"llmqueue.endpoint.recent_calls {call} " + m + ",llmqueue.endpoint=good,llmqueue.kind=served 12.5",
		"llmqueue.endpoint.recent_calls {call} " + m + ",llmqueue.endpoint=good,llmqueue.kind=failure 0.25",
		"llmqueue.endpoint.recent_calls {call} " + m + ",llmqueue.endpoint=good,llmqueue.kind=refusal 2",
		"llmqueue.endpoint.recent_calls {call} " + m + ",llmqueue.endpoint=bad,llmqueue.kind=fault 4",
		"llmqueue.endpoint.recent_calls {call} " + m + ",llmqueue.endpoint=bad,llmqueue.kind=served 0",
		"llmqueue.endpoint.first_output s " + m + ",llmqueue.endpoint=good 1.5",
	} {
		assert.Contains(t, lines, want)
	}
	assert.NotContains(t, fmt.Sprint(lines), "first_output s "+m+",llmqueue.endpoint=bad", "it is not known")
	assert.NotContains(t, fmt.Sprint(lines), "401", "error texts are in no attribute")
	detach()
	assert.Empty(t, read(t, reader))
}

// A trace tells a hedge from a retry, and shows no wait before it: its request did not wait.
//
// Faults seen to fail here: a wait told for the hedge; the attribute on every attempt.
func TestSpanOfAHedge(t *testing.T) {
	for name, noWait := range map[string]bool{"waited for": false, "fire and forget": true} {
		t.Run(name, func(t *testing.T) {
			telemetry, spans, reader := inMemory(t)
			begin := time.Unix(0, 0)
			answered := func(context.Context) error { return nil }
			first := llmqueue.Attempt{ModelID: "m", Endpoint: "one", RequestID: "r", Number: 1, NoWait: noWait,
				CreatedAt: begin, WaitsSince: begin, StartedAt: begin.Add(time.Second)}
			require.NoError(t, telemetry.attempt(t.Context(), first, answered))
			second := first
			second.Endpoint, second.Number, second.Hedge, second.StartedAt = "two", 2, true, begin.Add(5*time.Second)
			require.NoError(t, telemetry.attempt(t.Context(), second, answered))

			var names []string
			for _, span := range spans.Ended() {
				hedge := attribute.Bool("llmqueue.hedge", true)
				if slices.Contains(span.Attributes(), hedge) {
					names = append(names, span.Name()+" hedged")
					assert.False(t, span.StartTime().Before(second.StartedAt), "%s begins when the hedge starts", span.Name())
				} else {
					names = append(names, span.Name())
				}
			}
			want := []string{"wait m", "chat m", "chat m hedged"}
			if noWait {
				want = append(want, "request m", "request m hedged")
			}
			assert.ElementsMatch(t, want, names)
			lines := read(t, reader)
			assert.Contains(t, lines, "llmqueue.wait.duration gen_ai.operation.name=chat,gen_ai.request.model=m,llmqueue.endpoint=one 1")
			assert.NotContains(t, fmt.Sprint(lines), "wait.duration gen_ai.operation.name=chat,gen_ai.request.model=m,llmqueue.endpoint=two")
		})
	}
}

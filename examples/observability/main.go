// Observability shows what a program tells of its queues while they work: log lines for
// what holds requests up, and at the end the spans and metrics that OpenTelemetry got.
//
//	go run ./examples/observability
//
// A service refuses some calls for its limits and fails others; half of the requests are
// fire and forget. OpenTelemetry's SDK keeps spans and metrics in memory here. A real
// program gives its providers an exporter instead.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/chat"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/llmotel"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("observability", run) }

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("observability", flag.ContinueOnError)
	n := flags.Int("n", 40, "requests")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	if *n < 1 {
		return program.BadInput("-n wants 1 or more")
	}
	// The service allows less than the queue was told, and some of its answers go wrong.
	provider, err := chat.Simulate(chat.Simulator{
		Limits: []llmtest.Limit{llmtest.RPM(24).Per(time.Second)},
		Options: []llmtest.Option{
			llmtest.WithLatency(llmtest.Latency{FirstToken: 50 * time.Millisecond, PerToken: time.Millisecond}),
			llmtest.WithFaultScript(llmtest.Fault{}, llmtest.Fault{Status: 500}, llmtest.Fault{}, llmtest.Fault{Status: 400}),
		},
	})
	if err != nil {
		return err
	}
	defer provider.Close()
	fmt.Fprintln(stdout, "Answered by a simulator in this process.")

	spans, reader := tracetest.NewInMemoryExporter(), sdkmetric.NewManualReader()
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	telemetry, err := llmotel.New(llmotel.WithProvider("openai"), llmotel.WithTracerProvider(tracers),
		llmotel.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))))
	if err != nil {
		return err
	}
	queue, err := llmqueue.NewQueue(chat.DefaultModel, func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
		reply, err := provider.Ask(ctx, req.ModelID, req.Params, 30)
		return reply.Text, err
	}, telemetry,
		llmqueue.WithLimits(llmqueue.RPM(40).Per(time.Second), llmqueue.Concurrent(8)),
		llmqueue.WithRetry(llmqueue.RetryPolicy{BaseDelay: 100 * time.Millisecond}),
		llmqueue.WithLogger(slog.New(slog.NewTextHandler(stdout, nil)))) // what is noteworthy: no debug lines
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))

	ctx, caller := tracers.Tracer("example").Start(ctx, "a batch")
	ids := make([]string, *n)
	for i := range ids {
		res, err := queue.Submit(ctx, llmqueue.Request[string]{
			ID: fmt.Sprintf("question-%d", i+1), Params: "Name a river.", Tenant: []string{"acme", "beta"}[i%2], NoWait: true,
		})
		if err != nil {
			return err
		}
		ids[i] = res.RequestID
	}
	for range *n / 4 { // somebody waits for these
		if _, err := queue.Do(ctx, "Name a lake."); err != nil && ctx.Err() != nil {
			return err
		}
	}
	for _, id := range ids {
		if _, err := queue.Wait(ctx, id); err != nil && ctx.Err() != nil {
			return err
		}
	}
	caller.End()

	var metrics metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &metrics); err != nil { // before Shutdown, while there is a queue to read
		return err
	}
	if err := queue.Shutdown(ctx); err != nil {
		return err
	}
	if err := printSpans(stdout, spans.GetSpans()); err != nil {
		return err
	}
	return printMetrics(stdout, metrics)
}

// printSpans sums the spans up by name and how they ended.
func printSpans(w io.Writer, spans tracetest.SpanStubs) error {
	type kind struct{ name, outcome string }
	type sum struct {
		n, links int
		took     time.Duration
	}
	sums := map[kind]sum{}
	for _, span := range spans {
		k := kind{span.Name, "ok"}
		for _, a := range span.Attributes {
			if a.Key == "error.type" {
				k.outcome = a.Value.AsString()
			}
		}
		s := sums[k]
		sums[k] = sum{s.n + 1, s.links + len(span.Links), s.took + span.EndTime.Sub(span.StartTime)}
	}
	kinds := make([]kind, 0, len(sums))
	for k := range sums {
		kinds = append(kinds, k)
	}
	slices.SortFunc(kinds, func(a, b kind) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.outcome, b.outcome))
	})
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "span\tended\tcount\tmean\tlinks")
	for _, k := range kinds {
		s := sums[k]
		fmt.Fprintf(table, "%s\t%s\t%d\t%v\t%d\n", k.name, k.outcome, s.n, (s.took / time.Duration(s.n)).Round(time.Millisecond), s.links)
	}
	return table.Flush()
}

// printMetrics prints one line for each figure, without the attributes that all have.
func printMetrics(w io.Writer, metrics metricdata.ResourceMetrics) error {
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "metric\tof\tvalue")
	line := func(name string, set attribute.Set, value string) {
		var of []string
		for _, a := range set.ToSlice() {
			switch a.Key {
			case "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "llmqueue.endpoint":
			default:
				of = append(of, a.Value.String())
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", name, strings.Join(of, ", "), value)
	}
	for _, scope := range metrics.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					line(m.Name, p.Attributes, fmt.Sprint(p.Value))
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					line(m.Name, p.Attributes, fmt.Sprint(p.Value))
				}
			case metricdata.Histogram[int64]:
				for _, p := range data.DataPoints {
					line(m.Name, p.Attributes, fmt.Sprintf("%d in %d", p.Sum, p.Count))
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					line(m.Name, p.Attributes, fmt.Sprintf("%.2f %s in %d", p.Sum, m.Unit, p.Count))
				}
			}
		}
	}
	return table.Flush()
}

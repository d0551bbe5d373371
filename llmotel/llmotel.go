// Package llmotel gives the queues of package llmqueue OpenTelemetry traces and metrics.
//
//	telemetry, err := llmotel.New(llmotel.WithProvider("openai"))
//	…
//	queue, err := llmqueue.NewQueue("gpt-4.1-mini", ask, llmqueue.WithLimits(…), telemetry)
//
// # Traces
//
// Each attempt has a client span, named like "chat gpt-4.1-mini", in which the processor
// runs, so that an instrumented HTTP client's span lies inside. The time in line before it
// has a span "wait gpt-4.1-mini", unless the attempt started at once. Both are children of
// the span in the context given to Submit. A fire-and-forget request outlives its caller:
// each of its attempts has a trace of its own, whose root spans wait and attempt and links
// to the caller's span. A request that leaves the line without an attempt has the wait
// only. What several requests share (WithCoalescing) is in the trace of the first. A second
// attempt beside a slow one (WithHedge) has a span with llmqueue.hedge and no wait.
//
// # Metrics
//
// By the semantic conventions for generative AI, for each attempt:
//
//   - gen_ai.client.operation.duration, seconds
//   - gen_ai.client.token.usage, by gen_ai.token.type, of attempts whose usage is known
//
// And of the queue itself:
//
//   - llmqueue.wait.duration, seconds before each attempt
//   - llmqueue.requests.waiting and llmqueue.requests.running
//   - llmqueue.requests.ended, by llmqueue.status: completed, failed, canceled
//   - llmqueue.attempts, llmqueue.retries, llmqueue.hedges, llmqueue.refusals: of Info's Attempts,
//     Retries, Hedges and Refused
//   - llmqueue.limit.amount and llmqueue.limit.used, by llmqueue.limit and llmqueue.endpoint
//   - llmqueue.paused: 1 while paused by hand or by the provider, else 0
//   - llmqueue.endpoint.held_out: 1 while calls fail there and only probes go there, else 0
//   - llmqueue.endpoint.recent_calls, by llmqueue.kind: served, fault, failure, refusal; a call
//     counts 1 at first and half as much after 30 s
//   - llmqueue.endpoint.first_output, seconds until output came of late, where that is known
//   - llmqueue.events.dropped
//
// The durations have buckets from 10 ms to 11 minutes. Tenants and request ids are on spans
// only. Neither params nor results are recorded, but the text of errors is, as the status of
// spans.
package llmotel

import (
	"fmt"
	"sync"

	"github.com/llmqueue/llmqueue"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"
)

// scope names this instrumentation.
const scope = "github.com/llmqueue/llmqueue/llmotel"

// Option configures New.
type Option struct{ apply func(*config) }

type config struct {
	tracers             trace.TracerProvider
	meters              metric.MeterProvider
	provider, operation string
}

// WithTracerProvider sets where spans go. Defaults to OpenTelemetry's global provider.
func WithTracerProvider(p trace.TracerProvider) Option {
	return Option{func(c *config) { c.tracers = p }}
}

// WithMeterProvider sets where measurements go. Defaults to OpenTelemetry's global provider.
func WithMeterProvider(p metric.MeterProvider) Option {
	return Option{func(c *config) { c.meters = p }}
}

// WithProvider sets gen_ai.provider.name, such as "openai", "anthropic" or "gcp.gemini".
// Defaults to none.
func WithProvider(name string) Option { return Option{func(c *config) { c.provider = name }} }

// WithOperation sets gen_ai.operation.name, such as "embeddings". Defaults to "chat".
func WithOperation(name string) Option { return Option{func(c *config) { c.operation = name }} }

// New makes an option for NewQueue, NewManager or Register that observes the queue from
// its making to the end of its Shutdown. It may be given to any number of queues. An error
// is the meter's.
func New(opts ...Option) (llmqueue.Option, error) {
	t, err := newTelemetry(opts)
	if err != nil {
		return llmqueue.Option{}, err
	}
	return llmqueue.WithOptions(
		llmqueue.WithMiddleware(t.attempt), llmqueue.WithObserver(t.observe), llmqueue.WithMonitor(t.attach)), nil
}

func newTelemetry(opts []Option) (*telemetry, error) {
	c := config{tracers: otel.GetTracerProvider(), meters: otel.GetMeterProvider(), operation: "chat"}
	for _, o := range opts {
		if o.apply != nil {
			o.apply(&c)
		}
	}
	if c.tracers == nil || c.meters == nil {
		return nil, fmt.Errorf("%w: llmotel got a nil provider", llmqueue.ErrInvalidConfiguration)
	}
	t := &telemetry{
		tracer:    c.tracers.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		operation: c.operation,
		common:    []attribute.KeyValue{semconv.GenAIOperationNameKey.String(c.operation)},
	}
	if c.provider != "" {
		t.common = append(t.common, semconv.GenAIProviderNameKey.String(c.provider))
	}
	m, err := newMetrics(c.meters.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL)))
	if err != nil {
		return nil, fmt.Errorf("llmotel: %w", err)
	}
	t.metrics = m
	return t, nil
}

// telemetry observes queues.
type telemetry struct {
	tracer    trace.Tracer
	metrics   *metrics
	operation string
	common    []attribute.KeyValue // operation and provider
	places    sync.Map             // of place to *placeSets
}

// place is what measurements are told apart by.
type place struct{ model, endpoint string }

// placeSets are the attributes of a place, made once.
type placeSets struct {
	list          []attribute.KeyValue
	all           metric.MeasurementOption
	input, output metric.MeasurementOption
}

func (t *telemetry) place(model, endpoint string) *placeSets {
	key := place{model, endpoint}
	if s, ok := t.places.Load(key); ok {
		return s.(*placeSets)
	}
	list := append(t.common[:len(t.common):len(t.common)], semconv.GenAIRequestModelKey.String(model))
	if endpoint != "" {
		list = append(list, endpointKey.String(endpoint))
	}
	with := func(more ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(append(list[:len(list):len(list)], more...)...))
	}
	s, _ := t.places.LoadOrStore(key, &placeSets{
		list: list[:len(list):len(list)], all: with(), input: with(semconv.GenAITokenTypeInput), output: with(semconv.GenAITokenTypeOutput),
	})
	return s.(*placeSets)
}

// The attributes that have no name in the conventions.
const (
	endpointKey  = attribute.Key("llmqueue.endpoint")
	requestIDKey = attribute.Key("llmqueue.request.id")
	attemptKey   = attribute.Key("llmqueue.attempt")
	tenantKey    = attribute.Key("llmqueue.tenant")
	priorityKey  = attribute.Key("llmqueue.priority")
	reservedKey  = attribute.Key("llmqueue.tokens.reserved")
	statusKey    = attribute.Key("llmqueue.status")
	limitKey     = attribute.Key("llmqueue.limit")
	kindKey      = attribute.Key("llmqueue.kind")
	hedgeKey     = attribute.Key("llmqueue.hedge")
)

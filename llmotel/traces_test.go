package llmotel_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmotel"
)

// Faults that these tests were seen to catch: the processor called with the caller's
// context; a fire-and-forget request in the caller's trace; the wait told from the request's
// acceptance in each attempt; no wait span for a request that leaves the line; the callback
// not unregistered.

const s = time.Second

var errBoom = errors.New("boom")

// sdk is an SDK that keeps everything in memory.
type sdk struct {
	spans  *tracetest.SpanRecorder
	reader *sdkmetric.ManualReader
	tracer trace.Tracer
	option llmqueue.Option
}

func newSDK(t testing.TB, opts ...llmotel.Option) *sdk {
	k := &sdk{spans: tracetest.NewSpanRecorder(), reader: sdkmetric.NewManualReader()}
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(k.spans))
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(k.reader))
	k.tracer = tracers.Tracer("test")
	var err error
	k.option, err = llmotel.New(append([]llmotel.Option{llmotel.WithTracerProvider(tracers), llmotel.WithMeterProvider(meters)}, opts...)...)
	require.NoError(t, err)
	return k
}

// lines are the ended spans, in order of their end: name, parent, from and to in seconds,
// and error.type or "ok".
func (k *sdk) lines(t testing.TB, begin time.Time) (lines []string) {
	assert.Len(t, k.spans.Ended(), len(k.spans.Started()), "every span ends")
	names := map[trace.SpanID]string{}
	for _, span := range k.spans.Ended() {
		names[span.SpanContext().SpanID()] = span.Name()
	}
	for _, span := range k.spans.Ended() {
		if span.Name() == "caller" {
			continue
		}
		parent, outcome := names[span.Parent().SpanID()], "ok"
		if parent == "" {
			parent = "root"
		}
		for _, link := range span.Links() {
			parent += " linked to " + names[link.SpanContext.SpanID()]
		}
		if v, ok := attributes(span.Attributes())["error.type"]; ok {
			outcome = v.AsString()
		}
		lines = append(lines, fmt.Sprintf("%s in %s %g-%g %s", span.Name(), parent,
			span.StartTime().Sub(begin).Seconds(), span.EndTime().Sub(begin).Seconds(), outcome))
	}
	return lines
}

func attributes(list []attribute.KeyValue) map[string]attribute.Value {
	m := map[string]attribute.Value{}
	for _, a := range list {
		m[string(a.Key)] = a.Value
	}
	return m
}

// Whatever becomes of a request, its trace shows the wait and each attempt, joined to the
// caller's, and no span stays open.
func TestSpans(t *testing.T) {
	type request = llmqueue.Request[string]
	for name, c := range map[string]struct {
		opts  []llmqueue.Option
		req   request
		while func(ctx context.Context, q *llmqueue.Queue[string, int]) // after half a second
		want  []string
	}{
		"starts at once": {nil, request{Params: "ok"}, nil,
			[]string{"chat m in caller 0-1 ok"}},
		"fails": {nil, request{Params: "fail"}, nil,
			[]string{"chat m in caller 0-1 *errors.errorString"}},
		"is retried": {[]llmqueue.Option{llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 2})}, request{Params: "slow down"}, nil,
			[]string{"chat m in caller 0-1 rate_limited", "wait m in caller 1-11 ok", "chat m in caller 11-12 fatal"}},
		"panics":               {nil, request{Params: "panic"}, nil, []string{"chat m in caller 0-1 panic"}},
		"ends its goroutine":   {nil, request{Params: "exit"}, nil, []string{"chat m in caller 0-1 panic"}},
		"times out":            {[]llmqueue.Option{llmqueue.WithTimeout(3 * s), llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 1})}, request{Params: "hang"}, nil, []string{"chat m in caller 0-3 timeout"}},
		"is canceled, running": {nil, request{Params: "hang", ID: "r"}, cancel, []string{"chat m in caller 0-0.5 canceled"}},
		"waits": {nil, request{Params: "ok", Tenant: "busy"}, nil,
			[]string{"chat m in root linked to caller 0-1 ok", "wait m in caller 0-1 ok", "chat m in caller 1-2 ok"}},
		"is canceled in line": {nil, request{ID: "r", Tenant: "busy"}, cancel, []string{"wait m in caller 0-0.5 canceled", "chat m in 0-1"}},
		"waits too long":      {nil, request{Tenant: "busy", MaxWait: s / 4}, nil, []string{"wait m in caller 0-0.25 timeout", "chat m in 0-1"}},
		"is canceled, backing off": {[]llmqueue.Option{llmqueue.WithRetry(llmqueue.RetryPolicy{BaseDelay: 1000 * time.Hour, MaxDelay: 1000 * time.Hour})},
			request{Params: "again", ID: "r"}, func(ctx context.Context, q *llmqueue.Queue[string, int]) {
				time.Sleep(s)
				cancel(ctx, q)
			}, []string{"chat m in caller 0-1 retryable", "wait m in caller 1-1.5 canceled"}},
		"fire and forget": {nil, request{Params: "slow down", NoWait: true}, nil,
			[]string{"chat m in request m 0-1 rate_limited", "request m in root linked to caller 0-1 ok",
				"wait m in request m 1-11 ok", "chat m in request m 11-12 fatal", "request m in root linked to caller 1-12 ok"}},
		"fire and forget, panics": {nil, request{Params: "panic", NoWait: true}, nil,
			[]string{"chat m in request m 0-1 panic", "request m in root linked to caller 0-1 ok"}},
		"fire and forget, canceled in line": {nil, request{ID: "r", Tenant: "busy", NoWait: true}, cancel,
			[]string{"wait m in request m 0-0.5 canceled", "request m in root linked to caller 0-0.5 ok", "chat m in 0-1"}},
		"goes to a fallback": {[]llmqueue.Option{llmqueue.WithFallback("other"), llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 1})}, request{Params: "again"}, nil,
			[]string{"chat m in caller 0-1 retryable", "chat other in caller 1-2 ok"}},
		"another endpoint": {nil, request{Params: "moves"}, func(_ context.Context, q *llmqueue.Queue[string, int]) {
			_ = q.AddEndpoint("second", func(context.Context, request) (int, error) { time.Sleep(s); return 0, nil }, llmqueue.WithUnlimited())
		}, []string{"chat m in caller 0-1 rate_limited", "chat m in caller 1-2 ok"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, begin := newSDK(t), time.Now()
				m := llmqueue.NewManager[string, int](k.option, llmqueue.WithoutDeadlineCheck(),
					llmqueue.WithLimits(llmqueue.Concurrent(1)), llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 2}))
				q, err := m.Register("m", ask, c.opts...)
				require.NoError(t, err)
				_, err = m.Register("other", func(context.Context, request) (int, error) { time.Sleep(s); return 0, nil })
				require.NoError(t, err)
				ctx, caller := k.tracer.Start(t.Context(), "caller")
				if c.req.Tenant == "busy" {
					_, err := q.Submit(t.Context(), request{Params: "ok", NoWait: true})
					require.NoError(t, err)
				}
				if c.while != nil {
					go func() {
						time.Sleep(s / 2)
						c.while(ctx, q)
					}()
				}
				_, _ = q.Submit(ctx, c.req)
				caller.End()
				require.NoError(t, m.Shutdown(t.Context()))
				assert.ElementsMatch(t, tidy(c.want, c.req.Tenant == "busy"), k.lines(t, begin))
			})
		})
	}
}

// tidy says how the spans of the request that keeps the queue busy look.
func tidy(want []string, busy bool) (lines []string) {
	for _, line := range want {
		switch line {
		case "chat m in 0-1", "chat m in root linked to caller 0-1 ok":
		default:
			lines = append(lines, line)
		}
	}
	if busy {
		lines = append(lines, "chat m in request m 0-1 ok", "request m in root 0-1 ok")
	}
	return lines
}

func cancel(_ context.Context, q *llmqueue.Queue[string, int]) { _ = q.Cancel("r") }

// ask is a processor that takes a second and does what it is told.
func ask(ctx context.Context, r llmqueue.Request[string]) (int, error) {
	if r.Params == "hang" {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	time.Sleep(s)
	switch r.Params {
	case "fail":
		return 0, errBoom
	case "slow down": // once, and then it is the request's fault
		if time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) > 10*s {
			return 0, llmqueue.Permanent(errBoom)
		}
		return 0, llmqueue.RateLimited(errBoom, 10*s)
	case "moves":
		return 0, llmqueue.RateLimited(errBoom, time.Hour)
	case "again":
		return 0, llmqueue.Retryable(errBoom)
	case "panic":
		panic("boom")
	case "exit":
		runtime.Goexit()
	}
	llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 100, OutputTokens: 20, CachedInputTokens: 40})
	return 1, nil
}

// The attributes are those of the conventions, and say whose request it is; what the
// processor does lies inside the attempt's span.
func TestSpanAttributes(t *testing.T) {
	k := newSDK(t, llmotel.WithProvider("openai"), llmotel.WithOperation("embeddings"))
	q, err := llmqueue.NewQueue("m", func(ctx context.Context, _ llmqueue.Request[string]) (int, error) {
		_, span := k.tracer.Start(ctx, "inside")
		span.End()
		llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 100, OutputTokens: 20, CachedInputTokens: 40})
		return 0, nil
	}, llmqueue.WithUnlimited(), k.option)
	require.NoError(t, err)
	_, err = q.Submit(t.Context(), llmqueue.Request[string]{ID: "r", Params: "secret", Tenant: "acme", Priority: 7,
		Estimate: llmqueue.Usage{InputTokens: 120}, Metadata: map[string]string{"secret": "secret"}})
	require.NoError(t, err)
	require.NoError(t, q.Shutdown(t.Context()))
	spans := k.spans.Ended()
	require.Len(t, spans, 2)
	inside, attempt := spans[0], spans[1]
	assert.Equal(t, attempt.SpanContext().SpanID(), inside.Parent().SpanID(), "the processor's own spans lie inside")
	assert.Equal(t, "embeddings m", attempt.Name())
	assert.Equal(t, trace.SpanKindClient, attempt.SpanKind())
	assert.Equal(t, map[string]attribute.Value{
		"gen_ai.operation.name":                attribute.StringValue("embeddings"),
		"gen_ai.provider.name":                 attribute.StringValue("openai"),
		"gen_ai.request.model":                 attribute.StringValue("m"),
		"gen_ai.usage.input_tokens":            attribute.Int64Value(100),
		"gen_ai.usage.output_tokens":           attribute.Int64Value(20),
		"gen_ai.usage.cache_read.input_tokens": attribute.Int64Value(40),
		"llmqueue.attempt":                     attribute.IntValue(1),
		"llmqueue.endpoint":                    attribute.StringValue("m"),
		"llmqueue.priority":                    attribute.IntValue(7),
		"llmqueue.request.id":                  attribute.StringValue("r"),
		"llmqueue.tenant":                      attribute.StringValue("acme"),
		"llmqueue.tokens.reserved":             attribute.Int64Value(120),
	}, attributes(attempt.Attributes()))
}

// Requests that share a call are in the first one's trace, as its child when it waits.
func TestSpansOfASharedCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, begin := newSDK(t), time.Now()
		q, err := llmqueue.NewQueue("m", ask, llmqueue.WithUnlimited(), k.option,
			llmqueue.WithCoalescing(func(r llmqueue.Request[string]) string { return r.Params }))
		require.NoError(t, err)
		ctx, caller := k.tracer.Start(t.Context(), "caller")
		go func() { _, _ = q.Do(ctx, "ok") }()
		synctest.Wait()
		_, err = q.Do(t.Context(), "ok")
		require.NoError(t, err)
		caller.End()
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, []string{"chat m in caller 0-1 ok"}, k.lines(t, begin))
	})
}

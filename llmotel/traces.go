package llmotel

import (
	"context"
	"errors"
	"time"

	"github.com/llmqueue/llmqueue"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"
)

// errorTypePanic is the error.type of an attempt that panicked or ended its goroutine.
var errorTypePanic = semconv.ErrorTypeKey.String("panic")

// attempt is the middleware: the spans and measurements of one attempt.
func (t *telemetry) attempt(ctx context.Context, a llmqueue.Attempt, next func(context.Context) error) (err error) {
	p := t.place(a.ModelID, a.Endpoint)
	since := a.WaitsSince
	if a.Hedge { // the request did not wait for it: the first attempt runs
		since = a.StartedAt
	} else {
		t.metrics.wait.Record(ctx, a.StartedAt.Sub(since).Seconds(), p.all)
	}

	attrs := append(p.list[:len(p.list):len(p.list)], requestIDKey.String(a.RequestID), attemptKey.Int(a.Number))
	if a.Tenant != "" {
		attrs = append(attrs, tenantKey.String(a.Tenant))
	}
	if a.Priority != 0 {
		attrs = append(attrs, priorityKey.Int(a.Priority))
	}
	if a.Hedge {
		attrs = append(attrs, hedgeKey.Bool(true))
	}
	if n := a.Estimate.Total(); n > 0 {
		attrs = append(attrs, reservedKey.Int64(n))
	}
	with := trace.WithAttributes(attrs...)

	in, root := t.enter(ctx, a.ModelID, a.NoWait, since, with)
	if root != nil {
		defer root.End() // also when next never returns: every span ends
	}
	if a.StartedAt.After(since) {
		_, wait := t.tracer.Start(in, "wait "+a.ModelID, trace.WithTimestamp(since), with)
		wait.End(trace.WithTimestamp(a.StartedAt))
	}
	in, span := t.tracer.Start(in, t.operation+" "+a.ModelID, trace.WithSpanKind(trace.SpanKindClient), with)
	began := time.Now()
	returned := false
	defer func() {
		took := time.Since(began).Seconds()
		t.used(ctx, span, p)
		switch {
		case !returned:
			span.SetAttributes(errorTypePanic)
			span.SetStatus(codes.Error, "the processor panicked or ended its goroutine")
			t.metrics.duration.Record(ctx, took, p.all, metric.WithAttributes(errorTypePanic))
		case err != nil:
			kind := errorType(ctx, err)
			span.SetAttributes(kind)
			span.SetStatus(codes.Error, err.Error())
			t.metrics.duration.Record(ctx, took, p.all, metric.WithAttributes(kind))
		default:
			t.metrics.duration.Record(ctx, took, p.all)
		}
		span.End()
	}()
	err = next(in)
	returned = true
	return err
}

// enter finds the trace that a request's spans belong to: the caller's, or, of one that
// nobody waits for, a new one that links to it; root is its first span then.
func (t *telemetry) enter(ctx context.Context, model string, noWait bool, since time.Time, with trace.SpanStartEventOption) (in context.Context, root trace.Span) {
	if !noWait {
		return ctx, nil
	}
	opts := []trace.SpanStartOption{trace.WithNewRoot(), trace.WithTimestamp(since), with}
	if caller := trace.SpanContextFromContext(ctx); caller.IsValid() {
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: caller}))
	}
	return t.tracer.Start(ctx, "request "+model, opts...)
}

// used records what the attempt used, where that is known.
func (t *telemetry) used(ctx context.Context, span trace.Span, p *placeSets) {
	u, known := llmqueue.ReportedUsage(ctx)
	if !known {
		return
	}
	t.metrics.tokens.Record(ctx, u.InputTokens, p.input)
	t.metrics.tokens.Record(ctx, u.OutputTokens, p.output)
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(semconv.GenAIUsageInputTokensKey.Int64(u.InputTokens), semconv.GenAIUsageOutputTokensKey.Int64(u.OutputTokens))
	if u.CachedInputTokens > 0 {
		span.SetAttributes(semconv.GenAIUsageCacheReadInputTokensKey.Int64(u.CachedInputTokens))
	}
}

// errorType tells failures apart: by why the attempt's context ended, else by what the
// queue takes the error for, else by its Go type.
func errorType(ctx context.Context, err error) attribute.KeyValue {
	outcome := llmqueue.OutcomeOf(ctx, err)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return semconv.ErrorTypeKey.String("timeout")
	case ctx.Err() != nil:
		return semconv.ErrorTypeKey.String("canceled")
	case outcome != "":
		return semconv.ErrorTypeKey.String(string(outcome))
	}
	return semconv.ErrorType(err)
}

// observe is the observer: the wait of a request that left the line without an attempt, of
// which no middleware hears.
func (t *telemetry) observe(e llmqueue.Event) {
	if e.Waited == 0 || e.Type == llmqueue.EventStarted || e.Context == nil {
		return
	}
	attrs := append(t.place(e.ModelID, "").list, requestIDKey.String(e.RequestID))
	if e.Tenant != "" {
		attrs = append(attrs, tenantKey.String(e.Tenant))
	}
	with := trace.WithAttributes(attrs...)
	since, end := e.Time.Add(-e.Waited), trace.WithTimestamp(e.Time)
	in, root := t.enter(e.Context, e.ModelID, e.NoWait, since, with)
	_, wait := t.tracer.Start(in, "wait "+e.ModelID, trace.WithTimestamp(since), with)
	if e.Err != nil {
		wait.SetAttributes(waitErrorType(e))
		wait.SetStatus(codes.Error, e.Err.Error())
	}
	wait.End(end)
	if root != nil {
		root.End(end)
	}
}

func waitErrorType(e llmqueue.Event) attribute.KeyValue {
	kind := "_OTHER"
	switch {
	case e.Type == llmqueue.EventCanceled:
		kind = "canceled"
	case errors.Is(e.Err, llmqueue.ErrQueueTimeout):
		kind = "timeout"
	case errors.Is(e.Err, llmqueue.ErrQuotaExhausted):
		kind = string(llmqueue.OutcomeQuotaExhausted)
	case errors.Is(e.Err, llmqueue.ErrQueueClosed):
		kind = "queue_closed"
	}
	return semconv.ErrorTypeKey.String(kind)
}

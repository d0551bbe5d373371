package llmotel

import (
	"context"
	"errors"

	"github.com/llmqueue/llmqueue"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/semconv/v1.41.0/genaiconv"
)

// seconds are the buckets of durations: those that the conventions recommend for
// operations of generative AI, and three doublings more.
var seconds = []float64{0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36}

// tokenCounts are the buckets that the conventions recommend.
var tokenCounts = []float64{1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864}

// metrics are the instruments. Those of a whole queue are read from its Info.
type metrics struct {
	meter    metric.Meter
	duration metric.Float64Histogram
	tokens   metric.Int64Histogram
	wait     metric.Float64Histogram

	waiting, running                                   metric.Int64ObservableUpDownCounter
	ended, attempts, retries, hedges, refused, dropped metric.Int64ObservableCounter
	amount, used, paused, heldOut                      metric.Int64ObservableGauge
	recent, firstOutput                                metric.Float64ObservableGauge
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	m := &metrics{meter: meter}
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	duration, err := genaiconv.NewClientOperationDuration(meter, metric.WithExplicitBucketBoundaries(seconds...))
	note(err)
	m.duration = duration.Inst()
	tokens, err := genaiconv.NewClientTokenUsage(meter, metric.WithExplicitBucketBoundaries(tokenCounts...))
	note(err)
	m.tokens = tokens.Inst()
	m.wait, err = meter.Float64Histogram("llmqueue.wait.duration", metric.WithUnit("s"),
		metric.WithDescription("How long requests waited for each attempt."), metric.WithExplicitBucketBoundaries(seconds...))
	note(err)
	sum := func(name, unit, what string) metric.Int64ObservableUpDownCounter {
		i, err := meter.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(what))
		note(err)
		return i
	}
	m.waiting = sum("llmqueue.requests.waiting", "{request}", "Requests in line, or between two attempts.")
	m.running = sum("llmqueue.requests.running", "{request}", "Requests whose processor runs.")
	count := func(name, unit, what string) metric.Int64ObservableCounter {
		i, err := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(what))
		note(err)
		return i
	}
	m.ended = count("llmqueue.requests.ended", "{request}", "Requests that ended, by status.")
	m.attempts = count("llmqueue.attempts", "{attempt}", "Attempts that started.")
	m.retries = count("llmqueue.retries", "{attempt}", "Attempts after the first.")
	m.hedges = count("llmqueue.hedges", "{attempt}", "Attempts that started beside a slow one.")
	m.refused = count("llmqueue.refusals", "{call}", "Calls that the provider refused for a limit, a quota or want of capacity.")
	m.dropped = count("llmqueue.events.dropped", "{event}", "Events that observers were too slow for.")
	gauge := func(name, unit, what string) metric.Int64ObservableGauge {
		i, err := meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(what))
		note(err)
		return i
	}
	m.amount = gauge("llmqueue.limit.amount", "1", "What a limit allows in its period, or at once.")
	m.used = gauge("llmqueue.limit.used", "1", "What is charged to a limit now.")
	m.paused = gauge("llmqueue.paused", "1", "1 while the queue is paused, by hand or by the provider.")
	m.heldOut = gauge("llmqueue.endpoint.held_out", "1", "1 while calls fail on the endpoint and only probes go there, as far as others can serve.")
	m.recent, err = meter.Float64ObservableGauge("llmqueue.endpoint.recent_calls", metric.WithUnit("{call}"),
		metric.WithDescription("Calls to the endpoint that ended of late, by how: each counts 1 at first and half as much after 30 s."))
	note(err)
	m.firstOutput, err = meter.Float64ObservableGauge("llmqueue.endpoint.first_output", metric.WithUnit("s"),
		metric.WithDescription("How long calls to the endpoint took of late until output came."))
	note(err)
	return m, errors.Join(errs...)
}

// attach is the monitor: it reads a queue whenever the metrics are collected, from its
// making to the end of its Shutdown.
func (t *telemetry) attach(info func() llmqueue.QueueInfo) (detach func()) {
	m := t.metrics
	registered, err := m.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		t.collect(o, info())
		return nil
	}, m.waiting, m.running, m.ended, m.attempts, m.retries, m.hedges, m.refused, m.dropped, m.amount, m.used, m.paused,
		m.heldOut, m.recent, m.firstOutput)
	if err != nil {
		panic(err) // NewQueue's error
	}
	return func() { _ = registered.Unregister() }
}

func (t *telemetry) collect(o metric.Observer, i llmqueue.QueueInfo) {
	m, p := t.metrics, t.place(i.ModelID, "")
	o.ObserveInt64(m.waiting, int64(i.Pending), p.all)
	o.ObserveInt64(m.running, int64(i.Processing), p.all)
	for status, n := range map[llmqueue.Status]int64{
		llmqueue.StatusCompleted: i.Completed, llmqueue.StatusFailed: i.Failed, llmqueue.StatusCanceled: i.Canceled,
	} {
		o.ObserveInt64(m.ended, n, p.all, metric.WithAttributes(statusKey.String(string(status))))
	}
	o.ObserveInt64(m.attempts, i.Attempts, p.all)
	o.ObserveInt64(m.retries, i.Retries, p.all)
	o.ObserveInt64(m.hedges, i.Hedges, p.all)
	o.ObserveInt64(m.refused, i.Refused, p.all)
	o.ObserveInt64(m.dropped, i.Dropped, p.all)
	o.ObserveInt64(m.paused, truth(i.Paused || !i.PausedUntil.IsZero()), p.all)
	for _, e := range i.Endpoints {
		at := t.place(i.ModelID, e.Name).all
		for _, l := range e.Limits {
			m.limit(o, l, "", at)
		}
		for _, l := range e.Shared {
			m.limit(o, l, " shared", at)
		}
		o.ObserveInt64(m.heldOut, truth(e.HeldOut), at)
		for kind, n := range map[string]float64{
			"served": e.RecentServed, "fault": e.RecentFaults, "failure": e.RecentFailures, "refusal": e.RecentRefusals,
		} {
			o.ObserveFloat64(m.recent, n, at, metric.WithAttributes(kindKey.String(kind)))
		}
		if e.FirstOutput > 0 { // else it is not known
			o.ObserveFloat64(m.firstOutput, e.FirstOutput.Seconds(), at)
		}
	}
}

func truth(is bool) int64 {
	if is {
		return 1
	}
	return 0
}

// limit tells limits apart by kind and period, without their amount, which may change.
func (m *metrics) limit(o metric.Observer, l llmqueue.LimitInfo, shared string, at metric.MeasurementOption) {
	name := string(l.Limit.Kind)
	switch {
	case l.Limit.Resets != nil:
		name += " resetting at midnight " + l.Limit.Resets.String()
	case l.Limit.Period > 0:
		name += " per " + l.Limit.Period.String()
	}
	is := metric.WithAttributes(limitKey.String(name + shared))
	o.ObserveInt64(m.amount, l.Limit.Amount, at, is)
	o.ObserveInt64(m.used, l.Used, at, is)
}

package llmprom

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/llmqueue/llmqueue"
)

// counter is one figure of a queue that only grows.
type counter struct {
	desc   *prometheus.Desc
	labels []string // values after the model's
	value  func(*llmqueue.QueueInfo) int64
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("llmqueue_"+name, help, append([]string{"model"}, labels...), nil)
}

var (
	finishedDesc = desc("finished_requests_total", "Requests that ended, by their final status.", "status")
	tokensDesc   = desc("tokens_total", "Tokens that all attempts used, by direction; input includes cached input.", "direction")
)

const counterCount = 14

var counters = [counterCount]counter{
	{desc("accepted_requests_total", "Requests that the queue accepted."), nil,
		func(i *llmqueue.QueueInfo) int64 { return i.Accepted }},
	{finishedDesc, []string{string(llmqueue.StatusCompleted)},
		func(i *llmqueue.QueueInfo) int64 { return i.Completed }},
	{finishedDesc, []string{string(llmqueue.StatusFailed)},
		func(i *llmqueue.QueueInfo) int64 { return i.Failed }},
	{finishedDesc, []string{string(llmqueue.StatusCanceled)},
		func(i *llmqueue.QueueInfo) int64 { return i.Canceled }},
	{desc("attempts_total", "Attempts that started."), nil,
		func(i *llmqueue.QueueInfo) int64 { return i.Attempts }},
	{desc("retries_total", "Attempts after the first."), nil,
		func(i *llmqueue.QueueInfo) int64 { return i.Retries }},
	{desc("refused_calls_total", "Calls that the provider refused for a limit, a quota or want of capacity."), nil,
		func(i *llmqueue.QueueInfo) int64 { return i.Refused }},
	{desc("coalesced_requests_total", "Requests that shared the call of an earlier one."), nil,
		func(i *llmqueue.QueueInfo) int64 { return i.Coalesced }},
	{desc("fallbacks_total", "Requests handed to a fallback model, once for each such model."), nil,
		func(i *llmqueue.QueueInfo) int64 { return i.Fallbacks }},
	{desc("hedges_total", "Attempts that started beside a slow one."), nil,
		func(i *llmqueue.QueueInfo) int64 { return i.Hedges }},
	{tokensDesc, []string{"input"},
		func(i *llmqueue.QueueInfo) int64 { return i.Usage.InputTokens }},
	{tokensDesc, []string{"output"},
		func(i *llmqueue.QueueInfo) int64 { return i.Usage.OutputTokens }},
	{desc("cached_input_tokens_total", "The part of the input tokens that the provider had cached."), nil,
		func(i *llmqueue.QueueInfo) int64 { return i.Usage.CachedInputTokens }},
	{desc("dropped_events_total", "Events that observers were too slow for; the histograms may lack them."), nil,
		func(i *llmqueue.QueueInfo) int64 { return i.Dropped }},
}

var gauges = []struct {
	desc  *prometheus.Desc
	value func(time.Time, *llmqueue.QueueInfo) float64
}{
	{desc("pending_requests", "Requests that wait in line or between two attempts."),
		func(_ time.Time, i *llmqueue.QueueInfo) float64 { return float64(i.Pending) }},
	{desc("processing_requests", "Requests whose processor runs."),
		func(_ time.Time, i *llmqueue.QueueInfo) float64 { return float64(i.Processing) }},
	{desc("forwarded_requests", "Requests that a fallback model has."),
		func(_ time.Time, i *llmqueue.QueueInfo) float64 { return float64(i.Forwarded) }},
	{desc("abandoned_processors", "Processors that still run although nobody waits for them: their request ended, or goes on without them."),
		func(_ time.Time, i *llmqueue.QueueInfo) float64 { return float64(i.Abandoned) }},
	{desc("slots", "Processors that may run at present, on all endpoints."),
		func(_ time.Time, i *llmqueue.QueueInfo) float64 { return float64(i.Slots) }},
	{desc("paused", "1 while the queue is paused by Pause."),
		func(_ time.Time, i *llmqueue.QueueInfo) float64 { return truth(i.Paused) }},
	{desc("pause_remaining_seconds", "How much longer the provider lets no endpoint start, 0 when one may."),
		func(now time.Time, i *llmqueue.QueueInfo) float64 { return remaining(now, i.PausedUntil) }},
	{desc("closed", "1 after Shutdown was called."),
		func(_ time.Time, i *llmqueue.QueueInfo) float64 { return truth(i.Closed) }},
}

var endpointGauges = []struct {
	desc  *prometheus.Desc
	value func(time.Time, *llmqueue.EndpointInfo) float64
}{
	{desc("endpoint_processors", "Processors that run on the endpoint.", "endpoint"),
		func(_ time.Time, e *llmqueue.EndpointInfo) float64 { return float64(e.Processing) }},
	{desc("endpoint_slots", "Processors that may run on the endpoint at present.", "endpoint"),
		func(_ time.Time, e *llmqueue.EndpointInfo) float64 { return float64(e.Slots) }},
	{desc("endpoint_breaker_open", "1 while the endpoint's circuit breaker lets no call through.", "endpoint"),
		func(_ time.Time, e *llmqueue.EndpointInfo) float64 { return truth(e.Open) }},
	{desc("endpoint_held_out", "1 while calls fail on the endpoint and only probes go there, as far as others can serve.", "endpoint"),
		func(_ time.Time, e *llmqueue.EndpointInfo) float64 { return truth(e.HeldOut) }},
	{desc("endpoint_pause_remaining_seconds", "How much longer the provider lets nothing start on the endpoint, 0 when it does.", "endpoint"),
		func(now time.Time, e *llmqueue.EndpointInfo) float64 { return remaining(now, e.PausedUntil) }},
}

// firstOutputDesc has no series while the time is unknown: 0 would lower every mean and minimum.
var firstOutputDesc = desc("endpoint_first_output_seconds", "How long calls to the endpoint took of late until output came; none while that is unknown.", "endpoint")

var recentDesc = desc("endpoint_recent_calls", "Calls to the endpoint that ended of late, by how: each counts 1 at first and half as much after 30 s.", "endpoint", "kind")

// recentGauges are how calls ended of late, by kind.
var recentGauges = []struct {
	kind  string
	value func(*llmqueue.EndpointInfo) float64
}{
	{"served", func(e *llmqueue.EndpointInfo) float64 { return e.RecentServed }},
	{"fault", func(e *llmqueue.EndpointInfo) float64 { return e.RecentFaults }},
	{"failure", func(e *llmqueue.EndpointInfo) float64 { return e.RecentFailures }},
	{"refusal", func(e *llmqueue.EndpointInfo) float64 { return e.RecentRefusals }},
}

var limitLabels = []string{"endpoint", "limit", "period", "scope"}

var limitGauges = []struct {
	desc  *prometheus.Desc
	value func(time.Time, *llmqueue.LimitInfo) float64
}{
	{desc("limit_amount", "The limit in force.", limitLabels...),
		func(_ time.Time, l *llmqueue.LimitInfo) float64 { return float64(l.Limit.Amount) }},
	{desc("limit_used", "What is charged to the limit; may exceed its amount after an overrun.", limitLabels...),
		func(_ time.Time, l *llmqueue.LimitInfo) float64 { return float64(l.Used) }},
	{desc("limit_available", "What the limit has room for, never negative.", limitLabels...),
		func(_ time.Time, l *llmqueue.LimitInfo) float64 { return float64(l.Available) }},
	{desc("limit_reset_seconds", "How long until what is charged now no longer counts, 0 when nothing is or the limit has no period.", limitLabels...),
		func(now time.Time, l *llmqueue.LimitInfo) float64 { return remaining(now, l.ResetAt) }},
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func remaining(now, until time.Time) float64 {
	if until.IsZero() {
		return 0
	}
	return max(until.Sub(now), 0).Seconds()
}

// appendGauges appends what a queue is at present.
func appendGauges(metrics []prometheus.Metric, now time.Time, info llmqueue.QueueInfo) []prometheus.Metric {
	add := func(desc *prometheus.Desc, value float64, labels ...string) {
		metrics = append(metrics, metric(desc, prometheus.GaugeValue, value, labels...))
	}
	model := label(info.ModelID)
	for _, g := range gauges {
		add(g.desc, g.value(now, &info), model)
	}
	for _, e := range info.Endpoints {
		endpoint := label(e.Name)
		for _, g := range endpointGauges {
			add(g.desc, g.value(now, &e), model, endpoint)
		}
		for _, g := range recentGauges {
			add(recentDesc, g.value(&e), model, endpoint, g.kind)
		}
		if e.FirstOutput > 0 {
			add(firstOutputDesc, e.FirstOutput.Seconds(), model, endpoint)
		}
		addLimits := func(scope string, limits []llmqueue.LimitInfo) {
			seen := map[[2]string]int{}
			for _, l := range limits {
				kind, period, scope := label(string(l.Limit.Kind)), period(l.Limit), scope
				// Several shared sets may each have a limit of this kind and period.
				if seen[[2]string{kind, period}]++; seen[[2]string{kind, period}] > 1 {
					scope += strconv.Itoa(seen[[2]string{kind, period}])
				}
				for _, g := range limitGauges {
					add(g.desc, g.value(now, &l), model, endpoint, kind, period, scope)
				}
			}
		}
		addLimits("own", e.Limits)
		addLimits("shared", e.Shared)
	}
	return metrics
}

// metric never panics: what cannot be a metric becomes the scrape's error.
func metric(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) prometheus.Metric {
	m, err := prometheus.NewConstMetric(desc, kind, value, labels...)
	if err != nil {
		return prometheus.NewInvalidMetric(desc, err)
	}
	return m
}

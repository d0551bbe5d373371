package llmprom

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/llmqueue/llmqueue"
)

// buckets, in seconds, reach from a cached answer to a long chain of thought.
var buckets = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600}

// otherTenants is the tenant of those beyond the first ones.
const otherTenants = "other"

// histograms are what has to be seen when it happens.
type histograms struct {
	wait, processing *prometheus.HistogramVec
	tenants          *tenants // nil: no such label
}

func newHistograms(s settings) histograms {
	var h histograms
	waitLabels, processingLabels := []string{"model"}, []string{"model", "endpoint", "outcome"}
	if s.tenants > 0 {
		h.tenants = &tenants{names: map[string]string{}, most: s.tenants}
		waitLabels, processingLabels = append(waitLabels, "tenant"), append(processingLabels, "tenant")
	}
	h.wait = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "llmqueue_wait_seconds",
		Help:    "How long a request waited for an attempt: from its acceptance or from the attempt before, a backoff and a pause included.",
		Buckets: buckets,
	}, waitLabels)
	h.processing = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "llmqueue_processing_seconds",
		Help:    "How long an attempt ran, by what it came to: served, an outcome that the provider or a mark explains, canceled, or unexplained.",
		Buckets: buckets,
	}, processingLabels)
	return h
}

// observe is called for each event, on one goroutine for each queue.
func (h *histograms) observe(e llmqueue.Event) {
	switch e.Type {
	case llmqueue.EventStarted:
		if e.Hedge {
			return // its request did not wait for it: the first attempt runs
		}
		record(h.wait, e.Waited.Seconds(), h.labels(e.Tenant, label(e.ModelID)))
	case llmqueue.EventRetried, llmqueue.EventCompleted, llmqueue.EventFailed, llmqueue.EventCanceled, llmqueue.EventFallback:
		if e.Took > 0 || e.Outcome != "" { // an attempt ended, not only a wait
			record(h.processing, e.Took.Seconds(), h.labels(e.Tenant, label(e.ModelID), label(e.Endpoint), outcome(e)))
		}
	}
}

// outcome is what an attempt came to, in one word that is never empty.
func outcome(e llmqueue.Event) string {
	switch {
	case e.Outcome != "":
		return label(string(e.Outcome))
	case e.Type == llmqueue.EventCanceled:
		return "canceled"
	}
	return "unexplained"
}

func (h *histograms) labels(tenant string, labels ...string) []string {
	if h.tenants != nil {
		labels = append(labels, h.tenants.label(tenant))
	}
	return labels
}

func record(vec *prometheus.HistogramVec, seconds float64, labels []string) {
	if o, err := vec.GetMetricWithLabelValues(labels...); err == nil {
		o.Observe(seconds)
	}
}

// tenants bounds how many tenants have series of their own.
type tenants struct {
	mu    sync.Mutex // guards the rest
	names map[string]string
	most  int
}

func (t *tenants) label(tenant string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	name, known := t.names[tenant]
	switch {
	case known:
		return name
	case tenant == "":
		return ""
	case len(t.names) == t.most:
		return otherTenants
	}
	name = label(tenant)
	t.names[tenant] = name
	return name
}

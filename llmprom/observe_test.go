package llmprom

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/llmqueue/llmqueue"
)

// An attempt that found the fault in its endpoint has that outcome; one that starts beside a slow
// one is no wait of its request, or hedging would seem to shorten the line.
func TestOutcomesAndHedges(t *testing.T) {
	h := newHistograms(settings{})
	h.observe(llmqueue.Event{Type: llmqueue.EventStarted, ModelID: "m", Endpoint: "first", Waited: 3 * time.Second})
	h.observe(llmqueue.Event{Type: llmqueue.EventStarted, ModelID: "m", Endpoint: "second", Hedge: true})
	h.observe(llmqueue.Event{Type: llmqueue.EventRetried, ModelID: "m", Endpoint: "first", Took: time.Second, Outcome: llmqueue.OutcomeElsewhere})
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(h.wait, h.processing)
	err := testutil.GatherAndCompare(reg, strings.NewReader(`
		# HELP llmqueue_wait_seconds How long a request waited for an attempt: from its acceptance or from the attempt before, a backoff and a pause included.
		# TYPE llmqueue_wait_seconds histogram
		`+histogram("llmqueue_wait_seconds", `model="m"`, 3)+`
		# HELP llmqueue_processing_seconds How long an attempt ran, by what it came to: served, an outcome that the provider or a mark explains, canceled, or unexplained.
		# TYPE llmqueue_processing_seconds histogram
		`+histogram("llmqueue_processing_seconds", `endpoint="first",model="m",outcome="elsewhere"`, 1)))
	if err != nil {
		t.Error(err)
	}
}

// histogram is one of a single value, as text.
func histogram(name, labels string, value float64) string {
	var b strings.Builder
	for _, bucket := range buckets {
		n := 0
		if value <= bucket {
			n = 1
		}
		fmt.Fprintf(&b, "%s_bucket{%s,le=\"%g\"} %d\n", name, labels, bucket, n)
	}
	fmt.Fprintf(&b, "%[1]s_bucket{%[2]s,le=\"+Inf\"} 1\n%[1]s_sum{%[2]s} %[3]g\n%[1]s_count{%[2]s} 1\n", name, labels, value)
	return b.String()
}

// BenchmarkEvents is what the observer takes for the events of one request.
func BenchmarkEvents(b *testing.B) {
	h := newHistograms(settings{})
	b.ReportAllocs()
	for b.Loop() {
		h.observe(llmqueue.Event{Type: llmqueue.EventQueued, ModelID: "gpt-5-mini"})
		h.observe(llmqueue.Event{Type: llmqueue.EventStarted, ModelID: "gpt-5-mini", Endpoint: "gpt-5-mini", Waited: 3 * time.Second})
		h.observe(llmqueue.Event{Type: llmqueue.EventCompleted, ModelID: "gpt-5-mini", Endpoint: "gpt-5-mini", Took: 3 * time.Second, Outcome: llmqueue.OutcomeServed})
	}
}

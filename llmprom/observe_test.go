package llmprom

import (
	"testing"
	"time"

	"github.com/llmqueue/llmqueue"
)

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

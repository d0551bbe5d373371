package llmprom

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/llmqueue/llmqueue"
)

// past keeps what a model's counters have reached, over all queues of that name.
type past struct {
	since    time.Time // when the present queue was made
	accepted int64
	before   []int64 // by counter: of earlier queues
	reached  []int64 // by counter: the most that the present queue has said
}

// see takes over what the present queue says.
func (p *past) see(info llmqueue.QueueInfo) {
	if p.before == nil {
		p.before, p.reached = make([]int64, len(counters)), make([]int64, len(counters))
	}
	// A source of the program's own may leave Since out; then a queue that has
	// accepted less than before is another one.
	if !info.Since.Equal(p.since) || info.Accepted < p.accepted {
		for i := range counters {
			p.before[i] += p.reached[i]
			p.reached[i] = 0
		}
	}
	p.since, p.accepted = info.Since, info.Accepted
	for i, c := range counters {
		// Not simply the value: UpdateUsage can lower what was used.
		p.reached[i] = max(p.reached[i], c.value(&info))
	}
}

func (p *past) appendCounters(metrics []prometheus.Metric, model string) []prometheus.Metric {
	model = label(model)
	for i, c := range counters {
		value := float64(p.before[i] + p.reached[i])
		metrics = append(metrics, metric(c.desc, prometheus.CounterValue, value, append([]string{model}, c.labels...)...))
	}
	return metrics
}

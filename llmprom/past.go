package llmprom

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/llmqueue/llmqueue"
)

// past keeps what a model's counters have reached, over all queues of that name.
type past struct {
	lives     []life
	before    [counterCount]int64 // of queues that are no longer in lives
	forgotten time.Time           // when the latest of them was made that lives had no room for
}

// life is what one queue has counted.
type life struct {
	since    time.Time // when it was made
	accepted int64
	reached  [counterCount]int64 // the most that it has said
}

// maxLives is how many queues of a name may have a last word at the same time: one
// lives, and those before it may still end.
const maxLives = 16

// see takes over what a queue says.
func (p *past) see(info llmqueue.QueueInfo) {
	i := slices.IndexFunc(p.lives, func(l life) bool { return l.since.Equal(info.Since) })
	// A source of the program's own may leave Since out; then a queue that has
	// accepted less than before is another one.
	if i < 0 && !p.forgotten.IsZero() && !info.Since.After(p.forgotten) {
		return // it has counted; its last word comes too late
	}
	if i >= 0 && info.Accepted < p.lives[i].accepted || i < 0 && len(p.lives) == maxLives {
		if i < 0 {
			i = 0
			p.forgotten = p.lives[i].since
		}
		for j, n := range p.lives[i].reached {
			p.before[j] += n
		}
		p.lives = slices.Delete(p.lives, i, i+1)
		i = -1
	}
	if i < 0 {
		i = len(p.lives)
		p.lives = append(p.lives, life{since: info.Since})
	}
	l := &p.lives[i]
	l.accepted = info.Accepted
	for j, c := range counters {
		// Not simply the value: UpdateUsage can lower what was used.
		l.reached[j] = max(l.reached[j], c.value(&info))
	}
}

func (p *past) appendCounters(metrics []prometheus.Metric, model string) []prometheus.Metric {
	model = label(model)
	for i, c := range counters {
		n := p.before[i]
		for _, l := range p.lives {
			n += l.reached[i]
		}
		metrics = append(metrics, metric(c.desc, prometheus.CounterValue, float64(n), append([]string{model}, c.labels...)...))
	}
	return metrics
}

// Package llmprom shows queues to Prometheus.
//
//	metrics := llmprom.New()
//	manager := llmqueue.NewManager[Params, Result](metrics.Observe())
//	…
//	if err := metrics.Add(manager); err != nil {…}
//	prometheus.MustRegister(metrics)
//
// What a queue can tell at any moment (what waits and runs, limits, pauses, tokens) is
// read from it at each scrape; without scrapes it costs nothing. What has to be seen
// when it happens, the histograms of waiting and processing and a queue's last word,
// comes from what Observe gives to the queues.
//
// # Labels
//
// Each series has the label model; those of endpoints and limits say which. Request
// ids, params, results and error texts are in no label. Tenants are in none either
// unless WithTenants asks for them. A label is the name as the program gave it,
// except that a backslash is doubled and a byte that is no valid UTF-8 is written
// as \x and two digits.
//
// # Several managers
//
// A collector shows each model once. Managers that have models of the same name get a
// collector each, told apart by a label:
//
//	prometheus.WrapRegistererWith(prometheus.Labels{"manager": "batch"}, prometheus.DefaultRegisterer).MustRegister(metrics)
//
// # Models that go and come back
//
// No counter goes down. When a model is unregistered, its gauges disappear and its
// counters stay as they were at the end of its queue; a model of that name that is
// registered later goes on from there. A queue without Observe has no such last word:
// then the last scrape is what counts.
package llmprom

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/llmqueue/llmqueue"
)

// Source is what a collector reads: a Manager of any P and T, or anything else that
// has queues. It must be safe for concurrent use.
type Source interface {
	InfoAll() []llmqueue.QueueInfo
}

// Collector is a prometheus.Collector over the queues of the sources that were added.
// Make it with New, and register it once. Safe for concurrent use.
type Collector struct {
	histograms histograms

	// mu guards the rest. It is held while the sources are asked, so that of two
	// scrapes at the same time the one that asked later also counts later.
	mu      sync.Mutex
	sources []Source
	past    map[string]*past // by model
}

var _ prometheus.Collector = (*Collector)(nil)

// Option changes what a collector shows.
type Option func(*settings)

type settings struct{ tenants int }

// WithTenants adds the label tenant to the histograms. Each tenant costs two dozen
// series per model and histogram, so only the first n that appear have their own; what
// comes after them is counted together as tenant "other". n below 1 means none, the
// default.
func WithTenants(n int) Option {
	return func(s *settings) { s.tenants = n }
}

// New returns a collector without any source.
func New(opts ...Option) *Collector {
	var s settings
	for _, o := range opts {
		o(&s)
	}
	return &Collector{histograms: newHistograms(s), past: map[string]*past{}}
}

// Observe is the option for NewManager or NewQueue that feeds the histograms, and the
// counters with what a queue did between the last scrape and its end. Give it once: a
// queue that gets it from its manager and at Register counts twice.
func (c *Collector) Observe() llmqueue.Option {
	return llmqueue.WithOptions(
		llmqueue.WithObserver(c.histograms.observe),
		llmqueue.WithMonitor(func(info func() llmqueue.QueueInfo) (detach func()) {
			return func() { c.end(info) }
		}))
}

// end hears a queue's last word.
func (c *Collector) end(info func() llmqueue.QueueInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sources) > 0 { // else nothing of it was to be shown
		c.see(info())
	}
}

// Add shows all queues of a source, as it has them at each scrape. Nil, a source that
// was added before, or a model that another source has is an error, and nothing is
// added. A model that two sources have only later is reported as an error by each
// scrape.
func (c *Collector) Add(s Source) error {
	if v := reflect.ValueOf(s); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return errors.New("llmprom: Add got nil, give it a Manager")
	}
	return c.add(s)
}

// AddQueue is Add for a queue without a manager.
func (c *Collector) AddQueue(q interface{ Info() llmqueue.QueueInfo }) error {
	if v := reflect.ValueOf(q); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return errors.New("llmprom: AddQueue got nil, give it a Queue")
	}
	return c.add(single{q})
}

// single makes a source of one queue.
type single struct {
	queue interface{ Info() llmqueue.QueueInfo }
}

func (s single) InfoAll() []llmqueue.QueueInfo { return []llmqueue.QueueInfo{s.queue.Info()} }

func (c *Collector) add(s Source) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, other := range c.sources {
		if reflect.TypeOf(other).Comparable() && other == s {
			return errors.New("llmprom: this manager or queue was added before, add it once")
		}
	}
	if _, twice := infos(append(c.sources, s)); len(twice) > 0 {
		return errTwice(twice[0])
	}
	c.sources = append(c.sources, s)
	return nil
}

// infos asks all sources. A model that was there already is in twice instead.
func infos(sources []Source) (all []llmqueue.QueueInfo, twice []string) {
	seen := map[string]bool{}
	for _, s := range sources {
		for _, info := range s.InfoAll() {
			if seen[info.ModelID] {
				twice = append(twice, info.ModelID)
				continue
			}
			seen[info.ModelID] = true
			all = append(all, info)
		}
	}
	return all, twice
}

func errTwice(model string) error {
	return fmt.Errorf("llmprom: model %q is in two of the collector's managers or queues: give each a collector of its own "+
		"and register it with prometheus.WrapRegistererWith and a label that tells them apart", model)
}

// Describe is called by Prometheus.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range counters {
		ch <- m.desc
	}
	for _, m := range gauges {
		ch <- m.desc
	}
	for _, m := range endpointGauges {
		ch <- m.desc
	}
	ch <- recentDesc
	ch <- firstOutputDesc
	for _, m := range limitGauges {
		ch <- m.desc
	}
	c.histograms.wait.Describe(ch)
	c.histograms.processing.Describe(ch)
}

// Collect is called by Prometheus at each scrape.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	// Sent without the lock: whoever reads may be slow.
	for _, m := range c.collect() {
		ch <- m
	}
	c.histograms.wait.Collect(ch)
	c.histograms.processing.Collect(ch)
}

func (c *Collector) see(info llmqueue.QueueInfo) {
	p := c.past[info.ModelID]
	if p == nil {
		p = &past{}
		c.past[info.ModelID] = p
	}
	p.see(info)
}

func (c *Collector) collect() (metrics []prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all, twice := infos(c.sources)
	now := time.Now()
	for _, model := range twice {
		metrics = append(metrics, prometheus.NewInvalidMetric(gauges[0].desc, errTwice(model)))
	}
	for _, info := range all {
		c.see(info)
		metrics = appendGauges(metrics, now, info)
	}
	for model, p := range c.past {
		metrics = p.appendCounters(metrics, model)
	}
	return metrics
}

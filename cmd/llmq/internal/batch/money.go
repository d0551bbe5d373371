package batch

import (
	"fmt"
	"sync"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/prices"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
)

// money keeps a budget: what was spent, and what the attempts under way may cost.
type money struct {
	table   prices.Table
	budget  float64 // USD; 0: none
	assumed int64   // output tokens of an answer without a bound

	mu      sync.Mutex
	used    float64
	pending float64
}

func newMoney(t prices.Table, budget float64, assumed int64) *money {
	return &money{table: t, budget: budget, assumed: assumed}
}

// check refuses a request of a model without a price.
func (m *money) check(req *requests.Request) error {
	if m.table == nil {
		return nil
	}
	if _, ok := m.table.Of(req.Model); !ok {
		return fmt.Errorf("line %d: no price for the model %q: add it to the --prices file", req.Line, req.Model)
	}
	return nil
}

// spend books what a model's tokens cost, at a share of its price.
func (m *money) spend(model string, u llmqueue.Usage, share float64) {
	p, ok := m.table.Of(model)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used += share * p.Cost(u)
}

func (m *money) spent() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// reserveShare puts aside what an attempt may cost, at a share of its price; false when the
// budget has not so much.
func (m *money) reserveShare(req *requests.Request, share float64) (usd float64, ok bool) {
	p, ok := m.table.Of(req.Model)
	if !ok {
		return 0, m.budget == 0
	}
	usd = share * p.Cost(req.Guess(m.assumed))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.budget > 0 && m.used+m.pending+usd > m.budget {
		return 0, false
	}
	m.pending += usd
	return usd, true
}

// settle books what the attempt cost that put so much aside, at a share of its price.
func (m *money) settle(model string, usd float64, u llmqueue.Usage, share float64) {
	p, ok := m.table.Of(model)
	if !ok {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending -= usd
	m.used += share * p.Cost(u)
}

// of is what usages cost, model by model.
func (m *money) of(usage map[string]llmqueue.Usage) (usd float64) {
	for model, u := range usage {
		if p, ok := m.table.Of(model); ok {
			usd += p.Cost(u)
		}
	}
	return usd
}

// workload is what requests amount to.
type workload struct {
	requests int64
	hits     int64 // that the cache answers, and that count nowhere else
	bounded  int64 // whose answer has a bound
	models   map[string]int64
	usage    map[string]llmqueue.Usage // by model, with assumed answers
}

func newWorkload() *workload {
	return &workload{models: map[string]int64{}, usage: map[string]llmqueue.Usage{}}
}

func (w *workload) add(req *requests.Request, assumed int64) {
	w.requests++
	if req.Estimate == req.Guess(assumed) {
		w.bounded++
	}
	u, g := w.usage[req.Model], req.Guess(assumed)
	u.InputTokens += g.InputTokens
	u.OutputTokens += g.OutputTokens
	w.usage[req.Model] = u
	w.models[req.Model]++
}

package batch

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/accounting"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/journal"
)

// Endpoint is another way to the models: another address, or another key.
type Endpoint struct {
	Name       string // without the key; each has one of its own
	Caller     caller.Config
	Accounting func(model string) accounting.Policy
}

// endpoint is one of a run. The first is that of the base URL.
type endpoint struct {
	Endpoint
	*caller.Caller
	first bool
	down  atomic.Bool // the host is not reached
}

// key is what the journal calls a model at an endpoint: what is started there counts there.
func (e *endpoint) key(model string) string {
	if e.first {
		return model
	}
	return model + journal.At + e.Name
}

// openEndpoints checks the endpoints.
func (r *run) openEndpoints() error {
	first := Endpoint{Caller: r.Config.Caller, Accounting: r.Accounting}
	for i, e := range append([]Endpoint{first}, r.Endpoints...) {
		c, err := caller.New(e.Caller)
		if err != nil {
			return fail(BadInput, err)
		}
		r.endpoints = append(r.endpoints, &endpoint{Endpoint: e, Caller: c, first: i == 0})
	}
	r.caller = r.endpoints[0].Caller
	return nil
}

// accountingOf is how what the journal calls key is charged.
func (r *run) accountingOf(key string) accounting.Policy {
	for _, e := range r.endpoints {
		if model, ok := strings.CutSuffix(key, journal.At+e.Name); ok && !e.first {
			return e.Accounting(model)
		}
	}
	return r.Accounting(key)
}

// options are those of a model at an endpoint, and the limits that it begins with.
func (r *run) options(e *endpoint, model string) (opts []llmqueue.Option, limits []llmqueue.Limit) {
	key := e.key(model)
	limits = r.Limits(model)
	opts = []llmqueue.Option{llmqueue.WithAccounting(e.Accounting(model)), llmqueue.WithMargin(r.Margin), llmqueue.WithPriorUsage(r.past.Starts(key))}
	if r.Learn(model) {
		opts = append(opts, llmqueue.WithLearnedLimits())
		if changes := r.past.Limits(key); len(limits) == 0 && len(changes) > 0 {
			// Those that the provider stated last time: with them the journal counts,
			// and its next answer corrects what has changed.
			for _, l := range changes[len(changes)-1].Limits {
				if l.Kind != llmqueue.KindConcurrent {
					limits = append(limits, l)
				}
			}
		}
	}
	limits = append(limits, llmqueue.Concurrent(r.Concurrency))
	return append(opts, llmqueue.WithLimits(limits...)), limits
}

// addEndpoints adds the endpoints beside the first to a model's queue.
func (r *run) addEndpoints(q *llmqueue.Queue[*item, caller.Reply], model string) error {
	for _, e := range r.endpoints[1:] {
		opts, limits := r.options(e, model)
		if err := q.AddEndpoint(e.Name, r.processor(e, model), opts...); err != nil {
			return err
		}
		if err := r.journal.Limits(e.key(model), limits); err != nil {
			return fail(CannotWrite, err)
		}
	}
	return nil
}

// refusals are the endpoints that serve no request of a model: their key or address is wrong.
type refusals struct {
	mu   sync.Mutex
	told map[string]map[*endpoint]bool
}

// refuses notes that an endpoint serves nothing of a model, for a reason. It reports whether
// another one may; each is told of once.
func (r *run) refuses(e *endpoint, model string, reason error) (others bool) {
	r.refusals.mu.Lock()
	defer r.refusals.mu.Unlock()
	if r.refusals.told == nil {
		r.refusals.told = map[string]map[*endpoint]bool{}
	}
	told := r.refusals.told[model]
	if told == nil {
		told = map[*endpoint]bool{}
		r.refusals.told[model] = told
	}
	if len(told)+1 < len(r.endpoints) && !told[e] {
		r.Notice("%s: %s: the other endpoints serve %s", e.Host(), r.reason(reason), model)
	}
	told[e] = true
	return len(told) < len(r.endpoints)
}

// lost notes that an endpoint's host is not reached. It reports whether another one's may be.
func (r *run) lost(e *endpoint, err error) (others bool) {
	fresh := e.down.CompareAndSwap(false, true)
	for _, other := range r.endpoints {
		if !other.down.Load() {
			if fresh {
				r.Notice("%s cannot be reached (%s): the other endpoints go on", e.Host(), r.caller.Reason(err))
			}
			return true
		}
	}
	return false
}

// probe reports whether a host answers, and has what waits try them all again.
func (r *run) probe(ctx context.Context) bool {
	for _, e := range r.endpoints {
		if e.Probe(ctx) == nil {
			for _, e := range r.endpoints {
				e.down.Store(false)
			}
			return true
		}
	}
	return false
}

// together sums the limits of a queue's endpoints by kind, but for those of concurrency.
func together(info llmqueue.QueueInfo) (list []llmqueue.LimitInfo) {
	at := map[llmqueue.LimitKind]int{}
	for _, e := range info.Endpoints {
		for _, l := range e.Limits {
			i, ok := at[l.Limit.Kind]
			switch {
			case l.Limit.Kind == llmqueue.KindConcurrent:
			case !ok:
				at[l.Limit.Kind] = len(list)
				list = append(list, l)
			default:
				list[i].Used += l.Used
				list[i].Limit.Amount += l.Limit.Amount
			}
		}
	}
	return list
}

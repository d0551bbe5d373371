package llmqueue

import (
	"reflect"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// newWay makes an endpoint with validated settings, and joins its shared limits.
func (c *core) newWay(ns int64, name string, processor any, s *endpointSettings) (*way, error) {
	w := &way{name: name, processor: processor}
	config := endpoint.Config{
		Limits: toEngineLimits(s.limits), Margin: s.margin, Learn: s.learn, Unlimited: s.unlimited,
		Accounting: newCharging(s.accounting), Ticket: func() uint64 { return tickets.Add(1) }, Emit: c.engine.Emit,
	}
	if s.breaker != nil {
		b := s.breaker(name)
		if b == nil {
			return nil, invalid("WithBreaker gave a nil breaker for endpoint %q", name)
		}
		config.Breaker = b
	}
	if s.prior != nil {
		config.Prior = c.priorCharges(s)
	}
	for _, limiter := range s.shared {
		m, err := limiter.Join(c.modelID, c.wakeUp)
		if err != nil {
			w.leave()
			return nil, err
		}
		w.shared = append(w.shared, m)
		config.Shared = append(config.Shared, membership{c, m})
	}
	w.endpoint = endpoint.New(ns, c.clock.Epoch, config)
	return w, nil
}

// priorCharges are the attempts that started before this process. Those of the same instant are
// one charge: a day's can be given to the second, in little memory.
func (c *core) priorCharges(s *endpointSettings) (prior []endpoint.Prior) {
	for at, u := range s.prior {
		p := endpoint.Prior{At: c.clock.Since(at), Requests: 1, Charged: toEngineUsage(u.clamped())}
		if charging := newCharging(s.accounting); charging != nil {
			p.Charged = charging.Settled(endpoint.Usage{}, p.Charged)
		}
		if last := len(prior) - 1; last >= 0 && prior[last].At == p.At {
			prior[last].Requests++
			prior[last].Charged = prior[last].Charged.Plus(p.Charged)
			continue
		}
		prior = append(prior, p)
	}
	slices.SortStableFunc(prior, func(a, b endpoint.Prior) int { return int(min(max(a.At-b.At, -1), 1)) })
	return prior
}

// addEndpoint is AddEndpoint without its types.
func (c *core) addEndpoint(name string, processor any, noProcessor bool, opts []Option) error {
	if !c.made {
		return errNotMade
	}
	s := newSettings(opts)
	err := s.endpointSettings.validate()
	switch {
	case name == "":
		err = invalid("empty name, name the endpoint")
	case noProcessor:
		err = invalid("nil processor")
	case err == nil && !reflect.DeepEqual(s.queueSettings, newSettings().queueSettings):
		err = invalid("an endpoint takes WithLimits, WithUnlimited, WithSharedLimits, WithLearnedLimits, WithMargin, WithPriorUsage, WithAccounting and WithBreaker; give other options to the queue")
	}
	var w *way
	if err == nil {
		w, err = c.newWay(c.clock.Since(time.Now()), name, processor, &s.endpointSettings)
	}
	if err != nil {
		return inModel(c.modelID+`", endpoint "`+name, err)
	}
	ns := c.lock()
	defer c.unlock(ns)
	switch {
	case c.closed:
		err = errorf(ErrQueueClosed, "model %q was shut down", c.modelID)
	case c.way(name) != nil:
		err = invalid("model %q has an endpoint %q already, RemoveEndpoint it first", c.modelID, name)
	default:
		w.endpoint.ID = uint32(len(c.ways))
		c.ways = append(c.ways, w)
		c.engine.AddEndpoint(ns, w.endpoint)
		c.limitsChanged()
		return nil
	}
	w.leave()
	return err
}

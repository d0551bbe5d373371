package llmqueue

import (
	"context"
	"reflect"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/internal/clock"
	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// newWay makes an endpoint with validated settings, and joins its shared limits.
func (c *core) newWay(ns int64, name string, processor any, s *endpointSettings) (*way, error) {
	w := &way{name: name, processor: processor}
	config := s.endpointConfig(&c.clock)
	config.Emit = c.engine.Emit
	if s.breaker != nil {
		b := s.breaker(name)
		if b == nil {
			return nil, invalid("WithBreaker gave a nil breaker for endpoint %q", name)
		}
		config.Breaker = b
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

// endpointConfig is what the settings come to for the engine, a breaker and shared limits
// excepted.
func (s *endpointSettings) endpointConfig(c *clock.Clock) endpoint.Config {
	return endpoint.Config{
		Limits: toEngineLimits(s.limits), Margin: s.margin, Learn: s.learn, Unlimited: s.unlimited,
		Accounting: newCharging(s.accounting), Ticket: func() uint64 { return tickets.Add(1) }, Prior: s.priorCharges(c),
	}
}

// priorCharges are the attempts that started before this process. Those of the same instant are
// one charge: a day's can be given to the second, in little memory.
func (s *endpointSettings) priorCharges(c *clock.Clock) (prior []endpoint.Prior) {
	if s.prior == nil {
		return nil
	}
	for at, u := range s.prior {
		p := endpoint.Prior{At: c.Since(at), Requests: 1, Charged: toEngineUsage(u.clamped())}
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

// SetLimits replaces the limits of the queue's first endpoint, which is the only one unless
// AddEndpoint was called: see SetEndpointLimits. A limit is the same one when kind and period
// are: its charges carry over. A new period of a kind, and a new kind, start from what the
// longest window knows, and reservations in flight stand. A waiting request that can no
// longer ever start fails with ErrRequestTooLarge. Leaving out Concurrent restores its
// default of 256.
func (c *core) SetLimits(limits ...Limit) error { return c.SetEndpointLimits("", limits...) }

// SetEndpointLimits is SetLimits for the endpoint of that name; an unknown one is
// ErrInvalidConfiguration.
func (c *core) SetEndpointLimits(name string, limits ...Limit) error {
	if !c.made {
		return errNotMade
	}
	if err := validateLimits(limits); err != nil {
		return err
	}
	ns := c.lock()
	defer c.unlock(ns)
	e := c.engine.Endpoints()[0]
	if name != "" {
		w := c.way(name)
		if w == nil {
			return invalid("model %q has no endpoint %q", c.modelID, name)
		}
		e = w.endpoint
	}
	if len(limits) == 0 && e.NeedsLimit() {
		return invalid("SetLimits without a limit, give at least one")
	}
	c.engine.SetLimits(ns, e, toEngineLimits(limits))
	return nil
}

// way finds an endpoint by name, nil when there is none.
func (c *core) way(name string) *way {
	for _, w := range c.ways {
		if w.name == name && !w.endpoint.Removed() {
			return w
		}
	}
	return nil
}

// RemoveEndpoint starts nothing more on an endpoint and returns when what runs there has
// ended, or with the cause of ctx when that ends first; what runs goes on then. A waiting
// request that fits no other endpoint fails with ErrRequestTooLarge. An unknown name and the
// last endpoint are ErrInvalidConfiguration.
func (c *core) RemoveEndpoint(ctx context.Context, name string) error {
	drained, err := c.removeEndpoint(name)
	if err != nil {
		return err
	}
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *core) removeEndpoint(name string) (drained <-chan struct{}, err error) {
	if !c.made {
		return nil, errNotMade
	}
	ns := c.lock()
	defer c.unlock(ns)
	w := c.way(name)
	switch {
	case w == nil:
		return nil, invalid("model %q has no endpoint %q", c.modelID, name)
	case len(c.engine.Endpoints()) == 1:
		return nil, invalid("%q is the last endpoint of model %q, shut the queue down instead", name, c.modelID)
	}
	w.drained = make(chan struct{})
	c.engine.RemoveEndpoint(ns, w.endpoint)
	w.leave()
	c.limitsChanged()
	c.retire(w)
	return w.drained, nil
}

// retire tells who removed an endpoint when nothing runs there any more.
func (c *core) retire(w *way) {
	if w.drained != nil && w.endpoint.Running() == 0 {
		select {
		case <-w.drained:
		default:
			close(w.drained)
		}
	}
}

// leave ends the membership in shared limits.
func (w *way) leave() {
	if w.left {
		return
	}
	w.left = true
	for _, m := range w.shared {
		m.Leave()
	}
}

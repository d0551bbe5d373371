package llmqueue

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue/internal/charging"
	"github.com/llmqueue/llmqueue/internal/clock"
	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/engine"
)

// This file makes queues out of options and types.

// newQueueOf is NewQueue for the queue of a registry, unless that is nil.
func newQueueOf[P, T any](modelID string, process Processor[P, T], r *registry, lists ...[]Option) (*Queue[P, T], error) {
	q := new(Queue[P, T])
	q.settings = newSettings(lists...)
	err := q.bind()
	if err == nil {
		err = q.core.make(modelID, process, process == nil, r, q)
	}
	if err != nil {
		return nil, inModel(modelID, err)
	}
	return q, nil
}

// bind finds what the options and the types say together.
func (q *Queue[P, T]) bind() (err error) {
	s := &q.settings
	if check, err := s.validation(reflect.TypeFor[P](), ErrInvalidParams); err != nil {
		return err
	} else if check != nil {
		q.checkParams = func(p *P) error { return check(reflect.ValueOf(p)) }
	}
	if check, err := s.validation(reflect.TypeFor[T](), ErrInvalidResult); err != nil {
		return err
	} else if check != nil {
		q.checkResult = func(t *T) error { return check(reflect.ValueOf(t)) }
	}
	if q.estimate, err = estimatorFor[P](s.estimator); err != nil {
		return err
	}
	if s.coalesce != nil {
		var ok bool
		if q.coalesce, ok = s.coalesce.(func(Request[P]) string); !ok || q.coalesce == nil {
			return invalid("WithCoalescing got %T, this queue needs %T", s.coalesce, q.coalesce)
		}
	}
	q.usage = usageReaderFor[T]()
	q.waiters.New = func() any {
		w := &typedWaiter[T]{waiter: waiter{done: make(chan struct{}, 1)}}
		w.typed, w.answer = w, &w.reply
		return w
	}
	return nil
}

// make fills a core in.
func (c *core) make(modelID string, process any, noProcess bool, r *registry, t types) error {
	s := &c.settings
	switch {
	case modelID == "":
		return invalid("empty model id, name the model")
	case noProcess:
		return invalid("nil processor, give the function that makes the call")
	case len(s.fallback) > 0 && r == nil:
		return invalid("WithFallback needs a Manager, Register the models there")
	}
	if err := s.endpointSettings.validate(); err != nil {
		return err
	}
	if err := s.queueSettings.validate(); err != nil {
		return err
	}
	s.retry = s.retry.withDefaults()
	now := time.Now()
	c.modelID, c.types, c.registry, c.clock = modelID, t, r, clock.New(now)
	c.prefix = strings.ToLower(rand.Text()[:8]) + "-"
	c.history.Size, c.history.TTL = s.historySize, int64(s.historyTTL)
	c.drained, c.read = make(chan struct{}), now
	c.watched = len(s.observers) > 0 || s.logger != nil
	c.timer = time.AfterFunc(time.Hour, c.fire)
	c.timer.Stop()
	var seed [8]byte
	_, _ = rand.Read(seed[:])
	c.engine = engine.New(s.engineConfig(cmp.Or(s.seed, binary.LittleEndian.Uint64(seed[:]))))
	w, err := c.newWay(1, modelID, process, &s.endpointSettings)
	if err != nil {
		return err
	}
	c.ways = []*way{w}
	c.engine.AddEndpoint(1, w.endpoint)
	c.limitsChanged()
	c.made = true
	if err := c.attachMonitors(); err != nil {
		w.leave()
		return err
	}
	c.startObservers()
	return nil
}

// estimatorFor finds how requests of P are sized: the option's function, else P's own method,
// else nothing.
func estimatorFor[P any](option any) (func(Request[P]) Usage, error) {
	if option != nil {
		f, ok := option.(func(Request[P]) Usage)
		if !ok || f == nil {
			return nil, invalid("WithEstimator got %T, this queue needs %T", option, f)
		}
		return f, nil
	}
	typ, estimator := reflect.TypeFor[P](), reflect.TypeFor[UsageEstimator]()
	switch {
	case typ.Kind() == reflect.Interface || typ.Implements(estimator):
		return func(r Request[P]) Usage {
			if e, ok := any(r.Params).(UsageEstimator); ok {
				return e.EstimateUsage()
			}
			return Usage{}
		}, nil
	case reflect.PointerTo(typ).Implements(estimator):
		return func(r Request[P]) Usage { return any(&r.Params).(UsageEstimator).EstimateUsage() }, nil
	}
	return nil, nil
}

// usageReaderFor finds how results of T report usage, nil when they do not.
func usageReaderFor[T any]() func(*T) Usage {
	typ, reporter := reflect.TypeFor[T](), reflect.TypeFor[UsageReporter]()
	switch {
	case typ.Kind() == reflect.Interface || typ.Implements(reporter):
		return func(result *T) Usage {
			if r, ok := any(*result).(UsageReporter); ok {
				return r.TokenUsage()
			}
			return Usage{}
		}
	case reflect.PointerTo(typ).Implements(reporter):
		return func(result *T) Usage { return any(result).(UsageReporter).TokenUsage() }
	}
	return nil
}

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
		Accounting: charging.New(s.accounting), Ticket: func() uint64 { return tickets.Add(1) }, Prior: s.priorCharges(c),
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
		if policy := charging.New(s.accounting); policy != nil {
			p.Charged = policy.Settled(endpoint.Usage{}, p.Charged)
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
		err = invalid("nil processor, give the function that makes the call")
	case err == nil && !reflect.DeepEqual(s.queueSettings, newSettings().queueSettings):
		err = invalid("an endpoint takes WithLimits, WithUnlimited, WithSharedLimits, WithLearnedLimits, WithMargin, WithPriorUsage, WithAccounting and WithBreaker; give other options to the queue")
	}
	var w *way
	if err == nil {
		w, err = c.newWay(c.clock.Since(time.Now()), name, processor, &s.endpointSettings)
	}
	if err != nil {
		return inModel(c.modelID, err, "endpoint", name)
	}
	ns := c.lock()
	defer c.unlock(ns)
	switch {
	case c.closed:
		err = c.refusal(&engine.Refusal{Code: engine.Closed})
	case c.way(name) != nil:
		err = inModel(c.modelID, invalid("it is there already, RemoveEndpoint it first"), "endpoint", name)
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
			return inModel(c.modelID, invalid("no such endpoint, AddEndpoint it first"), "endpoint", name)
		}
		e = w.endpoint
	}
	if len(limits) == 0 && e.NeedsLimit() {
		return inModel(c.modelID, invalid("SetLimits without a limit, give at least one"))
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
		return nil, inModel(c.modelID, invalid("no such endpoint, AddEndpoint it first"), "endpoint", name)
	case len(c.engine.Endpoints()) == 1:
		return nil, inModel(c.modelID, invalid("it is the last one, shut the queue down instead"), "endpoint", name)
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

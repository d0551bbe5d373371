package llmqueue

import (
	"crypto/rand"
	"encoding/binary"
	"reflect"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue/internal/clock"
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
		w.typed = w
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
		return invalid("nil processor")
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
	c.drained = make(chan struct{})
	c.timer = time.AfterFunc(time.Hour, c.fire)
	c.timer.Stop()
	var seed [8]byte
	_, _ = rand.Read(seed[:])
	c.engine = engine.New(s.engineConfig(binary.LittleEndian.Uint64(seed[:])))
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

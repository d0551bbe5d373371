package llmqueue

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Manager routes requests to the queues of their models. It is a value: make as many as you
// need, with NewManager. Safe for concurrent use.
type Manager[P, T any] struct{ registry }

// registry is a Manager without its type parameters.
type registry struct {
	options []Option
	made    bool          // by NewManager
	version atomic.Uint64 // of queues

	// mu guards the rest; no queue's method is called while it is held.
	mu     sync.RWMutex
	queues map[string]*core // never changed in place
	known  map[string]bool  // models that were ever registered
	closed bool
}

// NewManager returns a manager whose options are the defaults of every queue. What is wrong
// with them is told by Register.
func NewManager[P, T any](opts ...Option) *Manager[P, T] {
	return &Manager[P, T]{registry{options: slices.Clone(opts), made: true, queues: make(map[string]*core)}}
}

var errNoManager = invalid("the zero Manager does nothing, make one with NewManager")

// Register makes the queue of a model. opts come after the manager's, so they win. A model that
// is there already is ErrModelRegistered; otherwise the errors are NewQueue's, and
// ErrQueueClosed after Shutdown.
func (m *Manager[P, T]) Register(modelID string, process Processor[P, T], opts ...Option) (*Queue[P, T], error) {
	if err := m.free(modelID); err != nil {
		return nil, err
	}
	q, err := newQueueOf(modelID, process, &m.registry, m.options, opts)
	if err != nil {
		return nil, err
	}
	if err := m.add(&q.core); err != nil {
		_ = q.Shutdown(context.Background()) // empty: returns at once
		return nil, err
	}
	return q, nil
}

// RegisterAll makes a queue for every model of the list: all of them or, on an error, none. A
// model that is registered already is ErrModelRegistered, one that stands twice in the list
// ErrInvalidConfiguration; the other errors are Register's. A model's own limits replace those
// of opts and of the manager.
func (m *Manager[P, T]) RegisterAll(models []ModelConfig, process Processor[P, T], opts ...Option) error {
	var made []*core
	err := m.makeAll(models, opts, func(modelID string, own []Option) error {
		q, err := newQueueOf(modelID, process, &m.registry, m.options, opts, own)
		if err == nil {
			made = append(made, &q.core)
		}
		return err
	})
	if err == nil {
		err = m.add(made...)
	}
	if err != nil {
		for _, c := range made {
			_ = c.Shutdown(context.Background())
		}
	}
	return err
}

// Queue returns the queue of a model.
func (m *Manager[P, T]) Queue(modelID string) (*Queue[P, T], bool) {
	q, err := m.queue(modelID)
	return q, err == nil
}

func (m *Manager[P, T]) queue(modelID string) (*Queue[P, T], error) {
	c, err := m.find(modelID)
	if err != nil {
		return nil, err
	}
	return c.types.(*Queue[P, T]), nil
}

// Submit is Queue.Submit of the request's model. A model that is not registered is
// ErrModelNotRegistered, as in every method that names one.
func (m *Manager[P, T]) Submit(ctx context.Context, req Request[P]) (Response[T], error) {
	q, err := m.queue(req.ModelID)
	if err != nil {
		return Response[T]{}, err
	}
	return q.Submit(ctx, req)
}

// SubmitAll is Queue.SubmitAll over all models: order of the input is kept per model.
// WithMaxOutstanding is taken from the manager's options.
func (m *Manager[P, T]) SubmitAll(ctx context.Context, reqs iter.Seq[Request[P]]) iter.Seq2[Response[T], error] {
	return submitAll(ctx, reqs, max(newSettings(m.options).outstanding, 1), m.queue)
}

// Forecast says when req would start if it were submitted now: see Queue.Forecast.
func (m *Manager[P, T]) Forecast(ctx context.Context, req Request[P]) (Forecast, error) {
	q, err := m.queue(req.ModelID)
	if err != nil {
		return Forecast{}, err
	}
	return q.Forecast(ctx, req)
}

// Status is Queue.Status. An empty modelID, here and in Wait, Cancel and UpdateUsage, means the
// model that was asked for the request with that id; an id of yours that several models have is
// ErrInvalidParams then.
func (m *Manager[P, T]) Status(modelID, requestID string) (Response[T], error) {
	c, err := m.holder(modelID, requestID)
	if err != nil {
		return Response[T]{}, err
	}
	return c.types.(*Queue[P, T]).Status(requestID)
}

// Wait is Queue.Wait.
func (m *Manager[P, T]) Wait(ctx context.Context, modelID, requestID string) (Response[T], error) {
	c, err := m.holder(modelID, requestID)
	if err != nil {
		return Response[T]{}, err
	}
	return c.types.(*Queue[P, T]).Wait(ctx, requestID)
}

func (r *registry) find(modelID string) (*core, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if c, ok := r.queues[modelID]; ok {
		return c, nil
	}
	switch {
	case !r.made:
		return nil, errNoManager
	case modelID == "":
		return nil, errorf(ErrModelNotRegistered, "the request names no model, set ModelID")
	}
	return nil, inModel(modelID, errorf(ErrModelNotRegistered, "Register it first"))
}

// free says why a model cannot be registered, or nil.
func (r *registry) free(modelID string) error {
	if !r.made {
		return errNoManager
	}
	if _, err := r.find(modelID); err == nil {
		return inModel(modelID, errorf(ErrModelRegistered, "use Queue to get it or Unregister it first"))
	}
	return nil
}

// makeAll makes the queues of RegisterAll.
func (r *registry) makeAll(models []ModelConfig, opts []Option, newQueue func(modelID string, own []Option) error) error {
	seen := make(map[string]bool, len(models))
	for _, c := range models {
		if seen[c.ModelID] {
			return inModel(c.ModelID, invalid("it stands twice in the list, leave one out"))
		}
		seen[c.ModelID] = true
		if err := r.free(c.ModelID); err != nil {
			return err
		}
		var own []Option
		if len(c.Limits) > 0 {
			own = append(own, WithLimits(c.Limits...))
		}
		if c.Accounting != "" {
			policy, err := accountingByName(c.Accounting)
			if err != nil {
				return inModel(c.ModelID, err)
			}
			own = append(own, WithAccounting(policy))
		}
		if err := newQueue(c.ModelID, own); err != nil {
			return err
		}
	}
	return nil
}

// add adds all of the queues or none.
func (r *registry) add(queues ...*core) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errorf(ErrQueueClosed, "the manager was shut down, make a new one")
	}
	all := maps.Clone(r.queues)
	for _, c := range queues {
		if _, ok := all[c.modelID]; ok {
			return inModel(c.modelID, errorf(ErrModelRegistered, "use Queue to get it or Unregister it first"))
		}
		all[c.modelID] = c
	}
	if err := checkCycles(all); err != nil {
		return err
	}
	r.queues = all
	for _, c := range queues {
		if r.known == nil {
			r.known = make(map[string]bool)
		}
		r.known[c.modelID] = true
	}
	r.version.Add(1)
	return nil
}

// Unregister removes a model and drains its queue, as Queue.Shutdown does. The model is removed
// also when ctx ends first. Models that fall back to it pass it over from now on, and Check says
// so.
func (r *registry) Unregister(ctx context.Context, modelID string) error {
	c, err := r.find(modelID)
	if err != nil {
		return err
	}
	if err := c.shutFromWithin(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	if r.queues[modelID] == c {
		r.queues = maps.Clone(r.queues)
		delete(r.queues, modelID)
		r.version.Add(1)
	}
	r.mu.Unlock()
	return c.Shutdown(ctx)
}

// Models lists the registered models, sorted.
func (r *registry) Models() []string {
	return each(r.all(), func(c *core) string { return c.modelID })
}

// all are the queues, by model.
func (r *registry) all() []*core {
	r.mu.RLock()
	queues := r.queues
	r.mu.RUnlock()
	all := make([]*core, 0, len(queues))
	for _, id := range slices.Sorted(maps.Keys(queues)) {
		all = append(all, queues[id])
	}
	return all
}

// Cancel is Queue.Cancel.
func (r *registry) Cancel(modelID, requestID string) error {
	c, err := r.holder(modelID, requestID)
	if err != nil {
		return err
	}
	return c.Cancel(requestID)
}

// UpdateUsage is Queue.UpdateUsage.
func (r *registry) UpdateUsage(modelID, requestID string, u Usage) error {
	c, err := r.holder(modelID, requestID)
	if err != nil {
		return err
	}
	return c.UpdateUsage(requestID, u)
}

// SetLimits is Queue.SetLimits.
func (r *registry) SetLimits(modelID string, limits ...Limit) error {
	c, err := r.find(modelID)
	if err != nil {
		return err
	}
	return c.SetLimits(limits...)
}

// Info is Queue.Info.
func (r *registry) Info(modelID string) (QueueInfo, error) {
	c, err := r.find(modelID)
	if err != nil {
		return QueueInfo{}, err
	}
	return c.Info(), nil
}

// InfoAll is Info of every model, sorted by model.
func (r *registry) InfoAll() []QueueInfo {
	return each(r.all(), (*core).Info)
}

// Requests is Queue.Requests.
func (r *registry) Requests(modelID string, f RequestFilter) ([]RequestInfo, error) {
	c, err := r.find(modelID)
	if err != nil {
		return nil, err
	}
	return c.Requests(f), nil
}

// Pause is Queue.Pause.
func (r *registry) Pause(modelID string) error {
	c, err := r.find(modelID)
	if err == nil {
		c.Pause()
	}
	return err
}

// Resume is Queue.Resume.
func (r *registry) Resume(modelID string) error {
	c, err := r.find(modelID)
	if err == nil {
		c.Resume()
	}
	return err
}

// Acquire is Queue.Acquire of the claim's model.
func (r *registry) Acquire(ctx context.Context, claim Claim) (*Permit, error) {
	c, err := r.find(claim.ModelID)
	if err != nil {
		return nil, err
	}
	return c.Acquire(ctx, claim)
}

// Call is Queue.Call of the claim's model.
func (r *registry) Call(ctx context.Context, claim Claim, f func(ctx context.Context) error) error {
	c, err := r.find(claim.ModelID)
	if err != nil {
		return err
	}
	return c.Call(ctx, claim, f)
}

// Shutdown shuts all queues down at the same time, as Queue.Shutdown does, and returns their
// errors joined. The models stay registered, so that what ended can still be looked up; new
// ones are refused with ErrQueueClosed.
func (r *registry) Shutdown(ctx context.Context) error {
	if !r.made {
		return errNoManager
	}
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	queues := r.all()
	errs := make([]error, len(queues))
	var group errgroup.Group
	for i, c := range queues {
		group.Go(func() error {
			errs[i] = c.Shutdown(ctx)
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(errs...)
}

// Check says what is wrong with the registered models together, for a program's start and its
// tests: a fallback (see WithFallback) that is not registered, never was or is no more. Each
// problem is an ErrInvalidConfiguration and an ErrModelNotRegistered that names both models;
// several come joined, sorted by model. nil means that all is well.
func (r *registry) Check() error {
	if !r.made {
		return errNoManager
	}
	var problems []error
	for _, c := range r.all() {
		for _, model := range c.settings.fallback {
			if _, err := r.find(model); err != nil {
				problems = append(problems, fallbackMissing(c.modelID, model))
			}
		}
	}
	return errors.Join(problems...)
}

var (
	_ Inspector  = (*Manager[int, int])(nil)
	_ Controller = (*Manager[int, int])(nil)
)

package llmqueue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
)

// Manager routes requests to the queues of their models. It is a value: make as many
// as you need, with NewManager. Safe for concurrent use.
type Manager[P, T any] struct {
	options []Option

	// mu guards the rest; no queue's method is called while it is held.
	mu     sync.RWMutex
	queues map[string]*Queue[P, T]
	closed bool
}

// NewManager returns a manager whose options are the defaults of every queue. What is wrong
// with them is told by Register.
func NewManager[P, T any](opts ...Option) *Manager[P, T] {
	return &Manager[P, T]{options: slices.Clone(opts), queues: make(map[string]*Queue[P, T])}
}

// Register makes the queue of a model. opts come after the manager's, so they win. A
// model that is there already is ErrModelRegistered; otherwise the errors are
// NewQueue's, and ErrQueueClosed after Shutdown.
func (m *Manager[P, T]) Register(modelID string, process Processor[P, T], opts ...Option) (*Queue[P, T], error) {
	if _, ok := m.Queue(modelID); ok {
		return nil, registered(modelID)
	}
	q, err := newQueueOf(modelID, process, m.queue, m.options, opts)
	if err != nil {
		return nil, err
	}
	if err := m.add(q); err != nil {
		_ = q.Shutdown(context.Background()) // empty: returns at once
		return nil, err
	}
	return q, nil
}

func registered(modelID string) error {
	return fmt.Errorf("%w: %q, use Queue to get it or Unregister it first", ErrModelRegistered, modelID)
}

// add adds all of the queues or none.
func (m *Manager[P, T]) add(queues ...*Queue[P, T]) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return fmt.Errorf("%w: the manager was shut down, make a new one", ErrQueueClosed)
	}
	for _, q := range queues {
		if _, ok := m.queues[q.modelID]; ok {
			return registered(q.modelID)
		}
	}
	all := maps.Clone(m.queues)
	for _, q := range queues {
		all[q.modelID] = q
	}
	if err := checkFallbacks(all); err != nil {
		return err
	}
	m.queues = all
	m.judge()
	return nil
}

// RegisterAll makes a queue for every model of the list: all of them or, on an error,
// none. A model that is registered already is ErrModelRegistered, one that stands twice in
// the list ErrInvalidConfiguration; the other errors are Register's. A model's own limits
// replace those of opts and of the manager.
func (m *Manager[P, T]) RegisterAll(models []ModelConfig, process Processor[P, T], opts ...Option) error {
	var made []*Queue[P, T]
	undo := func(err error) error {
		for _, q := range made {
			_ = q.Shutdown(context.Background())
		}
		return err
	}
	seen := make(map[string]bool, len(models))
	for i, c := range models {
		if seen[c.ModelID] {
			return undo(fmt.Errorf("%w: model %q stands twice in the list", ErrInvalidConfiguration, c.ModelID))
		}
		seen[c.ModelID] = true
		if _, ok := m.Queue(c.ModelID); ok {
			return undo(fmt.Errorf("models[%d]: %w", i, registered(c.ModelID)))
		}
		var own []Option
		if len(c.Limits) > 0 {
			own = append(own, WithLimits(c.Limits...))
		}
		if c.Accounting != "" {
			policy, err := accountingByName(c.Accounting)
			if err != nil {
				return undo(fmt.Errorf("models[%d]: %w", i, err))
			}
			own = append(own, WithAccounting(policy))
		}
		q, err := newQueueOf(c.ModelID, process, m.queue, m.options, opts, own)
		if err != nil {
			return undo(fmt.Errorf("models[%d]: %w", i, err))
		}
		made = append(made, q)
	}
	if err := m.add(made...); err != nil {
		return undo(err)
	}
	return nil
}

// Unregister removes a model and drains its queue, as Queue.Shutdown does. The model
// is removed also when ctx ends first. Models that fall back to it pass it over from now
// on, and Check says so.
func (m *Manager[P, T]) Unregister(ctx context.Context, modelID string) error {
	m.mu.Lock()
	q, ok := m.queues[modelID]
	delete(m.queues, modelID)
	m.judge()
	m.mu.Unlock()
	if !ok {
		return m.unknown(modelID)
	}
	return q.Shutdown(ctx)
}

func (m *Manager[P, T]) unknown(modelID string) error {
	if modelID == "" {
		return fmt.Errorf("%w: the request names no model, set ModelID", ErrModelNotRegistered)
	}
	return fmt.Errorf("%w: %q, Register it first", ErrModelNotRegistered, modelID)
}

// Queue returns the queue of a model.
func (m *Manager[P, T]) Queue(modelID string) (*Queue[P, T], bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	q, ok := m.queues[modelID]
	return q, ok
}

func (m *Manager[P, T]) queue(modelID string) (*Queue[P, T], error) {
	if q, ok := m.Queue(modelID); ok {
		return q, nil
	}
	return nil, m.unknown(modelID)
}

// Models lists the registered models, sorted.
func (m *Manager[P, T]) Models() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	models := make([]string, 0, len(m.queues))
	for id := range m.queues {
		models = append(models, id)
	}
	slices.Sort(models)
	return models
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

// Status is Queue.Status.
func (m *Manager[P, T]) Status(modelID, requestID string) (Response[T], error) {
	q, err := m.queue(modelID)
	if err != nil {
		return Response[T]{}, err
	}
	return q.Status(requestID)
}

// Wait is Queue.Wait.
func (m *Manager[P, T]) Wait(ctx context.Context, modelID, requestID string) (Response[T], error) {
	q, err := m.queue(modelID)
	if err != nil {
		return Response[T]{}, err
	}
	return q.Wait(ctx, requestID)
}

// Cancel is Queue.Cancel.
func (m *Manager[P, T]) Cancel(modelID, requestID string) error {
	q, err := m.queue(modelID)
	if err != nil {
		return err
	}
	return q.Cancel(requestID)
}

// UpdateUsage is Queue.UpdateUsage.
func (m *Manager[P, T]) UpdateUsage(modelID, requestID string, u Usage) error {
	q, err := m.queue(modelID)
	if err != nil {
		return err
	}
	return q.UpdateUsage(requestID, u)
}

// SetLimits is Queue.SetLimits.
func (m *Manager[P, T]) SetLimits(modelID string, limits ...Limit) error {
	q, err := m.queue(modelID)
	if err != nil {
		return err
	}
	return q.SetLimits(limits...)
}

// Info is Queue.Info.
func (m *Manager[P, T]) Info(modelID string) (QueueInfo, error) {
	q, err := m.queue(modelID)
	if err != nil {
		return QueueInfo{}, err
	}
	return q.Info(), nil
}

// InfoAll is Info of every model, sorted by model.
func (m *Manager[P, T]) InfoAll() []QueueInfo {
	infos := []QueueInfo{}
	for _, id := range m.Models() {
		if q, ok := m.Queue(id); ok {
			infos = append(infos, q.Info())
		}
	}
	return infos
}

// Requests is Queue.Requests.
func (m *Manager[P, T]) Requests(modelID string, f RequestFilter) ([]RequestInfo, error) {
	q, err := m.queue(modelID)
	if err != nil {
		return nil, err
	}
	return q.Requests(f), nil
}

// Pause is Queue.Pause.
func (m *Manager[P, T]) Pause(modelID string) error {
	q, err := m.queue(modelID)
	if err == nil {
		q.Pause()
	}
	return err
}

// Resume is Queue.Resume.
func (m *Manager[P, T]) Resume(modelID string) error {
	q, err := m.queue(modelID)
	if err == nil {
		q.Resume()
	}
	return err
}

// Shutdown shuts all queues down at the same time, as Queue.Shutdown does, and
// returns their errors joined. The models stay registered, so that what ended can
// still be looked up; new ones are refused with ErrQueueClosed.
func (m *Manager[P, T]) Shutdown(ctx context.Context) error {
	m.mu.Lock()
	m.closed = true
	queues := make([]*Queue[P, T], 0, len(m.queues))
	for _, q := range m.queues {
		queues = append(queues, q)
	}
	m.mu.Unlock()
	errs := make([]error, len(queues))
	var all sync.WaitGroup
	for i, q := range queues {
		all.Go(func() { errs[i] = q.Shutdown(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}

var (
	_ Inspector  = (*Manager[int, int])(nil)
	_ Controller = (*Manager[int, int])(nil)
)

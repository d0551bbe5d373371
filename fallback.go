package llmqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// This file hands requests that a model cannot serve to the next one.

// WithFallback names the models of the same Manager that take over, in this order, what
// this one cannot serve: because the breakers of all its endpoints are open, because its
// quota is exhausted (unless WithWaitForQuota keeps the request), because its retries
// are used up, or because the request could start only after its deadline or MaxWait.
// An error that is not tried again, and output that was streamed, stay with this model. A
// model that was unregistered, or refuses the request, is passed over; a fallback's own
// fallbacks come before the next one.
//
// The models may be registered in any order. While one of them, or of their own fallbacks,
// was never registered, Submit is refused with an error that is ErrInvalidConfiguration and
// ErrModelNotRegistered and names both models. Manager.Check tells it before.
//
// The first queue keeps the request's id: Status, Wait and Cancel work there.
// Response.ModelID is the model that answered, usage and attempts are those of all
// together, and a failure wraps the errors of the first and the last. Such a request is
// accepted, not refused, even when in the end no model takes it.
//
// A cycle of fallbacks is ErrInvalidConfiguration from Register, and so is a fallback
// of a queue that no Manager made.
func WithFallback(modelIDs ...string) Option {
	modelIDs = slices.Clone(modelIDs)
	return Option{func(s *settings) { s.fallback = modelIDs }}
}

// away is what a queue knows of a request that it handed to another model. Guarded by
// the queue's lock.
type away struct {
	reason   error // why this model did not serve it
	failure  error // what the latest other model said, if anything
	next     int   // in the list of fallbacks
	tried    []string
	at       any    // the place[P, T] where it is; nil while it is on the way
	back     bool   // it ended there
	modelID  string // where it is, or which model answered; "" while there is none
	usage    Usage  // there
	attempts int
	started  int64 // ns, the last attempt there
}

// homecoming is who waits for a request at another model: the queue that it came from.
type homecoming[P, T any] struct {
	q *Queue[P, T]
	r ref
	a *away
}

func (h homecoming[P, T]) put(w *waiter[T]) { h.q.comeHome(h, w) }

// unserved says why this model cannot serve a new request now, though another may; nil
// when it can.
func (q *Queue[P, T]) unserved(ctx context.Context, now time.Time, req *Request[P]) error {
	if !q.settings.keepOnQuota && q.exhausted(q.since(now)) {
		return q.quotaError()
	}
	if len(q.settings.fallback) > 0 && q.allOpen() {
		return q.openError()
	}
	if _, bounded := ctx.Deadline(); (bounded || req.MaxWait > 0) && !q.settings.hopeful {
		return q.tooLate(ctx, now, req, q.forecastNew(now, req))
	}
	return nil
}

// allOpen reports whether the breakers let no call through to any endpoint.
func (q *Queue[P, T]) allOpen() bool {
	for _, e := range q.endpoints {
		if !e.open() {
			return false
		}
	}
	return true
}

var errOpen = errors.New("its circuit breaker is open")

func (q *Queue[P, T]) openError() error {
	return fmt.Errorf("llmqueue: model %q serves nothing at present: %w", q.modelID, errOpen)
}

// fail ends a request that this model could not serve, unless another one takes it. The
// request must be out of the line.
func (q *Queue[P, T]) fail(now time.Time, rec *record[P, T], err error) {
	if !q.sendOn(now, rec, err) {
		q.accountOf(rec).unserved = []string{q.modelID}
		q.finish(now, rec, stateFailed, nil, err)
	}
}

// sendOn lets a request that is out of the line go to the next model, if there is one.
func (q *Queue[P, T]) sendOn(now time.Time, rec *record[P, T], why error) bool {
	if len(q.settings.fallback) == 0 || q.cut {
		return false
	}
	q.accountOf(rec).away = &away{reason: why, tried: []string{q.modelID}}
	q.stopWaitingAt(now, rec)
	rec.state = stateForwarded
	if q.forwarded == nil {
		q.forwarded = make(map[ref]struct{})
	}
	q.forwarded[rec.ref()] = struct{}{}
	q.leaving = append(q.leaving, rec.ref())
	return true
}

// sendWaitingOn lets everything that waits go to the next model.
func (q *Queue[P, T]) sendWaitingOn(now time.Time, why error) {
	if len(q.settings.fallback) == 0 || q.cut {
		return
	}
	for _, rec := range slices.Collect(q.waiting()) {
		q.takeOff(now, rec)
		q.sendOn(now, rec, why)
	}
}

// accountOf is rec's account, a new one while it had none.
func (q *Queue[P, T]) accountOf(rec *record[P, T]) *account {
	if rec.account == nil {
		q.records.account(rec)
	}
	return rec.account
}

// travel submits requests to other models, on a goroutine of its own because that
// runs the caller's estimator and validation.
func (q *Queue[P, T]) travel(leaving []ref) {
	defer q.crew.Done()
	for _, r := range leaving {
		for q.tryNext(r) {
		}
	}
}

// tryNext submits a request to the next model. It reports whether to try another one.
func (q *Queue[P, T]) tryNext(r ref) (again bool) {
	ctx, req, a := q.nextModel(r)
	if a == nil {
		return false
	}
	target, err := q.route(req.ModelID)
	if err != nil {
		return q.turnedAway(r, a, err)
	}
	w := &waiter[T]{sink: homecoming[P, T]{q, r, a}}
	at := place[P, T]{q: target}
	key, err := target.prepareHere(ctx, &req)
	if err == nil {
		_, at.r, err = target.accept(ctx, &req, key, w)
	}
	if !req.NoWait && ctx.Err() != nil {
		q.endAs(r, stateCanceled, canceledBy(ctx))
		return false
	}
	if errors.Is(err, ErrDuplicateRequest) {
		req.ID = "" // it keeps its id here
		_, at.r, err = target.accept(ctx, &req, key, w)
	}
	if err != nil {
		return q.turnedAway(r, a, err)
	}
	q.arrived(r, a, at)
	return false
}

// nextModel makes the request for the next model, or ends it when there is none. A nil
// away says that nothing is left to do.
func (q *Queue[P, T]) nextModel(r ref) (context.Context, Request[P], *away) {
	q.mu.Lock()
	defer q.unlock()
	rec := q.records.get(r)
	if rec == nil || rec.state != stateForwarded {
		return nil, Request[P]{}, nil // it was canceled
	}
	now, a := time.Now(), rec.account.away
	models := q.settings.fallback
	for a.next < len(models) && slices.Contains(a.tried, models[a.next]) {
		a.next++
	}
	wait := rec.maxWait
	if wait > 0 && rec.account.number == 0 {
		wait -= time.Duration(q.since(now) - rec.created)
	}
	var err error
	switch {
	case a.next == len(models):
		rec.account.unserved = a.tried
		err = a.err()
	case rec.maxWait > 0 && wait <= 0:
		err = q.waitedTooLong(rec)
	}
	if err != nil {
		delete(q.forwarded, r)
		q.finish(now, rec, stateFailed, nil, err)
		q.pump(now, nil)
		return nil, Request[P]{}, nil
	}
	model := models[a.next]
	a.next++
	a.tried = append(a.tried, model)
	q.count.fallbacks++
	q.emitFor(rec, Event{Type: EventFallback, Time: now, Fallback: model, Err: cmp.Or(a.failure, a.reason)})
	req := Request[P]{
		ID: rec.id, ModelID: model, Params: rec.params, NoWait: rec.noWait, Priority: rec.priority,
		Tenant: rec.tenant, Estimate: rec.estimate, Metadata: rec.metadata,
	}
	if rec.account.number == 0 {
		req.MaxWait = wait
	}
	ctx := rec.ctx
	if rec.noWait {
		ctx = context.WithoutCancel(ctx)
	}
	return ctx, req, a
}

// err is the error of a request that no model served.
func (a *away) err() error {
	if a.failure == nil {
		return fmt.Errorf("%w (no fallback of %s took it)", a.reason, strings.Join(a.tried, ", "))
	}
	return fmt.Errorf("%w; before that, %w", a.failure, a.reason)
}

// turnedAway notes that a model does not take a request.
func (q *Queue[P, T]) turnedAway(r ref, a *away, err error) (again bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	rec := q.records.get(r)
	if rec == nil || rec.state != stateForwarded {
		return false
	}
	a.failure = err
	return true
}

// arrived notes where a request is now. One that was canceled on the way is canceled
// there.
func (q *Queue[P, T]) arrived(r ref, a *away, at place[P, T]) {
	q.mu.Lock()
	defer q.unlock()
	if rec := q.records.get(r); rec != nil && rec.state == stateForwarded && rec.account.away == a {
		a.at, a.modelID = at, at.q.modelID
	} else if !a.back {
		q.recalls = append(q.recalls, at)
	}
}

// comeHome ends a request with the answer of another model, or lets it go on to the next.
func (q *Queue[P, T]) comeHome(h homecoming[P, T], w *waiter[T]) {
	q.mu.Lock()
	defer q.unlock()
	a, resp := h.a, &w.resp
	a.back, a.at = true, nil
	rec := q.records.get(h.r)
	if rec == nil || rec.state != stateForwarded || rec.account.away != a {
		return
	}
	now := time.Now()
	a.modelID, a.usage, a.attempts = resp.ModelID, a.usage.plus(resp.Usage), a.attempts+resp.Attempts
	if !resp.StartedAt.IsZero() {
		a.started = q.since(resp.StartedAt)
	}
	if w.unserved != nil {
		a.failure, a.back = resp.Err, false
		a.tried = append(a.tried, w.unserved...)
		q.leaving = append(q.leaving, h.r)
		return
	}
	delete(q.forwarded, h.r)
	switch resp.Status {
	case StatusCompleted:
		q.finish(now, rec, stateCompleted, &resp.Result, nil)
	case StatusCanceled:
		q.finish(now, rec, stateCanceled, nil, resp.Err)
	default:
		a.failure = resp.Err
		q.finish(now, rec, stateFailed, nil, a.err())
	}
	q.pump(now, nil)
}

// recall cancels requests at other models that ended here.
func recall[P, T any](places []place[P, T]) {
	for _, p := range places {
		p.q.endAs(p.r, stateCanceled, fmt.Errorf("%w: its own queue gave it up", ErrCanceled))
	}
}

// overlay adds what happened at other models to a response.
func (a *away) overlay(usage *Usage, attempts *int, modelID *string) {
	*usage, *attempts = usage.plus(a.usage), *attempts+a.attempts
	if a.modelID != "" {
		*modelID = a.modelID
	}
}

// awayNow are the requests that other models have, in order of arrival.
func (q *Queue[P, T]) awayNow() []*record[P, T] {
	records := make([]*record[P, T], 0, len(q.forwarded))
	for r := range q.forwarded {
		records = append(records, q.records.get(r))
	}
	slices.SortFunc(records, func(a, b *record[P, T]) int { return cmp.Compare(a.seq, b.seq) })
	return records
}

// checkFallbacks finds a cycle that a new queue would close, or nil. queues are those
// that are there, the new ones included.
func checkFallbacks[P, T any](queues map[string]*Queue[P, T]) error {
	const open, done = 1, 2
	state := make(map[string]int, len(queues))
	var path []string
	var visit func(model string) error
	visit = func(model string) error {
		path = append(path, model)
		switch state[model] {
		case open:
			from := slices.Index(path, model)
			return invalid("fallbacks go in a circle: %s, take one out", strings.Join(path[from:], " → "))
		case done:
			path = path[:len(path)-1]
			return nil
		}
		state[model] = open
		if q, ok := queues[model]; ok {
			for _, next := range q.settings.fallback {
				if err := visit(next); err != nil {
					return err
				}
			}
		}
		state[model] = done
		path = path[:len(path)-1]
		return nil
	}
	for model := range queues {
		if err := visit(model); err != nil {
			return err
		}
	}
	return nil
}

// noFallback is the error of a fallback that is not there.
func noFallback(model, fallback string) error {
	return fmt.Errorf("%w: model %q falls back to %q: %w: Register it too, or take it out of WithFallback",
		ErrInvalidConfiguration, model, fallback, ErrModelNotRegistered)
}

// judge says to every queue whether it may take requests: not while a fallback that it
// reaches was never registered. The manager's lock is held.
func (m *Manager[P, T]) judge() {
	for _, q := range m.queues {
		q.unmet = slices.DeleteFunc(q.unmet, func(model string) bool { return m.queues[model] != nil })
	}
	for _, q := range m.queues {
		if len(q.settings.fallback) == 0 {
			continue
		}
		err := m.missingFrom(q, map[*Queue[P, T]]bool{})
		if err == nil {
			q.unready.Store(nil)
		} else {
			q.unready.Store(&err)
		}
	}
}

// missingFrom is the error of the first fallback that q reaches and that was never
// registered, or nil.
func (m *Manager[P, T]) missingFrom(q *Queue[P, T], seen map[*Queue[P, T]]bool) error {
	if len(q.unmet) > 0 {
		return noFallback(q.modelID, q.unmet[0])
	}
	seen[q] = true
	for _, model := range q.settings.fallback {
		if next := m.queues[model]; next != nil && !seen[next] {
			if err := m.missingFrom(next, seen); err != nil {
				return err
			}
		}
	}
	return nil
}

// Check says what is wrong with the registered models together, for a program's start and
// its tests: a fallback (see WithFallback) that is not registered, never was or is no
// more. Each problem is an ErrInvalidConfiguration and an ErrModelNotRegistered that names
// both models; several come joined, sorted by model. nil means that all is well.
func (m *Manager[P, T]) Check() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var problems []error
	for _, id := range slices.Sorted(maps.Keys(m.queues)) {
		for _, model := range m.queues[id].settings.fallback {
			if m.queues[model] == nil {
				problems = append(problems, noFallback(id, model))
			}
		}
	}
	return errors.Join(problems...)
}

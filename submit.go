package llmqueue

import (
	"context"
	"fmt"
	"time"
)

// waiter is someone who waits for a request's end: a Submit, a Wait, or a SubmitAll.
type waiter[T any] struct {
	next     *waiter[T]
	resp     Response[T]   // written by the queue before it answers
	done     chan struct{} // one token when resp is there
	sink     receiver[T]   // takes resp instead of done, unless nil
	unserved []string      // the models that could not serve the request, when it ended so
}

// receiver is someone who takes answers other than from a channel.
type receiver[T any] interface{ put(w *waiter[T]) }

// Submit hands in a request. It waits for the end and returns the final response,
// with the response's Err as error when it failed or was canceled; with NoWait it
// returns at once with StatusPending, position and expected start, both zero when
// the request starts at once.
//
// A refused request gives a zero Response and an error that wraps
// ErrInvalidParams, ErrModelNotRegistered, ErrDuplicateRequest, ErrQueueFull,
// ErrQueueClosed, ErrRequestTooLarge (it can never fit under a limit),
// ErrInvalidConfiguration (a fallback was never registered: see WithFallback),
// ErrQuotaExhausted, ErrQueueTimeout (a *DeadlineError: its deadline or MaxWait ends
// before it could start) or ErrCanceled (ctx had already ended).
//
// When ctx ends first, a waiting request leaves the line without using quota and a
// running one has its processor's context canceled; Submit returns at once.
func (q *Queue[P, T]) Submit(ctx context.Context, req Request[P]) (Response[T], error) {
	key, err := q.prepare(ctx, &req)
	if err != nil {
		return Response[T]{}, err
	}
	if req.NoWait {
		resp, _, err := q.accept(ctx, &req, key, nil)
		return resp, err
	}
	w := q.waiters.Get().(*waiter[T])
	_, r, err := q.accept(ctx, &req, key, w)
	if err != nil {
		q.waiters.Put(w)
		return Response[T]{}, err
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		q.abandon(ctx, r)
		<-w.done
	}
	return q.receive(w)
}

// receive takes the response out of a waiter that was answered.
func (q *Queue[P, T]) receive(w *waiter[T]) (resp Response[T], err error) {
	resp, w.resp = w.resp, Response[T]{}
	q.waiters.Put(w)
	return resp, resp.Err
}

// abandon ends a request whose caller's context ended. When the request ended
// first, its result stands.
func (q *Queue[P, T]) abandon(ctx context.Context, r ref) {
	q.endAs(r, stateCanceled, canceledBy(ctx))
}

// endAs ends a request from outside, unless it has ended.
func (q *Queue[P, T]) endAs(r ref, state recordState, err error) {
	q.mu.Lock()
	defer q.unlock()
	if rec := q.records.get(r); rec != nil && !rec.state.final() {
		now := time.Now()
		q.end(now, rec, state, err)
		q.pump(now, nil)
	}
}

// prepare does what needs no lock: it checks the request, runs the caller's
// validation, estimator and coalescing, and fills the model in. key is that of the call
// that the request may share, empty when it shares none.
func (q *Queue[P, T]) prepare(ctx context.Context, req *Request[P]) (key string, err error) {
	if unready := q.unready.Load(); unready != nil {
		return "", *unready
	}
	return q.prepareHere(ctx, req)
}

// prepareHere is prepare whatever fallbacks there are.
func (q *Queue[P, T]) prepareHere(ctx context.Context, req *Request[P]) (key string, err error) {
	if err := q.check(ctx, req); err != nil || q.coalesce == nil {
		return "", err
	}
	if err := recovered(func() { key = q.coalesce(*req) }); err != nil {
		return "", fmt.Errorf("%w: the coalescing key panicked: %w", ErrInvalidParams, err)
	}
	return key, nil
}

func (q *Queue[P, T]) check(ctx context.Context, req *Request[P]) error {
	switch {
	case ctx.Err() != nil:
		return canceledBy(ctx)
	case req.ModelID == "":
		req.ModelID = q.modelID
	case req.ModelID != q.modelID:
		return fmt.Errorf("%w: request for %q given to the queue of %q, submit it through a Manager or leave ModelID empty",
			ErrModelNotRegistered, req.ModelID, q.modelID)
	}
	if req.MaxWait < 0 {
		return fmt.Errorf("%w: Request.MaxWait is %v, give 0 (no bound) or more", ErrInvalidParams, req.MaxWait)
	}
	if req.Estimate.isZero() && q.estimate != nil {
		if err := recovered(func() { req.Estimate = q.estimate(*req) }); err != nil {
			return fmt.Errorf("%w: the estimator panicked: %w", ErrInvalidParams, err)
		}
	}
	if !req.Estimate.isZero() {
		if err := req.Estimate.validate("Estimate"); err != nil {
			return err
		}
	}
	if q.checkParams != nil {
		return q.checkParams(req.Params)
	}
	return nil
}

// accept puts a prepared request in line and starts what may start.
func (q *Queue[P, T]) accept(ctx context.Context, req *Request[P], key string, w *waiter[T]) (resp Response[T], r ref, err error) {
	q.mu.Lock()
	defer q.unlock()
	now := time.Now()
	shared := key != "" && q.calls.byKey[key] != nil // it costs nothing more
	if err := q.refuse(now, req, shared); err != nil {
		return Response[T]{}, ref{}, err
	}
	var unserved error
	if !shared {
		unserved = q.unserved(ctx, now, req)
	}
	if unserved != nil && len(q.settings.fallback) == 0 {
		return Response[T]{}, ref{}, unserved
	}
	rec := q.newRecord(ctx, now, req, w)
	id := rec.id
	r = rec.ref() // before it starts: it may end, and be forgotten, at once
	q.enter(now, rec, key, unserved)
	if w == nil {
		resp = Response[T]{
			RequestID: id, ModelID: q.modelID, Status: StatusPending,
			Metadata: req.Metadata, CreatedAt: now,
		}
		if rec.state == stateInLine {
			f := q.forecastLast(now, rec)
			resp.Position, resp.EstimatedStart, resp.WaitsFor = q.line.Rank(rec.handle), f.at, f.waitsFor
		} else if rec.state == stateFollowing {
			now := q.response(now, rec, nil)
			resp.Position, resp.EstimatedStart, resp.WaitsFor = now.Position, now.EstimatedStart, now.WaitsFor
		}
	}
	return resp, r, nil
}

// newRecord takes in a request that is not refused.
func (q *Queue[P, T]) newRecord(ctx context.Context, now time.Time, req *Request[P], w *waiter[T]) *record[P, T] {
	rec := q.records.add()
	rec.params, rec.tenant, rec.metadata = req.Params, req.Tenant, req.Metadata
	rec.estimate, rec.priority, rec.maxWait = req.Estimate, req.Priority, req.MaxWait
	rec.ctx, rec.created, rec.waiters = ctx, q.since(now), w
	rec.state, rec.noWait, rec.sized = stateInLine, req.NoWait, !req.Estimate.isZero()
	if req.ID == "" {
		q.records.assign(rec)
	} else {
		q.records.name(rec, req.ID)
	}
	q.count.accepted++
	q.emitFor(rec, Event{Type: EventQueued, Time: now})
	return rec
}

// enter starts a new record at once, or puts it in line and starts what may start; one
// that shares a call follows it, and one that cannot be served here goes on to a fallback.
// It may have ended and be forgotten when enter returns.
func (q *Queue[P, T]) enter(now time.Time, rec *record[P, T], key string, unserved error) {
	ns, work, r, maxWait := q.since(now), rec, rec.ref(), rec.maxWait
	if key != "" {
		work = q.follow(now, rec, key)
	}
	switch {
	case work == nil: // the call is there already
		if maxWait > 0 && !q.doesNotWaitFirst(r) {
			q.deadlines.add(after(ns, int64(maxWait)), r)
			q.arm(ns)
		}
	case unserved != nil:
		q.sendOn(now, work, unserved)
	case !q.startAtOnce(now, ns, work):
		q.joinLine(work)
		if maxWait > 0 {
			q.deadlines.add(after(ns, int64(maxWait)), r)
		}
		if head, _ := q.line.Head(); head == work.handle || q.settings.backfill {
			q.pump(now, nil)
		} else if maxWait > 0 {
			q.arm(ns)
		}
	}
}

// refuse says why the queue does not take a request, or nil. One that shares a call
// takes no room.
func (q *Queue[P, T]) refuse(now time.Time, req *Request[P], shared bool) error {
	if q.closed {
		return fmt.Errorf("%w: model %q was shut down, submit elsewhere", ErrQueueClosed, q.modelID)
	}
	if req.ID != "" {
		q.expireHistory(q.since(now))
		if q.records.find(req.ID) != nil {
			return fmt.Errorf("%w: model %q already has a request %q, use another id or leave it empty", ErrDuplicateRequest, q.modelID, req.ID)
		}
	}
	if !req.Estimate.isZero() {
		if err := q.impossible(req.Estimate); err != nil {
			return err
		}
	}
	if limit := q.settings.maxQueued; limit > 0 && !shared && q.pending() >= limit {
		return fmt.Errorf("%w: model %q has %d requests waiting, try later or raise WithMaxQueued", ErrQueueFull, q.modelID, limit)
	}
	return nil
}

// joinLine and leaveLine keep the line and the sums over it in step.
func (q *Queue[P, T]) joinLine(rec *record[P, T]) {
	q.line.Push(rec.handle, rec.priority, rec.tenant, q.share(rec.estimate))
	q.demand.add(rec.priority, 1, rec.estimate, rec.sized)
}

func (q *Queue[P, T]) returnToLine(rec *record[P, T]) {
	rec.state = stateInLine
	q.line.Return(rec.handle, rec.priority, rec.seq)
	q.demand.add(rec.priority, 1, rec.estimate, rec.sized)
}

func (q *Queue[P, T]) leaveLine(rec *record[P, T]) {
	q.line.Remove(rec.handle)
	q.leftLine(rec)
}

// leftLine books that rec is no longer in line.
func (q *Queue[P, T]) leftLine(rec *record[P, T]) {
	q.demand.add(rec.priority, -1, rec.estimate, rec.sized)
	if rec.account == nil && rec.maxWait > 0 {
		q.deadlines.drop(q.doesNotWaitFirst)
	}
	q.announceRoom()
}

// doesNotWaitFirst tells which entries of deadlines are stale.
func (q *Queue[P, T]) doesNotWaitFirst(r ref) bool {
	rec := q.records.get(r)
	if rec != nil && rec.state == stateFollowing {
		rec = q.calls.byFollower[r].rec
	}
	return rec == nil || rec.state != stateInLine || rec.account != nil
}

// Wait waits for the end of a request that Submit accepted, usually with NoWait,
// and returns what Submit would have returned: the final response, and its Err as
// error. Any number may wait for one request. When ctx ends first, Wait returns
// where the request is and the context's cause; the request goes on. An id that the
// queue does not know, or has forgotten, is ErrRequestNotFound. The result of a
// request that a Submit waited for was delivered there and is not kept.
func (q *Queue[P, T]) Wait(ctx context.Context, requestID string) (Response[T], error) {
	w, resp, err := q.await(requestID)
	if w == nil {
		return resp, err
	}
	select {
	case <-w.done:
		return q.receive(w)
	case <-ctx.Done():
	}
	if resp, ok := q.stopWaiting(w, requestID); ok {
		return resp, context.Cause(ctx)
	}
	<-w.done // it ended first
	return q.receive(w)
}

// await registers a waiter, or returns the response when the request has ended.
func (q *Queue[P, T]) await(requestID string) (*waiter[T], Response[T], error) {
	q.mu.Lock()
	defer q.unlock()
	now := time.Now()
	rec, err := q.lookup(now, requestID)
	if err != nil {
		return nil, Response[T]{}, err
	}
	if rec.state.final() {
		resp := q.response(now, rec, kept[T](rec))
		return nil, resp, resp.Err
	}
	w := q.waiters.Get().(*waiter[T])
	w.next, rec.waiters = rec.waiters, w
	return w, Response[T]{}, nil
}

// stopWaiting takes w off its request; false when the request has ended.
func (q *Queue[P, T]) stopWaiting(w *waiter[T], requestID string) (Response[T], bool) {
	q.mu.Lock()
	defer q.unlock()
	rec := q.records.find(requestID)
	if rec == nil {
		return Response[T]{}, false
	}
	for at := &rec.waiters; *at != nil; at = &(*at).next {
		if *at == w {
			*at = w.next
			w.next = nil
			q.waiters.Put(w)
			return q.response(time.Now(), rec, nil), true
		}
	}
	return Response[T]{}, false
}

// Status says where a request is, without waiting. Its error is ErrRequestNotFound
// or nil: that the request failed stands in the response.
func (q *Queue[P, T]) Status(requestID string) (Response[T], error) {
	resp, at, err := q.statusHere(requestID)
	if at == nil {
		return resp, err
	}
	there, ok := at.q.statusThere(at.r)
	if !ok {
		return resp, nil // it ended there, and is about to end here
	}
	resp.ModelID, resp.Status, resp.WaitsFor = there.ModelID, there.Status, there.WaitsFor
	resp.Position, resp.EstimatedStart = there.Position, there.EstimatedStart
	return resp, nil
}

// statusHere is Status, and where the request is when a fallback has it.
func (q *Queue[P, T]) statusHere(requestID string) (resp Response[T], at *place[P, T], err error) {
	q.mu.Lock()
	defer q.unlock()
	now := time.Now()
	rec, err := q.lookup(now, requestID)
	if err != nil {
		return Response[T]{}, nil, err
	}
	if c := q.calls.byFollower[rec.ref()]; c != nil {
		at = whereAway(c.rec)
	} else {
		at = whereAway(rec)
	}
	return q.response(now, rec, kept[T](rec)), at, nil
}

// whereAway is where a fallback has rec, nil when none has.
func whereAway[P, T any](rec *record[P, T]) *place[P, T] {
	if rec.state == stateForwarded {
		if p, ok := rec.account.away.at.(place[P, T]); ok {
			return &p
		}
	}
	return nil
}

// statusThere is the status of a request that came from another model, false when it
// has ended.
func (q *Queue[P, T]) statusThere(r ref) (resp Response[T], ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if rec := q.records.get(r); rec != nil && !rec.state.final() {
		return q.response(time.Now(), rec, nil), true
	}
	return resp, false
}

// Cancel ends a request as canceled. One that waits leaves the line at once; of one
// that runs the processor's context is canceled, and its slot stays taken until the
// processor returns. Canceling a finished request does nothing. An id that the queue
// does not know is ErrRequestNotFound.
func (q *Queue[P, T]) Cancel(requestID string) error {
	q.mu.Lock()
	defer q.unlock()
	now := time.Now()
	rec, err := q.lookup(now, requestID)
	if err != nil || rec.state.final() {
		return err
	}
	q.end(now, rec, stateCanceled, fmt.Errorf("%w: by Cancel", ErrCanceled))
	q.pump(now, nil)
	return nil
}

// Reclaim takes a request whose processor does not run out of the queue, as canceled: out
// of the line, or from between two attempts. Its error wraps ErrCanceled and cause, so
// that who submitted it knows that it may be handed in elsewhere. Reclaim reports whether
// it did: a request that runs, that a fallback has, or that has ended stays as it is. An id
// that the queue does not know is ErrRequestNotFound.
func (q *Queue[P, T]) Reclaim(requestID string, cause error) (bool, error) {
	q.mu.Lock()
	defer q.unlock()
	now := time.Now()
	rec, err := q.lookup(now, requestID)
	if err != nil {
		return false, err
	}
	work := rec
	if c := q.calls.byFollower[rec.ref()]; c != nil {
		work = c.rec
	}
	if work.state != stateInLine && work.state != stateRetrying {
		return false, nil
	}
	if cause != nil {
		err = fmt.Errorf("%w: reclaimed: %w", ErrCanceled, cause)
	} else {
		err = fmt.Errorf("%w: reclaimed", ErrCanceled)
	}
	q.end(now, rec, stateCanceled, err)
	q.pump(now, nil)
	return true, nil
}

// UpdateUsage says what a request uses. While it waits, u replaces its estimate,
// and the request fails with ErrRequestTooLarge when that can never start; while
// it runs, it equals ReportUsage; when it has ended, u replaces the last attempt's
// share, however often it is called. Negative numbers are ErrInvalidParams, an
// unknown or forgotten id is ErrRequestNotFound.
func (q *Queue[P, T]) UpdateUsage(requestID string, u Usage) error {
	if err := u.validate("Usage"); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.unlock()
	now := time.Now()
	rec, err := q.lookup(now, requestID)
	if err != nil {
		return err
	}
	if rec.state == stateFollowing {
		rec = q.calls.byFollower[rec.ref()].rec
	}
	switch {
	case rec.state == stateInLine || rec.state == stateRetrying:
		q.reestimate(now, rec, u)
	case rec.account.follows:
		err = q.errShared(requestID)
	case rec.state == stateForwarded || rec.account.away != nil:
		err = fmt.Errorf("%w: request %q is at model %q, update it there", ErrRequestNotFound, requestID, rec.account.away.modelID)
	case rec.account.attempt != nil:
		rec.account.attempt.revise(u)
	case rec.account.number > 0:
		q.book(now, rec.account, u)
	}
	q.pump(now, nil)
	return err
}

// reestimate replaces what a waiting request will reserve.
func (q *Queue[P, T]) reestimate(now time.Time, rec *record[P, T], u Usage) {
	err := q.impossible(u)
	if err != nil {
		q.end(now, rec, stateFailed, err)
		return
	}
	if rec.state == stateInLine {
		q.demand.add(rec.priority, -1, rec.estimate, rec.sized)
	}
	rec.estimate, rec.sized = u, !u.isZero()
	if rec.state == stateInLine {
		q.demand.add(rec.priority, 1, rec.estimate, rec.sized)
		q.line.SetCost(rec.handle, q.share(rec.estimate))
	}
}

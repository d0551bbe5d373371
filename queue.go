package llmqueue

import (
	"context"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/engine"
	"github.com/llmqueue/llmqueue/internal/paged"
)

// Queue is the queue of one model: requests wait in it until the model's limits let them
// start, run in the processor, and come back typed. Make one with NewQueue or
// Manager.Register and end it with Shutdown. Safe for concurrent use.
type Queue[P, T any] struct {
	core
	checkParams func(*P) error          // nil: nothing to check
	checkResult func(*T) error          // nil: nothing to check
	estimate    func(Request[P]) Usage  // nil: no estimator
	coalesce    func(Request[P]) string // nil: no request shares its call
	usage       func(result *T) Usage   // nil: T is no UsageReporter
	waiters     sync.Pool               // of *typedWaiter[T]
	slots       paged.Table[slot[P, T]] // guarded by the lock as entries are
}

// slot is what a queue keeps of a request that depends on its types.
type slot[P, T any] struct {
	params P
	result T
}

// typedWaiter is a waiter with the result.
type typedWaiter[T any] struct {
	waiter
	reply  reply
	result T
}

// NewQueue makes a queue for one model. It needs at least one limit, or WithUnlimited. What is
// wrong with the options, or with a validate tag of P or T, is ErrInvalidConfiguration.
func NewQueue[P, T any](modelID string, process Processor[P, T], opts ...Option) (*Queue[P, T], error) {
	return newQueueOf(modelID, process, nil, opts)
}

// AddEndpoint adds another way to this model's provider: another key, region or deployment,
// with a processor and limits of its own. The line stays one: its head goes to whichever
// endpoint has room first, and of those that have room now to one that works well, with the
// fewest calls for its slots; chance decides between equals. An endpoint that its provider
// paused, whose quota is used up or whose breaker is open is passed over. So is one at which
// calls fail, but for a probe now and then. A request that an endpoint failed goes to another
// one first. What NewQueue made is the queue's first endpoint and is called like the model.
//
// opts are WithLimits, WithUnlimited, WithSharedLimits, WithLearnedLimits, WithMargin,
// WithPriorUsage, WithAccounting and WithBreaker; nothing is taken over from the queue. Other
// options, an empty name and one that is in use are ErrInvalidConfiguration; after Shutdown it
// is ErrQueueClosed.
func (q *Queue[P, T]) AddEndpoint(name string, process Processor[P, T], opts ...Option) error {
	return q.addEndpoint(name, process, process == nil, opts)
}

// Do submits params, waits and returns the result: the shortest way.
func (q *Queue[P, T]) Do(ctx context.Context, params P) (T, error) {
	resp, err := q.Submit(ctx, Request[P]{Params: params})
	return resp.Result, err
}

// Submit hands in a request. It waits for the end and returns the final response, with the
// response's Err as error when it failed or was canceled; with NoWait it returns at once with
// StatusPending, position and expected start, both zero when the request starts at once.
//
// A refused request gives a zero Response and an error that wraps ErrInvalidParams,
// ErrModelNotRegistered, ErrDuplicateRequest, ErrQueueFull, ErrQueueClosed, ErrRequestTooLarge
// (it can never fit under a limit), ErrQuotaExhausted, ErrQueueTimeout (a *DeadlineError: its
// deadline or MaxWait ends before it could start) or ErrCanceled (ctx had already ended). With the
// context of one of the queue's processors it is ErrInvalidConfiguration where it would hang.
//
// When ctx ends first, a waiting request leaves the line without using quota and a running one
// has its processor's context canceled; Submit returns at once.
func (q *Queue[P, T]) Submit(ctx context.Context, req Request[P]) (resp Response[T], err error) {
	var in intake
	if err := q.prepare(ctx, &req, &in); err != nil {
		return resp, err
	}
	if req.NoWait {
		q.submitPending(&in, &req, &resp)
		return resp, in.err
	}
	w := q.waiters.Get().(*typedWaiter[T])
	r := q.accept(&in, &req.Params, &w.waiter)
	if in.err != nil {
		q.waiters.Put(w)
		return resp, in.err
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		q.abandon(ctx, r)
		<-w.done
	}
	q.respond(w, &resp)
	return resp, resp.Err
}

// prepare does what needs no lock: it checks the request and runs the caller's validation,
// estimator and coalescing.
func (q *Queue[P, T]) prepare(ctx context.Context, req *Request[P], in *intake) error {
	if !q.made {
		return errNotMade
	}
	if len(q.settings.fallback) > 0 {
		if err := q.registry.checkFallbacks(&q.core); err != nil {
			return err
		}
	}
	return q.prepareHere(ctx, req, in)
}

// prepareHere is prepare for a request that another model hands on: what is wrong with the
// fallbacks of this one must not hold it up.
func (q *Queue[P, T]) prepareHere(ctx context.Context, req *Request[P], in *intake) error {
	if err := q.check(ctx, req); err != nil {
		return err
	}
	in.ctx, in.id, in.metadata, in.Tenant, in.Priority, in.MaxWait = ctx, req.ID, req.Metadata, req.Tenant, req.Priority, int64(req.MaxWait)
	in.Estimate, in.Sized = toEngineUsage(req.Estimate), !req.Estimate.isZero()
	if req.NoWait {
		in.Tag = tagNoWait
	} else {
		in.own = q.own(ctx)
		if d, ok := ctx.Deadline(); ok {
			in.Deadline = q.clock.Since(d)
		}
	}
	if _, streams := ctx.(*stream); streams || q.coalesce == nil {
		return nil
	}
	if err := recovered(func() { in.key = q.coalesce(*req) }); err != nil {
		return errorf(ErrInvalidParams, "the coalescing key panicked: %v", err)
	}
	return nil
}

func (q *Queue[P, T]) check(ctx context.Context, req *Request[P]) error {
	switch {
	case ctx.Err() != nil:
		return canceledBy(ctx)
	case req.ModelID == "":
		req.ModelID = q.modelID
	case req.ModelID != q.modelID:
		return q.wrongModel(req.ModelID)
	}
	if req.MaxWait < 0 {
		return errorf(ErrInvalidParams, "Request.MaxWait is %v, give 0 (no bound) or more", req.MaxWait)
	}
	if q.estimate != nil && req.Estimate.isZero() {
		if err := recovered(func() { req.Estimate = q.estimate(*req) }); err != nil {
			return errorf(ErrInvalidParams, "the estimator panicked: %v", err)
		}
	}
	if !req.Estimate.isZero() {
		if err := req.Estimate.validate("Estimate"); err != nil {
			return err
		}
	}
	if q.checkParams != nil {
		return q.checkCopy(req.Params)
	}
	return nil
}

// checkCopy spares requests that have nothing to check a place on the heap.
func (q *Queue[P, T]) checkCopy(params P) error { return q.checkParams(&params) }

// accept puts a prepared request in line and starts what may start. Why it is refused stands
// in in.err.
func (q *Queue[P, T]) accept(in *intake, params *P, w *waiter) (r ref) {
	ns := q.lockNow()
	h, err := q.take(ns, in, w)
	if in.err = err; err == nil {
		r = q.ref(h)
		q.keep(in, params)
	}
	q.unlock(ns)
	return r
}

// keep puts the params where what has to run finds them.
func (q *Queue[P, T]) keep(in *intake, params *P) {
	if in.params {
		q.slots.Grow(in.work)
		q.slots.At(in.work).params = *params
	}
}

// submitPending is accept for a request that nobody waits for, with the response that says
// where it is.
func (q *Queue[P, T]) submitPending(in *intake, req *Request[P], resp *Response[T]) {
	ns := q.lock()
	h, err := q.take(ns, in, nil)
	if in.err = err; err != nil {
		q.unlock(ns)
		return
	}
	q.keep(in, &req.Params)
	r, v := q.ref(h), view{state: engine.Running}
	if state := q.engine.State(h); state == engine.InLine {
		v.state = state
		v.rank, v.wait = q.engine.ForecastLast(h)
	} else if state == engine.Following {
		v = q.look(h)
	}
	q.unlock(ns)
	if resp.RequestID = req.ID; req.ID == "" {
		resp.RequestID = q.assignedID(r)
	}
	resp.ModelID, resp.Status, resp.Metadata, resp.CreatedAt = q.modelID, StatusPending, req.Metadata, q.clock.At(ns)
	if v.rank > 0 {
		resp.Position, resp.EstimatedStart, resp.WaitsFor = v.rank, q.startOf(v.wait), waitsFor(v.wait)
	} else {
		resp.EstimatedStart = v.EstimatedStart
	}
}

// respond takes the response out of a waiter that was answered, and gives that back.
func (q *Queue[P, T]) respond(w *typedWaiter[T], resp *Response[T]) {
	q.fill(w, resp)
	var none T
	w.result, w.reply = none, reply{}
	q.waiters.Put(w)
}

// fill makes the response out of an answer.
func (q *Queue[P, T]) fill(w *typedWaiter[T], resp *Response[T]) {
	a := &w.reply
	if resp.RequestID = a.id; a.id == "" {
		resp.RequestID = q.assignedID(a.ref)
	}
	if resp.ModelID = a.model; a.model == "" {
		resp.ModelID = q.modelID
	}
	resp.Status, resp.Result, resp.Err = statusOf(a.state), w.result, a.err
	resp.Usage, resp.Attempts, resp.Metadata = a.usage, a.attempts, a.metadata
	resp.CreatedAt, resp.FinishedAt = q.clock.At(a.created), q.clock.At(a.ended)
	if a.attempts > 0 {
		resp.StartedAt = q.clock.At(a.started)
	}
}

// Wait waits for the end of a request that Submit accepted, usually with NoWait, and returns
// what Submit would have returned: the final response, and its Err as error. Any number may
// wait for one request. When ctx ends first, Wait returns where the request is and the
// context's cause; the request goes on. An id that the queue does not know, or has forgotten,
// is ErrRequestNotFound: so is, once it has completed, a request that a Submit waited for under
// an assigned id. Under an id of the caller's it is found, as by Status.
func (q *Queue[P, T]) Wait(ctx context.Context, requestID string) (resp Response[T], err error) {
	if !q.made {
		return resp, errNotMade
	}
	w := q.waiters.Get().(*typedWaiter[T])
	r, waits, err := q.await(ctx, requestID, &w.waiter)
	if !waits {
		q.waiters.Put(w)
		if err != nil {
			return resp, err
		}
		if resp, err = q.Status(requestID); err == nil {
			err = resp.Err
		}
		return resp, err
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		if q.stopWaiting(r, &w.waiter) {
			q.waiters.Put(w)
			resp, _ = q.Status(requestID) // zero when it has ended and was forgotten meanwhile
			return resp, context.Cause(ctx)
		}
		<-w.done // it ended first
	}
	q.respond(w, &resp)
	return resp, resp.Err
}

// Status says where a request is, without waiting. Its error is ErrRequestNotFound or nil:
// that the request failed stands in the response. Beside the response, the error says that a
// result is not kept: that of a request, under an id of yours, that a Submit waited for.
func (q *Queue[P, T]) Status(requestID string) (resp Response[T], err error) {
	if !q.made {
		return resp, errNotMade
	}
	ns := q.lock()
	h, err := q.lookup(ns, requestID)
	if err != nil {
		q.unlock(ns)
		return resp, err
	}
	v := q.look(h)
	if v.state == engine.Completed && q.slots.Has(h) {
		resp.Result = q.slots.At(h).result
	}
	gone := v.state == engine.Completed && q.engine.Tag(h)&(tagNoWait|tagPermit) == 0
	q.unlock(ns)
	q.follow(&v)
	resp.RequestID, resp.ModelID, resp.Status, resp.Err = requestID, v.ModelID, v.Status, v.err
	resp.Usage, resp.Attempts, resp.Metadata = v.Usage, v.Attempts, v.metadata
	resp.Position, resp.EstimatedStart, resp.WaitsFor = v.Position, v.EstimatedStart, v.WaitsFor
	resp.CreatedAt, resp.StartedAt, resp.FinishedAt = v.CreatedAt, v.StartedAt, v.FinishedAt
	if gone {
		err = inModel(q.modelID, errorf(ErrRequestNotFound, "the Submit that waited for it has the result, submit with NoWait to look results up"), "request", requestID)
	}
	return resp, err
}

// resultOf is where a waiter of this queue's types keeps the result.
func resultOf[P, T any](w *waiter) *T {
	if all, ok := w.typed.(*allWaiter[P, T]); ok {
		return &all.result
	}
	return &w.typed.(*typedWaiter[T]).result
}

func (q *Queue[P, T]) deliver(h uint32, w *waiter) {
	if q.slots.Has(h) { // else it is a permit, which has no result
		*resultOf[P, T](w) = q.slots.At(h).result
	}
}

func (q *Queue[P, T]) receive(h uint32, w *waiter) { q.slots.At(h).result = *resultOf[P, T](w) }

func (q *Queue[P, T]) params(h uint32) any { return q.slots.At(h).params }

func (q *Queue[P, T]) share(to, from uint32) {
	q.slots.Grow(to)
	q.slots.At(to).result = q.slots.At(from).result
}

func (q *Queue[P, T]) stripSlot(h uint32, keepResult bool) {
	if !q.slots.Has(h) {
		return
	}
	s := q.slots.At(h)
	kept := slot[P, T]{}
	if keepResult {
		kept.result = s.result
	}
	*s = kept
}

func (q *Queue[P, T]) clearSlot(h uint32, pageFreed bool) { q.slots.Clear(h, pageFreed) }

// Forecast says when req would start if it were submitted now and nothing else arrived,
// without submitting it. It refuses what Submit would refuse, for its size, its params, an
// exhausted quota or its deadline. What a fallback would do it does not say.
func (q *Queue[P, T]) Forecast(ctx context.Context, req Request[P]) (Forecast, error) {
	var in intake
	if err := q.prepare(ctx, &req, &in); err != nil {
		return Forecast{}, err
	}
	return q.forecast(&in)
}

func (c *core) forecast(in *intake) (Forecast, error) {
	now := time.Now()
	ns := c.lockAt(now)
	defer c.unlock(ns)
	if err := c.mayTake(ns, in); err != nil {
		return Forecast{}, err
	}
	if no := c.engine.Refuse(ns, &in.Request, false); no != nil {
		return Forecast{}, c.refusal(no)
	}
	if no := c.engine.Unserved(&in.Request); no != nil && len(c.settings.fallback) == 0 {
		return Forecast{}, c.refusal(no)
	}
	ahead, w := c.engine.Ahead(in.Priority), c.engine.Forecast(&in.Request)
	if w.Cause == endpoint.Free && ahead == 0 {
		return Forecast{EstimatedStart: now}, nil
	}
	return Forecast{Position: int(ahead) + 1, EstimatedStart: c.startOf(w), WaitsFor: waitsFor(w)}, nil
}

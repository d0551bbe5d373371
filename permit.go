package llmqueue

import (
	"cmp"
	"context"
	"errors"
	"runtime/debug"
	"time"

	"github.com/llmqueue/llmqueue/internal/engine"
)

// Claim is what Acquire asks for: leave to make one call. Its fields mean what they mean in a
// Request.
type Claim struct {
	ID       string            // assigned when empty
	ModelID  string            // empty in Queue.Acquire means that queue's model
	Tenant   string            // fair-share key within a priority
	Priority int               // higher starts first
	Estimate Usage             // tokens to reserve; zero means unknown
	MaxWait  time.Duration     // give up with ErrQueueTimeout if not granted in time; 0 means no bound
	Metadata map[string]string // for middleware and events
}

// Acquirer gives leave to make calls: a Queue, or a Manager for the models that it knows. Both are
// safe for concurrent use, and another one has to be.
type Acquirer interface {
	Acquire(ctx context.Context, c Claim) (*Permit, error)
}

var _, _ Acquirer = (*Manager[int, int])(nil), (*Queue[int, int])(nil)

// ErrTryAgain says that an attempt of a permit failed and that the request goes on: call
// Permit.Again to wait for its next attempt.
var ErrTryAgain = errors.New("llmqueue: attempt failed, call Again to wait for the next one")

// Permit is leave to make one call, which its holder makes on a goroutine of its own. It
// counts as a request of the queue: it has waited in line, takes part in limits, endpoints and
// pauses, and holds a slot until Done. Safe for concurrent use; each attempt is ended by the
// first Done.
//
// A permit that Cancel or a Shutdown that runs out of time ends has its context ended, as a
// processor has, and holds its slot until Done. A timeout of the attempt ends its context too:
// that is a passing fault when Done gets an error.
type Permit struct {
	core   *core
	ref    ref
	waiter waiter
	calls  bool        // it is of Call: an attempt lasts until the function returns
	stop   func() bool // takes the watch off its context
	woken  *Permit     // in the list of those to wake

	// Guarded by the queue's lock.
	attempt *attempt
	next    *attempt // for the next one
	number  uint32   // the engine's, of the attempt
	way     *way     // where it goes
	waits   bool     // in Acquire or Again, for a token
	held    bool     // its holder has an attempt, and no Done of it came
	again   bool     // Done said ErrTryAgain, and no Again followed
	over    bool     // no attempt is under way
	ended   bool     // the request has ended
	err     error
}

// Acquire waits until a call may start and gives leave to make it. It refuses what Submit
// refuses, with the same errors. A permit whose ctx ends before Done is canceled then, and its
// slot is free. A permit is never handed to a fallback and shares no call.
func (c *core) Acquire(ctx context.Context, claim Claim) (*Permit, error) {
	return c.acquire(ctx, claim, false)
}

func (c *core) acquire(ctx context.Context, claim Claim, calls bool) (*Permit, error) {
	if !c.made {
		return nil, errNotMade
	}
	switch {
	case ctx.Err() != nil:
		return nil, canceledBy(ctx)
	case claim.ModelID != "" && claim.ModelID != c.modelID:
		return nil, c.wrongModel(claim.ModelID)
	case claim.MaxWait < 0:
		return nil, errorf(ErrInvalidParams, "Claim.MaxWait is %v, give 0 (no bound) or more", claim.MaxWait)
	}
	if !claim.Estimate.isZero() {
		if err := claim.Estimate.validate("Estimate"); err != nil {
			return nil, err
		}
	}
	in := intake{ctx: ctx, id: claim.ID, metadata: claim.Metadata}
	in.Estimate, in.Sized = toEngineUsage(claim.Estimate), !claim.Estimate.isZero()
	in.Priority, in.Tenant, in.MaxWait = claim.Priority, claim.Tenant, int64(claim.MaxWait)
	in.Stays, in.Held, in.Tag, in.own = true, true, tagPermit, c.own(ctx)
	p := &Permit{core: c, calls: calls, next: new(attempt), waits: true, over: true}
	p.waiter.permit = p
	now := time.Now()
	if d, ok := ctx.Deadline(); ok {
		in.Deadline = c.clock.Since(d)
	}
	ns := c.lockAt(now)
	h, err := c.take(ns, &in, &p.waiter)
	if err != nil {
		c.unlock(ns)
		return nil, err
	}
	p.ref = c.ref(h)
	c.apply(ns)
	waits, err := p.waits, p.err
	if p.held = !waits; waits {
		p.waiter.done = make(chan struct{}, 1)
	}
	c.release()
	if waits {
		err = p.wait(ctx)
	}
	if err != nil {
		return nil, err
	}
	p.watch(ctx)
	return p, nil
}

// watch cancels the permit when ctx ends.
func (p *Permit) watch(ctx context.Context) {
	if ctx.Done() != nil {
		p.stop = context.AfterFunc(ctx, func() { p.cancel(ctx) })
	}
}

// unwatch takes the watch off, once the request has ended.
func (p *Permit) unwatch() {
	if p.stop != nil {
		p.stop()
	}
}

// wait waits for an attempt to start, or for the request to end.
func (p *Permit) wait(ctx context.Context) error {
	select {
	case <-p.waiter.done:
	case <-ctx.Done():
		p.core.abandon(ctx, p.ref)
		<-p.waiter.done
	}
	return p.take()
}

// take gives the holder the attempt that has started, or the error of a request that has ended.
func (p *Permit) take() error {
	p.core.mu.Lock()
	ended, err := p.ended, p.err
	p.held = !ended
	p.core.mu.Unlock()
	if ended {
		p.leave(err)
		p.unwatch()
	}
	return err
}

// grant gives the permit that waits for a request its attempt. Callers hold the lock.
func (c *core) grant(entry *entry, e *engine.Effect) *attempt {
	p := entry.waiters.ofPermit()
	if p.attempt = p.next; p.attempt == nil {
		p.attempt = new(attempt)
	}
	p.next, p.over = nil, false
	p.number, p.way = e.Attempt, c.wayOf(e.Endpoint)
	c.wakePermit(p)
	return p.attempt
}

// wakePermit tells who waits for a permit. Callers hold the lock.
func (c *core) wakePermit(p *Permit) {
	c.unnest(&p.waiter)
	if p.waits {
		p.waits = false
		if p.waiter.done != nil {
			p.woken, c.todo.permits = c.todo.permits, p // its waiter stays where it is, in the request's list
		}
	}
}

// endPermit notes the end of a permit's request. Callers hold the lock.
func (c *core) endPermit(p *Permit, err error) {
	p.ended, p.err = true, err
	c.wakePermit(p)
}

// ofPermit finds the holder of a permit among those who wait for its request.
func (w *waiter) ofPermit() *Permit {
	for w.permit == nil {
		w = w.next
	}
	return w.permit
}

// cancel ends the permit because its context ended: the attempt is over then.
func (p *Permit) cancel(ctx context.Context) {
	p.core.abandon(ctx, p.ref)
	if !p.calls {
		p.leave(context.Cause(ctx))
	}
}

// leave ends the attempt that may be under way of a request that has ended.
func (p *Permit) leave(err error) {
	p.core.mu.Lock()
	a, over := p.attempt, p.over
	p.over = true
	p.core.mu.Unlock()
	if !over {
		_ = p.conclude(a, err)
	}
}

// Context is the attempt's: it ends with the request, carries the values of the context given
// to Acquire, and ReportUsage, Observe, Streamed and the transports of package llmhttp work
// in it.
func (p *Permit) Context() context.Context {
	p.core.mu.Lock()
	defer p.core.mu.Unlock()
	return p.attempt
}

// Endpoint is the name of the endpoint that the call goes to: see Queue.AddEndpoint.
func (p *Permit) Endpoint() string {
	p.core.mu.Lock()
	defer p.core.mu.Unlock()
	return p.way.name
}

var (
	errDone  = errors.New("llmqueue: Done of an attempt that is over already, call it once for each attempt")
	errAgain = errors.New("llmqueue: Again without ErrTryAgain, call it once after a Done that returned that")
)

// Done ends the attempt. err means what it means when a processor returns it: nil completes
// the request, unless nothing was served (see Observation.Outcome); marks and what was
// observed decide whether it is tried again. Done returns nil
// or the request's final error, or ErrTryAgain when the request goes on. A second Done of the
// same attempt returns an error and changes nothing.
func (p *Permit) Done(err error) error {
	c := p.core
	c.mu.Lock()
	held, over, a, final := p.held, p.over, p.attempt, p.err
	if held {
		p.held, p.over = false, true
	}
	c.mu.Unlock()
	if !held {
		return errDone
	}
	if !over { // else its context has ended, and the request
		final = p.conclude(a, err)
	}
	if final != ErrTryAgain {
		p.unwatch()
	}
	return final
}

// conclude ends an attempt that is under way, and says how it goes on. Its caller has said that
// the attempt is over.
func (p *Permit) conclude(a *attempt, err error) error {
	c := p.core
	ending, in := a.conclude(err, p.ref, false, true)
	var next *attempt
	if in.err != nil {
		next = new(attempt)
	}
	ns := c.lock()
	number, way := p.number, p.way
	c.running[number] = nil
	p.next, c.input = next, in
	c.engine.Conclude(ns, number, &ending)
	c.apply(ns)
	c.stripEnded(p.ref)
	c.retire(way)
	final := p.err
	if p.again = !p.ended; p.again {
		final = ErrTryAgain
	}
	c.release()
	return final
}

// Again waits, after ErrTryAgain, for the next attempt of the request, which has kept its
// place. It returns nil when that has started, and the request's final error when there is
// none. When ctx ends first, the request is canceled; the permit stays bound to the context
// given to Acquire. Without ErrTryAgain it returns an error and changes nothing.
func (p *Permit) Again(ctx context.Context) error {
	c := p.core
	own := c.own(ctx)
	c.mu.Lock()
	if !p.again {
		defer c.mu.Unlock()
		return cmp.Or(p.err, errAgain)
	}
	p.again = false
	if p.ended || !p.over { // or it has started
		c.mu.Unlock()
		return p.take()
	}
	p.waits = true
	p.waiter.waitFor(own)
	if p.waiter.done == nil {
		p.waiter.done = make(chan struct{}, 1)
	}
	c.mu.Unlock()
	return p.wait(ctx)
}

// Call is Acquire, f inside the queue's middleware, and Done, again for each attempt that the
// request is tried: all on the caller's goroutine. ctx of f is the attempt's. It returns nil or
// the request's final error. A panic of f is the request's end, as a processor's is. When ctx
// ends first, the request is canceled and f's ctx ends; the slot is free when f returns.
func (c *core) Call(ctx context.Context, claim Claim, f func(ctx context.Context) error) error {
	p, err := c.acquire(ctx, claim, true)
	if err != nil {
		return err
	}
	for {
		err := p.Done(p.call(f))
		if err != ErrTryAgain {
			return err
		}
		if err := p.Again(ctx); err != nil {
			return err
		}
	}
}

// call runs f as an attempt's processor.
func (p *Permit) call(f func(ctx context.Context) error) (err error) {
	returned := false
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		} else if !returned { // runtime.Goexit goes on, and takes the caller with it
			_ = p.Done(&PanicError{Value: errGoexit, Stack: debug.Stack()})
		}
	}()
	c := p.core
	c.mu.Lock()
	a, way := p.attempt, p.way
	var job engine.Job
	c.engine.Job(p.number, &job)
	e := *c.entries.At(p.ref.handle)
	c.mu.Unlock()
	if len(c.settings.middleware) == 0 {
		err = f(a)
	} else {
		id := c.assignedID(p.ref)
		if e.id != nil {
			id = *e.id
		}
		about := c.attemptInfo(&job, way, id, &e, 0)
		err = c.through(a, &about, f)
	}
	returned = true
	return err
}

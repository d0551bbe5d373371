package llmqueue

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue/internal/engine"
	"github.com/llmqueue/llmqueue/internal/ids"
)

// worker is a goroutine that runs processors, one after the other.
type worker struct {
	core    *core
	next    *worker       // in the list of those to wake
	token   chan struct{} // one token: there is a job, or the end
	fresh   bool          // its goroutine does not run yet
	busy    bool          // it has a job
	retired bool

	// The job. Written under the queue's lock while the worker has none.
	job     engine.Job
	ref     ref
	entry   *entry
	way     *way
	tag     uint8
	attempt *attempt

	prepared *attempt // for the next job
	id       string   // of the request, once it was needed
	ids      []byte   // see ids.Cut
	invalid  bool     // the result broke its validate tags
	result   any      // *T, what the processor returned
}

// loop runs jobs until the worker is retired; busy says that it has one already. A processor
// that calls runtime.Goexit takes this goroutine with it; another takes over.
func (w *worker) loop(busy bool) {
	returned := false
	defer func() {
		if returned {
			w.core.crew.Done()
			return
		}
		err := &PanicError{Value: errGoexit, Stack: debug.Stack()}
		if busy, retired := w.core.conclude(w, err); retired {
			w.core.crew.Done()
		} else {
			go w.loop(busy)
		}
	}()
	for retired := false; !retired; {
		if !busy {
			<-w.token
			if w.retired {
				break
			}
		}
		busy, retired = w.core.conclude(w, w.run())
	}
	returned = true
}

// run runs the processor inside its middleware, and everything else of the caller's that
// belongs to the attempt.
func (w *worker) run() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Value: p, Stack: debug.Stack()}
		}
	}()
	if w.entry.id != nil {
		w.id = *w.entry.id
	} else {
		w.id = ids.Cut(&w.ids, w.core.prefix, w.ref.seq, w.ref.handle)
	}
	return w.core.types.process(w)
}

// conclude ends the attempt that w ran and gives w its next job when one may start. It tells
// w whether it has one, or is retired; otherwise w is idle and waits for its token.
func (c *core) conclude(w *worker, err error) (busy, retired bool) {
	ending, in := w.attempt.conclude(err, w.ref, w.invalid, w.tag&tagNoWait == 0)
	in.worker, w.invalid = w, false
	if w.prepared == nil {
		w.prepared = new(attempt) // here, not under the lock
	}
	ns := c.lockAt(time.Now())
	number, way := w.job.Number, c.wayOf(w.job.Endpoint)
	c.running[number] = nil
	c.types.takeResult(w, in.err == nil && !c.engine.IsCut(number))
	w.attempt, w.busy, c.input = nil, false, in
	c.engine.Conclude(ns, number, &ending)
	c.apply(ns)
	c.stripEnded(w.ref)
	c.retire(way)
	busy, retired = w.busy, w.retired
	c.release()
	return busy, retired
}

// conclude ends an attempt whose processor returned err, before the lock: it asks the errors of
// users. awaited says that somebody waits for its request.
func (a *attempt) conclude(err error, of ref, invalid, awaited bool) (ending engine.Ending, in input) {
	how := a.Finish()
	if err == nil {
		err = a.unserved()
	}
	ending, in = a.judge(err, how, invalid), input{err: err, ended: of}
	if a.core.watched {
		in.outcome = a.outcome(err)
	}
	if err != nil && awaited && a.Parent.Err() != nil {
		ending.CallerLeft, in.left = true, canceledBy(a.Parent)
	}
	return ending, in
}

// workerFor gives who runs a job that starts: the worker that just concluded one, else an idle
// one, else a new one.
func (c *core) workerFor() (w *worker) {
	if w = c.input.worker; w != nil && !w.busy {
		w.busy = true
		return w
	}
	if n := len(c.idle); n > 0 {
		w = c.idle[n-1]
		c.idle = c.idle[:n-1]
	} else {
		w = &worker{core: c, token: make(chan struct{}, 1), fresh: true}
		c.workers++
		c.crew.Add(1)
	}
	w.busy = true
	w.next, c.todo.wake = c.todo.wake, w
	return w
}

// park makes a worker without a job idle, or retires it when there are more than the limits
// can ever use.
func (c *core) park(w *worker) {
	if c.isDrained() || int64(c.workers) > c.engine.Slots() {
		w.retired = true
		c.workers--
		return
	}
	c.idle = append(c.idle, w)
}

func (c *core) isDrained() bool {
	select {
	case <-c.drained:
		return true
	default:
		return false
	}
}

// attemptInfo is what a middleware sees of an attempt.
func (c *core) attemptInfo(job *engine.Job, way *way, id string, entry *entry, tag uint8) Attempt {
	return Attempt{
		ModelID: c.modelID, Endpoint: way.name, RequestID: id, Number: job.Count, Tenant: entry.tenant,
		Priority: job.Priority, Estimate: fromEngineUsage(job.Reserved), Metadata: entry.metadata, NoWait: tag&tagNoWait != 0 && tag&tagAwaited == 0, Hedge: job.Hedge,
		CreatedAt: c.clock.At(job.Created), WaitsSince: c.clock.At(job.Since), StartedAt: c.clock.At(job.Started),
	}
}

var errNotCalled = errors.New("a middleware returned nil without calling next")

// through runs f inside the middleware. f may be called again, or several times at once, and
// late: see Middleware.
func (c *core) through(a *attempt, about *Attempt, f func(ctx context.Context) error) error {
	var mu sync.Mutex // guards called
	called := false
	next := func(ctx context.Context) error {
		mu.Lock()
		called = true
		mu.Unlock()
		return f(ctx)
	}
	for i := len(c.settings.middleware) - 1; i >= 0; i-- {
		mw, inner := c.settings.middleware[i], next
		next = func(ctx context.Context) error { return mw(ctx, *about, inner) }
	}
	err := next(a)
	mu.Lock()
	defer mu.Unlock()
	if err == nil && !called {
		err = errNotCalled
	}
	return err
}

// process runs the processor of the job that w has, and keeps the result.
func (q *Queue[P, T]) process(w *worker) error {
	s, process := q.slots.At(w.job.Handle), w.way.processor.(Processor[P, T])
	result, ok := w.result.(*T)
	if !ok {
		result = new(T)
		w.result = result
	}
	req := Request[P]{
		ID: w.id, ModelID: q.modelID, Params: s.params, NoWait: w.tag&tagNoWait != 0 && w.tag&tagAwaited == 0,
		Priority: w.job.Priority, Tenant: w.entry.tenant, Estimate: fromEngineUsage(w.job.Reserved),
		MaxWait: time.Duration(w.job.MaxWait), Metadata: w.entry.metadata,
	}
	var err error
	if len(q.settings.middleware) == 0 {
		*result, err = process(w.attempt, req)
	} else {
		*result, err = q.processThrough(w, process, req)
	}
	if err != nil {
		return err
	}
	q.reportResult(w.attempt, result)
	if q.checkResult != nil {
		err = q.checkResult(result)
		w.invalid = err != nil
	}
	return err
}

// takeResult takes the result from the worker, and keeps it with the request or drops it: only
// now it is known whether this attempt is the one that counts. Callers hold the lock.
func (q *Queue[P, T]) takeResult(w *worker, keep bool) {
	result, ok := w.result.(*T)
	if !ok {
		return // the processor did not begin
	}
	if keep {
		q.slots.At(w.job.Handle).result = *result
	}
	var none T
	*result = none
}

// reportResult is what a result says that its call used.
func (q *Queue[P, T]) reportResult(a *attempt, result *T) {
	if q.usage != nil {
		if u := q.usage(result).clamped(); !u.isZero() {
			a.reportResult(u)
		}
	}
}

// processThrough runs a processor inside the middleware. The result is of the latest success:
// a middleware may call next again, on other goroutines, and late.
func (q *Queue[P, T]) processThrough(w *worker, process Processor[P, T], req Request[P]) (result T, err error) {
	var mu sync.Mutex // guards the next two, until the middleware has returned
	var latest T
	var succeeded bool
	a := w.attempt
	about := q.attemptInfo(&w.job, w.way, w.id, w.entry, w.tag)
	err = q.through(a, &about, func(ctx context.Context) error {
		got, err := process(ctx, req)
		if err == nil {
			q.reportResult(a, &got) // here, so that ReportedUsage tells the middleware
		}
		mu.Lock()
		defer mu.Unlock()
		if succeeded = succeeded || err == nil; err == nil || !succeeded {
			latest = got
		}
		return err
	})
	mu.Lock()
	defer mu.Unlock()
	return latest, err
}

// Shutdown takes no new requests and returns when what waits and what runs has finished; a
// manually paused queue fails what waits at once. When ctx ends first, waiting requests fail
// with ErrQueueClosed, running ones have their context canceled and fail too, and after a
// moment (WithShutdownGrace) Shutdown returns the context's error, joined with how many
// processors still run. The goroutines of the queue end with it, those of abandoned
// processors when these return. With a processor's context it is an error: it would wait for itself.
// Calling it again waits for the same end. Status, Wait and
// UpdateUsage work afterwards.
func (c *core) Shutdown(ctx context.Context) error {
	if !c.made {
		return errNotMade
	}
	if err := c.shutFromWithin(ctx); err != nil {
		return err
	}
	ns := c.lock()
	c.closed = true
	c.engine.Close(ns)
	c.unlock(ns)
	var err error
	if !c.isDrained() { // else ctx does not matter
		select {
		case <-c.drained:
		case <-ctx.Done():
			err = c.cutOff(ctx)
		}
	}
	if c.isDrained() {
		c.crew.Wait()
	}
	c.stopObservers()
	c.leaveMonitors()
	return err
}

// cutOff ends everything that is left when a Shutdown's context ends.
func (c *core) cutOff(ctx context.Context) error {
	ns := c.lock()
	c.engine.CutOff(ns)
	c.unlock(ns)
	grace := time.NewTimer(c.settings.grace)
	defer grace.Stop()
	select {
	case <-c.drained:
		return context.Cause(ctx)
	case <-grace.C:
	}
	c.mu.Lock()
	left := c.engine.Running()
	c.mu.Unlock()
	if left == 0 {
		return context.Cause(ctx)
	}
	return errors.Join(context.Cause(ctx), fmt.Errorf("llmqueue: model %q: %s abandoned: return when the context ends", c.modelID, several(left, "processor")))
}

// drain ends the queue's goroutines, once nothing is left to do.
func (c *core) drain() {
	if c.isDrained() {
		return
	}
	close(c.drained)
	c.timer.Stop()
	for _, w := range c.ways {
		w.leave()
		w.endpoint.Stop()
	}
	for _, w := range c.idle {
		w.retired = true
		w.next, c.todo.wake = c.todo.wake, w
	}
	c.idle = nil
}

// leaveMonitors detaches them, once.
func (c *core) leaveMonitors() {
	c.mu.Lock()
	detach := c.detach
	c.detach = nil
	c.mu.Unlock()
	for _, f := range detach {
		_ = recovered(f) // a panic of one must not keep the others, nor Shutdown's error
	}
}

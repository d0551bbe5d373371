package llmqueue

import (
	"cmp"
	"context"
	"runtime/debug"
	"sync"
	"time"
)

// worker is a goroutine that runs processors, one after the other.
type worker[P, T any] struct {
	q     *Queue[P, T]
	next  *worker[P, T] // in the list of those to wake
	token chan struct{} // one token: there is a job, or the end
	index int           // in q.workers
	fresh bool          // its goroutine does not run yet

	// The job, nil attempt when there is none. Written under the queue's lock while
	// the worker sleeps or concludes its last one.
	attempt  *attempt
	process  Processor[P, T]
	endpoint *endpoint
	ref      ref
	req      Request[P]
	spare    *attempt // for the next job
	number   int      // of the attempt
	created  time.Time
	waits    time.Time // since when, for this attempt
	started  time.Time
	result   T // here because the queue reads it through a pointer

	// What the limits held when the job started, for comparison with what the
	// provider says remains of them; see learned.go.
	booked   []int64
	bookedAs int
	observed bool // an answer was compared already
	answered bool // the provider's answer has begun

	invalid bool // result broke its validate tags
	retired bool
}

// loop runs jobs until the worker is retired; busy says that it has one already. A
// processor that calls runtime.Goexit takes this goroutine with it; another takes over.
func (w *worker[P, T]) loop(busy bool) {
	returned := false
	defer func() {
		if returned {
			w.q.crew.Done()
			return
		}
		err := &PanicError{Value: errGoexit, Stack: debug.Stack()}
		if busy, retired := w.q.conclude(w, err); retired {
			w.q.crew.Done()
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
		busy, retired = w.q.conclude(w, w.call())
	}
	returned = true
}

// call runs the processor inside its middleware, and everything else of the caller's
// that belongs to the attempt.
func (w *worker[P, T]) call() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Value: p, Stack: debug.Stack()}
		}
	}()
	q, a := w.q, w.attempt
	if len(q.settings.middleware) == 0 {
		w.result, err = w.process(a, w.req)
	} else {
		err = w.callThrough(a)
	}
	if err != nil {
		return err
	}
	q.reportResult(a, &w.result)
	if q.checkResult != nil {
		err = q.checkResult(w.result)
		w.invalid = err != nil
	}
	return err
}

// reportResult is what a result says that its call used.
func (q *Queue[P, T]) reportResult(a *attempt, result *T) {
	if q.usageOf == nil {
		return
	}
	if u := q.usageOf(result).clamped(); !u.isZero() {
		a.reportResult(u)
	}
}

// callThrough builds the chain of middleware around the processor. The result is its
// own variable: a middleware that calls next on another goroutine and does not wait for
// it must not write into the worker's next job.
func (w *worker[P, T]) callThrough(a *attempt) error {
	q := w.q
	var mu sync.Mutex // guards the next three: next may run on other goroutines, and late
	var result T
	var called, succeeded bool
	req, process := w.req, w.process
	next := func(ctx context.Context) error {
		mu.Lock()
		called = true
		mu.Unlock()
		got, err := process(ctx, req)
		if err == nil {
			q.reportResult(a, &got) // here, so that ReportedUsage tells the middleware
		}
		mu.Lock()
		defer mu.Unlock()
		if succeeded = succeeded || err == nil; err == nil || !succeeded {
			result = got
		}
		return err
	}
	about := Attempt{
		ModelID: q.modelID, Endpoint: w.endpoint.name, RequestID: w.req.ID, Number: w.number, Tenant: w.req.Tenant,
		Priority: w.req.Priority, Estimate: w.req.Estimate, Metadata: w.req.Metadata, NoWait: w.req.NoWait,
		CreatedAt: w.created, WaitsSince: w.waits, StartedAt: w.started,
	}
	for i := len(q.settings.middleware) - 1; i >= 0; i-- {
		mw, inner := q.settings.middleware[i], next
		next = func(ctx context.Context) error { return mw(ctx, about, inner) }
	}
	err := next(a)
	mu.Lock()
	defer mu.Unlock()
	if err == nil && !called {
		err = errNotCalled
	}
	w.result = result
	return err
}

// start gives rec, which is in no line and has its seat, to a worker: free when there is one that just
// concluded its job, else an idle one, else a new one.
func (q *Queue[P, T]) start(now time.Time, rec *record[P, T], s seat, free *worker[P, T]) {
	acc := rec.account
	if acc == nil {
		acc = q.records.account(rec)
	} else if acc.number > 0 {
		acc.prior = acc.usage()
		acc.used, acc.reported = Usage{}, false
		q.count.retries++
	}
	if rec.call && acc.number == 0 {
		for _, follower := range q.sharing(rec) {
			if follower.maxWait > 0 {
				q.deadlines.drop(q.doesNotWaitFirst)
			}
		}
	}
	if acc.number == 0 {
		q.budget.first(q.settings.retry.Budget)
	}
	w := free
	if w == nil {
		w = q.worker()
		w.next, q.wake = q.wake, w
	}
	a := w.spare
	if w.spare = nil; a == nil {
		a = new(attempt)
	}
	a.parent, a.detached, a.account, acc.heeds = rec.ctx, rec.noWait, acc, w
	acc.attempt, acc.started, acc.charge, acc.shared = a, q.since(now), s.taken, s.shared
	acc.endpoint, acc.reserved = s.e, s.usage
	waits := cmp.Or(acc.waits, rec.created)
	acc.number++
	acc.untold.waited = acc.started - waits
	q.count.attempts++
	q.count.waited += acc.untold.waited
	if !rec.sized && !q.sizes.open {
		acc.blind = true
		q.blind++
	}
	if d := q.settings.timeout; d > 0 {
		a.deadline = now.Add(d)
		r := rec.ref()
		acc.timer = time.AfterFunc(d, func() { q.timeOut(r, a) })
	}
	rec.state = stateRunning
	q.running++
	s.e.running++
	s.e.unanswered++
	w.answered = false
	q.count.processing++

	w.attempt, w.endpoint, w.ref = a, s.e, rec.ref()
	w.process = s.e.process.(Processor[P, T])
	w.req = Request[P]{
		ID: rec.id, ModelID: q.modelID, Params: rec.params, NoWait: rec.noWait && !rec.awaited, Priority: rec.priority,
		Tenant: rec.tenant, Estimate: s.usage, MaxWait: rec.maxWait, Metadata: rec.metadata,
	}
	w.number, w.created, w.started = acc.number, q.epoch.Add(time.Duration(rec.created)), now
	w.waits = q.epoch.Add(time.Duration(waits))
	if w.observed = false; s.e.learned.watched {
		w.booked, w.bookedAs = s.e.own.Booked(w.booked[:0]), s.e.learned.version
	}
	q.emitFor(rec, Event{Type: EventStarted, Time: now})
}

func (q *Queue[P, T]) worker() *worker[P, T] {
	if n := len(q.idle); n > 0 {
		w := q.idle[n-1]
		q.idle = q.idle[:n-1]
		return w
	}
	w := &worker[P, T]{q: q, token: make(chan struct{}, 1), index: len(q.workers), fresh: true}
	q.workers = append(q.workers, w)
	q.crew.Add(1)
	return w
}

// rest makes a worker without a job idle, or retires it when there are more than
// the limits can ever use.
func (q *Queue[P, T]) rest(w *worker[P, T]) {
	if q.workers != nil && int64(len(q.workers)) <= q.slots {
		q.idle = append(q.idle, w)
		return
	}
	w.retired = true
	if q.workers == nil {
		return // drained
	}
	last := len(q.workers) - 1
	q.workers[w.index] = q.workers[last]
	q.workers[w.index].index = w.index
	q.workers = q.workers[:last]
}

// unlock ends a decision and does what it caused.
func (q *Queue[P, T]) unlock() {
	wake, answer := q.wake, q.answer
	q.wake, q.answer = nil, nil
	leaving, recalls := q.leaving, q.recalls
	if leaving != nil || recalls != nil {
		q.leaving, q.recalls = nil, nil
		if leaving != nil {
			q.crew.Add(1)
		}
	}
	q.mu.Unlock()
	if leaving != nil {
		go q.travel(leaving)
	}
	recall(recalls)
	for wake != nil {
		w := wake
		wake, w.next = w.next, nil
		if w.fresh {
			w.fresh = false
			go w.loop(true)
		} else {
			w.token <- struct{}{}
		}
	}
	for answer != nil {
		w := answer
		answer, w.next = w.next, nil
		if w.sink != nil {
			w.sink.put(w)
		} else {
			w.done <- struct{}{}
		}
	}
}

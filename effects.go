package llmqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/engine"
)

// todo is what a decision caused, to be done after the lock.
type todo struct {
	wake     *worker
	answered *waiter
	permits  *Permit
	rare     *rareTodo // nil: nothing
}

type rareTodo struct {
	forwardings []ref      // to submit to another model
	withdrawals []location // to cancel there
	ended       []*call    // whose followers are to end
	asked       []ref      // whose MaxWait passed while a fallback has their call
	sweep       bool       // there is more to end
	flush       bool       // the log has a line that must not be lost
	unlogged    *Event     // is said although there is no logger
}

func (t *todo) more() *rareTodo {
	if t.rare == nil {
		t.rare = new(rareTodo)
	}
	return t.rare
}

// apply ends a decision under the lock: it carries out what the engine decided, and looks what
// else follows.
func (c *core) apply(ns int64) {
	c.carryOut(ns)
	if w := c.input.worker; w != nil && !w.busy {
		c.park(w)
	}
	c.input = input{}
	if c.engine.RoomMade() && len(c.room) > 0 {
		for _, r := range c.room {
			close(r)
		}
		c.room = nil
	}
	if c.engine.Sweeping() {
		c.todo.more().sweep = true
	}
	c.arm(ns)
	if c.closed && c.engine.Done() {
		c.drain()
	}
}

// carryOut does what the engine decided, as far as that is done under the lock.
func (c *core) carryOut(ns int64) {
	for i := 0; i < len(c.engine.Effects); i++ {
		switch e := &c.engine.Effects[i]; e.Kind {
		case engine.Start:
			c.applyStart(e)
		case engine.End:
			c.applyEnd(ns, e)
		case engine.Cut:
			c.applyCut(e)
		case engine.Handoff:
			c.applyHandoff(e)
		case engine.Gone:
			c.clear(e.Handle, e.PageFreed)
		case engine.CheckStall:
			heard := c.running[e.Attempt].heard.Load()
			if c.running[e.Attempt].emitting.Load() > 0 {
				heard = ns // who takes the chunks is slow, not the provider
			}
			c.engine.Stalled(ns, e.Attempt, heard)
		case engine.AskElsewhere:
			more := c.todo.more()
			more.asked = append(more.asked, c.ref(e.Handle))
		default:
			c.applyTold(ns, e)
		}
	}
	c.engine.Effects = c.engine.Effects[:0]
}

// unlock ends a decision and does what it caused.
func (c *core) unlock(ns int64) {
	c.apply(ns)
	c.release()
}

// release gives the lock back and does what is to be done without it.
func (c *core) release() {
	t := c.todo
	c.todo = todo{}
	c.mu.Unlock()
	for w := t.wake; w != nil; {
		next := w.next
		w.next = nil
		if w.fresh {
			w.fresh = false
			go w.loop(true)
		} else {
			w.token <- struct{}{}
		}
		w = next
	}
	if t.rare != nil {
		c.tell(t.rare)
	}
	for w := t.answered; w != nil; {
		next := w.next
		w.next = nil
		if w.sink != nil {
			w.sink.put(w)
		} else {
			w.done <- struct{}{}
		}
		w = next
	}
	for p := t.permits; p != nil; {
		next := p.woken
		p.woken = nil
		p.waiter.done <- struct{}{}
		p = next
	}
	if t.rare != nil {
		c.doRare(t.rare)
	}
}

func (c *core) doRare(t *rareTodo) {
	for _, p := range t.withdrawals {
		p.core.end(p.ref, engine.CanceledState, engine.Canceled, errWithdrawn)
	}
	if len(t.forwardings) > 0 {
		go c.forwardAll(t.forwardings)
	}
	for _, call := range t.ended {
		c.finishFollowers(call)
	}
	for _, r := range t.asked {
		c.expireElsewhere(r)
	}
	if t.sweep {
		ns := c.lock()
		if c.engine.Sweeping() {
			c.engine.Sweep(ns)
		}
		c.unlock(ns)
	}
}

// applyStart gives an attempt to who runs it.
func (c *core) applyStart(e *engine.Effect) {
	entry, tag := c.entries.At(e.Handle), c.engine.Tag(e.Handle)
	var a *attempt
	job := new(engine.Job) // of a permit; it stays on the stack
	if tag&tagPermit != 0 {
		a = c.grant(entry, e)
	} else {
		w := c.workerFor()
		if a = w.prepared; a == nil {
			a = new(attempt)
		}
		w.prepared, w.attempt, w.entry, w.tag = nil, a, entry, tag
		w.ref = c.ref(e.Handle)
		job, w.way = &w.job, c.wayOf(e.Endpoint)
	}
	c.engine.Job(e.Attempt, job)
	a.Parent, a.Detached, a.core, a.number = entry.ctx, tag&tagNoWait != 0, c, e.Attempt
	if d := c.settings.timeout; d > 0 {
		a.SetDeadline(c.clock.At(job.Started).Add(d))
	}
	for len(c.running) <= int(e.Attempt) {
		c.running = append(c.running, nil)
	}
	c.running[e.Attempt] = a
	if len(c.observers) > 0 {
		c.emitFor(e.Handle, Event{Type: EventStarted, Time: c.clock.At(job.Started), Attempt: e.Count, Endpoint: c.wayOf(e.Endpoint).name, Waited: duration(e.Waited), Hedge: e.Hedge})
	}
}

// applyCut ends the context of an attempt whose request has ended.
func (c *core) applyCut(e *engine.Effect) {
	a := c.running[e.Attempt]
	if late := c.late(e.Code); late != nil {
		a.TimeOut()
		c.input.err, c.input.ended = late, c.ref(e.Handle) // what follows is because of that
		return
	}
	err, cause := error(context.Canceled), error(context.Canceled)
	switch left, ok := c.input.err.(*callerLeft); {
	case e.Code == engine.Outrun:
		cause = errOutrun
	case ok:
		err, cause = left.err, left.cause
	case e.Code == engine.Canceled && c.input.err != nil:
		cause = c.input.err
	case e.Code == engine.ShutDownRunning:
		cause = ErrQueueClosed
	}
	a.Cancel(err, cause)
}

var errOutrun = fmt.Errorf("%w: another attempt of the request was faster", context.Canceled)

// applyEnd answers who waits for a request and keeps what the history needs.
func (c *core) applyEnd(ns int64, e *engine.Effect) {
	h, tag := e.Handle, c.engine.Tag(e.Handle)
	hand := c.forwardings[h]
	if hand != nil {
		c.withdraw(hand)
	}
	err := c.reason(h, e.Code)
	if tag&tagCall != 0 {
		c.applyCallEnd(e, err)
		return
	}
	entry := c.entries.At(h)
	v := c.engine.View(h)
	usage := c.usageOf(&v)
	for w := entry.waiters; w != nil; {
		next := w.next
		c.unnest(w)
		if w.permit != nil {
			c.endPermit(w.permit, err)
		} else {
			a := w.answer
			*a = reply{
				ref: ref{handle: h}, state: e.State, err: err, attempts: v.Attempts, usage: usage, metadata: entry.metadata,
				created: v.Created, started: v.Started, ended: v.Ended,
			}
			c.nameAnswer(a, h, entry)
			if e.Unserved {
				a.unserved = c.unservedBy(hand)
			}
			if hand != nil {
				hand.overlay(&a.usage, &a.attempts, &a.model, &a.started)
			}
			if e.State == engine.Completed {
				c.types.deliver(h, w)
			}
			w.next, c.todo.answered = c.todo.answered, w
		}
		w = next
	}
	entry.waiters = nil
	if len(c.observers) > 0 {
		c.emitEnd(h, e, err, usage, hand)
		if e.State == engine.Failed && c.logs != nil {
			c.todo.more().flush = true
		}
	}
	keeps := tag&tagNoWait != 0
	if e.State == engine.Completed && !keeps && entry.id == nil {
		c.forget(h) // its caller has the response
		return
	}
	if err != nil {
		if c.failures == nil {
			c.failures = make(map[uint32]error)
		}
		c.failures[h] = err
	}
	c.remember(ns, h)
}

// nameAnswer gives an answer its id: that which the worker has made, or else the caller
// makes.
func (c *core) nameAnswer(a *reply, h uint32, entry *entry) {
	switch w := c.input.worker; {
	case entry.id != nil:
		a.id = *entry.id
	case w != nil && w.ref.handle == h && w.id != "":
		a.id = w.id
	default:
		a.ref = c.ref(h)
	}
}

// usageOf is what all attempts of a request together used, as far as it is known.
func (c *core) usageOf(v *engine.View) Usage {
	if v.UnderWay && int(v.Attempt) < len(c.running) && c.running[v.Attempt] != nil { // else it is about to be given to a worker
		used, _ := c.running[v.Attempt].used()
		return fromEngineUsage(v.Prior).plus(used)
	}
	return fromEngineUsage(v.Usage)
}

// applyTold tells observers what happened, and follows what changes the core.
func (c *core) applyTold(ns int64, e *engine.Effect) {
	now := c.clock.At(ns)
	switch e.Kind {
	case engine.Retry:
		if len(c.observers) > 0 {
			c.emitFor(e.Handle, Event{
				Type: EventRetried, Time: now, Attempt: e.Count, Endpoint: c.wayOf(e.Endpoint).name,
				Until: c.clock.At(e.At), Err: cmp.Or(c.late(e.Code), c.input.err), Took: duration(e.Took), Outcome: c.input.outcome,
			})
		}
	case engine.NoUsage:
		c.applyNoUsage(Event{Type: EventNoUsage, ModelID: c.modelID, Time: now, Err: errReservesNothing})
	case engine.EstimatesAlone:
		c.applyNoUsage(Event{Type: EventNoUsage, ModelID: c.modelID, Time: now, Err: errEstimatesAlone})
	case engine.PausedByHand:
		c.emit(Event{Type: EventPaused, Time: now})
	case engine.ResumedByHand:
		c.emit(Event{Type: EventResumed, Time: now})
	case engine.LimitsSet:
		c.emit(Event{Type: EventLimitsChanged, Time: now, Endpoint: c.wayOf(e.Event.Endpoint).name, Limits: fromEngineLimits(e.Event.Limits)})
		c.limitsChanged()
	case engine.EndpointEvent:
		c.applyEndpointEvent(ns, e.Event)
	}
}

func (c *core) applyEndpointEvent(ns int64, e *endpoint.Event) {
	w := c.wayOf(e.Endpoint)
	ev := Event{Time: c.clock.At(ns), Endpoint: w.name}
	switch e.Kind {
	case endpoint.Paused:
		w.pausedBy = c.input.err
		ev.Type, ev.Until, ev.Err = EventPaused, c.clock.At(e.Until), c.input.err
	case endpoint.Resumed:
		ev.Type = EventResumed
	case endpoint.Opened:
		ev.Type, ev.Until, ev.Err = EventOpened, c.clock.At(e.Until), c.input.err
	case endpoint.HeldOut:
		w.heldBy = cmp.Or(c.input.err, errLate)
		ev.Type, ev.Until, ev.Err = EventOpened, c.clock.At(e.Until), w.heldBy
	case endpoint.Closed, endpoint.LetIn:
		ev.Type = EventClosed
	case endpoint.NoLimits:
		ev.Type = EventNoLimits
	case endpoint.LimitIgnored:
		ev.Type, ev.Err = EventLimitIgnored, c.input.ignored[0]
		c.input.ignored = c.input.ignored[1:]
	case endpoint.LimitsLearned:
		ev.Type, ev.Limits = EventLimitLearned, fromEngineLimits(e.Limits)
		if e.Refused {
			ev.Err = c.input.err
		}
		c.limitsChanged()
	}
	c.emit(ev)
}

var errLate = errors.New("its attempts take too long")

func (c *core) wayOf(e *endpoint.Endpoint) *way { return c.ways[e.ID] }

// limitsChanged follows a change of limits: more workers than they allow are not needed,
// and the wall clock may matter now.
func (c *core) limitsChanged() {
	c.onWall.Store(c.engine.WallClock())
	for int64(c.workers) > c.engine.Slots() && len(c.idle) > 0 {
		w := c.idle[len(c.idle)-1]
		c.idle = slices.Delete(c.idle, len(c.idle)-1, len(c.idle))
		w.retired = true
		c.workers--
		w.next, c.todo.wake = c.todo.wake, w
	}
}

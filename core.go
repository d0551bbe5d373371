package llmqueue

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llmqueue/llmqueue/internal/clock"
	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/engine"
	"github.com/llmqueue/llmqueue/internal/fanout"
	"github.com/llmqueue/llmqueue/internal/history"
	"github.com/llmqueue/llmqueue/internal/paged"
)

// core is what a Queue is without its type parameters: one lock over an engine, which
// decides, and over what the engine does not know of the requests.
type core struct {
	modelID   string
	prefix    string // of assigned ids, with the dash
	settings  settings
	types     types
	registry  *registry                 // that its fallbacks are in; nil without a Manager
	observers []*fanout.Observer[Event] // until Shutdown is done
	logs      *fanout.Observer[Event]   // of them that of WithLogger, or nil
	detach    []func()                  // of WithMonitor, until Shutdown is done
	dropped   atomic.Int64
	timer     *time.Timer    // the only one; see arm
	woken     atomic.Bool    // a shared limiter says: try again
	crew      sync.WaitGroup // worker goroutines
	clock     clock.Clock
	made      bool          // by NewQueue
	watched   bool          // there are observers
	onWall    atomic.Bool   // a limit counts on the wall clock
	checked   atomic.Uint64 // the version of the registry in which its fallbacks are there

	// mu guards everything below, and is held for one decision at a time: no user code, no
	// I/O and no channel operation that can block happens under it, and nothing that is
	// linear in what waits. What a decision causes is collected by apply and done by unlock.
	mu          sync.Mutex
	engine      *engine.Engine
	entries     paged.Table[entry]
	ids         map[string]uint32      // of the requests whose id is the caller's
	reserved    int                    // of them those that look like an assigned one
	failures    map[uint32]error       // why requests in the history failed or were canceled
	calls       map[string]*call       // that several requests share, by key, until they end
	shared      map[uint32]*call       // the same by handle, until all who share them have ended
	forwardings map[uint32]*forwarding // what is known of requests that fallbacks have or had
	ways        []*way                 // by the endpoint's id
	running     []*attempt             // by the attempt's number
	workers     int                    // goroutines
	idle        []*worker              // those without a job
	history     history.History
	room        []chan struct{} // SubmitAll callers that wait for ErrQueueFull to pass
	armed       int64           // ns, when the timer fires; 0 when it does not
	read        time.Time       // the latest reading of the clock, for shared limits
	closed      bool
	drained     chan struct{}
	fallbacks   int64 // requests handed to other models
	fellBack    error // why the latest was
	noUsage     error // why token limits are not enforced, nil if they are as far as is known
	input       input
	todo        todo
}

// types is what a core needs of its Queue[P, T].
type types interface {
	process(w *worker) error             // runs the processor inside its middleware
	params(h uint32) any                 // of a request
	forward(h *hop) error                // submits a request to another queue
	deliver(h uint32, w *waiter)         // copies a result to who waits
	receive(h uint32, w *waiter)         // keeps the result that another queue gave
	takeResult(w *worker, keep bool)     // takes the result of the job that w ran
	share(to, from uint32)               // copies the result of a call
	stripSlot(h uint32, keepResult bool) // drops the params, and the result unless it is kept
	clearSlot(h uint32, pageFreed bool)  // drops both
}

// way is an endpoint as the core knows it.
type way struct {
	name      string
	processor any // a Processor[P, T]
	endpoint  *endpoint.Endpoint
	shared    []SharedMember
	left      bool          // it has left them
	pausedBy  error         // what its provider said
	heldBy    error         // what the call said for which it is held out
	drained   chan struct{} // of a removed one: closed when nothing runs there any more
}

// input is what is being decided, for the words of what it causes.
type input struct {
	err     error   // of the attempt that ended, what its provider said, or why something is canceled
	outcome Outcome // of the attempt
	ended   ref     // the request whose attempt ended
	ignored []error // what is wrong with limits that an answer stated, in order
	left    error   // the caller's context had ended when the attempt did: the error of that
	worker  *worker // whose attempt ended

	unserved error // why a request that is submitted now is handed off at once
}

// lock begins a decision with one reading of the clock.
func (c *core) lock() (ns int64) { return c.lockAt(time.Now()) }

func (c *core) lockAt(now time.Time) (ns int64) {
	ns = c.clock.Since(now)
	c.mu.Lock()
	c.read = now
	c.readWall(ns, now)
	return ns
}

// lockNow is lock without a look at the wall clock, unless a limit counts on that or somebody
// is told at once: what came since it was read last is dated when it is read again.
func (c *core) lockNow() (ns int64) {
	if c.watched || c.onWall.Load() {
		return c.lock()
	}
	ns = c.clock.Now()
	c.mu.Lock()
	return ns
}

// readWall follows the wall clock, where that matters.
func (c *core) readWall(ns int64, now time.Time) {
	wall := now.UnixNano()
	switch {
	case c.clock.Stepped(ns, wall):
		c.engine.Adjust(ns, wall, c.clock.Step(ns, wall))
	case c.onWall.Load():
		c.engine.Adjust(ns, wall, 0)
	}
}

// wakeUp is called by shared limits, under any lock.
func (c *core) wakeUp() {
	c.woken.Store(true)
	c.timer.Reset(0)
}

// longestSleep is how soon a queue that waits looks again at the latest. Timers stand still
// while the machine sleeps, but what it waits for may have come meanwhile: limits of an hour
// and more go by the wall clock, and so do a provider's pauses.
const longestSleep = int64(time.Minute)

// arm sets the timer for the next instant at which something can change. It is moved
// forward at once and backward only when it fires.
func (c *core) arm(ns int64) {
	next := c.engine.Next()
	if next > ns && c.engine.Waiting() > 0 {
		next = min(next, endpoint.After(ns, longestSleep))
	}
	if at := c.history.Expiry(); at != 0 && (next == 0 || at < next) {
		next = at
	}
	if next == 0 || c.armed != 0 && c.armed <= next {
		return
	}
	c.armed = next
	c.timer.Reset(time.Duration(max(next-ns, 0)))
	if c.woken.Load() {
		c.timer.Reset(0) // a wake came in between: it must not be put off
	}
}

// fire is the timer's function.
func (c *core) fire() {
	ns := c.lock()
	c.woken.Store(false)
	c.armed = 0
	c.expireHistory(ns)
	c.engine.Wake(ns)
	c.unlock(ns)
}

// intake is a request as it comes in.
type intake struct {
	engine.Request
	ctx      context.Context
	id       string
	metadata map[string]string
	key      string     // of the call that it may share; empty: none
	hop      *hop       // that brings it here from another model, or nil
	own      []*attempt // of this queue, that will wait for it
	err      error      // why it is refused
	work     uint32     // where take put what has to run: the request, or its call
	params   bool       // and its params belong there
}

// take takes a request in, unless it is refused. Callers hold the lock.
func (c *core) take(ns int64, in *intake, w *waiter) (h uint32, err error) {
	if err := c.mayTake(ns, in); err != nil {
		return 0, err
	}
	joins := in.key != "" && c.calls[in.key] != nil // it costs nothing more
	var unserved *engine.Refusal
	var why error
	if no := c.engine.Refuse(ns, &in.Request, joins); no != nil {
		return 0, c.refusal(no)
	}
	if !joins {
		if unserved = c.engine.Unserved(&in.Request); unserved != nil {
			if why = c.refusal(unserved); len(c.settings.fallback) == 0 || in.Stays {
				if in.hop != nil {
					in.hop.unable = unserved.Code == engine.HeldOut || unserved.Code == engine.BreakersOpen
				}
				return 0, why
			}
		}
	}
	if joins && c.runs(in.own, c.calls[in.key].handle) {
		return 0, c.waitsForItself()
	}
	if err := c.nest(in.own, w); err != nil {
		return 0, err
	}
	if in.key != "" {
		h = c.takeShared(ns, in, unserved)
	} else {
		h = c.engine.Submit(ns, &in.Request, unserved)
		in.work, in.params = h, true
	}
	c.enter(h, in, w)
	c.input.unserved = why
	return h, nil
}

// mayTake says why a request is not taken, as far as the engine does not know. Callers hold the
// lock.
func (c *core) mayTake(ns int64, in *intake) error {
	if c.closed {
		return c.refusal(&engine.Refusal{Code: engine.Closed})
	}
	if in.hop != nil && in.hop.ended.Load() {
		return errWithdrawn
	}
	if in.id != "" {
		c.expireHistory(ns)
		// A request that came from another model, and went back, may come again.
		if h, taken := c.find(in.id); taken && !(in.hop != nil && c.engine.Tag(h)&tagHop != 0 && c.engine.State(h).Final()) {
			return inModel(c.modelID, errorf(ErrDuplicateRequest, "use another id or leave it empty"), "request", in.id)
		}
	}
	return nil
}

// enter keeps what the engine does not know of a request.
func (c *core) enter(h uint32, in *intake, w *waiter) {
	c.entries.Grow(h)
	e := c.entries.At(h)
	e.ctx, e.tenant, e.metadata, e.waiters = in.ctx, in.Tenant, in.metadata, w
	id := in.id
	if id == "" && c.reserved > 0 {
		assigned := c.assignedID(c.ref(h))
		if _, taken := c.ids[assigned]; taken {
			id = assigned + "-2" // a caller chose this very id
		}
	}
	if id != "" {
		if c.ids == nil {
			c.ids = make(map[string]uint32)
		}
		kept := id
		e.id, c.ids[id] = &kept, h
		if strings.HasPrefix(id, c.prefix) {
			c.reserved++
		}
	}
	if len(c.observers) > 0 {
		c.emitFor(h, Event{Type: EventQueued, Time: c.clock.At(c.engine.View(h).Created)})
	}
}

// end ends a request from outside, unless it has ended. err is why.
func (c *core) end(r ref, state engine.State, code engine.Code, err error) {
	ns := c.lock()
	if c.known(r) {
		c.input.err = err
		c.engine.Cancel(ns, r.handle, state, code)
	}
	c.unlock(ns)
}

// abandon ends a request whose caller's context ended. When the request ended first, its
// result stands.
func (c *core) abandon(ctx context.Context, r ref) {
	c.end(r, engine.CanceledState, engine.CallerLeft, &callerLeft{ctx.Err(), context.Cause(ctx)})
}

// ModelID is the model this queue serves.
func (c *core) ModelID() string { return c.modelID }

// Len is how many requests wait, those between two attempts included.
func (c *core) Len() int {
	if !c.made {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.engine.Counts().Pending
}

// Pause stops starting requests until Resume; what runs goes on. Idempotent, not counted.
func (c *core) Pause() {
	if c.made {
		ns := c.lock()
		c.engine.Pause(ns)
		c.unlock(ns)
	}
}

// Resume ends a manual pause. On a queue that Pause does not hold it ends its providers' pauses,
// whatever their reason, and lets endpoints that are held out be probed at once.
func (c *core) Resume() {
	if c.made {
		ns := c.lock()
		c.engine.Resume(ns)
		c.unlock(ns)
	}
}

// Cancel ends a request as canceled. One that waits leaves the line at once; of one that
// runs the processor's context is canceled, and its slot stays taken until the processor
// returns. Canceling a finished request does nothing. An id that the queue does not know is
// ErrRequestNotFound.
func (c *core) Cancel(requestID string) error {
	if !c.made {
		return errNotMade
	}
	ns := c.lock()
	defer c.unlock(ns)
	h, err := c.lookup(ns, requestID)
	if err == nil {
		c.input.err = fmt.Errorf("%w: by Cancel", ErrCanceled)
		c.engine.Cancel(ns, h, engine.CanceledState, engine.Canceled)
	}
	return err
}

// Reclaim takes a request whose processor does not run out of the queue, as canceled: out of
// the line, or from between two attempts. Its error wraps ErrCanceled and cause, so that who
// submitted it knows that it may be handed in elsewhere. Reclaim reports whether it did: a
// request that runs, that a fallback has, or that has ended stays as it is. An id that the
// queue does not know is ErrRequestNotFound.
func (c *core) Reclaim(requestID string, cause error) (bool, error) {
	if !c.made {
		return false, errNotMade
	}
	ns := c.lock()
	defer c.unlock(ns)
	h, err := c.lookup(ns, requestID)
	if err != nil {
		return false, err
	}
	state := c.engine.State(h)
	if state == engine.Following {
		state = c.engine.State(c.engine.View(h).Call)
	}
	if state != engine.InLine && state != engine.BackingOff {
		return false, nil
	}
	c.input.err = reclaimed(cause)
	return c.engine.Cancel(ns, h, engine.CanceledState, engine.Canceled), nil
}

func (c *core) wrongModel(modelID string) error {
	return inModel(modelID, errorf(ErrModelNotRegistered, "this is the queue of %q, submit the request through a Manager or leave ModelID empty", c.modelID))
}

var errNotMade = invalid("the zero Queue does nothing, make one with NewQueue or Manager.Register")

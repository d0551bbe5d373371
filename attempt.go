package llmqueue

import (
	"context"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue/internal/window"
)

// attemptKey finds the attempt in a processor's context.
type attemptKey struct{}

// attempt is one run of a processor, as the processor sees it: its context, and what
// it reports. It is the context itself, one allocation instead of a derived context and
// its timer; a processor may keep it after it returned, so it is never reused.
type attempt struct {
	parent   context.Context
	detached bool      // fire and forget: the parent gives values only
	deadline time.Time // of this attempt, from WithTimeout
	account  *account

	// mu guards the rest. It is taken after the queue's lock, never before, and no
	// user code runs under it.
	mu       sync.Mutex
	done     chan struct{} // made when first asked for
	err      error         // set once, when the context ends
	children map[*afterFunc]struct{}
	usage    Usage
	reported bool
	byResult bool   // usage is what a result says: a report replaces it, not the other way
	over     bool   // the processor returned: what it reports now comes too late
	heard    *heard // nil: nothing was observed
}

// heard is what was observed during an attempt. Most attempts have none, so it is not
// part of their memory.
type heard struct {
	usage    Usage       // of all calls, for want of a report
	said     Observation // the latest with an outcome
	streamed bool        // output was handed on
}

// account is what the queue keeps of a request from its first attempt on, and of one
// that ended without any: figures, not the context, so that the history does not keep
// what the caller's context holds alive. Guarded by the queue's lock.
type account struct {
	attempt  *attempt  // whose processor runs; nil when none does
	endpoint *endpoint // of the last attempt; nil when there was none
	reserved Usage     // by the last attempt
	number   int       // of the last attempt, 1 is the first; 0 when there was none
	prior    Usage     // of the attempts before the last
	used     Usage     // of the last, once settled
	reported bool      // used is what it reported, not nothing
	blind    bool      // started without any idea of its size: the gate's one
	started  int64     // the last attempt, ns since the queue's epoch
	waits    int64     // ns, since when for the next attempt; 0 before the first
	untold   untold
	ended    int64 // the request
	failure  error // the request's
	result   any   // a *T, of a finished fire-and-forget request
	timer    *time.Timer
	charge   window.Reservation
	shared   []SharedReservation
	heeds    heeder   // the worker, for observations
	follows  bool     // another request's account has what its call used
	away     *away    // nil unless it was handed to a fallback
	unserved []string // the models that could not serve it, nil when it ended otherwise
}

// untold is what the next event tells.
type untold struct {
	waited, took int64 // ns
	outcome      Outcome
}

type heeder interface {
	heedObservation(*attempt, Observation)
}

// usage is what all attempts together used, as far as it is known.
func (a *account) usage() Usage {
	if a.attempt != nil {
		used, _ := a.attempt.used()
		return a.prior.plus(used)
	}
	return a.prior.plus(a.used)
}

type afterFunc struct{ f func() }

// Deadline is the sooner of the attempt's and, unless fire and forget, the caller's.
func (a *attempt) Deadline() (time.Time, bool) {
	if !a.detached {
		if d, ok := a.parent.Deadline(); ok && (a.deadline.IsZero() || d.Before(a.deadline)) {
			return d, true
		}
	}
	return a.deadline, !a.deadline.IsZero()
}

func (a *attempt) Done() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done == nil {
		a.done = make(chan struct{})
		if a.err != nil {
			close(a.done)
		}
	}
	return a.done
}

func (a *attempt) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// Value gives the attempt itself to this package and everything else from the
// caller's context, except the caller's cancellation: package context asks for that
// by a key of type *int and would link children to a context that may live longer,
// or shorter, than the attempt.
func (a *attempt) Value(key any) any {
	switch key.(type) {
	case attemptKey:
		return a
	case *int:
		v := a.parent.Value(key)
		if _, isContext := v.(context.Context); isContext {
			return nil
		}
		return v
	}
	return a.parent.Value(key)
}

// AfterFunc spares package context a goroutine per derived context: it looks for
// this method on a parent that is not its own.
func (a *attempt) AfterFunc(f func()) (stop func() bool) {
	child := &afterFunc{f}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		go f()
		return func() bool { return false }
	}
	if a.children == nil {
		a.children = make(map[*afterFunc]struct{})
	}
	a.children[child] = struct{}{}
	return func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		_, waiting := a.children[child]
		delete(a.children, child)
		return waiting
	}
}

// cancel ends the context. Only the first call counts.
func (a *attempt) cancel(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.end(err)
}

// end is cancel for who holds mu.
func (a *attempt) end(err error) {
	if a.err != nil {
		return
	}
	a.err = err
	if a.done != nil {
		close(a.done)
	}
	for child := range a.children {
		go child.f()
	}
	a.children = nil
}

func (a *attempt) report(u Usage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.over {
		a.usage, a.reported, a.byResult = u, true, false
	}
}

// reportResult is the report of a result that is a UsageReporter: ReportUsage wins.
func (a *attempt) reportResult(u Usage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.over && (!a.reported || a.byResult) {
		a.usage, a.reported, a.byResult = u, true, true
	}
}

// finish ends the context when the processor returned, and tells what had ended it
// before, nil when nothing had.
func (a *attempt) finish() (cut error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over, cut = true, a.err
	a.end(context.Canceled)
	return cut
}

// revise is report for UpdateUsage, which also counts after the end.
func (a *attempt) revise(u Usage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.usage, a.reported = u, true
}

// used is what this attempt reported, or what was observed, and whether there is any.
func (a *attempt) used() (Usage, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.reported && a.heard != nil && !a.heard.usage.isZero() {
		return a.heard.usage, true
	}
	return a.usage, a.reported
}

// observe notes what the provider said and returns who heeds it, nil when that comes
// too late. That is read before the attempt can be over: its account may be another
// request's afterwards.
func (a *attempt) observe(o Observation) (heeds heeder) {
	a.hear(func(h *heard) {
		heeds = a.account.heeds
		h.usage = h.usage.plus(o.Usage.clamped())
		if o.Outcome != "" {
			h.said = o
		}
	})
	return heeds
}

// stream notes that output was handed on.
func (a *attempt) stream() { a.hear(func(h *heard) { h.streamed = true }) }

// hear notes something, unless the processor has returned.
func (a *attempt) hear(note func(*heard)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return
	}
	if a.heard == nil {
		a.heard = new(heard)
	}
	note(a.heard)
}

// verdict is the latest outcome that was observed, and whether streamed output was
// handed on.
func (a *attempt) verdict() (said Observation, streamed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.heard == nil {
		return Observation{}, false
	}
	return a.heard.said, a.heard.streamed
}

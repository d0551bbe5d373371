package llmqueue

import (
	"context"
	"sync"
	"time"
)

// attemptKey finds the attempt in a processor's context.
type attemptKey struct{}

// attempt is one run of a processor, as the processor sees it: its context, and what it
// reports. It is the context itself, one allocation instead of a derived context and its
// timer; a processor may keep it after it returned, so it is never reused.
type attempt struct {
	parent context.Context
	core   *core // that Observe tells

	// mu guards the rest. It is taken after the queue's lock, never before, and no user
	// code runs under it.
	mu       sync.Mutex
	usage    Usage
	more     *attemptMore // what most attempts do not need; nil until it is
	number   uint32       // the engine's
	detached bool         // fire and forget: the parent gives values only
	reported bool
	byResult bool // usage is what a result says: a report replaces it, not the other way
	over     bool // the processor returned: what it reports now comes too late
}

// attemptMore is the part of an attempt that is made when it is first asked for.
type attemptMore struct {
	deadline time.Time // by WithTimeout
	done     chan struct{}
	err      error // set once, when the context ends
	cause    error
	timedOut bool
	ended    context.Context // for context.Cause: it ends with the cause
	end      context.CancelCauseFunc
	children map[*afterFunc]struct{}

	observed Usage       // of all calls, for want of a report
	said     Observation // the latest with an outcome
	streamed bool        // output was handed on
}

type afterFunc struct{ f func() }

// extra is a.more, made when there is none. Callers hold mu.
func (a *attempt) extra() *attemptMore {
	if a.more == nil {
		a.more = new(attemptMore)
		if a.over {
			a.more.err, a.more.cause = context.Canceled, context.Canceled
		}
	}
	return a.more
}

// Deadline is the sooner of the attempt's and, unless fire and forget, the caller's.
func (a *attempt) Deadline() (deadline time.Time, ok bool) {
	a.mu.Lock()
	if a.more != nil {
		deadline = a.more.deadline
	}
	a.mu.Unlock()
	if !a.detached {
		if d, ok := a.parent.Deadline(); ok && (deadline.IsZero() || d.Before(deadline)) {
			return d, true
		}
	}
	return deadline, !deadline.IsZero()
}

func (a *attempt) Done() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.extra()
	if m.done == nil {
		m.done = make(chan struct{})
		if m.err != nil {
			close(m.done)
		}
	}
	return m.done
}

func (a *attempt) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.more == nil && !a.over {
		return nil
	}
	return a.extra().err
}

// cancelKey is the key by which package context asks a context for the one of its own
// that it derives from.
var cancelKey = func() (key any) {
	context.Cause(keyProbe{context.Background(), &key})
	return key
}()

type keyProbe struct {
	context.Context
	asked *any
}

// Err lets context.Cause go on to ask: it does not of a context that has not ended.
func (keyProbe) Err() error { return context.Canceled }

func (p keyProbe) Value(key any) any {
	*p.asked = key
	return nil
}

// Value gives the attempt itself to this package and everything else from the caller's
// context, except the caller's cancellation: package context would link children to a
// context that may live longer, or shorter, than the attempt. It gets one that ends with
// the attempt's cause, so that context.Cause finds it.
func (a *attempt) Value(key any) any {
	if _, ok := key.(attemptKey); ok {
		return a
	}
	if key != cancelKey {
		return a.parent.Value(key)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.extra()
	if m.ended == nil {
		m.ended, m.end = context.WithCancelCause(context.Background())
		if m.err != nil {
			m.end(m.cause)
		}
	}
	return m.ended.Value(key)
}

// AfterFunc spares package context a goroutine per derived context: it looks for this
// method on a parent that is not its own.
func (a *attempt) AfterFunc(f func()) (stop func() bool) {
	child := &afterFunc{f}
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.extra()
	if m.err != nil {
		go f()
		return func() bool { return false }
	}
	if m.children == nil {
		m.children = make(map[*afterFunc]struct{})
	}
	m.children[child] = struct{}{}
	return func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		_, waiting := m.children[child]
		delete(m.children, child)
		return waiting
	}
}

// cancel ends the context. Only the first call counts.
func (a *attempt) cancel(err, cause error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cancelLocked(err, cause)
}

// timeOut is cancel for an attempt that took too long.
func (a *attempt) timeOut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if m := a.extra(); m.err == nil {
		m.timedOut = true
	}
	a.cancelLocked(context.DeadlineExceeded, context.DeadlineExceeded)
}

// cancelLocked is cancel for who holds mu.
func (a *attempt) cancelLocked(err, cause error) {
	m := a.extra()
	if m.err != nil {
		return
	}
	m.err, m.cause = err, cause
	if m.done != nil {
		close(m.done)
	}
	if m.end != nil {
		m.end(cause)
	}
	for child := range m.children {
		go child.f()
	}
	m.children = nil
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

// cut is what had ended an attempt's context when its processor returned.
type cut uint8

const (
	cutNot cut = iota
	cutLeft
	cutTimedOut
)

// finish ends the context when the processor returned, and tells what had ended it before.
func (a *attempt) finish() cut {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	switch m := a.more; {
	case m == nil:
		return cutNot
	case m.err == nil:
		a.cancelLocked(context.Canceled, context.Canceled)
		return cutNot
	case m.timedOut:
		return cutTimedOut
	}
	return cutLeft
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
	if !a.reported && a.more != nil && !a.more.observed.isZero() {
		return a.more.observed, true
	}
	return a.usage, a.reported
}

// observe notes what the provider said, and reports whether that comes in time.
func (a *attempt) observe(o Observation) bool {
	return a.note(func(m *attemptMore) {
		m.observed = m.observed.plus(o.Usage.clamped())
		if o.Outcome != "" {
			m.said = o
		}
	})
}

// stream notes that output was handed on.
func (a *attempt) stream() { a.note(func(m *attemptMore) { m.streamed = true }) }

// note keeps something, unless the processor has returned.
func (a *attempt) note(keep func(*attemptMore)) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return false
	}
	keep(a.extra())
	return true
}

// heard is the latest outcome that was observed, and whether streamed output was handed
// on.
func (a *attempt) heard() (said Observation, streamed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.more == nil {
		return Observation{}, false
	}
	return a.more.said, a.more.streamed
}

// Package lazyctx has a context that costs its owner no allocation of its own: an owner embeds
// it, and what most contexts are never asked for is made when somebody asks.
package lazyctx

import (
	"context"
	"sync"
	"time"
)

// Context is a context.Context inside a larger struct, which is one allocation instead of a
// derived context with its timer and a goroutine that watches the parent. It carries its
// parent's values. It does not end with its parent: its owner calls Cancel, TimeOut and Finish.
// Who has it may keep it after that, so it is never reused.
//
// X is what the owner keeps in the part that is made late. Safe for concurrent use, once the
// owner has set Parent, Detached and the deadline.
type Context[X any] struct {
	Parent context.Context

	// Mu guards the rest, and what the owner keeps beside it. No user code runs under it.
	Mu       sync.Mutex
	late     *late[X] // nil until it is needed
	Detached bool     // the parent's deadline does not count
	finished bool
}

// late is the part of a context that is made when it is first asked for.
type late[X any] struct {
	deadline time.Time
	done     chan struct{}
	err      error // set once, when the context ends
	cause    error
	timedOut bool
	ended    context.Context // for context.Cause: it ends with the cause
	end      context.CancelCauseFunc
	children map[*child]struct{}
	extra    X
}

type child struct{ f func() }

// part is c.late, made when there is none. Callers hold Mu.
func (c *Context[X]) part() *late[X] {
	if c.late == nil {
		c.late = new(late[X])
		if c.finished {
			c.late.err, c.late.cause = context.Canceled, context.Canceled
		}
	}
	return c.late
}

// Extra is what the owner keeps in the part that is made late, and makes it. Callers hold Mu.
func (c *Context[X]) Extra() *X { return &c.part().extra }

// HasExtra is Extra, or nil when that part was not made. Callers hold Mu.
func (c *Context[X]) HasExtra() *X {
	if c.late == nil {
		return nil
	}
	return &c.late.extra
}

// SetDeadline sets what Deadline says. Nothing ends the context then: see TimeOut.
func (c *Context[X]) SetDeadline(at time.Time) {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	c.part().deadline = at
}

// Deadline is the sooner of the context's and, unless it is detached, the parent's.
func (c *Context[X]) Deadline() (deadline time.Time, ok bool) {
	c.Mu.Lock()
	if c.late != nil {
		deadline = c.late.deadline
	}
	c.Mu.Unlock()
	if !c.Detached {
		if d, ok := c.Parent.Deadline(); ok && (deadline.IsZero() || d.Before(deadline)) {
			return d, true
		}
	}
	return deadline, !deadline.IsZero()
}

// Done is closed when the context ends.
func (c *Context[X]) Done() <-chan struct{} {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	l := c.part()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.err != nil {
			close(l.done)
		}
	}
	return l.done
}

// Err says why the context ended, nil before.
func (c *Context[X]) Err() error {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	if c.late == nil && !c.finished {
		return nil
	}
	return c.part().err
}

// cancelKey is the key by which package context asks a context for the one of its own that it
// derives from.
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

// Value is the parent's, except for its cancellation: package context would link children to a
// context that may live longer, or shorter, than this one. It gets one that ends with the
// cause, so that context.Cause finds it.
func (c *Context[X]) Value(key any) any {
	if key != cancelKey {
		return c.Parent.Value(key)
	}
	c.Mu.Lock()
	defer c.Mu.Unlock()
	l := c.part()
	if l.ended == nil {
		l.ended, l.end = context.WithCancelCause(context.Background())
		if l.err != nil {
			l.end(l.cause)
		}
	}
	return l.ended.Value(key)
}

// AfterFunc spares package context a goroutine per derived context: it looks for this method on
// a parent that is not its own.
func (c *Context[X]) AfterFunc(f func()) (stop func() bool) {
	one := &child{f}
	c.Mu.Lock()
	defer c.Mu.Unlock()
	l := c.part()
	if l.err != nil {
		go f()
		return func() bool { return false }
	}
	if l.children == nil {
		l.children = make(map[*child]struct{})
	}
	l.children[one] = struct{}{}
	return func() bool {
		c.Mu.Lock()
		defer c.Mu.Unlock()
		_, waits := l.children[one]
		delete(l.children, one)
		return waits
	}
}

// Cancel ends the context, unless it has ended.
func (c *Context[X]) Cancel(err, cause error) {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	c.cancel(err, cause)
}

// TimeOut is Cancel for a context whose owner took too long.
func (c *Context[X]) TimeOut() {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	if l := c.part(); l.err == nil {
		l.timedOut = true
	}
	c.cancel(context.DeadlineExceeded, context.DeadlineExceeded)
}

// cancel is Cancel for who holds Mu.
func (c *Context[X]) cancel(err, cause error) {
	l := c.part()
	if l.err != nil {
		return
	}
	l.err, l.cause = err, cause
	if l.done != nil {
		close(l.done)
	}
	if l.end != nil {
		l.end(cause)
	}
	for one := range l.children {
		go one.f()
	}
	l.children = nil
}

// End is what had ended a context when its owner finished.
type End uint8

// What may have ended it.
const (
	Finished End = iota // nothing before
	Canceled
	TimedOut
)

// Finish ends the context because its owner has done what it was for, and tells what had ended
// it before.
func (c *Context[X]) Finish() End {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	c.finished = true
	switch l := c.late; {
	case l == nil:
		return Finished
	case l.err == nil:
		c.cancel(context.Canceled, context.Canceled)
		return Finished
	case l.timedOut:
		return TimedOut
	}
	return Canceled
}

// HasFinished reports whether Finish was called. Callers hold Mu.
func (c *Context[X]) HasFinished() bool { return c.finished }

package llmqueue

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"github.com/llmqueue/llmqueue/internal/engine"
)

// waiter is someone who waits for a request's end: a Submit, a Wait, a SubmitAll, the queue
// that a request came from, or the holder of a permit.
type waiter struct {
	next   *waiter
	done   chan struct{} // one token when it is answered
	sink   receiver      // takes the answer instead of done, unless nil
	typed  any           // the *typedWaiter[T] that this is a part of
	permit *Permit
	own    []*attempt // of the same queue, that wait for this: see core.nest
	answer *reply     // is written here; nil for a permit, whose holder gets it otherwise
}

// receiver is someone who takes answers other than from a channel.
type receiver interface{ put(w *waiter) }

// reply is how a request ended, without its result.
type reply struct {
	ref                     ref
	id                      string // empty: the assigned one
	model                   string // empty: the queue's own
	state                   engine.State
	attempts                int
	created, started, ended int64 // ns
	usage                   Usage
	err                     error
	metadata                map[string]string
	unserved                []string // the models that could not serve the request, when it ended so
}

// await registers a waiter; waits is false when the request has ended or is not known.
func (c *core) await(ctx context.Context, requestID string, w *waiter) (r ref, waits bool, err error) {
	own := c.own(ctx)
	ns := c.lock()
	defer c.unlock(ns)
	h, err := c.lookup(ns, requestID)
	if err != nil || c.engine.State(h).Final() {
		return ref{}, false, err
	}
	call := h
	if c.engine.State(h) == engine.Following {
		call = c.engine.View(h).Call
	}
	if c.runs(own, call) {
		return ref{}, false, c.waitsForItself()
	}
	if err := c.nest(own, w); err != nil {
		return ref{}, false, err
	}
	e := c.entries.At(h)
	w.next, e.waiters = e.waiters, w
	return c.ref(h), true, nil
}

// stopWaiting takes w off its request; false when the request has ended.
func (c *core) stopWaiting(r ref, w *waiter) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known(r) {
		return false
	}
	for at := &c.entries.At(r.handle).waiters; *at != nil; at = &(*at).next {
		if *at == w {
			*at, w.next = w.next, nil
			c.unnest(w)
			return true
		}
	}
	return false
}

// enclosing are the attempts that ctx is in, the innermost first, up to one that nobody waits for.
func enclosing(ctx context.Context) iter.Seq[*attempt] {
	return func(yield func(*attempt) bool) {
		for {
			a, ok := ctx.Value(attemptKey{}).(*attempt)
			if !ok || !yield(a) || a.Detached {
				return
			}
			ctx = a.Parent
		}
	}
}

// own are those of this queue. What waits with ctx keeps them waiting.
func (c *core) own(ctx context.Context) (own []*attempt) {
	for a := range enclosing(ctx) {
		if a.core == c {
			own = append(own, a)
		}
	}
	return own
}

// nest notes that attempts wait for what w waits for, unless then all that hold a slot wait for
// another slot. Callers hold the lock.
func (c *core) nest(own []*attempt, w *waiter) error {
	if len(own) == 0 {
		return nil
	}
	busy, stuck := int64(0), true
	for _, a := range c.running {
		if a != nil {
			busy++
			stuck = stuck && (a.nested > 0 || slices.Contains(own, a))
		}
	}
	if stuck && busy >= c.engine.Slots() {
		return inModel(c.modelID, invalid("every slot would be held by a processor that waits for this queue: raise Concurrent, or use another queue for what a processor asks"))
	}
	w.waitFor(own)
	return nil
}

func (w *waiter) waitFor(own []*attempt) {
	for w.own = own; len(own) > 0; own = own[1:] {
		own[0].nested++
	}
}

// unnest undoes nest. Callers hold the lock.
func (c *core) unnest(w *waiter) {
	for _, a := range w.own {
		a.nested--
	}
	w.own = nil
}

// runs reports whether one of the attempts is of that request. Callers hold the lock.
func (c *core) runs(own []*attempt, h uint32) bool {
	return slices.ContainsFunc(own, func(a *attempt) bool {
		var job engine.Job
		if c.running[a.number] == a {
			c.engine.Job(a.number, &job)
		}
		return c.running[a.number] == a && job.Handle == h
	})
}

func (c *core) waitsForItself() error {
	return inModel(c.modelID, invalid("a processor would wait for its own request: ask without its key or id"))
}

func (c *core) shutFromWithin(ctx context.Context) error {
	if len(c.own(ctx)) == 0 {
		return nil
	}
	return fmt.Errorf("llmqueue: model %q: Shutdown from within a processor would wait for that processor: call it outside, or on a goroutine with another context", c.modelID)
}

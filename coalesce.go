package llmqueue

import "github.com/llmqueue/llmqueue/internal/engine"

// call is what several requests share: see WithCoalescing. It is a request of the engine's of
// its own; those that share it follow it, each with a handle of its own. Guarded by the
// queue's lock.
type call struct {
	key       string
	handle    uint32
	followers []ref // in order of arrival, those that left included
	first     int   // those before it have left or ended
	took      bool  // the first has taken over what the call used

	// How it ended.
	state    engine.State
	err      error
	outcome  Outcome
	unserved []string // nil unless another model may yet serve it
	usage    Usage
	hand     *forwarding
}

// takeShared takes in a request that shares a call, and the call when there is none of its
// key.
func (c *core) takeShared(ns int64, in *intake, unserved *engine.Refusal) uint32 {
	shared := c.calls[in.key]
	fresh := shared == nil
	if fresh {
		of := in.Request
		of.Call, of.MaxWait, of.Deadline, of.Tag = true, 0, 0, tagCall|tagNoWait
		if in.Tag&tagNoWait == 0 {
			of.Tag |= tagAwaited
		}
		shared = &call{key: in.key, handle: c.engine.Submit(ns, &of, unserved)}
		if c.calls == nil {
			c.calls, c.shared = make(map[string]*call), make(map[uint32]*call)
		}
		c.calls[in.key], c.shared[shared.handle] = shared, shared
	}
	h := c.engine.Join(ns, shared.handle, &in.Request, fresh)
	shared.followers = append(shared.followers, c.ref(h))
	if fresh {
		in.work, in.params = shared.handle, true
		c.entries.Grow(shared.handle)
		e := c.entries.At(shared.handle)
		e.ctx, e.tenant, e.metadata = in.ctx, in.Tenant, in.metadata
		id := in.id
		if id == "" {
			id = c.assignedID(c.ref(h))
		}
		e.id = &id // what the processor gets
	} else if in.Priority > c.engine.View(shared.handle).Priority {
		c.engine.Raise(ns, shared.handle, in.Priority, c.entries.At(shared.handle).tenant)
	}
	return h
}

// follower is the first of those that share a call and have not ended, and false when there
// is none.
func (c *core) follower(shared *call) (h uint32, ok bool) {
	for ; shared.first < len(shared.followers); shared.first++ {
		if r := shared.followers[shared.first]; c.known(r) && c.engine.State(r.handle) == engine.Following {
			return r.handle, true
		}
	}
	return 0, false
}

// applyCallEnd lets all who share a call end as it did. That is done after the lock, a few at
// a time.
func (c *core) applyCallEnd(e *engine.Effect, err error) {
	shared := c.shared[e.Handle]
	if c.calls[shared.key] == shared {
		delete(c.calls, shared.key)
	}
	v := c.engine.View(e.Handle)
	shared.state, shared.err, shared.outcome = e.State, err, c.outcomeOf(e.Handle)
	shared.usage, shared.hand = c.usageOf(&v), c.forwardings[e.Handle]
	if e.Unserved {
		shared.unserved = c.unservedBy(shared.hand)
	}
	if _, ok := c.follower(shared); !ok {
		c.dropCall(shared)
		return
	}
	more := c.todo.more()
	more.ended = append(more.ended, shared)
}

// followersAtOnce is how many followers end under one lock.
const followersAtOnce = 64

// finishFollowers ends all who share a call that has ended.
func (c *core) finishFollowers(shared *call) {
	for left := true; left; {
		ns := c.lock()
		for range followersAtOnce {
			var h uint32
			if h, left = c.follower(shared); !left {
				c.dropCall(shared)
				break
			}
			c.finishFollower(ns, shared, h)
		}
		c.unlock(ns)
	}
}

func (c *core) finishFollower(ns int64, shared *call, h uint32) {
	first := !shared.took
	shared.took = true
	err := shared.err
	if pe, ok := err.(*ProcessingError); ok {
		own := *pe
		own.RequestID = c.idOf(h)
		err = &own
	}
	c.input = input{err: err}
	if first {
		c.input.outcome, c.input.ended = shared.outcome, c.ref(h)
	}
	if hand := shared.hand; hand != nil {
		own := &forwarding{modelID: hand.modelID, attempts: hand.attempts, started: hand.started, tried: hand.tried}
		if first {
			own.usage = hand.usage
		}
		c.keepForwarding(h, own)
	}
	if shared.state == engine.Completed {
		c.types.share(h, shared.handle)
	}
	c.engine.FinishFollower(ns, h, first, shared.unserved != nil, toEngineUsage(shared.usage))
	c.carryOut(ns)
}

// dropCall forgets a call that nobody follows any more.
func (c *core) dropCall(shared *call) {
	if c.shared[shared.handle] != shared {
		return
	}
	delete(c.shared, shared.handle)
	if len(c.forwardings) > 0 {
		delete(c.forwardings, shared.handle)
	}
	if gone, pageFreed := c.engine.Drop(shared.handle); gone {
		c.clear(shared.handle, pageFreed)
	}
}

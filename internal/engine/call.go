package engine

import "github.com/llmqueue/llmqueue/internal/endpoint"

// call is what is known of a call that several requests share. The call is a record of
// its own that goes through line, limits and retries like a request; those that share it
// only follow it, so that none is special and any may leave.
type call struct {
	followers int
	state     State   // where it is, or was before it ended: what its followers count as
	last      attempt // of the call, once it has ended
	took      int64   // what its end told
}

// Join takes in a request that shares a call. first says that the call was made for it.
func (q *Engine) Join(now int64, callHandle uint32, in *Request, first bool) (h uint32) {
	q.advance(now)
	h, r := q.records.add()
	r.created, r.estimate, r.maxWait, r.priority = q.now, in.Estimate, in.MaxWait, in.Priority
	if in.Sized {
		r.flags = flagSized
	}
	r.state, r.attempt, r.tag = Following, callHandle, in.Tag
	c, of := q.calls[callHandle], q.records.at(callHandle)
	c.followers++
	if of.flags&flagGuest != 0 && !in.Guest {
		of.flags &^= flagGuest // this one has no other model to go to
		q.guests--
	}
	q.count(h, r, 1)
	q.counts.Accepted++
	if !first {
		q.counts.Coalesced++
	}
	if in.MaxWait > 0 && (of.state == InLine || of.state == HandedOff) && !of.started() {
		q.expiry.Set(h, endpoint.After(q.now, in.MaxWait))
	}
	return h
}

// Raise makes a call as urgent as the priority, which is higher than its own. The tenant is
// that of the call.
func (q *Engine) Raise(now int64, h uint32, priority int, tenant string) {
	q.advance(now)
	r := q.records.at(h)
	if r.state != InLine {
		r.priority = priority
		return
	}
	aside := q.takeAside(h)
	if !aside {
		q.line.Remove(h)
	}
	q.line.Book(r.priority, r.minusSize())
	r.priority = priority
	if r.started() || aside {
		q.rejoin(h, r)
	} else {
		q.join(h, r, tenant)
	}
	q.pump()
}

// endFollower ends a request that shares a call, by itself. The call ends when nobody is
// left.
func (q *Engine) endFollower(h uint32, r *record, state State, code Code) {
	callHandle := r.attempt
	c, of := q.calls[callHandle], q.records.at(callHandle)
	waited := int64(0)
	if of.state == InLine || of.state == BackingOff {
		waited = q.now - r.created
	}
	q.unfollow(h, r, c)
	q.finish(h, r, state, code, waited, 0)
	if c.followers == 0 && !of.state.Final() {
		q.end(callHandle, of, CanceledState, NobodyWaits)
	}
}

// unfollow takes r out of its call. It is counted where the call is until it ends.
func (q *Engine) unfollow(h uint32, r *record, c *call) {
	c.followers--
	if r.maxWait > 0 {
		q.expiry.Remove(h)
		q.patient.Remove(h)
	}
	r.state, r.attempt = c.state, 0
}

// FinishFollower ends a request that shared a call which has ended, as the call did. The
// first of them takes over what the call used, so that a sum over requests counts it once.
//
// An attempt of the call that is still under way stays the call's; then usage is what the
// first takes over.
func (q *Engine) FinishFollower(now int64, h uint32, first, unserved bool, usage endpoint.Usage) {
	q.advance(now)
	r := q.records.at(h)
	callHandle := r.attempt
	c, of := q.calls[callHandle], q.records.at(callHandle)
	if c.last.ended == 0 {
		c.last = *q.attemptOf(of)
	}
	waited, took := int64(0), int64(0)
	if c.state == InLine || c.state == BackingOff {
		if waited = q.now - r.created; c.last.since != 0 {
			waited = q.now - c.last.since
		}
	}
	q.unfollow(h, r, c)
	if a := q.attemptOf(of); first && a != nil && a.underWay == 0 {
		r.attempt, of.attempt = of.attempt, 0
		a.handle, took = h, c.took
	} else {
		a := q.ownAttempt(h, r)
		a.count, a.since, a.borrowed = c.last.count, c.last.since, true
		a.lease.Endpoint, a.lease.Started = c.last.lease.Endpoint, c.last.lease.Started
		if first {
			a.prior, took = usage, c.took
		}
	}
	q.finish(h, r, of.state, Elsewhere, waited, took)
	q.Effects[len(q.Effects)-1].Unserved = unserved
}

// Followers is how many requests share a call.
func (q *Engine) Followers(h uint32) int { return q.calls[h].followers }

// Drop lets go of a call that has ended and that nobody follows any more.
func (q *Engine) Drop(h uint32) (gone, pageFreed bool) {
	delete(q.calls, h)
	return q.Forget(h)
}

package engine

import "github.com/llmqueue/llmqueue/internal/endpoint"

// count adds n to the counter of the requests in the state of r.
func (q *Engine) count(h uint32, r *record, n int) {
	state := r.state
	switch {
	case r.isCall():
		c := q.calls[h]
		c.state = state
		n *= c.followers
	case state == Following:
		state = q.calls[r.attempt].state
	}
	switch state {
	case InLine, BackingOff:
		q.counts.Pending += n
	case Running:
		q.counts.Processing += n
	case HandedOff:
		q.counts.Forwarded += n
	}
}

// move brings r from one state that is not final to another.
func (q *Engine) move(h uint32, r *record, to State) {
	q.count(h, r, -1)
	r.state = to
	q.count(h, r, 1)
}

// finish gives a request its final state. It must be out of the line.
func (q *Engine) finish(h uint32, r *record, state State, code Code, waited, took int64) {
	q.ownAttempt(h, r).ended = q.now
	if r.flags&flagGuest != 0 {
		q.guests--
	}
	if r.isCall() {
		r.state = state // its followers count as where it was until they end
		q.calls[h].took = took
	} else {
		q.count(h, r, -1)
		r.state = state
		q.countEnd(state)
	}
	q.Effects = append(q.Effects, Effect{Kind: End, Handle: h, State: state, Code: code, Waited: waited, Took: took})
}

func (q *Engine) countEnd(state State) {
	switch state {
	case Completed:
		q.counts.Completed++
	case Failed:
		q.counts.Failed++
	default:
		q.counts.Canceled++
	}
}

// takeOut takes a request out of wherever it is, and tells how long it waited or ran
// there.
func (q *Engine) takeOut(h uint32, r *record, code Code) (waited, took int64) {
	switch r.state {
	case InLine:
		if !q.takeAside(h) {
			q.line.Remove(h)
		}
		q.leave(h, r)
	case BackingOff:
		q.backoff.Remove(h)
		q.roomMade = true
	case Running:
		a := q.attemptOf(r)
		if a.pair != 0 {
			q.cut(a.pair-1, code)
			a.pair = 0
		}
		q.cut(r.attempt-1, code)
		return 0, q.now - a.lease.Started
	case HandedOff:
		return 0, 0
	}
	return q.waited(r), 0
}

// waited is how long r has waited for its next attempt.
func (q *Engine) waited(r *record) int64 {
	if a := q.attemptOf(r); a != nil && a.since != 0 {
		return q.now - a.since
	}
	return q.now - r.created
}

// end finishes a request from outside its processor, wherever it is.
func (q *Engine) end(h uint32, r *record, state State, code Code) {
	if r.state == Following {
		q.endFollower(h, r, state, code)
		return
	}
	waited, took := q.takeOut(h, r, code)
	q.finish(h, r, state, code, waited, took)
}

// fail ends a request that this model could not serve, unless another one takes it. It
// must be out of the line.
func (q *Engine) fail(h uint32, r *record, code Code, waited, took int64) {
	if !q.handOff(h, r, code, took) {
		q.finish(h, r, Failed, code, waited, took)
		q.Effects[len(q.Effects)-1].Unserved = true
	}
}

// handOff lets a request that is out of the line go to another model, if there is one.
func (q *Engine) handOff(h uint32, r *record, code Code, took int64) bool {
	if !q.cfg.Fallback || q.cutOff || r.flags&flagStays != 0 {
		return false
	}
	at := int64(0)
	if code == PausedLong {
		at = q.PausesEnd()
	}
	waited := int64(0)
	if r.state != Running {
		waited = q.waited(r)
	}
	q.move(h, r, HandedOff)
	q.Effects = append(q.Effects, Effect{Kind: Handoff, Handle: h, Code: code, At: at, Waited: waited, Took: took})
	return true
}

// TakeBack lets a request that was handed off wait here after all, because no other model takes
// it: nothing but its time was against that. started says that it was started at another one. It
// reports whether it may.
func (q *Engine) TakeBack(now int64, h uint32, started bool) bool {
	q.advance(now)
	if q.cutOff || q.closed && q.paused {
		return false
	}
	r := q.records.at(h)
	if a := q.attemptOf(r); a != nil && a.over {
		return false
	}
	if started {
		r.flags |= flagStarted
	}
	r.flags |= flagKept
	if end := q.startEnd(r); end != 0 && (end <= q.now || end < q.certainlyHeld()) {
		return false
	}
	if a := q.attemptOf(r); a != nil && (a.owes || a.notBefore > q.now) {
		q.move(h, r, BackingOff)
		q.note(r.estimate)
		q.backoff.Set(h, max(a.notBefore, q.now))
	} else {
		q.move(h, r, InLine)
		q.rejoin(h, r)
	}
	q.pump()
	return true
}

// certainlyHeld is until when no endpoint starts anything, those that are held out included.
func (q *Engine) certainlyHeld() int64 {
	if q.cfg.NoDeadlineCheck {
		return q.now
	}
	until := int64(endpoint.Never)
	for _, e := range q.endpoints {
		until = min(until, e.HeldUntil(q.now))
	}
	return until
}

// mayLeave reports whether another model may serve r instead: a fallback, or for a guest those
// that the model has which sent it here.
func (q *Engine) mayLeave(r *record) bool {
	return (q.cfg.Fallback || r.flags&flagGuest != 0) && r.flags&(flagStays|flagKept) == 0
}

// unable says why what waits goes to another model now, if there is one: no endpoint may start
// anything before the longest backoff is over. OK is for no reason. Guests have been to another
// model, so they probe sooner.
func (q *Engine) unable(guest bool) Code {
	code := OK
	for _, e := range q.endpoints {
		held := e.PausedUntil()-q.now > q.cfg.MaxDelay && !(q.cfg.WaitForQuota && e.ExhaustedUntil() > q.now)
		switch {
		case e.Open():
			code = BreakersOpen
		case e.HeldOut() && !e.ProbeDue(q.now, guest):
			code = max(code, HeldOut)
		case held:
			code = PausedLong
		default:
			return OK
		}
	}
	return code
}

// moveOn lets what waits go to another model as soon as there is a reason. It reports whether
// something may have gone.
func (q *Engine) moveOn() bool {
	if !q.cfg.Fallback && q.guests == 0 {
		return false
	}
	code := q.unable(false)
	if (code == OK) == (q.moved == OK) {
		return false
	}
	if q.moved = code; code == OK || q.Waiting() == 0 {
		return false
	}
	q.beginSweep(sweepWaiting)
	return true
}

// Finish ends a request that was handed off, as the other model ended it or because none
// took it.
func (q *Engine) Finish(now int64, h uint32, state State, unserved bool) {
	q.advance(now)
	r := q.records.at(h)
	q.finish(h, r, state, Elsewhere, 0, 0)
	q.Effects[len(q.Effects)-1].Unserved = unserved
	q.pump()
}

// Cancel ends a request from outside, unless it has ended, which it reports.
func (q *Engine) Cancel(now int64, h uint32, state State, code Code) bool {
	q.advance(now)
	r := q.records.at(h)
	if r.state.Final() {
		return false
	}
	q.end(h, r, state, code)
	q.pump()
	return true
}

// sweepKind says which waiting requests a sweep ends.
type sweepKind uint8

const (
	sweepTooLarge sweepKind = iota // those that fit no endpoint any more
	sweepQuota                     // all, while the quota is used up
	sweepWaiting                   // all that may go to other models, while there is a reason
	sweepMovable                   // the same in the order of the records, once one that stays goes first
	sweepShutDown                  // all
	sweepCutOff                    // all, and what runs or is elsewhere
)

// sweep ends some of what waits, a slice at a time, so that the owner's lock is not held
// for longer than a slice takes.
type sweep struct {
	kind sweepKind
	next uint32 // the handle to look at next
}

// sweepSlice is how many records a slice looks at.
const sweepSlice = 1024

// beginSweep starts a sweep, and makes its first slice.
func (q *Engine) beginSweep(kind sweepKind) {
	if kind == sweepTooLarge && (q.Waiting() == 0 || q.tooLarge(q.largest) == nil) {
		return
	}
	if s := (sweep{kind: kind}); q.slice(&s) {
		q.sweeps = append(q.sweeps, s)
	}
}

// Sweeping reports whether there is more to end: then Sweep goes on with it.
func (q *Engine) Sweeping() bool { return len(q.sweeps) > 0 }

// Sweep ends another slice of what waits.
func (q *Engine) Sweep(now int64) {
	q.advance(now)
	s := q.sweeps[0]
	if more := q.slice(&s); more {
		q.sweeps[0] = s
	} else {
		q.sweeps = q.sweeps[1:]
	}
	q.pump()
}

// slice goes on with a sweep, and reports whether there is more.
func (q *Engine) slice(s *sweep) (more bool) {
	switch {
	case s.kind == sweepTooLarge:
		return q.eachRecord(s, sweepSlice, func(h uint32, r *record) {
			if (r.state == InLine || r.state == BackingOff) && r.sized() && q.tooLarge(r.estimate) != nil {
				q.end(h, r, Failed, TooLarge)
			}
		})
	case s.kind == sweepQuota && !q.exhausted(), (s.kind == sweepWaiting || s.kind == sweepMovable) && q.unable(false) == OK:
		return false // renewed meanwhile
	case s.kind == sweepMovable:
		return q.eachRecord(s, sweepSlice, func(h uint32, r *record) {
			if (r.state == InLine || r.state == BackingOff) && q.mayLeave(r) {
				q.sweepOut(h, r, sweepWaiting)
			}
		})
	}
	n := 0
	for ; n < sweepSlice; n++ {
		h, waits := q.nextWaiting()
		if !waits {
			break
		}
		r := q.records.at(h)
		if s.kind == sweepWaiting && !q.mayLeave(r) {
			s.kind = sweepMovable
			return true
		}
		q.sweepOut(h, r, s.kind)
	}
	if n == sweepSlice || s.kind != sweepCutOff {
		return n == sweepSlice
	}
	return q.eachRecord(s, sweepSlice-n, func(h uint32, r *record) {
		switch r.state {
		case Running:
			q.end(h, r, Failed, ShutDownRunning)
		case HandedOff:
			q.end(h, r, Failed, ShutDownElsewhere)
		}
	})
}

// nextWaiting is the request that goes first: in line, and then between two attempts.
func (q *Engine) nextWaiting() (h uint32, ok bool) {
	if h, ok = q.head(); ok {
		return h, true
	}
	h, _, ok = q.backoff.First()
	return h, ok
}

// sweepOut ends a waiting request, or hands it off.
func (q *Engine) sweepOut(h uint32, r *record, kind sweepKind) {
	code := QuotaExhausted
	switch kind {
	case sweepShutDown, sweepCutOff:
		q.end(h, r, Failed, ShutDown)
		return
	case sweepWaiting:
		code = q.unable(false)
	}
	waited, _ := q.takeOut(h, r, code)
	q.fail(h, r, code, waited, 0)
}

// eachRecord looks at the next n records, and reports whether there are more.
func (q *Engine) eachRecord(s *sweep, n int, f func(h uint32, r *record)) (more bool) {
	all := uint32(len(q.records.pages) * PageSize)
	end := min(s.next+uint32(n), all)
	for ; s.next < end; s.next++ {
		if r := q.records.get(s.next); r != nil {
			f(s.next, r)
		}
	}
	return end < all
}

package engine

import "github.com/llmqueue/llmqueue/internal/endpoint"

// This file watches attempts that are under way: those that take too long are cut off, and
// their requests go on without them.

// watch looks at an attempt again when it may be late.
func (q *Engine) watch(number uint32, a *attempt) {
	if a.told {
		return
	}
	at := int64(endpoint.Never)
	consider := func(from, bound int64) {
		if bound > 0 {
			at = min(at, endpoint.After(from, bound))
		}
	}
	consider(a.lease.Started, q.cfg.Timeout)
	if a.begun {
		consider(a.heard, q.cfg.Stall)
	} else {
		consider(a.lease.Started, q.cfg.FirstByte)
	}
	if at != endpoint.Never {
		q.timeouts.Set(number, at)
	}
}

func (q *Engine) unwatch(number uint32) {
	if q.timeouts.Len() > 0 {
		q.timeouts.Remove(number)
	}
	if q.hedges.due.Len() > 0 {
		q.hedges.due.Remove(number)
	}
}

// expireAttempts cuts off attempts that are late.
func (q *Engine) expireAttempts() {
	for q.timeouts.Len() > 0 {
		number, at, _ := q.timeouts.First()
		if at > q.now {
			return
		}
		q.timeouts.Pop()
		a := q.attempts[number]
		switch {
		case q.cfg.Timeout > 0 && q.now >= endpoint.After(a.lease.Started, q.cfg.Timeout):
			q.timeOut(number, a, TimedOut)
		case !a.begun:
			q.timeOut(number, a, FirstByteLate)
		default:
			q.Effects = append(q.Effects, Effect{Kind: CheckStall, Handle: a.handle, Attempt: number})
		}
	}
}

// Stalled answers CheckStall: output of the attempt came last at the given instant.
func (q *Engine) Stalled(now int64, number uint32, last int64) {
	q.advance(now)
	a := q.attempts[number]
	if a == nil || !a.running || a.cut {
		return
	}
	if a.heard = max(a.heard, last); q.now < endpoint.After(a.heard, q.cfg.Stall) {
		q.watch(number, a)
		return
	}
	q.timeOut(number, a, StalledCode)
	q.pump()
}

// timeOut cuts off an attempt that is late. That is a passing fault. Of a permit only the
// context ends: its holder says how it goes on.
func (q *Engine) timeOut(number uint32, a *attempt, code Code) {
	r := q.records.at(a.handle)
	if r.flags&flagHeld != 0 {
		a.told = true
		q.Effects = append(q.Effects, Effect{Kind: Cut, Handle: a.handle, Attempt: number, Code: code})
		return
	}
	q.cut(number, code)
	took := q.now - a.lease.Started
	q.duration.add(float64(took))
	a.lease.Endpoint.Ended(q.now, &a.lease, endpoint.Failed)
	if q.otherGoesOn(r, a, PassingFault) {
		return
	}
	a.since = q.now
	q.decide(a.handle, r, a, &Ending{Verdict: PassingFault}, code, took)
}

// cut ends the context of an attempt that nobody waits for any more.
func (q *Engine) cut(number uint32, code Code) {
	a := q.attempts[number]
	a.cut = true
	q.counts.Abandoned++
	q.unwatch(number)
	q.Effects = append(q.Effects, Effect{Kind: Cut, Handle: a.handle, Attempt: number, Code: code})
}

// Output says that a part of an attempt's answer has come, and whether it was handed on. The
// first output decides between two attempts of a request.
func (q *Engine) Output(now int64, number uint32, streamed bool) {
	q.advance(now)
	a := q.attempts[number]
	if a == nil || !a.running {
		return
	}
	q.beginAnswer(number, a)
	q.firstOutput(number, a)
	if streamed {
		a.streamed = true
	}
	if !a.cut {
		q.win(q.records.at(a.handle), number)
	}
	q.pump()
}

// beginAnswer notes that something of an attempt's answer came.
func (q *Engine) beginAnswer(number uint32, a *attempt) {
	a.begun, a.heard = true, q.now
	if !a.cut && (q.cfg.Stall > 0 || q.cfg.FirstByte > 0) {
		q.timeouts.Remove(number)
		q.watch(number, a)
	}
}

// firstOutput notes how long an attempt took until output came.
func (q *Engine) firstOutput(number uint32, a *attempt) {
	if a.output || a.cut {
		return
	}
	a.output = true
	took := q.now - a.lease.Started
	a.lease.Endpoint.FirstOutput(took)
	if q.cfg.Hedge.Share > 0 {
		q.hedges.seen(took)
		q.hedges.due.Remove(number)
	}
}

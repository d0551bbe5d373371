package engine

import "github.com/llmqueue/llmqueue/internal/endpoint"

// pump starts everything that may start now, and ends waits that are over.
func (q *Engine) pump() {
	for _, e := range q.endpoints {
		e.Advance(q.now)
	}
	q.returnRetries()
	q.moveOn()
	q.startAll()
	for q.expireWaits() {
		q.startAll() // the line has another head
	}
	q.startHedges()
	if q.moveOn() {
		q.startAll() // the line has another head, or none
	}
}

// startAll starts requests in order until whose turn is next has to wait.
func (q *Engine) startAll() {
	q.crowded = false
	for moved := 0; q.startNext(&moved); {
	}
	q.withdraw()
}

// startNext looks once for what may start, in order: what waits keeps the endpoints that it may
// use from those behind it. It reports whether to look again.
func (q *Engine) startNext(moved *int) (again bool) {
	for _, e := range q.endpoints {
		e.Reset()
	}
	q.backfillAt = 0
	if q.paused || q.cutOff {
		return false
	}
	if len(q.aside) == 0 {
		h, waits := q.line.Head()
		return waits && q.tryHead(h, q.records.at(h), 0, moved)
	}
	var taken uint64
	for _, one := range q.heads() {
		r := q.records.at(one.handle)
		if one.group == nil {
			return q.tryHead(one.handle, r, taken, moved)
		}
		of := q.reach(r)
		if one.group.stale || of != one.group.reach {
			if *moved++; *moved > maxAside {
				q.crowded = true
				return false
			}
			q.takeAside(one.handle)
			q.setAside(one.handle, r, of, one.order)
			return true
		}
		switch q.tryNow(r, &of, taken) {
		case endpoint.Impossible:
			q.end(one.handle, r, Failed, TooLarge)
			return true
		case endpoint.Admitted:
			q.takeAside(one.handle)
			q.leave(one.handle, r)
			q.start(one.handle, r)
			return true
		}
		taken |= q.places(&of)
	}
	return false
}

// tryHead starts the head of the line, or lets it step aside when others may start where it may
// not. Those that stepped aside before have taken some places.
func (q *Engine) tryHead(h uint32, r *record, taken uint64, moved *int) (again bool) {
	of := q.reach(r)
	switch q.tryNow(r, &of, taken) {
	case endpoint.Impossible:
		q.end(h, r, Failed, TooLarge)
		return true
	case endpoint.Admitted:
		q.line.Pop()
		q.leave(h, r)
		q.start(h, r)
		return true
	}
	if q.roomBeyond(q.places(&of) | taken) {
		if *moved++; *moved > maxAside {
			q.crowded = true
			return false
		}
		q.line.Pop()
		q.asideSeq++
		q.setAside(h, r, of, q.asideSeq)
		return true
	}
	if q.cfg.Backfill && taken == 0 {
		q.backfill(h, r)
	}
	return false
}

// withdraw leaves the lines of shared sets that the head of the line does not wait in.
func (q *Engine) withdraw() {
	for _, e := range q.endpoints {
		if !e.Queued() {
			e.Withdraw(q.now)
		}
	}
}

// startAtOnce starts a new request when nothing waits and there is room: what startAll
// would do, without the way through the line.
func (q *Engine) startAtOnce(h uint32, r *record) bool {
	if q.inLine() > 0 || q.paused {
		return false
	}
	if q.backoff.Len() > 0 {
		if _, due, _ := q.backoff.First(); due <= q.now {
			return false // it goes first
		}
	}
	if of := q.reach(r); q.tryNow(r, &of, 0) != endpoint.Admitted {
		return false // startAll looks again, with r in line
	}
	for _, e := range q.endpoints {
		e.Withdraw(q.now) // r waits nowhere any more, and nobody else does
	}
	q.start(h, r)
	return true
}

// start begins an attempt of r, which is in no line, with the reservation in q.next.
func (q *Engine) start(h uint32, r *record) {
	a := q.attemptOf(r)
	switch {
	case a == nil:
		a, q.next = q.next, nil
		q.attach(h, r, a)
		a.since = r.created
	case a.running: // it was cut off, and goes on by itself
		a, q.next = q.next, nil
		q.supersede(r, q.number(h, a))
	default:
		a.lease, q.next.lease = q.next.lease, a.lease
		q.next.lease.Reuse()
		a.prior, a.used, a.reported = a.prior.Plus(a.used), endpoint.Usage{}, false
		a.hedge, a.cut, a.begun, a.output, a.streamed, a.told = false, false, false, false, false, false
	}
	waited := q.now - a.since
	if a.count++; a.count > 1 {
		q.counts.Retries++
	}
	q.counts.Waited += waited
	r.flags = r.flags&^flagKept | flagStarted
	q.move(h, r, Running)
	number := r.attempt - 1
	q.begin(number, a, &a.progress)
	if q.cfg.Hedge.Share > 0 && r.flags&flagHeld == 0 {
		q.hedges.earn(q.cfg.Hedge.Share)
		q.watchSlow(number)
	}
	q.Effects = append(q.Effects, Effect{Kind: Start, Handle: h, Attempt: number, Count: int(a.count), Endpoint: a.lease.Endpoint, Waited: waited})
}

// begin notes that an attempt of the request with this progress is under way.
func (q *Engine) begin(number uint32, a *attempt, p *progress) {
	a.number = p.count
	p.underWay++
	q.watch(number, a)
	a.running, a.index = true, uint32(len(q.underWay))
	q.underWay = append(q.underWay, number)
	q.running++
	q.counts.Attempts++
}

// returnRetries puts requests whose backoff is over back in their place in line, as far as the
// budget allows.
func (q *Engine) returnRetries() {
	q.retryAt = 0
	for q.backoff.Len() > 0 {
		h, at, _ := q.backoff.First()
		if at > q.now {
			return
		}
		r := q.records.at(h)
		if a := q.attemptOf(r); a != nil && a.owes {
			if wait := q.budget.take(q.now, q.cfg.RetryBudget); wait > 0 {
				q.retryAt = endpoint.After(q.now, wait)
				return
			}
			a.owes, a.budgeted = false, true
		}
		q.backoff.Pop()
		q.rejoin(h, r)
	}
}

// expireWaits ends requests that did not start in time, or cannot any more, and reports
// whether there were any.
func (q *Engine) expireWaits() (any bool) {
	for q.patient.Len() > 0 {
		h, at, _ := q.patient.First()
		if at > q.now {
			break
		}
		q.patient.Pop()
		any = q.expire(h, at) || any
	}
	if q.expiry.Len() == 0 {
		return any
	}
	for held := q.heldUntil(); q.expiry.Len() > 0; {
		h, at, _ := q.expiry.First()
		if at > q.now && at >= held {
			break
		}
		q.expiry.Pop()
		any = q.expire(h, at) || any
	}
	return any
}

// heldUntil is until when no endpoint starts anything, as far as that is certain; with another
// model to go to, those that are held out start nothing.
func (q *Engine) heldUntil() int64 {
	if q.cfg.NoDeadlineCheck {
		return q.now
	}
	sound := int64(endpoint.Never)
	for _, e := range q.endpoints {
		if !e.HeldOut() {
			sound = min(sound, e.HeldUntil(q.now))
		}
	}
	if (q.cfg.Fallback || q.guests > 0) && sound != endpoint.Never {
		return sound
	}
	return q.certainlyHeld()
}

// doomed reports whether r, which was started before, cannot start again before its deadline.
func (q *Engine) doomed(r *record) bool {
	held := q.heldUntil()
	if !q.mayLeave(r) {
		held = q.certainlyHeld()
	}
	return r.deadline > q.now && r.deadline < held && r.flags&flagKept == 0
}

// expire ends a request that has to start by the given instant, unless it was started: its time
// is over, or nothing starts before. One that another model may yet serve goes there.
func (q *Engine) expire(h uint32, at int64) bool {
	r := q.records.at(h)
	if r.state == Following {
		return q.expireFollower(h, r, at)
	}
	code := DeadlinePasses
	patience := r.maxWait > 0 && !r.started() && at == endpoint.After(r.created, r.maxWait)
	switch {
	case r.state != InLine:
		return false
	case at > q.now && !q.mayLeave(r) && at >= q.certainlyHeld():
		q.patient.Set(h, at) // it has no other model to go to
		return false
	case at > q.now && (patience || !q.mayLeave(r) || r.deadline < q.heldUntil()):
	case patience:
		code = WaitedTooLong
	case q.mayLeave(r):
		code = RunsOut
	default:
		return false // its caller's context ends, and tells
	}
	waited, _ := q.takeOut(h, r, code)
	q.fail(h, r, code, waited, 0)
	return true
}

// expireFollower is expire for a request that shares a call. The call goes on for the others,
// unless it can go to another model.
func (q *Engine) expireFollower(h uint32, r *record, at int64) bool {
	c := q.records.at(r.attempt)
	switch {
	case c.started():
		return false
	case at > q.now:
		q.patient.Set(h, at)
		if c.state != InLine || !q.mayLeave(c) {
			return false
		}
		call := r.attempt
		waited, _ := q.takeOut(call, c, RunsOut)
		q.fail(call, c, RunsOut, waited, 0)
		return true
	case c.state == HandedOff:
		q.Effects = append(q.Effects, Effect{Kind: AskElsewhere, Handle: h})
	case c.state == InLine:
		q.end(h, r, Failed, WaitedTooLong)
		return true
	}
	return false
}

// ExpireElsewhere ends a request that AskElsewhere named, because it was not started
// there either.
func (q *Engine) ExpireElsewhere(now int64, h uint32) {
	q.advance(now)
	if r := q.records.at(h); r.state == Following {
		q.end(h, r, Failed, WaitedTooLong)
		q.pump()
	}
}

// Next is the next instant at which the engine has something to do, 0 when none is known.
func (q *Engine) Next() (next int64) {
	consider := func(at int64) {
		if at != 0 && at != endpoint.Never && (next == 0 || at < next) {
			next = at
		}
	}
	if len(q.sweeps) > 0 || q.crowded {
		return max(q.now, 1)
	}
	if q.inLine() > 0 && !q.paused {
		for _, e := range q.endpoints {
			consider(e.Next(q.now))
			if at := e.ProbeAt(true); e.HeldOut() && len(q.endpoints) > 1 && at > q.now {
				consider(at)
			}
		}
		consider(q.backfillAt)
	}
	for _, e := range q.endpoints {
		consider(e.Announces())
	}
	if q.backoff.Len() > 0 {
		_, at, _ := q.backoff.First()
		consider(max(at, q.retryAt))
	}
	if q.expiry.Len() > 0 {
		_, at, _ := q.expiry.First()
		consider(at)
	}
	if q.patient.Len() > 0 {
		_, at, _ := q.patient.First()
		consider(at)
	}
	if q.timeouts.Len() > 0 {
		_, at, _ := q.timeouts.First()
		consider(at)
	}
	if q.hedges.due.Len() > 0 {
		_, at, _ := q.hedges.due.First()
		consider(at)
	}
	return next
}

// backfillReach is how many requests behind the head are looked at for one that may pass.
const backfillReach = 64

// backfill starts requests from behind the head, which waits, as long as that does not
// put it off.
func (q *Engine) backfill(head uint32, r *record) {
	for q.backfillOnce(head, r) {
		q.backfillAt = 0 // more has come into reach
	}
}

// backfillOnce is one look at what stands behind the head. It reports whether anything
// started.
func (q *Engine) backfillOnce(head uint32, r *record) (started bool) {
	slack := false
	for _, e := range q.endpoints {
		slack = e.FindSlack(q.now, q.reservation(e, r)) || slack
	}
	if !slack {
		return false
	}
	q.candidates = q.candidates[:0]
	for h := range q.line.All() {
		if h == head {
			continue
		}
		if q.candidates = append(q.candidates, h); len(q.candidates) == backfillReach {
			break
		}
	}
	for _, h := range q.candidates {
		other := q.records.at(h)
		e := q.admitBehind(other)
		if e == nil {
			continue
		}
		q.line.Take(h)
		q.leave(h, other)
		q.start(h, other)
		e.FindSlack(q.now, q.reservation(e, r))
		started = true
	}
	return started
}

// admitBehind reserves for r, in q.next, on an endpoint where it does not put the head
// off, nil when there is none. It notes when r may fit.
func (q *Engine) admitBehind(r *record) *endpoint.Endpoint {
	if q.next == nil {
		q.next = q.unused()
	}
	of := q.reach(r)
	places := q.places(&of)
	for _, e := range q.preferred() {
		if e.Bit&places == 0 {
			continue
		}
		ok, at := e.Backfill(q.now, q.reservation(e, r), &q.next.lease)
		if ok {
			return e
		}
		if at != 0 && (q.backfillAt == 0 || at < q.backfillAt) {
			q.backfillAt = at
		}
	}
	return nil
}

// reservation is what r takes of e if it starts now.
func (q *Engine) reservation(e *endpoint.Endpoint, r *record) endpoint.Usage {
	return e.Reservation(r.estimate, r.sized(), q.mean(r.sized()))
}

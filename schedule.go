package llmqueue

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/llmqueue/llmqueue/internal/window"
)

// This file decides who starts and when the queue has to look again. It runs under
// the queue's lock with one clock reading.

// pump starts everything that may start now, ends waits that are over, and sets the
// timer for the next instant at which something can change. free is a worker that
// just concluded its job, or nil.
func (q *Queue[P, T]) pump(now time.Time, free *worker[P, T]) {
	ns := q.since(now)
	for _, e := range q.endpoints {
		if e.tells && e.pausedUntil <= ns {
			q.tellEnd(now, e)
		}
	}
	q.returnRetries(ns)
	for {
		q.startAll(now, ns, free)
		for _, e := range q.endpoints {
			if !e.waits {
				e.withdraw(now)
			}
		}
		if !q.expireWaits(now, ns) {
			break
		}
	}
	q.arm(ns)
	if q.done() {
		q.drain()
	}
}

// startAll starts requests in order until the head has to wait.
func (q *Queue[P, T]) startAll(now time.Time, ns int64, free *worker[P, T]) {
	for {
		for _, e := range q.endpoints {
			e.roomAt, e.waits = 0, false
		}
		q.passAt = 0
		if q.paused {
			return
		}
		handle, ok := q.line.Head()
		if !ok {
			return
		}
		rec := q.records.at(handle)
		if q.gated(rec) {
			return
		}
		s, found := q.place(now, ns, rec)
		switch found {
		case roomNow:
		case neverRoom:
			q.end(now, rec, stateFailed, q.impossible(rec.estimate))
			continue
		default:
			if q.settings.backfill {
				q.pass(now, ns, rec, free)
			}
			return
		}
		if free != nil && free.attempt != nil {
			free = nil
		}
		q.line.Pop()
		q.leftLine(rec)
		q.start(now, rec, s, free)
	}
}

// startAtOnce starts a new request when nothing waits and there is room: what startAll
// would do, without the way through the line.
func (q *Queue[P, T]) startAtOnce(now time.Time, ns int64, rec *record[P, T]) bool {
	if q.line.Len() > 0 || q.paused || q.gated(rec) {
		return false
	}
	if due := q.retries.first(); due != 0 && due <= ns {
		return false // it goes first
	}
	s, found := q.place(now, ns, rec)
	if found == roomNow {
		q.start(now, rec, s, nil)
	}
	return found == roomNow
}

// gated reports whether rec, of unknown size, waits for the first of its kind to tell
// how large they are.
func (q *Queue[P, T]) gated(rec *record[P, T]) bool {
	return !rec.sized && q.tokens && !q.sizes.open && q.blind > 0
}

// room is what reserve found.
type room uint8

const (
	roomNow room = iota
	noRoom       // not before e.roomAt, or before something else happens
	neverRoom
)

// seat is what a request that starts has reserved, and where.
type seat struct {
	e      *endpoint
	usage  Usage
	taken  window.Reservation
	shared []SharedReservation
}

// place reserves for rec on the endpoint that has room now.
func (q *Queue[P, T]) place(now time.Time, ns int64, rec *record[P, T]) (s seat, found room) {
	never := true
	for _, e := range q.byLoad() {
		if e.tells && e.pausedUntil <= ns {
			q.tellEnd(now, e) // before what starts there, when the timer is late
		}
		if !e.mayStart(ns) {
			never = false
			continue
		}
		s.e, s.usage = e, q.reservation(e, rec.estimate)
		if s.shared != nil {
			s.shared = nil
		}
		switch found = q.reserve(now, &s); found {
		case roomNow:
			return s, roomNow
		case noRoom:
			never = false
		}
	}
	if never && q.impossible(rec.estimate) != nil {
		return s, neverRoom
	}
	return s, noRoom
}

// byLoad gives the endpoints, those with the fewest calls for their slots first.
func (q *Queue[P, T]) byLoad() []*endpoint {
	if len(q.endpoints) == 1 {
		return q.endpoints
	}
	q.order = append(q.order[:0], q.endpoints...)
	slices.SortStableFunc(q.order, func(a, b *endpoint) int { return cmp.Compare(a.running*b.slots, b.running*a.slots) })
	return q.order
}

// reserve takes s.usage from all limits of s.e or from none.
func (q *Queue[P, T]) reserve(now time.Time, s *seat) room {
	e, c := s.e, charge(s.usage)
	if len(e.shared) > 0 {
		// The own limits first, without taking: nobody sees them meanwhile.
		if at, limit := e.own.Next(now, c); limit >= 0 {
			return q.wait(e, at)
		}
		var at time.Time
		var ok bool
		if s.shared, at, ok = e.reserveShared(now, s.usage); !ok {
			if _, never := e.exceeds(s.usage); never {
				return neverRoom
			}
			e.waits = true
			if !at.IsZero() {
				q.wait(e, at)
			}
			return noRoom
		}
	}
	var ok bool
	if s.taken, ok = e.own.Reserve(now, c); !ok {
		at, _ := e.own.Next(now, c)
		return q.wait(e, at)
	}
	if !e.permit() { // its probes are under way
		e.own.Undo(now, &s.taken)
		for _, r := range slices.Backward(s.shared) {
			r.Undo(now)
		}
		e.waits = len(e.shared) > 0
		return noRoom
	}
	return roomNow
}

// wait notes when to look again; a zero time means never.
func (q *Queue[P, T]) wait(e *endpoint, at time.Time) room {
	if at.IsZero() {
		return neverRoom
	}
	e.roomAt = q.since(at)
	return noRoom
}

// turns numbers the queues that wait for shared limits, in order of arrival.
var turns atomic.Uint64

// reserveShared takes u from all shared sets or from none. Refused, it says when to
// ask again, if a set knows, and the queue then has its place in that set's line. It
// keeps its turn until it reserves or withdraws, so it comes back to where it was.
//
// What it waits for in one set must not idle the others: it leaves their lines, unless
// it knows to be back within their shortest period. Were it always to leave, two busy
// sets could starve it, each full whenever the other has room.
func (e *endpoint) reserveShared(now time.Time, u Usage) (taken []SharedReservation, at time.Time, ok bool) {
	if e.turn == 0 {
		e.turn = turns.Add(1)
	}
	taken = make([]SharedReservation, 0, len(e.shared))
	for i, m := range e.shared {
		r, at := m.Reserve(now, u, e.turn)
		if r == nil {
			for _, t := range slices.Backward(taken) {
				t.Undo(now)
			}
			for j, other := range e.shared {
				if j != i && (at.IsZero() || at.Sub(now) > e.patience[j]) {
					other.Withdraw(now)
				}
			}
			return nil, at, false
		}
		taken = append(taken, r)
	}
	e.turn = 0
	return taken, time.Time{}, true
}

// withdraw gives up the places in the lines of the shared sets.
func (e *endpoint) withdraw(now time.Time) {
	if e.turn == 0 {
		return
	}
	e.turn = 0
	for _, m := range e.shared {
		m.Withdraw(now)
	}
}

// returnRetries puts requests whose backoff is over back in their place in line.
func (q *Queue[P, T]) returnRetries(ns int64) {
	q.retryNotBefore = 0
	for at := q.retries.first(); at != 0 && at <= ns; at = q.retries.first() {
		rec := q.records.get(q.retries.heap[0].ref)
		if rec != nil && rec.state == stateRetrying {
			if wait := q.budget.take(ns, q.settings.retry.Budget); wait > 0 {
				q.retryNotBefore = after(ns, wait)
				return
			}
			q.retries.live--
			q.retries.pop()
			q.returnToLine(rec)
		} else {
			q.retries.pop()
		}
	}
}

// expireWaits fails requests whose MaxWait passed before their first start, and
// reports whether there were any: the line has another head then.
func (q *Queue[P, T]) expireWaits(now time.Time, ns int64) bool {
	any := false
	for at := q.deadlines.first(); at != 0 && at <= ns; at = q.deadlines.first() {
		r := q.deadlines.pop()
		if q.doesNotWaitFirst(r) {
			continue
		}
		rec := q.records.get(r)
		q.end(now, rec, stateFailed, q.waitedTooLong(rec))
		any = true
	}
	return any
}

// next is the next instant at which pump has something to do, 0 when none is known.
func (q *Queue[P, T]) next(ns int64) (next int64) {
	consider := func(at int64) {
		if at != 0 && (next == 0 || at < next) {
			next = at
		}
	}
	if q.line.Len() > 0 && !q.paused {
		for _, e := range q.endpoints {
			switch {
			case e.pausedUntil > ns:
				consider(e.pausedUntil)
			case e.open():
				consider(after(ns, int64(e.breaker.RemainingDelay())))
			default:
				consider(e.roomAt)
			}
		}
		consider(q.passAt)
	}
	for _, e := range q.endpoints {
		if e.tells {
			consider(e.pausedUntil)
		}
	}
	consider(max(q.retries.first(), q.retryNotBefore))
	consider(q.deadlines.first())
	consider(q.history.expiry())
	return next
}

// lookAgain is how soon a queue that waits looks again at the latest. Timers and ns stand
// still while the machine sleeps, but what it waits for may have come meanwhile: limits of
// an hour and more go by the wall clock, and so do a provider's pauses.
const lookAgain = int64(time.Minute)

// arm sets the timer for that instant. It is moved forward at once and backward only
// when it fires.
func (q *Queue[P, T]) arm(ns int64) {
	next := q.next(ns)
	if next > ns && q.timer != nil && q.pending() > 0 {
		next = min(next, after(ns, lookAgain))
	}
	if next == 0 || q.armed != 0 && q.armed <= next {
		return
	}
	if q.armed = next; q.timer == nil {
		return // a plan keeps the time
	}
	q.timer.Reset(time.Duration(max(next-ns, 0)))
	if q.woken.Load() {
		q.timer.Reset(0) // a wake came in between: it must not be put off
	}
}

// fire is the timer's function.
func (q *Queue[P, T]) fire() {
	q.mu.Lock()
	defer q.unlock()
	q.woken.Store(false)
	q.fireAt(time.Now())
}

// fireAt is fire under the queue's lock.
func (q *Queue[P, T]) fireAt(now time.Time) {
	q.armed = 0
	q.wakeFromSleep(now)
	q.expireHistory(q.since(now))
	q.pump(now, nil)
}

// A glance is when the queue last compared the two clocks.
type glance struct{ ns, wall int64 }

// shortestSleep is how far the wall clock must get ahead of the monotonic one to count as a
// machine's sleep. Less than that is drift, or a correction.
const shortestSleep = int64(time.Second)

// wakeFromSleep brings forward what the provider's pauses put off by as much as the
// machine slept since the last call. It is called before such an instant is noted, too,
// which must not shrink by a sleep before it.
func (q *Queue[P, T]) wakeFromSleep(now time.Time) {
	if q.timer == nil {
		return // the time of a plan does not sleep
	}
	last := q.glance
	q.glance = glance{q.since(now), now.UnixNano()}
	slept := (q.glance.wall - last.wall) - (q.glance.ns - last.ns)
	if slept <= shortestSleep {
		return
	}
	for _, e := range q.endpoints {
		e.pausedUntil = max(e.pausedUntil-slept, 0)
		e.exhaustedUntil = max(e.exhaustedUntil-slept, 0)
	}
}

package llmqueue

import (
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
	q.returnRetries(ns)
	for {
		if !q.startAll(now, ns, free) {
			q.withdraw(now)
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

// startAll starts requests in order until the head has to wait. It reports whether
// that is for a shared set.
func (q *Queue[P, T]) startAll(now time.Time, ns int64, free *worker[P, T]) bool {
	q.roomAt = 0
	for q.mayStart(ns) {
		handle, ok := q.line.Head()
		if !ok {
			return false
		}
		rec := q.records.at(handle)
		if q.gated(rec) {
			return false
		}
		u := q.reservation(rec)
		taken, shared, found := q.reserve(now, u)
		switch found {
		case noRoom:
			return false
		case noSharedRoom:
			return true
		case neverRoom:
			q.end(now, rec, stateFailed, q.impossible(u))
			continue
		}
		if free != nil && free.attempt != nil {
			free = nil
		}
		q.line.Pop()
		q.leftLine(rec)
		q.start(now, rec, u, taken, shared, free)
	}
	return false
}

// startAtOnce starts a new request when nothing waits and there is room: what startAll
// would do, without the way through the line.
func (q *Queue[P, T]) startAtOnce(now time.Time, ns int64, rec *record[P, T]) bool {
	if q.line.Len() > 0 || !q.mayStart(ns) || q.gated(rec) {
		return false
	}
	if due := q.retries.first(); due != 0 && due <= ns {
		return false // it goes first
	}
	u := q.reservation(rec)
	taken, shared, found := q.reserve(now, u)
	if found == roomNow {
		q.start(now, rec, u, taken, shared, nil)
	}
	return found == roomNow
}

// mayStart reports whether a slot is free and nothing pauses the queue.
func (q *Queue[P, T]) mayStart(ns int64) bool {
	return q.running < q.slotsNow() && !q.paused && ns >= q.pausedUntil
}

// gated reports whether rec, of unknown size, waits for the first of its kind to tell
// how large they are.
func (q *Queue[P, T]) gated(rec *record[P, T]) bool {
	return !rec.sized && q.tokens && !q.sizes.open && q.blind > 0
}

// room is what reserve found.
type room uint8

const (
	roomNow      room = iota
	noRoom            // in the own limits before q.roomAt
	noSharedRoom      // in a shared set before q.roomAt, or before it wakes the queue
	neverRoom
)

// reserve takes u from all limits or from none.
func (q *Queue[P, T]) reserve(now time.Time, u Usage) (taken window.Reservation, shared []SharedReservation, found room) {
	c := charge(u)
	if len(q.shared) > 0 {
		// The own limits first, without taking: nobody sees them meanwhile.
		if at, limit := q.own.Next(now, c); limit >= 0 {
			return taken, nil, q.wait(at)
		}
		var at time.Time
		var ok bool
		if shared, at, ok = q.reserveShared(now, u); !ok {
			if q.wait(at); q.impossible(u) != nil {
				return taken, nil, neverRoom
			}
			return taken, nil, noSharedRoom
		}
	}
	taken, ok := q.own.Reserve(now, c)
	if !ok {
		at, _ := q.own.Next(now, c)
		return taken, nil, q.wait(at)
	}
	return taken, shared, roomNow
}

// wait notes when to look again; a zero time means never.
func (q *Queue[P, T]) wait(at time.Time) room {
	if at.IsZero() {
		return neverRoom
	}
	q.roomAt = q.since(at)
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
func (q *Queue[P, T]) reserveShared(now time.Time, u Usage) (taken []SharedReservation, at time.Time, ok bool) {
	if len(q.shared) == 0 {
		return nil, time.Time{}, true
	}
	if q.turn == 0 {
		q.turn = turns.Add(1)
	}
	taken = make([]SharedReservation, 0, len(q.shared))
	for i, m := range q.shared {
		r, at := m.Reserve(now, u, q.turn)
		if r == nil {
			for _, t := range slices.Backward(taken) {
				t.Undo(now)
			}
			for j, other := range q.shared {
				if j != i && (at.IsZero() || at.Sub(now) > q.patience[j]) {
					other.Withdraw(now)
				}
			}
			return nil, at, false
		}
		taken = append(taken, r)
	}
	q.turn = 0
	return taken, time.Time{}, true
}

// withdraw gives up the queue's places in the lines of its shared sets.
func (q *Queue[P, T]) withdraw(now time.Time) {
	if q.turn == 0 {
		return
	}
	q.turn = 0
	for _, m := range q.shared {
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
		q.leaveLine(rec)
		q.finish(now, rec, stateFailed, nil, q.waitedTooLong(rec))
		any = true
	}
	return any
}

// arm sets the timer for the next instant at which pump has something to do. It is
// moved forward at once and backward only when it fires.
func (q *Queue[P, T]) arm(ns int64) {
	next := int64(0)
	consider := func(at int64) {
		if at != 0 && (next == 0 || at < next) {
			next = at
		}
	}
	if q.line.Len() > 0 && !q.paused {
		if q.pausedUntil > ns {
			consider(q.pausedUntil)
		} else {
			consider(q.roomAt)
		}
	}
	consider(max(q.retries.first(), q.retryNotBefore))
	consider(q.deadlines.first())
	consider(q.history.expiry())
	if next == 0 || q.armed != 0 && q.armed <= next {
		return
	}
	q.armed = next
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
	q.armed = 0
	now := time.Now()
	q.expireHistory(q.since(now))
	q.pump(now, nil)
}

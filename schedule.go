package llmqueue

import (
	"slices"
	"time"
)

// This file decides who starts and when the queue has to look again. It runs under
// the queue's lock with one clock reading.

// pump starts everything that may start now, ends waits that are over, and sets the
// timer for the next instant at which something can change. free is a worker that
// just concluded its job, or nil.
func (q *Queue[P, T]) pump(now time.Time, free *worker[P, T]) {
	ns := q.since(now)
	q.returnRetries(ns)
	place := -1
	for {
		place = q.startAll(now, ns, free)
		if !q.expireWaits(now, ns) {
			break
		}
	}
	if q.place >= 0 && q.place != place {
		q.shared[q.place].Withdraw(now)
	}
	q.place = place
	q.arm(ns)
	if q.done() {
		q.drain()
	}
}

// startAll starts requests in order until the head has to wait. It returns the
// shared set in whose line the queue now waits, -1 for none.
func (q *Queue[P, T]) startAll(now time.Time, ns int64, free *worker[P, T]) int {
	q.roomAt = 0
	for q.running < q.slots && !q.paused && ns >= q.pausedUntil {
		handle, ok := q.line.Head()
		if !ok {
			return -1
		}
		rec := q.records.at(handle)
		if !rec.sized && q.tokens && !q.sizes.open && q.blind > 0 {
			return -1 // the first of unknown size tells how large they are
		}
		u := q.reservation(rec)
		c := charge(u)
		var shared []SharedReservation
		if len(q.shared) > 0 {
			if at, _ := q.own.Next(now, c); at.After(now) || at.IsZero() {
				if !q.waitForRoom(now, rec, at) {
					return -1
				}
				continue
			}
			var refused int
			var at time.Time
			if shared, refused, at = q.reserveShared(now, u); refused >= 0 {
				if err := q.impossible(u); err != nil {
					q.leaveLine(rec)
					q.finish(now, rec, stateFailed, nil, err)
					continue
				}
				if !at.IsZero() {
					q.roomAt = q.since(at)
				}
				return refused
			}
		}
		taken, ok := q.own.Reserve(now, c)
		if !ok {
			at, _ := q.own.Next(now, c)
			if !q.waitForRoom(now, rec, at) {
				return -1
			}
			continue
		}
		q.start(now, rec, u, taken, shared, free)
		free = nil
	}
	return -1
}

// waitForRoom notes when the head fits its own limits. It returns true when the
// head can never fit and was failed, so that the next is looked at.
func (q *Queue[P, T]) waitForRoom(now time.Time, rec *record[P, T], at time.Time) bool {
	if !at.IsZero() {
		q.roomAt = q.since(at)
		return false
	}
	err := q.impossible(q.reservation(rec))
	q.leaveLine(rec)
	q.finish(now, rec, stateFailed, nil, err)
	return true
}

// reserveShared takes u from all shared sets or from none. refused is the set that
// had no room, -1 when all had, and at its advice when to ask again.
func (q *Queue[P, T]) reserveShared(now time.Time, u Usage) (taken []SharedReservation, refused int, at time.Time) {
	taken = make([]SharedReservation, 0, len(q.shared))
	for i, m := range q.shared {
		r, at := m.Reserve(now, u)
		if r == nil {
			for _, t := range slices.Backward(taken) {
				t.Undo(now)
			}
			return nil, i, at
		}
		taken = append(taken, r)
	}
	return taken, -1, time.Time{}
}

// returnRetries puts requests whose backoff is over back in their place in line.
func (q *Queue[P, T]) returnRetries(ns int64) {
	for at := q.retries.first(); at != 0 && at <= ns; at = q.retries.first() {
		if rec := q.records.get(q.retries.pop()); rec != nil && rec.state == stateRetrying {
			q.retries.live--
			q.returnToLine(rec)
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
	consider(q.retries.first())
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

// demand is what waits in line, summed by priority.
type demand []level

type level struct {
	priority      int
	requests      int64
	input, output int64 // of those whose size is known
	unsized       int64
}

func (d *demand) add(priority int, n int64, u Usage, sized bool) {
	i := 0
	for i < len(*d) && (*d)[i].priority > priority {
		i++
	}
	if i == len(*d) || (*d)[i].priority != priority {
		*d = slices.Insert(*d, i, level{priority: priority})
	}
	l := &(*d)[i]
	l.requests += n
	if sized {
		l.input += n * u.InputTokens
		l.output += n * u.OutputTokens
	} else {
		l.unsized += n
	}
	if l.requests == 0 && len(*d) > 1 {
		*d = slices.Delete(*d, i, i+1)
	}
}

// forecastLast is when rec, the last of its priority, starts if nothing else comes.
func (q *Queue[P, T]) forecastLast(now time.Time, rec *record[P, T]) time.Time {
	var ahead level
	for _, l := range q.demand {
		if l.priority >= rec.req.Priority {
			ahead.requests += l.requests
			ahead.input += l.input
			ahead.output += l.output
			ahead.unsized += l.unsized
		}
	}
	ahead.requests--
	if rec.sized {
		ahead.input -= rec.req.Estimate.InputTokens
		ahead.output -= rec.req.Estimate.OutputTokens
	} else {
		ahead.unsized--
	}
	return q.forecast(now, rec, ahead)
}

// exactForecast bounds how far the line is walked for one forecast; beyond it the
// requests ahead count with their average.
const exactForecast = 10_000

// forecastAt is when rec, anywhere in line, starts if nothing else comes.
func (q *Queue[P, T]) forecastAt(now time.Time, rec *record[P, T], rank int) time.Time {
	var ahead level
	for handle := range q.line.All() {
		if handle == rec.handle || ahead.requests == exactForecast {
			break
		}
		other := q.records.at(handle)
		ahead.requests++
		if other.sized {
			ahead.input += other.req.Estimate.InputTokens
			ahead.output += other.req.Estimate.OutputTokens
		} else {
			ahead.unsized++
		}
	}
	if ahead.requests == exactForecast {
		scale := float64(rank-1) / exactForecast
		ahead.requests = int64(rank - 1)
		ahead.input = int64(float64(ahead.input) * scale)
		ahead.output = int64(float64(ahead.output) * scale)
		ahead.unsized = int64(float64(ahead.unsized) * scale)
	}
	return q.forecast(now, rec, ahead)
}

// forecast is when rec starts behind what is ahead of it: the latest of what its own
// limits, the shared ones, a pause and the slots allow. Zero when unknown.
func (q *Queue[P, T]) forecast(now time.Time, rec *record[P, T], ahead level) time.Time {
	if q.paused {
		return time.Time{}
	}
	mean := q.reservation(&record[P, T]{})
	load := Usage{
		InputTokens:  ahead.input + ahead.unsized*mean.InputTokens,
		OutputTokens: ahead.output + ahead.unsized*mean.OutputTokens,
	}
	own := q.reservation(rec)
	all := charge(load)
	all.Requests = ahead.requests
	at := q.own.Forecast(now, all, charge(own))
	for _, m := range q.shared {
		if t := m.Forecast(now, ahead.requests, load, own); t.After(at) {
			at = t
		}
	}
	if t := q.date(q.pausedUntil); t.After(at) {
		at = t
	}
	if late := q.running + ahead.requests - q.slots + 1; late > 0 {
		switch {
		case q.duration.n > 0:
			if t := now.Add(time.Duration(q.duration.value * float64(late) / float64(q.slots))); t.After(at) {
				at = t
			}
		case !at.After(now):
			return time.Time{} // only slots hold it, and nothing ended yet
		}
	}
	return at
}

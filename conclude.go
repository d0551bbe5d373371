package llmqueue

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// This file says what follows when a processor returns: settling, heeding the
// provider, and the next attempt or the end.

// conclude settles the attempt that w ran, decides what becomes of its request, and
// gives w its next job when one may start. It tells w whether it has one, or is
// retired; otherwise w is idle and waits for its token.
func (q *Queue[P, T]) conclude(w *worker[P, T], err error) (busy, retired bool) {
	cut := w.attempt.finish()
	if w.spare == nil {
		w.spare = new(attempt) // here, not under the lock
	}
	q.mu.Lock()
	defer q.unlock()
	q.concludeAt(time.Now(), w, err, cut)
	return w.attempt != nil, w.retired
}

// concludeAt is conclude under the queue's lock. cut is what ended the attempt's context
// before its processor returned, nil when nothing did.
func (q *Queue[P, T]) concludeAt(now time.Time, w *worker[P, T], err, cut error) {
	a, r, invalid := w.attempt, w.ref, w.invalid
	w.attempt, w.req, w.invalid = nil, Request[P]{}, false
	acc := a.account
	e := acc.endpoint
	acc.attempt = nil
	ns := q.since(now)
	acc.waits = ns
	q.count.worked += ns - acc.started
	if acc.timer != nil {
		acc.timer.Stop()
		acc.timer = nil
	}
	q.running--
	e.running--
	w.over(e)
	e.rest()
	q.settle(now, acc, a, err == nil || invalid)
	mark, delay := q.heed(now, a, err)
	if e.breaker != nil {
		q.judge(now, e, a, err, mark, cut, invalid)
	}
	if rec := q.records.get(r); rec != nil && rec.account == acc && rec.state == stateRunning {
		q.count.processing--
		q.duration.add(float64(ns - acc.started))
		if len(q.observers) > 0 {
			acc.untold.took, acc.untold.outcome = ns-acc.started, a.outcome(err)
		}
		switch {
		case err == nil:
			if e.bound.succeed(e.slots) {
				q.tellLimits(now, e, true, nil)
			}
			q.noneStated(now, e)
			q.finish(now, rec, stateCompleted, &w.result, nil)
		case invalid:
			q.finish(now, rec, stateFailed, nil, err)
		default:
			q.decide(now, rec, err, mark, delay)
		}
	} else {
		q.count.abandoned--
	}
	var none T
	w.result = none
	q.pump(now, w)
	if w.attempt == nil {
		q.rest(w)
	}
}

// settle books what an attempt really used.
func (q *Queue[P, T]) settle(now time.Time, acc *account, a *attempt, succeeded bool) {
	used, reported := a.used()
	if reported {
		q.book(now, acc, used)
	}
	for _, s := range acc.shared {
		s.Release(now)
	}
	if !acc.blind {
		return
	}
	acc.blind = false
	q.blind--
	if !reported && succeeded && q.tokens && !q.sizes.open {
		q.sizes.open = true // waiting for a report that never comes helps nobody
		q.emit(Event{Type: EventNoUsage, Time: now})
	}
}

// book makes used the figure of an attempt that returned, in place of an earlier one.
func (q *Queue[P, T]) book(now time.Time, acc *account, used Usage) {
	if acc.reported {
		q.sizes.replace(acc.used, used)
	} else {
		q.sizes.add(used)
	}
	q.count.usage = q.count.usage.minus(acc.used).plus(used)
	acc.used, acc.reported = used, true
	charged := settled(acc.endpoint.accounting, acc.reserved, used)
	acc.endpoint.own.Settle(now, &acc.charge, charge(charged))
	for _, s := range acc.shared {
		s.Settle(now, charged)
	}
}

// heed finds out what a processor's error asks for, by its own mark or else by what
// the provider was observed to say, and pauses the queue when the processor says so,
// whatever became of the request meanwhile.
func (q *Queue[P, T]) heed(now time.Time, a *attempt, err error) (mark markKind, delay time.Duration) {
	if err == nil {
		return unmarked, 0
	}
	if _, panicked := err.(*PanicError); panicked {
		return unmarked, 0 // also when it panicked with a marked error
	}
	mark, wanted := markOf(err)
	said, streamed := a.verdict()
	if mark == markRateLimited && !said.Outcome.refused() {
		q.count.refused++ // else it was observed, and counted then
	}
	marked := mark != unmarked
	if !marked {
		mark = said.meaning()
	}
	switch {
	case mark < markRetryable:
		return mark, 0
	case mark == markRetryable:
		delay = q.settings.retry.delay(a.account.number)
		if !marked {
			delay = max(delay, said.Delay)
		}
	case marked:
		if delay = wanted; delay <= 0 {
			delay = q.settings.retry.delay(a.account.number)
		}
		q.pauseUntil(now, a.account.endpoint, delay, err)
	default:
		delay = time.Duration(max(a.account.endpoint.pausedUntil-q.since(now), 0)) // as observed
	}
	if streamed {
		mark = markPermanent
	}
	return mark, delay
}

// judge tells the breaker of e how a call ended. cut is what ended its context before it
// returned, nil when nothing did.
func (q *Queue[P, T]) judge(now time.Time, e *endpoint, a *attempt, err error, mark markKind, cut error, invalid bool) {
	said, _ := a.verdict()
	passing := said.meaning() == markRetryable // also when streamed output forbids another attempt
	failed := err != nil && !invalid && (passing || mark == unmarked || mark == markRetryable)
	if failed && cut == context.Canceled && e.breaker.IsClosed() {
		return // who asked has gone: that says nothing, and no probe hangs on it
	}
	q.record(now, e, failed || cut == context.DeadlineExceeded, err)
}

// decide lets the request of a failed attempt wait for the next one, or ends it.
func (q *Queue[P, T]) decide(now time.Time, rec *record[P, T], err error, mark markKind, delay time.Duration) {
	until := now.Add(delay)
	switch {
	case !rec.noWait && rec.ctx.Err() != nil:
		q.finish(now, rec, stateCanceled, nil, canceledBy(rec.ctx))
		return
	case mark < markRetryable:
		q.finish(now, rec, stateFailed, nil, q.processingError(rec, err))
		return
	case rec.account.number >= q.settings.retry.MaxAttempts:
		q.fail(now, rec, q.processingError(rec, err))
		return
	case q.cut || q.closed && q.paused:
		err = fmt.Errorf("%w: shut down before another attempt: %w", ErrQueueClosed, q.processingError(rec, err))
		q.finish(now, rec, stateFailed, nil, err)
		return
	case mark == markQuota && !q.settings.keepOnQuota && q.exhausted(q.since(now)):
		q.fail(now, rec, fmt.Errorf("%w: %w", ErrQuotaExhausted, q.processingError(rec, err)))
		return
	case len(q.settings.fallback) > 0 && q.allOpen():
		q.fail(now, rec, fmt.Errorf("%w, after: %w", q.openError(), q.processingError(rec, err)))
		return
	case mark == markRateLimited || mark == markQuota:
		q.returnToLine(rec)
		until = q.pausesEnd(now)
	default:
		rec.state = stateRetrying
		q.retries.add(max(after(q.since(now), int64(delay)), 1), rec.ref()) // 0 means none
	}
	q.emitFor(rec, Event{Type: EventRetried, Time: now, Until: until, Err: err})
}

func (q *Queue[P, T]) processingError(rec *record[P, T], err error) error {
	return &ProcessingError{ModelID: q.modelID, RequestID: rec.id, Attempts: rec.account.number, Err: err}
}

// timeOut fails a request whose attempt took longer than WithTimeout.
func (q *Queue[P, T]) timeOut(r ref, a *attempt) {
	q.mu.Lock()
	defer q.unlock()
	rec := q.records.get(r)
	if rec == nil || rec.state != stateRunning || rec.account.attempt != a {
		return
	}
	a.cancel(context.DeadlineExceeded)
	err := fmt.Errorf("the attempt took longer than %v: %w", q.settings.timeout, context.DeadlineExceeded)
	q.end(time.Now(), rec, stateFailed, q.processingError(rec, err))
}

// end finishes a request from outside its processor, wherever it is.
func (q *Queue[P, T]) end(now time.Time, rec *record[P, T], state recordState, err error) {
	if rec.state == stateFollowing {
		q.unfollow(now, rec)
	} else {
		q.takeOff(now, rec)
	}
	q.finish(now, rec, state, nil, err)
}

// takeOff takes a request out of wherever it is.
func (q *Queue[P, T]) takeOff(now time.Time, rec *record[P, T]) {
	switch rec.state {
	case stateInLine:
		q.leaveLine(rec)
	case stateRetrying:
		rec.state = stateInLine // its entry is stale now
		q.retries.drop(q.doesNotRetry)
		q.announceRoom()
	case stateRunning:
		rec.account.untold.took = q.since(now) - rec.account.started
		rec.account.attempt.cancel(context.Canceled)
		q.count.processing--
		q.count.abandoned++
	case stateForwarded:
		delete(q.forwarded, rec.ref())
		if at, ok := rec.account.away.at.(place[P, T]); ok {
			q.recalls = append(q.recalls, at)
		}
	}
}

// stopWaitingAt lets the next event tell how long a request waited that leaves the line
// without another attempt.
func (q *Queue[P, T]) stopWaitingAt(now time.Time, rec *record[P, T]) {
	if rec.state == stateInLine || rec.state == stateRetrying {
		rec.account.untold.waited = q.since(now) - cmp.Or(rec.account.waits, rec.created)
	}
}

// doesNotRetry tells which entries of retries are stale.
func (q *Queue[P, T]) doesNotRetry(r ref) bool {
	rec := q.records.get(r)
	return rec == nil || rec.state != stateRetrying
}

// finish gives a request its final status, answers who waits and keeps what the
// history needs. The request must be out of the line.
func (q *Queue[P, T]) finish(now time.Time, rec *record[P, T], state recordState, result *T, err error) {
	if rec.call {
		q.finishCall(now, rec, state, result, err)
		return
	}
	acc := q.accountOf(rec)
	q.stopWaitingAt(now, rec)
	rec.state = state
	acc.ended, acc.failure = q.since(now), err
	event := Event{Time: now, Err: err}
	switch state {
	case stateCompleted:
		q.count.completed++
		event.Type = EventCompleted
	case stateFailed:
		q.count.failed++
		event.Type = EventFailed
	default:
		q.count.canceled++
		event.Type = EventCanceled
	}
	for w := rec.waiters; w != nil; {
		next := w.next
		q.respond(&w.resp, now, rec, result)
		w.unserved = acc.unserved
		w.next, q.answer = q.answer, w
		w = next
	}
	rec.waiters = nil
	if len(q.observers) > 0 {
		event.Usage = acc.usage()
		if acc.away != nil {
			acc.away.overlay(&event.Usage, new(int), &event.Fallback)
		}
		q.emitFor(rec, event)
	}
	if rec.noWait && state == stateCompleted {
		kept := *result
		rec.account.result = &kept
	}
	var none P
	rec.params, rec.ctx = none, nil
	q.remember(rec)
}

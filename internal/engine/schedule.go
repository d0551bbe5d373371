package engine

import (
	"cmp"
	"slices"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// pump starts everything that may start now, and ends waits that are over.
func (q *Engine) pump() {
	for _, e := range q.endpoints {
		e.Advance(q.now)
	}
	q.returnRetries()
	q.startAll()
	for q.expireWaits() {
		q.startAll() // the line has another head
	}
}

// startAll starts requests in order until the head of the line has to wait.
func (q *Engine) startAll() {
	for {
		for _, e := range q.endpoints {
			e.Reset()
		}
		q.backfillAt = 0
		h, waits := q.line.Head()
		if !waits || q.paused || q.cutOff {
			break
		}
		r := q.records.at(h)
		if q.mustLearnSize(r) {
			break
		}
		admission := q.admit(r)
		if admission == endpoint.Impossible {
			q.end(h, r, Failed, TooLarge)
			continue
		}
		if admission == endpoint.NotNow {
			if q.cfg.Backfill {
				q.backfill(h, r)
			}
			break
		}
		q.line.Pop()
		q.leave(h, r)
		q.start(h, r)
	}
	q.withdraw()
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
	if q.line.Len() > 0 || q.paused || q.mustLearnSize(r) {
		return false
	}
	if q.backoff.Len() > 0 {
		if _, due, _ := q.backoff.First(); due <= q.now {
			return false // it goes first
		}
	}
	if q.admit(r) != endpoint.Admitted {
		return false // startAll looks again, with r in line
	}
	for _, e := range q.endpoints {
		e.Withdraw(q.now) // r waits nowhere any more, and nobody else does
	}
	q.start(h, r)
	return true
}

// mustLearnSize reports whether r, of unknown size, waits for the first of its kind to
// tell how large they are.
func (q *Engine) mustLearnSize(r *record) bool {
	return !r.sized() && q.tokens && !q.sizes.known && q.unsized > 0
}

// admit reserves for r, in q.next, on the endpoint that has room now. Impossible means
// that it can never fit anywhere.
func (q *Engine) admit(r *record) endpoint.Admission {
	if q.next == nil {
		q.next = q.unused()
	}
	mean := q.mean(r.sized())
	impossible := true
	for _, e := range q.byLoad() {
		e.Advance(q.now) // before what starts there, when the timer is late
		switch e.Admit(q.now, e.Reservation(r.estimate, r.sized(), mean), &q.next.lease) {
		case endpoint.Admitted:
			return endpoint.Admitted
		case endpoint.NotNow:
			impossible = false
		}
	}
	if impossible && r.sized() && q.tooLarge(r.estimate) != nil {
		return endpoint.Impossible
	}
	return endpoint.NotNow
}

// byLoad gives the endpoints, those with the fewest attempts for their slots first.
func (q *Engine) byLoad() []*endpoint.Endpoint {
	if len(q.endpoints) == 1 {
		return q.endpoints
	}
	q.order = append(q.order[:0], q.endpoints...)
	slices.SortStableFunc(q.order, func(a, b *endpoint.Endpoint) int {
		return cmp.Compare(a.Running()*b.Slots(), b.Running()*a.Slots())
	})
	return q.order
}

// start begins an attempt of r, which is in no line, with the reservation in q.next.
func (q *Engine) start(h uint32, r *record) {
	a := q.attemptOf(r)
	if a == nil {
		a, q.next = q.next, nil
		q.attach(h, r, a)
		a.since = r.created
	} else {
		a.lease, q.next.lease = q.next.lease, a.lease
		q.next.lease.Reuse()
		a.prior, a.used, a.reported = a.prior.Plus(a.used), endpoint.Usage{}, false
	}
	waited := q.now - a.since
	if a.count++; a.count == 1 {
		q.budget.first(q.cfg.RetryBudget)
	} else {
		q.counts.Retries++
	}
	if !r.sized() && !q.sizes.known {
		a.unknown = true
		q.unsized++
	}
	number := r.attempt - 1
	if q.cfg.Timeout > 0 {
		q.timeouts.Set(number, endpoint.After(q.now, q.cfg.Timeout))
	}
	a.running, a.index = true, uint32(len(q.underWay))
	q.underWay = append(q.underWay, number)
	q.running++
	q.counts.Attempts++
	q.counts.Waited += waited
	r.flags |= flagStarted
	q.move(h, r, Running)
	q.Effects = append(q.Effects, Effect{Kind: Start, Handle: h, Attempt: number, Count: int(a.count), Endpoint: a.lease.Endpoint, Waited: waited})
}

// returnRetries puts requests whose backoff is over back in their place in line.
func (q *Engine) returnRetries() {
	q.retryAt = 0
	for q.backoff.Len() > 0 {
		h, at, _ := q.backoff.First()
		if at > q.now {
			return
		}
		if wait := q.budget.take(q.now, q.cfg.RetryBudget); wait > 0 {
			q.retryAt = endpoint.After(q.now, wait)
			return
		}
		q.backoff.Pop()
		q.rejoin(h, q.records.at(h))
	}
}

// expireWaits ends requests whose MaxWait passed before their first start, and reports
// whether there were any.
func (q *Engine) expireWaits() (any bool) {
	for q.expiry.Len() > 0 {
		h, at, _ := q.expiry.First()
		if at > q.now {
			break
		}
		q.expiry.Pop()
		any = q.expire(h) || any
	}
	return any
}

// expire ends a request whose MaxWait has passed, unless it was started.
func (q *Engine) expire(h uint32) bool {
	r := q.records.at(h)
	state, started := r.state, r.started()
	if state == Following {
		c := q.records.at(r.attempt)
		state, started = c.state, c.started()
	}
	switch {
	case started:
	case state == InLine:
		q.end(h, r, Failed, WaitedTooLong)
		return true
	case state == HandedOff && r.state == Following:
		q.Effects = append(q.Effects, Effect{Kind: AskElsewhere, Handle: h})
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

// expireAttempts ends requests whose attempt takes too long.
func (q *Engine) expireAttempts() {
	for q.timeouts.Len() > 0 {
		number, at, _ := q.timeouts.First()
		if at > q.now {
			return
		}
		q.timeouts.Pop()
		a := q.attempts[number]
		if r := q.records.at(a.handle); r.state == Running {
			q.end(a.handle, r, Failed, TimedOut)
		}
	}
}

// Next is the next instant at which the engine has something to do, 0 when none is known.
func (q *Engine) Next() (next int64) {
	consider := func(at int64) {
		if at != 0 && at != endpoint.Never && (next == 0 || at < next) {
			next = at
		}
	}
	if len(q.sweeps) > 0 {
		return max(q.now, 1)
	}
	if q.line.Len() > 0 && !q.paused {
		for _, e := range q.endpoints {
			consider(e.Next(q.now))
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
	if q.timeouts.Len() > 0 {
		_, at, _ := q.timeouts.First()
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
	if !r.sized() && q.tokens && !q.sizes.known {
		return nil
	}
	if q.next == nil {
		q.next = q.unused()
	}
	for _, e := range q.byLoad() {
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

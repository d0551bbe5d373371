package llmqueue

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/internal/window"
)

// This file decides what an outcome means for the queue. It runs under the queue's
// lock.

// pacing shortens bursts after calls came too fast, and lets them grow again.
type pacing struct {
	halvings  uint  // a burst is Amount divided by two so often
	changedAt int64 // ns
}

// maxHalvings leaves bursts of about a second's share of a minute.
const maxHalvings = 6

// burst is what l's Burst comes to.
func (p pacing) burst(l Limit) int64 {
	if p.halvings == 0 || l.Kind == KindConcurrent || l.Resets != nil {
		return l.Burst
	}
	short := max(l.Amount>>p.halvings, 1)
	if l.Burst > 0 {
		return min(l.Burst, short)
	}
	return short
}

// shorten halves the bursts three times at once, so that a server that enforces by
// the second is found in two steps, unless they were shortened since the refused call
// started: one burst is one lesson.
func (q *Queue[P, T]) shorten(now time.Time, e *endpoint, started int64, why error) {
	p := &e.pacing
	if p.changedAt != 0 && started <= p.changedAt {
		return
	}
	p.changedAt = q.since(now)
	if p.halvings < maxHalvings {
		p.halvings = min(p.halvings+3, maxHalvings)
		q.tellLimits(now, e, q.adopt(now, e), why)
	}
}

// calm is how many periods, of a minute at most, nothing is refused before bursts double.
const calm = 2

// relax lets bursts grow again.
func (q *Queue[P, T]) relax(now time.Time, e *endpoint) {
	p := &e.pacing
	if p.halvings > 0 && q.since(now) >= after(p.changedAt, calm*int64(min(shortest(e.limits), time.Minute))) {
		p.halvings--
		p.changedAt = q.since(now)
		q.tellLimits(now, e, q.adopt(now, e), nil)
	}
}

// bound is an adaptive bound on concurrency below the configured one: it is cut when
// the provider is overloaded and grows by one for each round of successes.
type bound struct {
	at    float64 // 0: none
	cutAt int64   // ns
}

// cut answers an overload by a quarter less, once for all calls that were running. It
// reports whether it did.
func (b *bound) cut(ns, started, running int64) bool {
	if b.cutAt != 0 && started <= b.cutAt {
		return false
	}
	if b.at == 0 || b.at > float64(running) {
		b.at = float64(running)
	}
	b.at, b.cutAt = max(b.at*0.75, 1), ns
	return true
}

// succeed lets the bound grow, until it is no bound any more: then it reports true.
func (b *bound) succeed(slots int64) (gone bool) {
	if b.at == 0 {
		return false
	}
	if b.at += 1 / b.at; b.at >= float64(slots) {
		b.at = 0
	}
	return b.at == 0
}

// tellLimits tells the observers what is in force on e, if that changed.
func (q *Queue[P, T]) tellLimits(now time.Time, e *endpoint, changed bool, why error) {
	if !changed || len(q.observers) == 0 {
		return
	}
	limits := slices.Clone(e.limits)
	if e.bound.at > 0 {
		limits = slices.DeleteFunc(limits, func(l Limit) bool { return l.Kind == KindConcurrent })
		limits = append(limits, Concurrent(min(e.slots, int64(e.bound.at))))
	}
	q.emit(Event{Type: EventLimitLearned, Time: now, Endpoint: e.name, Limits: limits, Err: why})
}

// ramp bounds how many calls may be under way whose answer has not begun, while a queue
// that learns its limits does not know yet how many at once the provider takes:
// whatever a limit says of a minute, a server that enforces by the second refuses most
// of what comes in the first millisecond. Every answer allows one more, so that the bound
// doubles with each round, and it ends when it bounds nothing, or when calls turn out to
// end unobserved.
type ramp struct{ at int64 } // 0: none

// rampFirst is how many calls a queue makes at once when it has learned its limits.
const rampFirst = 32

// served lets the ramp grow, until it bounds nothing.
func (r *ramp) served(slots int64) {
	if r.at == 0 {
		return
	}
	if r.at++; r.at >= slots {
		r.at = 0
	}
}

// lateness is how long after its start a call went out, at the least and at the most, in
// this period and the one before. The provider counts a call when it comes; of two that
// started a period apart, the one that went out late counts until later, and the other may
// come too early: a cold connection and a busy machine delay the first burst more than the
// next one. So the windows hold charges longer by the difference.
type lateness struct {
	least, most         time.Duration
	lastLeast, lastMost time.Duration
	since               time.Time // when this period began
}

// add notes a call and returns the difference.
func (l *lateness) add(now time.Time, late, period time.Duration) time.Duration {
	switch age := now.Sub(l.since); {
	case age >= 2*period:
		*l = lateness{least: late, most: late, lastLeast: late, lastMost: late, since: now}
	case age >= period:
		*l = lateness{least: late, most: late, lastLeast: l.least, lastMost: l.most, since: now}
	}
	l.least, l.most = min(l.least, late), max(l.most, late)
	return max(l.most, l.lastMost) - min(l.least, l.lastLeast)
}

// maxLateness is the part of a period by which charges are held longer at most: beyond it,
// calls that go out at such different times cost more quota than refusals would.
const maxLateness = 20

// shortest is the shortest period of the limits, 0 when none has one.
func shortest(limits []Limit) (period time.Duration) {
	for _, l := range limits {
		if p := l.period(); p > 0 && (period == 0 || p < period) {
			period = p
		}
	}
	return period
}

// hear notes that the answer to the call that w makes has begun.
func (w *worker[P, T]) hear(now time.Time, o Observation) {
	if w.answered {
		return
	}
	e := w.endpoint
	w.answered = true
	e.unanswered--
	if o.Outcome == OutcomeServed {
		e.ramp.served(e.slots)
	}
	if period := shortest(e.limits); period > 0 && !o.SentAt.IsZero() {
		late := e.lateness.add(now, w.sentAt(o).Sub(w.started), period)
		e.own.Late(now, min(late, period/maxLateness))
	}
}

// over notes that the call that w makes is over, whether or not anybody observed it.
func (w *worker[P, T]) over(e *endpoint) {
	if !w.answered {
		e.unanswered--
		e.ramp.at = 0
	}
}

// slotsNow is how many processors may run at present.
func (e *endpoint) slotsNow() int64 {
	slots := e.slots
	switch {
	case e.ignorant():
		return 1
	case e.bound.at > 0:
		slots = min(slots, int64(e.bound.at))
	}
	if e.ramp.at > 0 {
		slots = min(slots, e.running-e.unanswered+e.ramp.at)
	}
	return slots
}

// budget bounds retries after passing faults to a share of the traffic. Retries
// beyond it wait; none is lost.
type budget struct {
	left float64
	at   int64 // ns, when left was brought up to date
}

// budgetAllowance is how many retries may come at once, beyond the share.
const budgetAllowance = 20

// first books a first attempt.
func (b *budget) first(share float64) { b.left = min(b.left+share, budgetAllowance) }

// take books a retry, or says when to ask again: one a second is always allowed.
func (b *budget) take(ns int64, share float64) (wait int64) {
	if share < 0 {
		return 0
	}
	b.left = min(b.left+float64(ns-b.at)/float64(time.Second), budgetAllowance)
	b.at = ns
	if b.left >= 1 {
		b.left--
		return 0
	}
	return max(int64((1-b.left)*float64(time.Second)), 1)
}

// exhaustedFor is how long a queue stays paused for an exhausted quota when the
// provider does not say when it is renewed: one call an hour hammers nobody.
const exhaustedFor = time.Hour

// heedObservation takes in what the provider said while the processor runs.
func (w *worker[P, T]) heedObservation(a *attempt, o Observation) {
	q := w.q
	q.mu.Lock()
	defer q.unlock()
	if w.attempt != a {
		return
	}
	now := time.Now()
	e, started := w.endpoint, a.account.started
	if o.Outcome != "" {
		w.hear(now, o)
	}
	if o.Outcome.refused() {
		q.count.refused++
	}
	switch o.Outcome {
	case OutcomeServed:
		q.relax(now, e)
		if len(o.Limits) == 0 {
			q.noneStated(now, e)
		}
	case OutcomeRateLimited:
		q.pauseFor(now, a, o)
		if !o.exhausted() {
			q.shorten(now, e, started, o.err()) // there was room in every limit, here and there
		}
	case OutcomeSlowDown:
		q.pauseFor(now, a, o)
		q.shorten(now, e, started, o.err())
	case OutcomeOverloaded:
		q.tellLimits(now, e, e.bound.cut(q.since(now), started, e.running), o.err())
		if o.Delay > 0 || e.bound.at <= 1 {
			q.pauseFor(now, a, o) // else what waits takes turns at being turned away
		}
	case OutcomeQuotaExhausted:
		q.exhaust(now, e, o)
	}
	if len(o.Limits) > 0 {
		if o.Outcome == OutcomeRateLimited || o.Outcome == OutcomeSlowDown {
			// Whether it counted the refused call, the provider's own figures tell.
			e.own.Settle(now, &a.account.charge, window.Charge{})
		}
		q.learn(now, w, o)
		w.observed = true
	}
	q.pump(now, nil)
}

// exhausted reports whether o says itself that a limit is used up.
func (o Observation) exhausted() bool {
	for _, l := range o.Limits {
		if l.Amount > 0 && l.Remaining == 0 {
			return true
		}
	}
	return false
}

// pauseFor pauses the endpoint as long as the provider asks, or for a backoff.
func (q *Queue[P, T]) pauseFor(now time.Time, a *attempt, o Observation) {
	e, d := a.account.endpoint, o.Delay
	if d <= 0 {
		d = q.settings.retry.delay(a.account.number)
	}
	q.pauseUntil(now, e, d, o.err())
}

// pauseUntil only ever lengthens a pause.
func (q *Queue[P, T]) pauseUntil(now time.Time, e *endpoint, d time.Duration, err error) {
	q.wakeFromSleep(now)
	if until := after(q.since(now), int64(d)); until > e.pausedUntil {
		e.pausedUntil, e.pausedBy = until, err
		e.tells = len(q.observers) > 0
		q.emit(Event{Type: EventPaused, Time: now, Endpoint: e.name, Until: now.Add(d), Err: err})
	}
}

// tellEnd tells the observers that the provider's pause of e is over.
func (q *Queue[P, T]) tellEnd(now time.Time, e *endpoint) {
	e.tells = false
	q.emit(Event{Type: EventResumed, Time: now, Endpoint: e.name})
}

// pausesEnd is when some endpoint is not paused by its provider any more, now when one
// is not paused.
func (q *Queue[P, T]) pausesEnd(now time.Time) time.Time {
	first := q.endpoints[0].pausedUntil
	for _, e := range q.endpoints[1:] {
		first = min(first, e.pausedUntil)
	}
	return now.Add(time.Duration(max(first-q.since(now), 0)))
}

// err says in an error what o says.
func (o Observation) err() error {
	if o.Code == "" {
		return fmt.Errorf("the provider says: %s", o.Outcome)
	}
	return fmt.Errorf("the provider says: %s (%s)", o.Outcome, o.Code)
}

// exhaust pauses the endpoint until the quota is renewed, and fails what waits unless it
// is to be kept or another endpoint serves.
func (q *Queue[P, T]) exhaust(now time.Time, e *endpoint, o Observation) {
	d := o.Delay
	if d <= 0 {
		d = exhaustedFor
	}
	q.pauseUntil(now, e, d, o.err())
	e.exhaustedUntil = max(e.exhaustedUntil, after(q.since(now), int64(d)))
	if q.settings.keepOnQuota {
		return // Resume ends the pause
	}
	if !q.exhausted(q.since(now)) {
		return
	}
	for _, rec := range slices.Collect(q.waiting()) {
		q.takeOff(now, rec)
		q.fail(now, rec, q.quotaError())
	}
}

// exhausted reports whether the quota of every endpoint is used up.
func (q *Queue[P, T]) exhausted(ns int64) bool {
	for _, e := range q.endpoints {
		if e.exhaustedUntil <= ns {
			return false
		}
	}
	return true
}

func (q *Queue[P, T]) quotaError() error {
	first := slices.MinFunc(q.endpoints, func(a, b *endpoint) int { return cmp.Compare(a.exhaustedUntil, b.exhaustedUntil) })
	return fmt.Errorf("%w: model %q starts nothing before %s: raise the quota and call Resume, or wait for its renewal (WithWaitForQuota keeps requests)",
		ErrQuotaExhausted, q.modelID, q.date(first.exhaustedUntil).Format(time.RFC3339))
}

// refused reports whether the provider did not take the call, for its limits or its
// capacity.
func (o Outcome) refused() bool {
	switch o {
	case OutcomeRateLimited, OutcomeSlowDown, OutcomeOverloaded, OutcomeQuotaExhausted:
		return true
	}
	return false
}

// outcome is what an attempt came to that returned err.
func (a *attempt) outcome(err error) Outcome {
	if err == nil {
		return OutcomeServed
	}
	if _, panicked := err.(*PanicError); panicked {
		return ""
	}
	said, _ := a.verdict()
	mark, _ := markOf(err)
	switch meaning := said.meaning(); {
	case mark == markPermanent:
		return OutcomeFatal
	case mark == markRetryable && meaning != markRetryable:
		return OutcomeRetryable
	case mark == markRateLimited && !said.Outcome.refused():
		return OutcomeRateLimited
	case meaning == unmarked:
		return "" // it was served, and something else failed
	}
	return said.Outcome
}

// OutcomeOf says, to a middleware, what the queue takes err for, with which next or the
// middleware itself returns: OutcomeServed for nil; else what its mark says (Permanent,
// Retryable, RateLimited), more exactly where the provider was observed to say the same;
// else what the provider was observed to say; else "", an error that nobody explained.
// ctx is the attempt's.
func OutcomeOf(ctx context.Context, err error) Outcome {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		a = new(attempt)
	}
	return a.outcome(err)
}

// meaning is what an unmarked error means, by what the provider said last.
func (o Observation) meaning() markKind {
	switch o.Outcome {
	case OutcomeRateLimited, OutcomeSlowDown:
		return markRateLimited
	case OutcomeOverloaded, OutcomeRetryable:
		return markRetryable
	case OutcomeQuotaExhausted:
		return markQuota
	case OutcomeFatal:
		return markPermanent
	}
	return unmarked
}

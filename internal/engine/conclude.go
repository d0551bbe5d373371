package engine

import "github.com/llmqueue/llmqueue/internal/endpoint"

// Verdict says whose fault the end of an attempt is.
type Verdict uint8

// The verdicts.
const (
	Served       Verdict = iota
	RequestFault         // it would fail again
	PassingFault         // another attempt may succeed
	Refused              // for now: the request keeps its place
	Exhausted            // a quota is used up
)

// Ending is how an attempt ended, as judged by who ran it.
type Ending struct {
	Verdict    Verdict
	Invalid    bool // its result breaks its tags: it was served, and the request fails
	Marked     bool // the verdict is the processor's own, not what was observed
	Streamed   bool // output was handed on: the request is not tried again
	CallerLeft bool // who waits for it has gone
	Unobserved bool // it was refused, and nobody observed that
	Delay      int64
	Reported   bool
	Used       endpoint.Usage
	Ballot     endpoint.Ballot
}

// Conclude follows the end of an attempt: it settles what was used, hears the provider,
// and lets the request go on or end.
func (q *Engine) Conclude(now int64, number uint32, e *Ending) {
	q.advance(now)
	a := q.attempts[number]
	h, at := a.handle, a.lease.Endpoint
	r := q.records.at(h)
	took := q.now - a.lease.Started
	q.settle(number, a, e)
	delay := q.hear(a, e)
	opened := at.Judge(q.now, e.Ballot)
	if opened && q.allOpen() {
		q.beginSweep(sweepBreakers)
	}
	switch {
	case r.state != Running:
		q.counts.Abandoned--
	case e.Invalid:
		q.duration.add(float64(took))
		q.finish(h, r, Failed, InvalidResult, 0, took)
	case e.Verdict == Served:
		q.duration.add(float64(took))
		at.Succeeded()
		q.finish(h, r, Completed, OK, 0, took)
	default:
		q.duration.add(float64(took))
		q.decide(h, r, a, e, delay, took)
	}
	if r.flags&flagForgotten != 0 {
		if gone, pageFreed := q.Forget(h); gone {
			q.Effects = append(q.Effects, Effect{Kind: Gone, Handle: h, PageFreed: pageFreed})
		}
	}
	q.pump()
}

// settle ends an attempt and books what it used.
func (q *Engine) settle(number uint32, a *attempt, e *Ending) {
	last := len(q.underWay) - 1
	moved := q.underWay[last]
	q.underWay[a.index] = moved
	q.attempts[moved].index = a.index
	q.underWay = q.underWay[:last]
	if q.cfg.Timeout > 0 {
		q.timeouts.Remove(number)
	}
	q.running--
	q.counts.Worked += q.now - a.lease.Started
	a.running, a.since = false, q.now
	if e.Reported {
		q.book(a, e.Used)
	}
	a.lease.Release(q.now)
	if !a.unknown {
		return
	}
	a.unknown = false
	q.unsized--
	if !e.Reported && (e.Verdict == Served || e.Invalid) && q.tokens && !q.sizes.known {
		q.sizes.known = true // waiting for a report that never comes helps nobody
		q.Effects = append(q.Effects, Effect{Kind: NoUsage})
	}
}

// book makes used the figure of an attempt, in place of an earlier one.
func (q *Engine) book(a *attempt, used endpoint.Usage) {
	if a.reported {
		q.sizes.replace(a.used, used)
	} else {
		q.sizes.add(used)
	}
	q.counts.Usage = q.counts.Usage.Minus(a.used).Plus(used)
	a.used, a.reported = used, true
	a.lease.Settle(q.now, used)
}

// UpdateUsage replaces what the last attempt of a request that ended used. It reports false
// when the request has no usage of its own.
func (q *Engine) UpdateUsage(now int64, h uint32, u endpoint.Usage) bool {
	q.advance(now)
	a := q.attemptOf(q.records.at(h))
	switch {
	case a == nil || a.count == 0:
		return true
	case a.borrowed:
		return false
	}
	q.book(a, u)
	q.pump()
	return true
}

// hear pauses the endpoint when the processor says so, and gives how long the request
// waits for its next attempt.
func (q *Engine) hear(a *attempt, e *Ending) (delay int64) {
	if e.Unobserved {
		q.counts.Refused++
	}
	switch {
	case e.Verdict < PassingFault:
		return 0
	case e.Verdict == PassingFault:
		return max(q.delay(int(a.count)), e.Delay)
	case e.Marked:
		if delay = e.Delay; delay <= 0 {
			delay = q.delay(int(a.count))
		}
		a.lease.Endpoint.Pause(endpoint.After(q.now, delay))
		return delay
	}
	return max(a.lease.Endpoint.PausedUntil()-q.now, 0) // as observed
}

// decide lets the request of a failed attempt wait for the next one, or ends it.
func (q *Engine) decide(h uint32, r *record, a *attempt, e *Ending, delay, took int64) {
	until := endpoint.After(q.now, delay)
	switch {
	case e.CallerLeft:
		q.finish(h, r, CanceledState, CallerLeft, 0, took)
		return
	case e.Streamed || e.Verdict == RequestFault:
		q.finish(h, r, Failed, AttemptFailed, 0, took)
		return
	case int(a.count) >= q.cfg.MaxAttempts:
		q.fail(h, r, AttemptFailed, 0, took)
		return
	case q.cutOff || q.closed && q.paused:
		q.finish(h, r, Failed, ShutDownRetry, 0, took)
		return
	case e.Verdict == Exhausted && !q.cfg.WaitForQuota && q.exhausted():
		q.fail(h, r, QuotaRefused, 0, took)
		return
	case q.cfg.Fallback && r.flags&flagStays == 0 && q.allOpen():
		q.fail(h, r, BreakersOpened, 0, took)
		return
	case e.Verdict == PassingFault:
		q.move(h, r, BackingOff)
		q.note(r.estimate)
		q.backoff.Set(h, until)
	default:
		q.move(h, r, InLine)
		q.rejoin(h, r)
		until = q.pausesEnd()
	}
	q.Effects = append(q.Effects, Effect{
		Kind: Retry, Handle: h, Attempt: r.attempt - 1, Count: int(a.count), Endpoint: a.lease.Endpoint, At: until, Took: took,
	})
}

// pausesEnd is when some endpoint is not paused by its provider any more, now when one is
// not.
func (q *Engine) pausesEnd() int64 {
	first := q.endpoints[0].PausedUntil()
	for _, e := range q.endpoints[1:] {
		first = min(first, e.PausedUntil())
	}
	return max(first, q.now)
}

// Observe takes in what the provider said about an attempt under way.
func (q *Engine) Observe(now int64, number uint32, o *endpoint.Observation) {
	q.advance(now)
	a := q.attempts[number]
	if o.Outcome.Refused() {
		q.counts.Refused++
		o.Backoff = q.delay(int(a.count))
	}
	version := a.lease.Endpoint.Version()
	lowered := a.lease.Observe(q.now, o)
	if a.lease.Endpoint.Version() != version {
		q.limitsChanged(lowered)
	}
	if o.Outcome == endpoint.QuotaExhausted && !q.cfg.WaitForQuota && q.exhausted() {
		q.beginSweep(sweepQuota)
	}
	q.pump()
}

package engine

import "github.com/llmqueue/llmqueue/internal/endpoint"

// Verdict says whose fault the end of an attempt is.
type Verdict uint8

// The verdicts.
const (
	Served        Verdict = iota
	RequestFault          // it would fail again, anywhere
	EndpointFault         // it would fail again here
	PassingFault          // another attempt may succeed
	Refused               // for now: the request keeps its place
	Exhausted             // a quota is used up
)

// Ending is how an attempt ended, as judged by who ran it.
type Ending struct {
	Verdict    Verdict
	Invalid    bool // its result breaks its tags: it was served, and the request fails
	Marked     bool // the verdict is the processor's own, not what was observed
	Streamed   bool // output was handed on: the request is not tried again
	CallerLeft bool // who waits for it has gone
	Unobserved bool // it was refused, and nobody observed that
	Answered   bool // the provider answered, whatever the verdict
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
	q.hearRefusal(a, e)
	if !a.cut {
		q.hear(number, a, e)
	}
	q.settle(number, a, e)
	at.Judge(q.now, e.Ballot)
	if a.cut {
		q.counts.Abandoned--
	} else {
		q.duration.add(float64(took))
		q.follow(h, r, number, a, e, took)
	}
	q.leaveRequest(h, r, number, a)
	q.pump()
}

// follow lets the request of an attempt that was not cut off go on or end.
func (q *Engine) follow(h uint32, r *record, number uint32, a *attempt, e *Ending, took int64) {
	switch {
	case e.Invalid || e.Verdict == Served:
		q.win(r, number)
		if e.Invalid {
			q.finish(h, r, Failed, InvalidResult, 0, took)
			return
		}
		q.finish(h, r, Completed, OK, 0, took)
	case e.CallerLeft:
		q.win(r, number)
		q.finish(h, r, CanceledState, CallerLeft, 0, took)
	case e.Verdict == RequestFault:
		q.win(r, number) // another attempt would fail too
		q.decide(h, r, a, e, AttemptFailed, took)
	case !q.otherGoesOn(r, a, e.Verdict):
		q.decide(h, r, a, e, AttemptFailed, took)
	}
}

// leaveRequest lets go of an attempt that is over and is not its request's latest, and of a
// request that was forgotten once its last attempt is over.
func (q *Engine) leaveRequest(h uint32, r *record, number uint32, a *attempt) {
	latest := q.attemptOf(r)
	latest.underWay--
	if latest != a {
		latest.prior = latest.prior.Plus(a.used)
		q.detach(number, a)
	}
	if r.flags&flagForgotten != 0 {
		if gone, pageFreed := q.Forget(h); gone {
			q.Effects = append(q.Effects, Effect{Kind: Gone, Handle: h, PageFreed: pageFreed})
		}
	}
}

// settle ends an attempt and books what it used.
func (q *Engine) settle(number uint32, a *attempt, e *Ending) {
	last := len(q.underWay) - 1
	moved := q.underWay[last]
	q.underWay[a.index] = moved
	q.attempts[moved].index = a.index
	q.underWay = q.underWay[:last]
	q.unwatch(number)
	q.running--
	q.counts.Worked += q.now - a.lease.Started
	if a.running = false; !a.cut {
		a.since = q.now // else its request goes on since it was cut off
	}
	switch unsized := !q.records.at(a.handle).sized(); {
	case e.Reported:
		q.book(a, e.Used)
	case unsized && q.tokens && !q.sizes.known && !a.cut && e.Verdict >= EndpointFault && !a.lease.Compared():
		a.lease.Settle(q.now, endpoint.Usage{}) // a guess; what failed so is hardly charged
	}
	a.lease.Release(q.now)
	if !e.Reported && (e.Verdict == Served || e.Invalid) && q.tokens && !q.sizes.known {
		q.missUsage(q.records.at(a.handle).sized())
	}
}

// surelySilent is how many calls of known size are served without a report, and none with one,
// until it is taken for sure that nothing reports.
const surelySilent = 10

// missUsage follows a call that was served without a report, when no other reported before.
func (q *Engine) missUsage(sized bool) {
	if sized {
		if q.silent++; q.silent == surelySilent {
			q.Effects = append(q.Effects, Effect{Kind: EstimatesAlone})
		}
		return
	}
	q.sizes.known = true         // waiting for a report that never comes helps nobody
	if q.silent < surelySilent { // else it was said
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

// hearRefusal tells the endpoint of an attempt that its processor was refused, also when nobody
// waits for it any more.
func (q *Engine) hearRefusal(a *attempt, e *Ending) {
	at := a.lease.Endpoint
	if e.Unobserved {
		q.counts.Refused++
		q.noteRefusal(at, &endpoint.Observation{Outcome: endpoint.RateLimited, Marked: true, Delay: e.Delay}, &a.lease)
	} else if e.Marked && e.Verdict == Refused && e.Delay > 0 {
		at.Pause(endpoint.After(q.now, e.Delay)) // longer, perhaps, than what was observed
		if q.cfg.MaxPause > 0 && e.Delay > q.cfg.MaxPause {
			at.Exhaust(endpoint.After(q.now, e.Delay))
			q.failExhausted()
		}
	}
}

// hear tells the endpoint of an attempt how that ended.
func (q *Engine) hear(number uint32, a *attempt, e *Ending) {
	at := a.lease.Endpoint
	if e.Verdict == Refused && at.ExhaustedUntil() > q.now {
		e.Verdict = Exhausted // it asked for a longer pause than is waited for
	}
	result := endpoint.Nothing
	switch {
	case e.Verdict == Served || e.Invalid:
		result = endpoint.Answered
		at.Succeeded(&a.lease)
		q.firstOutput(number, a)
		q.servedStart = max(q.servedStart, a.lease.Started)
		q.budget.served(q.cfg.RetryBudget, a.budgeted)
	case e.CallerLeft:
	case e.Verdict == EndpointFault:
		result = endpoint.OwnFault
	case e.Verdict == PassingFault:
		result = endpoint.Failed
	case e.Verdict >= Refused:
		result = endpoint.RefusedCall
	case e.Answered:
		result = endpoint.Answered
	}
	at.Ended(q.now, &a.lease, result)
}

// noteRefusal takes in that an endpoint refused a call. What asks for a longer pause than
// MaxPause has used up a quota.
func (q *Engine) noteRefusal(at *endpoint.Endpoint, o *endpoint.Observation, l *endpoint.Lease) (lowered bool) {
	o.Backoff = q.delay(at.CountRefusal(q.now, l))
	if q.cfg.MaxPause > 0 && o.Delay > q.cfg.MaxPause {
		o.Outcome = endpoint.QuotaExhausted
	}
	lowered = l.Observe(q.now, o)
	if o.Outcome == endpoint.QuotaExhausted {
		q.failExhausted()
	}
	return lowered
}

// failExhausted ends what waits once the quota of every endpoint is used up.
func (q *Engine) failExhausted() {
	if !q.cfg.WaitForQuota && q.exhausted() {
		q.beginSweep(sweepQuota)
	}
}

// decide lets the request of a failed attempt wait for the next one, or ends it. code is why
// the attempt failed.
func (q *Engine) decide(h uint32, r *record, a *attempt, e *Ending, code Code, took int64) {
	at := a.lease.Endpoint
	if a.streamed || e.Streamed || e.Verdict == RequestFault {
		q.finish(h, r, Failed, code, 0, took)
		return
	}
	wait := false // nothing else can take it now
	switch e.Verdict {
	case EndpointFault:
		a.faulty |= at.Bit
		if q.fits(r)&^a.faulty == 0 {
			a.over = true
			q.fail(h, r, code, 0, took)
			return
		}
	case PassingFault:
		a.avoid |= at.Bit
		a.refusals, a.alone = 0, 0
		if a.lease.Probe() && !a.probed && q.hasOther(r, a) {
			a.probed = true // it was sent there to find out, and goes on elsewhere at no cost
		} else {
			a.spent++
		}
		if int(a.spent) >= q.cfg.MaxAttempts {
			a.over = true
			q.fail(h, r, code, 0, took)
			return
		}
		a.notBefore, a.owes = endpoint.After(q.now, max(q.delay(int(max(a.spent, 1))), e.Delay)), true
		if wait = !q.hasOther(r, a); q.fits(r)&^(a.avoid|a.faulty) == 0 {
			a.avoid = at.Bit // all have failed it: it goes anywhere but here
		}
	case Refused, Exhausted:
		blame := q.refusedAgain(a)
		switch {
		case blame == itsFault:
			q.finish(h, r, Failed, code, 0, took)
			return
		case blame == everybodys:
			a.over = true
			q.fail(h, r, code, 0, took)
			return
		case e.Verdict == Exhausted && !q.cfg.WaitForQuota && q.exhausted():
			a.over = true
			q.fail(h, r, QuotaRefused, 0, took)
			return
		case at.HeldUntil(q.now) <= q.now: // it lacks capacity, and did not pause
			a.avoid |= at.Bit
			wait = !q.hasOther(r, a)
		}
	}
	switch {
	case q.cutOff || q.closed && q.paused:
		q.finish(h, r, Failed, ShutDownRetry, 0, took)
	case q.mayLeave(r) && q.unable(r.flags&flagGuest != 0) != OK:
		moved := q.unable(r.flags&flagGuest != 0)
		if moved == BreakersOpen {
			moved = BreakersOpened
		}
		q.fail(h, r, moved, 0, took)
	case q.doomed(r):
		q.fail(h, r, DeadlinePasses, 0, took)
	case wait && code != AttemptFailed && q.mayLeave(r):
		q.fail(h, r, code, 0, took) // it has waited long enough
	case e.Verdict == PassingFault && wait:
		q.backOff(h, r, a, a.notBefore-q.now, true, code, took)
	case e.Verdict >= Refused && wait:
		q.backOff(h, r, a, max(q.delay(a.refusals), e.Delay), false, code, took)
	case e.Verdict >= Refused && max(a.refusals, a.alone+1) > 1 && q.inLine() > 0:
		// What is refused again lets others try first: only so it shows whose fault it is.
		pause := q.PausesEnd() - q.now
		q.backOff(h, r, a, pause+q.delay(max(a.refusals, a.alone+1)-1), false, code, took)
	default:
		a.budgeted, a.owes = false, false
		q.move(h, r, InLine)
		q.rejoin(h, r)
		q.tellRetry(h, r, a, q.PausesEnd(), code, took)
	}
}

// backOff lets a request wait outside the line. budgeted says that the budget for retries has
// to allow its return: without that it goes to another model, or waits for the budget.
func (q *Engine) backOff(h uint32, r *record, a *attempt, delay int64, budgeted bool, code Code, took int64) {
	until := endpoint.After(q.now, delay)
	if r.deadline > 0 && until >= r.deadline { // no more time than for one more attempt
		if q.mayLeave(r) {
			q.fail(h, r, code, 0, took)
			return
		}
		until = q.now + max(r.deadline-q.now, 0)/2
	}
	a.budgeted, a.owes = budgeted, budgeted && q.budget.take(q.now, q.cfg.RetryBudget) > 0
	if a.owes && q.mayLeave(r) {
		q.fail(h, r, BudgetSpent, 0, took)
		return
	}
	q.move(h, r, BackingOff)
	q.note(r.estimate)
	q.backoff.Set(h, until)
	q.tellRetry(h, r, a, until, code, took)
}

func (q *Engine) tellRetry(h uint32, r *record, a *attempt, until int64, code Code, took int64) {
	q.Effects = append(q.Effects, Effect{
		Kind: Retry, Code: code, Handle: h, Attempt: r.attempt - 1, Count: int(a.count), Endpoint: a.lease.Endpoint, At: until, Took: took,
	})
}

// blame says whose fault it is that a request was refused.
type blame uint8

const (
	nobodys blame = iota
	itsFault
	everybodys
)

const (
	// maxAlone is how often a request is refused again while all others are served, until
	// it is its own fault.
	maxAlone = 4
	// maxRefusals is how often in a row a request is refused while nothing is served.
	maxRefusals = 30
)

// refusedAgain counts a refusal. It is the request's own fault when it alone is refused again
// and again, while requests that start after each of its refusals are served.
func (q *Engine) refusedAgain(a *attempt) blame {
	q.refusedCalls++
	others := q.refusedCalls - a.refusedBefore - 1
	switch {
	case a.refusals > 0 && q.servedStart > a.refusedAt:
		a.refusals = 1
		if a.alone++; others > 0 {
			a.alone = 0
		}
	default:
		if a.refusals++; others > 0 {
			a.alone = 0
		}
	}
	a.refusedAt, a.refusedBefore = q.now, q.refusedCalls
	switch {
	case a.alone >= maxAlone:
		return itsFault
	case a.refusals >= maxRefusals:
		return everybodys
	}
	return nobodys
}

// PausesEnd is when some endpoint is not paused by its provider any more, now when one is
// not.
func (q *Engine) PausesEnd() int64 {
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
	version := a.lease.Endpoint.Version()
	var lowered bool
	if o.Outcome.Refused() {
		q.counts.Refused++
		lowered = q.noteRefusal(a.lease.Endpoint, o, &a.lease)
	} else {
		lowered = a.lease.Observe(q.now, o)
	}
	if o.Outcome == endpoint.Served {
		q.beginAnswer(number, a)
	}
	if a.lease.Endpoint.Version() != version {
		q.limitsChanged(lowered)
	}
	q.pump()
}

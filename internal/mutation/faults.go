package main

const (
	inAccess   = "internal/endpoint/endpoint.go"
	inCheck    = "internal/endpoint/check.go"
	inEngine   = "internal/engine/engine.go"
	inHealth   = "internal/endpoint/health.go"
	inHedge    = "internal/engine/hedge.go"
	inPlace    = "internal/engine/place.go"
	inWatch    = "internal/engine/watch.go"
	inBackfill = "internal/endpoint/backfill.go"
	inLearned  = "internal/endpoint/learned.go"
	inOverload = "internal/endpoint/overload.go"
	inPause    = "internal/endpoint/pause.go"
	inShared   = "internal/endpoint/shared.go"
	inCall     = "internal/engine/call.go"
	inConclude = "internal/engine/conclude.go"
	inFinish   = "internal/engine/finish.go"
	inForecast = "internal/engine/forecast.go"
	inMeans    = "internal/engine/means.go"
	inRecords  = "internal/engine/records.go"
	inSchedule = "internal/engine/schedule.go"
	inSubmit   = "internal/engine/submit.go"
)

var faults = []fault{
	// What an endpoint allows.
	{inPause, `return e.running < e.SlotsNow() && now`, `return e.running <= e.SlotsNow() && now`,
		"one call more than Concurrent runs"},
	{inPause, `now >= e.pausedUntil && !e.Open()`, `!e.Open()`,
		"calls go out while the provider has asked for a pause"},
	{inPause, `	if until <= e.pausedUntil {`, `	if until <= 0 {`,
		"a later and shorter pause cuts a longer one short"},
	{inPause, `e.pausedUntil, e.announces = until, true`, `e.pausedUntil, e.announces = until, false`,
		"the end of a pause is never told"},
	{inPause, `	case e.Open():
		return After(now, int64(e.breaker.RemainingDelay()))
`, ``, "nothing starts when the breaker's delay is over, until something else happens"},
	{inPause, `e.pausedUntil, e.exhaustedUntil = 0, 0`, `e.exhaustedUntil = 0`,
		"Resume does not end the pause for an exhausted quota"},
	{inPause, `		return 1
	case`, `		return slots
	case`, "limits that are to be learned are not waited for"},
	{inPause, `b == Left && e.breaker.IsClosed()`, `false`,
		"callers that leave open the breaker"},
	{inAccess, `if at, limit := e.windows.NextAt(now, c); limit >= 0 {`, `if at, limit := e.windows.NextAt(now, c); limit >= 1<<30 {`,
		"a shared set counts calls that the endpoint's own limits held"},
	{inAccess, `		e.windows.UndoAt(now, &charge)
		for`, `		for`, "a call that the breaker refuses uses up the limits"},
	{inAccess, `			g.Undo(now)
`, `			_ = g
`, "a call that the breaker refuses uses up the shared limits"},
	{inAccess, `	e.ticket = 0 // not before`, `	// not before`,
		"an endpoint keeps its place in a shared set's line after it was served"},
	{inAccess, `	e.windows.SettleAt(now, &l.charge, charged.charge())
`, ``, "tokens that were reserved and not used are never given back"},
	{inAccess, `	e.running--
`, ``, "the slot of a call that ended is never free again"},
	{inAccess, `		g.Release(now)
`, `		_ = g
`, "the slot in a shared set is never free again"},
	{inAccess, `return e.Capped(mean)`, `return mean`,
		"requests of unknown size wait forever when the mean is above a limit"},
	{inAccess, `		u = e.Capped(u) // again: it would never start
`, ``, "they do so when the accounting adds to the mean"},
	{inCheck, `if e.pausedUntil > w.At {`, `if e.pausedUntil < 0 {`,
		"a forecast knows nothing of a provider's pause"},
	{inCheck, `late := e.running + ahead.Requests - e.slots + 1;`, `late := e.running + ahead.Requests - e.slots;`,
		"a forecast says now while all slots are taken"},
	{inCheck, `; at > w.At {
			w.At, w.Cause = at, SharedLimits`, `; at < 0 {
			w.At, w.Cause = at, SharedLimits`, "a forecast knows nothing of shared limits"},
	{inAccess, `	e.Withdraw(now)
	e.removed`, `	e.removed`, "an endpoint that was removed stays in the line of a shared set, and all others wait"},
	{inShared, `			e.refuser = i
`, ``, "two endpoints that share limits keep the queue busy while it waits"},
	{inShared, `				g.Undo(now)
`, `				_ = g
`, "what one shared set gives is lost when another one refuses"},
	{inShared, `		s.Withdraw(now)
`, `		_ = s
`, "a request that starts elsewhere leaves its place in a shared set's line taken"},
	{inBackfill, `	if !e.slack.Holds(c) {`, `	if e.removed {`,
		"requests that pass the head put it off"},
	{inBackfill, `e.running+1 < e.SlotsNow()`, `e.running < e.SlotsNow()`,
		"a request that passes the head takes its slot"},
	{inOverload, `	if p.changedAt != 0 && started <= p.changedAt {`, `	if p.changedAt < 0 {`,
		"one burst of refusals shortens bursts as often as it has calls"},
	{inOverload, `max(c.limit*0.75, 1), now`, `max(c.limit*0.75, 0), now`,
		"after an overload nothing ever starts again"},
	{inOverload, `if c.limit += 1 / c.limit; c.limit`, `if c.limit += 0; c.limit`,
		"after an overload concurrency stays low forever"},
	{inLearned, `		e.pause(After(now, delay), !o.exhausted())
`, ``, "an observed 429 pauses nothing"},
	{inLearned, `e.learn || said < l.Amount`, `e.learn`,
		"a provider's limit below the configured one is ignored"},
	{inLearned, `l.Kind != Concurrent && (i < 0 || l.Amount < e.limits[i].Amount)`, `l.Kind != Concurrent && i < 0`,
		"a request that new limits can never admit waits on"},

	// Who starts next.
	{inSchedule, `	if q.paused || q.cutOff {
		return false
	}
	if len`, `	if q.cutOff {
		return false
	}
	if len`,
		"requests start during Pause"},
	{inSchedule, `if q.inLine() > 0 || q.paused {`, `if q.paused {`,
		"a new request overtakes the line"},
	{inSchedule, `due <= q.now {`, `due < 0 {`,
		"a new request overtakes a retry that is due"},
	{inSchedule, `		if !e.Queued() {`, `		if e.Removed() {`,
		"a queue stays in a shared set's line while something else holds it"},
	{inAccess, `max(l.Amount/part, least)`, `max(l.Amount, least)`,
		"a request of unknown size takes all tokens until one tells"},
	{inPlace, `	if impossible && r.sized() &&`, `	if impossible && !r.sized() &&`,
		"a request that can never start blocks the line"},
	{inPlace, `a.Running()*b.Slots(), b.Running()*a.Slots()`, `b.Running()*a.Slots(), a.Running()*b.Slots()`,
		"calls go to the endpoint with the most work"},
	{inSchedule, `a.prior, a.used, a.reported = a.prior.Plus(a.used),`, `a.prior, a.used, a.reported = a.prior,`,
		"the usage of attempts before the last is lost"},
	{inSchedule, `		consider(e.Next(q.now))
`, `		_ = e
`, "nothing starts when a limit has room again, until something else happens"},
	{inSchedule, `	if q.timeouts.Len() > 0 {
		_, at, _ := q.timeouts.First()
		consider(at)
	}
`, ``, "a call that takes too long goes on until something else happens"},
	{inSchedule, `		if wait := q.budget.take(q.now, q.cfg.RetryBudget); wait > 0 {`, `		if wait := q.budget.take(q.now, -1); wait > 0 {`,
		"the retry budget holds nothing back"},
	{inSubmit, `q.cfg.MaxQueued > 0 && q.Waiting() >= q.cfg.MaxQueued`, `q.cfg.MaxQueued > 0 && q.Waiting() > q.cfg.MaxQueued`,
		"one request more than WithMaxQueued waits"},
	{inCheck, `		u = Usage{} // the mean is a guess
`, ``,
		"requests are refused for their deadline because of a guess"},
	{inSubmit, `q.line.Return(h, r.priority, r.seq)`, `q.line.Return(h, r.priority, 0)`,
		"retries come back in the order of returning, not of arrival"},

	// What follows from the end of an attempt.
	{inConclude, `if int(a.spent) >= q.cfg.MaxAttempts {`, `if int(a.spent) > q.cfg.MaxAttempts {`,
		"a request is tried once more than allowed"},
	{inConclude, `max(q.delay(int(max(a.spent, 1))), e.Delay)), true`, `q.delay(int(max(a.spent, 1)))), true`,
		"a retry comes before the time that the provider gave"},
	{inConclude, `	if a.streamed || e.Streamed || e.Verdict`, `	if e.Verdict`,
		"output that was handed on comes twice"},
	{inConclude, `Outcome: endpoint.RateLimited, Marked: true, Delay: e.Delay}`, `Outcome: endpoint.Unknown, Marked: true, Delay: e.Delay}`,
		"a refusal that only the processor marks pauses nothing"},
	{inConclude, `		at.Pause(endpoint.After(q.now, e.Delay)) // longer`, `		// longer`,
		"the delay that the processor marks does not count when a refusal was observed"},
	{inConclude, `		q.counts.Abandoned--
`, ``, "processors that ignore their canceled context are counted forever"},
	{inConclude, `	q.book(a, u)
	q.pump()
	return true`, `	q.book(a, u)
	return true`, "nothing starts in the room that UpdateUsage makes"},

	// How requests end.
	{inFinish, `		q.cut(r.attempt-1, code)
`, ``, "Cancel does not reach the processor"},
	{inFinish, `if !q.cfg.Fallback || q.cutOff || r.flags&flagStays != 0 {`, `if !q.cfg.Fallback || q.cutOff {`,
		"a permit is handed to a fallback, which nobody runs there"},
	{inFinish, `	case s.kind == sweepQuota && !q.exhausted(), (s.kind`, `	case (s.kind`,
		"requests fail for a quota that was renewed meanwhile"},
	{inCall, `	if c.followers == 0 && !of.state.Final() {`, `	if c.followers < 0 && !of.state.Final() {`,
		"a call that everybody left goes on"},
	{inCall, `	if a := q.attemptOf(of); first && a != nil &&`, `	if a := q.attemptOf(of); a != nil &&`,
		"who shared a call as the second has its usage"},
	{inMeans, `	if b.left >= 1 {`, `	if b.left > 0 {`,
		"retries come faster than the budget allows"},
	{inRecords, `	if a != nil && a.underWay > 0 {
		r.flags |= flagForgotten
		return false, false
	}
`, ``, "a new request takes the handle of a call that still runs"},
	{inForecast, `		if other == h || ahead.Requests == exactForecast {`, `		if ahead.Requests == exactForecast {`,
		"a forecast counts those behind a request"},

	// Which endpoints work.
	{inHealth, `h.faults > 1 || h.recent.Served < 0.5`, `h.faults > 0`,
		"one request for an unknown model takes an endpoint from all others"},
	{inHealth, `h.failing >= heldInRow && h.share >= heldShare`, `h.failing >= heldInRow`,
		"three failures in a row take an endpoint out that serves nearly all"},
	{inHealth, `if h.held && l.Started > h.started {`, `if h.held {`,
		"a call that started long ago lets an endpoint in that fails now"},
	{inHealth, `		h.probed++
`, ``, "an endpoint that is down is probed every second for good"},
	{inHealth, `	if l.probe && !l.told {`, `	if l.probe && !l.told && h.calls < 0 {`,
		"an endpoint is not probed again while a probe that timed out does not return"},
	{inHealth, `	if !own {
`, `	if own && h.held {
`, "all calls come at once when an endpoint works again"},
	{inPause, `slots = min(slots, e.running-(e.unanswered-e.slowStart.before)+e.slowStart.allowed)`, `slots = min(slots, e.slots)`,
		"all that waits comes at once after a pause"},
	{inOverload, `s.allow(2*s.allowed, slots)`, `s.allow(s.allowed, slots)`,
		"after a pause long answers keep a queue at a few calls"},
	{inOverload, `before: e.unanswered}`, `before: 0}`,
		"long calls from before a pause let nothing start after it"},

	// Where a request may start.
	{inPlace, `		return sound &^ avoid
	}`, `		return sound
	}`, "a request goes back to the endpoint that has just failed it"},
	{inPlace, `e.Bit&places == 0 {`, `e.Bit == 0 {`,
		"requests go to endpoints that are held out"},
	{inPlace, `	case avoid == 0:
		sound |= probes
`, `	case avoid == 0:
		_ = probes
`, "an endpoint that works again is never found out as long as another one works"},
	{inSchedule, `	if q.roomBeyond(q.places(&of) | taken) {`, `	if len(q.endpoints) < 0 {`,
		"a request that fits one endpoint only holds up what may go to the others"},
	{inSchedule, `		taken |= q.places(&of)
`, ``, "what came later takes the room that a request waits for which stepped aside"},
	{inPlace, `const maxAside = 64`, `const maxAside = 1 << 30`,
		"the lock is held while thousands of requests step aside"},
	{inEngine, `		g.stale = true
`, `		_ = g
`, "new limits are of no use to what stepped aside"},
	{inSubmit, `if order := q.asideOrder[h]; q.takeAside(h) {`, `if order := q.asideOrder[h]; order > 1<<60 {`,
		"a new estimate is of no use to what stepped aside"},
	{inPlace, `rank := int(q.line.Above(q.records.at(h).priority))`, `rank := int(q.line.Above(q.records.at(h).priority)) * 0`,
		"who stepped aside is told a better place in line than it has"},
	{inPause, `	if limit >= 0 && at != Never {`, `	if limit >= 0 && at < 0 {`,
		"what waits behind others does not start when another endpoint has room again, until something else happens"},

	// Attempts that take too long, and hedges.
	{inWatch, `		case !a.begun:
			q.timeOut(number, a, FirstByteLate)
`, ``, "an answer that never begins is waited for"},
	{inWatch, `	if r.flags&flagHeld != 0 {
		a.told`, `	if r.flags&flagHeld > 1<<7 {
		a.told`, "a permit is tried again while its holder still uses it"},
	{inWatch, `	a.lease.Endpoint.Ended(q.now, &a.lease, endpoint.Failed)
`, ``, "an endpoint that hangs gets as many calls as others"},
	{inConclude, `	if a.running = false; !a.cut {`, `	if a.running = false; true {`,
		"the wait after a timeout begins when the processor returns"},
	{inConclude, `		latest.prior = latest.prior.Plus(a.used)
`, ``, "what attempts used that were cut off is missing in a request's usage"},
	{inHedge, `q.hedges.left < 1 || q.Waiting() > 0 ||`, `q.hedges.left < 1 ||`,
		"hedges take the room that others wait for"},
	{inHedge, `	q.hedges.left--
`, ``, "there are more hedges than their share"},
	{inHedge, `	q.cut(loser, Outrun)
`, `	_ = loser
`, "both attempts of a hedged request go on to the end"},
	{inConclude, `	case !q.otherGoesOn(r, a, e.Verdict):`, `	case r != nil:`,
		"a hedge that fails fails its request"},
	{inHedge, `q.admit(r, places&^here) == endpoint.Admitted || `, ``,
		"a hedge goes to the endpoint that is slow"},

	// Refusals, retries, and other models.
	{inConclude, `	q.hearRefusal(a, e)
	if !a.cut {
`, `	if !a.cut {
		q.hearRefusal(a, e)
`, "what a provider says to a canceled request is lost"},
	{inConclude, `a.lease.Probe() && !a.probed && q.hasOther(r, a)`, `a.lease.Probe() && a.probed && q.cutOff`,
		"a request that is tried once fails because it was sent to an endpoint that fails"},
	{inConclude, `	case a.alone >= maxAlone:`, `	case a.alone < 0:`,
		"a request that alone is refused is tried forever"},
	{inConclude, `	case a.refusals >= maxRefusals:`, `	case a.refusals < 0:`,
		"requests are refused forever where nothing is served"},
	{inConclude, `	if q.cfg.MaxPause > 0 && o.Delay > q.cfg.MaxPause {`, `	if q.cfg.MaxPause < 0 {`,
		"a queue stands still for as long as a provider says"},
	{inConclude, `	case q.doomed(r):`, `	case q.cutOff:`,
		"a retry waits that cannot start before its deadline"},
	{inMeans, `		share += 2
`, ``, "after an outage retries come one a second"},
	{inConclude, `	if a.owes && q.mayLeave(r) {`, `	if a.owes && q.cutOff {`,
		"a request waits for the retry budget while a fallback is idle"},
	{inFinish, `	r.flags |= flagKept
`, ``, "a request goes to a fallback and back again and again"},
	{inSchedule, `	if q.moveOn() {
		q.startAll() // the line has another head, or none
	}
`, `	q.moveOn()
`, "who shares limits waits behind what went to another model"},
	{inSchedule, `	q.moveOn()
	q.startAll()
`, `	q.startAll()
`, "requests start on an endpoint that has just been held out instead of going to a fallback"},
	{inSchedule, `	case at > q.now && !q.mayLeave(r) && at >= q.certainlyHeld():`, `	case q.cutOff:`,
		"a request that no fallback takes fails because endpoints are held out"},
	{inEngine, `		e.EndPause(q.now)
`, ``, "Resume does not end a provider's pause"},
	{inCheck, `; over > 0 { // input that`, `; over > 1<<50 { // input that`,
		"a request is refused for its deadline though what others give back makes room"},
}

package main

const (
	inAccess   = "internal/endpoint/endpoint.go"
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
	{inAccess, `estimate = e.Capped(mean)`, `estimate = mean`,
		"requests of unknown size wait forever when the mean is above a limit"},
	{inAccess, `		u = e.Capped(u) // again: it would never start
`, ``, "they do so when the accounting adds to the mean"},
	{inAccess, `if e.pausedUntil > w.At {`, `if e.pausedUntil < 0 {`,
		"a forecast knows nothing of a provider's pause"},
	{inAccess, `late := e.running + ahead.Requests - e.slots + 1;`, `late := e.running + ahead.Requests - e.slots;`,
		"a forecast says now while all slots are taken"},
	{inAccess, `; at > w.At {
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
	{inLearned, `	case RateLimited:
		e.Pause(After(now, delay))
`, `	case RateLimited:
`, "an observed 429 pauses nothing"},
	{inLearned, `e.learn || said < l.Amount`, `e.learn`,
		"a provider's limit below the configured one is ignored"},
	{inLearned, `l.Kind != Concurrent && (i < 0 || l.Amount < e.limits[i].Amount)`, `l.Kind != Concurrent && i < 0`,
		"a request that new limits can never admit waits on"},

	// Who starts next.
	{inSchedule, `if !waits || q.paused || q.cutOff {`, `if !waits || q.cutOff {`,
		"requests start during Pause"},
	{inSchedule, `if q.line.Len() > 0 || q.paused || q.mustLearnSize(r) {`, `if q.paused || q.mustLearnSize(r) {`,
		"a new request overtakes the line"},
	{inSchedule, `due <= q.now {`, `due < 0 {`,
		"a new request overtakes a retry that is due"},
	{inSchedule, `		if !e.Queued() {`, `		if e.Removed() {`,
		"a queue stays in a shared set's line while something else holds it"},
	{inSchedule, `!q.sizes.known && q.unsized > 0`, `!q.sizes.known && q.unsized > 1`,
		"two requests of unknown size run before anybody knows how large they are"},
	{inSchedule, `	if impossible && r.sized() &&`, `	if impossible && !r.sized() &&`,
		"a request that can never start blocks the line"},
	{inSchedule, `a.Running()*b.Slots(), b.Running()*a.Slots()`, `b.Running()*a.Slots(), a.Running()*b.Slots()`,
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
	{inSubmit, `if w.Guessed || w.At`, `if w.At`,
		"requests are refused for their deadline because of a guess"},
	{inSubmit, `q.line.Return(h, r.priority, r.seq)`, `q.line.Return(h, r.priority, 0)`,
		"retries come back in the order of returning, not of arrival"},

	// What follows from the end of an attempt.
	{inConclude, `	case int(a.count) >= q.cfg.MaxAttempts:`, `	case int(a.count) > q.cfg.MaxAttempts:`,
		"a request is tried once more than allowed"},
	{inConclude, `return max(q.delay(int(a.count)), e.Delay)`, `return q.delay(int(a.count))`,
		"a retry comes before the time that the provider gave"},
	{inConclude, `	case e.Streamed || e.Verdict == RequestFault:`, `	case e.Verdict == RequestFault:`,
		"output that was handed on comes twice"},
	{inConclude, `		a.lease.Endpoint.Pause(endpoint.After(q.now, delay))
`, ``, "a refusal that the processor marks pauses nothing"},
	{inConclude, `		q.counts.Abandoned--
`, ``, "processors that ignore their canceled context are counted forever"},
	{inConclude, `	q.book(a, u)
	q.pump()
	return true`, `	q.book(a, u)
	return true`, "nothing starts in the room that UpdateUsage makes"},

	// How requests end.
	{inFinish, `		q.Effects = append(q.Effects, Effect{Kind: Cut, Handle: h, Attempt: r.attempt - 1, Code: code})
`, ``, "Cancel does not reach the processor"},
	{inFinish, `if !q.cfg.Fallback || q.cutOff || r.flags&flagStays != 0 {`, `if !q.cfg.Fallback || q.cutOff {`,
		"a permit is handed to a fallback, which nobody runs there"},
	{inFinish, `	case s.kind == sweepQuota && !q.exhausted(), (s.kind`, `	case (s.kind`,
		"requests fail for a quota that was renewed meanwhile"},
	{inCall, `	if c.followers == 0 && !of.state.Final() {`, `	if c.followers < 0 && !of.state.Final() {`,
		"a call that everybody left goes on"},
	{inCall, `	if a := q.attemptOf(of); first && a != nil && !a.running {`, `	if a := q.attemptOf(of); a != nil && !a.running {`,
		"who shared a call as the second has its usage"},
	{inMeans, `	if b.left >= 1 {`, `	if b.left > 0 {`,
		"retries come faster than the budget allows"},
	{inRecords, `	if a != nil && a.running {
		r.flags |= flagForgotten
		return false, false
	}
`, ``, "a new request takes the handle of a call that still runs"},
	{inForecast, `		if other == h || ahead.Requests == exactForecast {`, `		if ahead.Requests == exactForecast {`,
		"a forecast counts those behind a request"},
}

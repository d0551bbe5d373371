package endpoint

import "time"

// pacing shortens bursts after calls came too fast, and lets them grow again.
type pacing struct {
	halvings  uint // a burst is Amount divided by two so often
	changedAt int64
}

const (
	maxHalvings = 6 // leaves bursts of about a second's share of a minute
	// calmPeriods is how many periods, of a minute at most, nothing is refused before
	// bursts double.
	calmPeriods = 2
)

// burst is what l's Burst comes to.
func (p pacing) burst(l Limit) int64 {
	if p.halvings == 0 || l.Kind == Concurrent || l.Resets != nil {
		return l.Burst
	}
	short := max(l.Amount>>p.halvings, 1)
	if l.Burst > 0 {
		return min(l.Burst, short)
	}
	return short
}

// shorten halves the bursts three times at once, so that a server that enforces by the
// second is found in two steps, unless they were shortened since the refused call
// started: one burst is one lesson.
func (e *Endpoint) shorten(now, started int64) (lowered bool) {
	p := &e.pacing
	if p.changedAt != 0 && started <= p.changedAt {
		return false
	}
	p.changedAt = now
	if p.halvings < maxHalvings {
		p.halvings = min(p.halvings+3, maxHalvings)
		changed, lowered := e.adopt(now)
		e.tellLimits(changed, true)
		return lowered
	}
	return false
}

// relax lets bursts grow again.
func (e *Endpoint) relax(now int64) (lowered bool) {
	p := &e.pacing
	if p.halvings > 0 && now >= After(p.changedAt, calmPeriods*int64(min(Shortest(e.limits), time.Minute))) {
		p.halvings--
		p.changedAt = now
		changed, lowered := e.adopt(now)
		e.tellLimits(changed, false)
		return lowered
	}
	return false
}

// concurrency is an adaptive limit on concurrency below the configured one: it is cut
// when the provider is overloaded and grows by one for each round of successes.
type concurrency struct {
	limit float64 // 0: none
	cutAt int64
}

// cut answers an overload by a quarter less, once for all calls that were running. It
// reports whether it did.
func (c *concurrency) cut(now, started, running int64) bool {
	if c.cutAt != 0 && started <= c.cutAt {
		return false
	}
	if c.limit == 0 || c.limit > float64(running) {
		c.limit = float64(running)
	}
	c.limit, c.cutAt = max(c.limit*0.75, 1), now
	return true
}

// grow lets the limit grow, until it bounds nothing: then it reports true.
func (c *concurrency) grow(slots int64) (gone bool) {
	if c.limit == 0 {
		return false
	}
	if c.limit += 1 / c.limit; c.limit >= float64(slots) {
		c.limit = 0
	}
	return c.limit == 0
}

// Succeeded notes that an attempt ended well.
func (e *Endpoint) Succeeded(l *Lease) {
	e.refusals = 0
	if !l.answered { // nobody observed it
		l.answered = true
		if l.open {
			e.begun(l)
		}
		e.slowStart.served(e.slots)
	}
	if e.concurrency.grow(e.slots) {
		e.tellLimits(true, false)
	}
	e.noneStated()
}

// slowStart bounds how many calls may be under way whose answer has not begun: while the
// endpoint learns its limits and does not know yet how many at once the provider takes, and
// after a pause. Whatever a limit says of a minute, a server that enforces by the second
// refuses most of what comes in the first millisecond. Every answer allows one more, so that
// it doubles with each round, and it ends when it bounds nothing. After a pause it also
// doubles with time: refusals come fast and answers may take long, so what was not refused
// for a while was taken.
type slowStart struct {
	allowed   int64 // 0: no bound
	doublesAt int64 // 0: with answers alone
	since     int64 // when it began
	before    int64 // calls that started before and whose answer has not begun: they do not count
}

const (
	// slowStartFirst is how many calls are made at once when the limits have been learned.
	slowStartFirst = 32
	// slowStartStep is how long nothing is refused before twice as many calls are made.
	slowStartStep = int64(500 * time.Millisecond)
)

// startSlowly lets one call start at first.
func (e *Endpoint) startSlowly(now int64) {
	e.slowStart = slowStart{allowed: 1, doublesAt: After(now, slowStartStep), since: now, before: e.unanswered}
}

// begun notes that the answer to an attempt's call has begun, or never will.
func (e *Endpoint) begun(l *Lease) {
	e.unanswered--
	if s := &e.slowStart; s.before > 0 && l.Started < s.since {
		s.before--
	}
}

func (s *slowStart) served(slots int64) { s.allow(s.allowed+1, slots) }

func (s *slowStart) allow(n, slots int64) {
	if s.allowed == 0 {
		return
	}
	if s.allowed = n; n >= slots {
		*s = slowStart{}
	}
}

// advance lets more calls start as time goes on.
func (s *slowStart) advance(now, slots int64) {
	for s.doublesAt != 0 && s.doublesAt <= now {
		s.doublesAt += slowStartStep
		s.allow(2*s.allowed, slots)
	}
}

// departures is how long after its start a call went out, at the least and at the most,
// in this period and the one before. The provider counts a call when it comes; of two
// that started a period apart, the one that went out late counts until later, and the
// other may come too early: a cold connection and a busy machine delay the first burst
// more than the next one. So the windows hold charges longer by the difference.
type departures struct {
	least, most         int64
	lastLeast, lastMost int64
	since               int64 // when this period began
	seen                bool
}

// add notes a call and returns the difference.
func (d *departures) add(now, delay, period int64) int64 {
	switch age := now - d.since; {
	case !d.seen || age >= 2*period:
		*d = departures{least: delay, most: delay, lastLeast: delay, lastMost: delay, since: now, seen: true}
	case age >= period:
		*d = departures{least: delay, most: delay, lastLeast: d.least, lastMost: d.most, since: now, seen: true}
	}
	d.least, d.most = min(d.least, delay), max(d.most, delay)
	return max(d.most, d.lastMost) - min(d.least, d.lastLeast)
}

// maxDeparture is the part of a period by which charges are held longer at most: beyond
// it, calls that go out at such different times cost more quota than refusals would.
const maxDeparture = 20

// answered notes that the answer to the attempt's call has begun.
func (e *Endpoint) answered(now int64, l *Lease, o *Observation) {
	if l.answered {
		return
	}
	l.answered = true
	e.begun(l)
	if o.Outcome == Served {
		e.refusals = 0
		e.slowStart.served(e.slots)
	}
	if period := int64(Shortest(e.limits)); period > 0 && o.SentAt != 0 {
		delay := e.departures.add(now, o.sent(l)-l.Started, period)
		e.windows.LateAt(now, time.Duration(min(delay, period/maxDeparture)))
	}
}

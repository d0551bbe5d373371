package window

import "math"

// Slack is what may start before a charge that waits without putting it off.
type Slack struct{ amounts amounts }

// Holds reports whether c is no more than that.
func (s Slack) Holds(c Charge) bool {
	n := c.capped().amounts()
	for k := range n {
		if n[k] > s.amounts[k] {
			return false
		}
	}
	return true
}

// SlackAt returns what may be charged now, besides what waits for room, so that NextAt
// says for waiting what it says without it. It may not fit now: ReserveAt tells. Where
// waiting can never fit, nothing puts it off.
func (s *Set) SlackAt(ns int64, waiting Charge) Slack {
	var slack Slack
	for k := range slack.amounts {
		slack.amounts[k] = math.MaxInt64
	}
	at, limit := s.NextAt(ns, waiting)
	if at == Never {
		return slack
	}
	n, wait := waiting.capped().amounts(), int64(0)
	if limit >= 0 {
		wait = at - ns
	}
	for i := range s.windows {
		w := &s.windows[i]
		slack.amounts[w.kind] = min(slack.amounts[w.kind], w.slack(&s.clock, wait, n[w.kind]))
	}
	return slack
}

// slack returns what may be charged now so that x, which fits after the given wait,
// still does.
func (w *window) slack(c *clock, wait, x int64) (slack int64) {
	l := w.log
	raw := l.raw(c) // below zero for an instant before the epoch
	then := raw + min(wait, math.MaxInt64-max(raw, 0))
	slack = math.MaxInt64
	switch {
	case l.day != nil && wait > 0 && c.rawWall+wait >= l.day.reset, l.day == nil && then >= addSat(l.now, l.hold):
		// What is charged now has left by then.
	case l.day != nil:
		slack = w.amount - l.sum[w.kind] - x
	default:
		left := l.sum[w.kind]
		pos := l.head
		for ; pos != l.tail && then-l.at(pos).at >= l.hold; pos++ {
			left -= l.at(pos).n[w.kind]
		}
		if pos == l.tail && pos != l.head && l.tail-l.head >= l.exact {
			// Whatever is charged may be merged into the newest entry, which then
			// stays. Below zero, not even a charge that takes nothing here may start.
			left += l.at(pos - 1).n[w.kind]
		}
		slack = w.amount - left - x
	}
	if w.others.n > 0 {
		// Others leave while the charges do; a bound that needs no walk.
		slack = min(slack, max(w.amount-l.sum[w.kind]-x-w.others.at(l.now), 0))
	}
	if w.pace != nil {
		slack = min(slack, w.pace.slack(l.now, max(then-l.now, 0), x))
	}
	return slack
}

// slack returns what may be owed now so that a charge of n, which fits after the given
// wait, still does.
func (p *pace) slack(now, wait, n int64) int64 {
	p.drain(now)
	room := mul(p.amount, wait)
	if n <= p.burst {
		room = room.plus(mul(p.burst-n, p.hold))
	}
	return room.minus(p.debt).floorDiv(p.hold)
}

package window

import (
	"math"
	"slices"
	"time"
)

// SetLimitsAt replaces the limits. A limit that has the identity of an old one
// carries its charges over, whatever else changes about it; when it becomes
// daily, those since the last midnight. A new limit starts from the window that
// knows the longest past, whatever that counts. A set whose last limit goes keeps
// that window going, for the limits to come; one that never had a limit knows
// nothing. Reservations in flight stand, and settle in the limits that counted
// them.
func (s *Set) SetLimitsAt(ns int64, limits []Limit) {
	s.clock.wall = true // for whatever has to be carried from one scale to the other
	s.advance(ns)
	if len(limits) == 0 {
		s.keep()
		return
	}
	s.clock.wall = slices.ContainsFunc(limits, Limit.long)
	limits = slices.Clone(limits)

	// Windows with the same past and the same future share a log.
	type key struct {
		from *log
		hold int64
		long bool
		loc  *time.Location
	}
	made := make(map[key]*log)
	windows := make([]window, len(limits))
	logs := make([]*log, 0, len(limits))
	for i, lim := range limits {
		from, same := s.origin(lim)
		k := key{from, lim.hold(), lim.long(), lim.Daily}
		l := made[k]
		if l == nil {
			l = s.newLog(lim, from)
			made[k] = l
			logs = append(logs, l)
		}
		w := &windows[i]
		*w = window{log: l, kind: lim.Kind, amount: lim.Amount}
		if same != nil && same.log.long == l.long {
			w.others = same.others
			w.others.n, w.others.later = min(w.others.n, lim.Amount), min(w.others.later, lim.Amount)
		}
		if !lim.paced() {
			continue
		}
		if same != nil && same.pace != nil && same.pace.hold == lim.hold() {
			w.pace = same.pace
			w.pace.drain(l.now) // at the old rate
			w.pace.amount, w.pace.burst = lim.Amount, lim.Burst
		} else {
			w.pace = newPace(lim, len(l.ring))
			w.pace.replay(l)
		}
		l.paces = append(l.paces, w.pace)
	}
	s.limits, s.windows, s.logs = limits, windows, logs
}

// keep drops all limits and keeps the log that knows the longest past, if any.
func (s *Set) keep() {
	l := s.memory()
	s.limits, s.windows, s.logs, s.clock.wall = nil, nil, nil, false
	if l != nil {
		l.paces = nil
		s.logs, s.clock.wall = []*log{l}, l.long
	}
}

// origin returns the log that a new limit starts from, if any, and the window
// of the same identity, if there is one.
func (s *Set) origin(lim Limit) (from *log, same *window) {
	for i, o := range s.limits {
		if o.Kind == lim.Kind && o.Period == lim.Period {
			return s.windows[i].log, &s.windows[i]
		}
	}
	return s.memory(), nil
}

// memory returns the log that knows the longest past, or nil. Every log knows
// the charges of all kinds.
func (s *Set) memory() (longest *log) {
	for _, l := range s.logs {
		if longest == nil || l.reach(&s.clock) > longest.reach(&s.clock) {
			longest = l
		}
	}
	return longest
}

// reach returns for how long up to now the log knows all charges.
func (l *log) reach(c *clock) int64 { return l.now - max(l.since, l.before(c)) }

// newLog returns the log for a limit, with what it takes over from another.
func (s *Set) newLog(lim Limit, from *log) *log {
	l := &log{
		base: lim.hold(), long: lim.long(), exact: s.exact, gap: lim.hold() / mergedEntries,
		from: s.seq + 1, now: s.clock.short,
	}
	if l.hold = l.base + s.late; lim.Daily != nil {
		l.hold = l.base
	}
	if l.long {
		l.now = s.clock.long
	}
	switch {
	case lim.Daily == nil:
	case from != nil && from.day != nil && from.day.loc == lim.Daily && from.day.margin == int64(lim.Margin):
		// Not made anew: the wall clock may stand in a day that has ended.
		d := *from.day
		l.day = &d
	default:
		l.day = newDay(lim, s.clock.long-s.clock.shift)
	}
	if from == nil {
		l.since = math.MinInt64 // what came before will be told
		return l
	}
	l.since = l.now - from.reach(&s.clock)
	// Positions stay what they are, so that the marks of a pace stay right.
	l.from, l.gone = from.from, from.gone
	l.head, l.tail, l.sum = from.head, from.tail, from.sum
	l.began, l.merged = from.began-from.now+l.now, from.merged
	l.ring = slices.Clone(from.ring)
	for pos := l.head; pos != l.tail; pos++ {
		e := l.at(pos)
		e.at += l.now - from.now
	}
	leaves := l.before(&s.clock)
	pos := l.head
	for pos != l.tail && l.at(pos).at <= leaves {
		pos++
	}
	l.drop(pos)
	return l
}

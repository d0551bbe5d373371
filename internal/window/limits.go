package window

import (
	"slices"
	"time"
)

// SetLimitsAt replaces the limits. A limit that has the identity of an old one
// carries its charges over, whatever else changes about it; when it becomes
// daily, those since the last midnight. A new period of a kind starts from
// what the longest window of that kind knows, and a new kind starts empty.
// Reservations in flight stand, and settle in the limits that counted them.
func (s *Set) SetLimitsAt(ns int64, limits []Limit) {
	s.clock.wall = true // for whatever has to be carried from one scale to the other
	s.advance(ns)
	s.clock.wall = slices.ContainsFunc(limits, Limit.long)
	old := s.windows
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
		var from *log
		j, same := s.origin(lim)
		if j >= 0 {
			from = old[j].log
		}
		k := key{from, lim.hold(), lim.long(), lim.Daily}
		l := made[k]
		if l == nil {
			l = s.newLog(lim, from)
			made[k] = l
			logs = append(logs, l)
		}
		w := &windows[i]
		*w = window{log: l, kind: lim.Kind, amount: lim.Amount}
		if same && old[j].log.long == l.long {
			w.others = old[j].others
			w.others.n, w.others.later = min(w.others.n, lim.Amount), min(w.others.later, lim.Amount)
		}
		if !lim.paced() {
			continue
		}
		if same && old[j].pace != nil && old[j].pace.hold == lim.hold() {
			w.pace = old[j].pace
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

// origin returns the index of the window whose charges a new limit starts
// from: that of the same identity, else the longest of its kind, else -1.
func (s *Set) origin(lim Limit) (index int, same bool) {
	index = -1
	for i, o := range s.limits {
		switch {
		case o.Kind != lim.Kind:
		case o.Period == lim.Period:
			return i, true
		case index < 0 || o.Period > s.limits[index].Period:
			index = i
		}
	}
	return index, false
}

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
		return l
	}
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

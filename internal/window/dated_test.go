package window

import "time"

// The methods in this file are those of the same names with At, for callers
// that have a time.Time. They also tell the set what the wall clock reads, as
// long as a limit needs it.

// at returns the instant of t.
func (s *Set) at(t time.Time) int64 {
	ns := int64(t.Sub(s.clock.epoch))
	if s.clock.wall {
		s.clock.adjust(ns, t.UnixNano())
	}
	return ns
}

// date returns the time of at, where now is ns.
func date(now time.Time, ns, at int64) time.Time { return now.Add(time.Duration(at - ns)) }

// SetLimits is SetLimitsAt.
func (s *Set) SetLimits(now time.Time, limits []Limit) {
	ns := int64(now.Sub(s.clock.epoch))
	s.clock.adjust(ns, now.UnixNano())
	s.SetLimitsAt(ns, limits)
}

// Reserve is ReserveAt.
func (s *Set) Reserve(now time.Time, c Charge) (Reservation, bool) {
	return s.ReserveAt(s.at(now), c)
}

// Settle is SettleAt.
func (s *Set) Settle(now time.Time, r *Reservation, actual Charge) (freed bool) {
	return s.SettleAt(s.at(now), r, actual)
}

// Undo is UndoAt.
func (s *Set) Undo(now time.Time, r *Reservation) { s.UndoAt(s.at(now), r) }

// Add is AddAt.
func (s *Set) Add(at time.Time, c Charge) {
	ns := int64(at.Sub(s.clock.epoch))
	if ns > s.clock.short {
		ns = s.at(at)
	}
	s.add(ns, at.UnixNano(), c)
}

// Next is NextAt. It returns the zero time for Never.
func (s *Set) Next(now time.Time, c Charge) (at time.Time, limit int) {
	ns := s.at(now)
	next, limit := s.NextAt(ns, c)
	if next == Never {
		return time.Time{}, limit
	}
	return date(now, ns, next), limit
}

// Forecast is ForecastAt.
func (s *Set) Forecast(now time.Time, ahead, own Charge) (at time.Time, limit int) {
	ns := s.at(now)
	next, limit := s.ForecastAt(ns, ahead, own)
	return date(now, ns, next), limit
}

// Slack is SlackAt.
func (s *Set) Slack(now time.Time, waiting Charge) Slack { return s.SlackAt(s.at(now), waiting) }

// Usage is UsageAt. It returns the zero time when nothing is charged.
func (s *Set) Usage(now time.Time, i int) (used, available int64, resetAt time.Time) {
	ns := s.at(now)
	used, available, reset := s.UsageAt(ns, i)
	if reset > ns {
		resetAt = date(now, ns, reset)
	}
	return used, available, resetAt
}

// Late is LateAt.
func (s *Set) Late(now time.Time, d time.Duration) { s.LateAt(s.at(now), d) }

// Others is OthersAt.
func (s *Set) Others(now time.Time, i int, n int64, until time.Time, evenly bool) {
	ns := s.at(now)
	s.OthersAt(ns, i, n, ns+int64(until.Sub(now)), evenly)
}

// OthersLater is OthersLaterAt.
func (s *Set) OthersLater(now time.Time, i int, n int64, until time.Time) {
	ns := s.at(now)
	s.OthersLaterAt(ns, i, n, ns+int64(until.Sub(now)))
}

// ChargedAfter is ChargedAfterAt.
func (s *Set) ChargedAfter(i int, r *Reservation, until time.Time) int64 {
	return s.ChargedAfterAt(i, r, int64(until.Sub(s.clock.epoch)))
}

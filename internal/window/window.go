// Package window keeps exact sliding windows: it reserves room in several
// limits at once, settles what was really used, and says when there will be
// room.
//
// It reads no clock, starts no goroutine and no timer: every method is given
// the time, and the owner's lock guards the Set.
//
// # Time
//
// An instant is an int64: nanoseconds on the monotonic clock since the epoch
// that NewSet was given, below zero before it. Limits that count on the wall
// clock (daily ones, and those of an hour or more) need to know where that
// stands. NewSet takes it from the epoch, and it is expected to run along with
// the monotonic clock until Adjust says otherwise. An owner calls Adjust when
// the two have parted, because the machine slept or somebody set the clock, or
// before every call while WallClock says true. Until it does,
// days and hours end by the wall clock as it stood before: after a sleep, too late.
package window

import (
	"math"
	"slices"
	"time"
)

// Never is the instant that does not come.
const Never = math.MaxInt64

// A Kind says what a limit counts.
type Kind uint8

const (
	Requests Kind = iota
	Tokens        // input and output together
	Input
	Output
)

// Charge is what one request takes of its limits. Figures below zero count as
// zero, those above 2^48 as 2^48.
type Charge struct{ Requests, Input, Output int64 }

// Tokens returns input and output together.
func (c Charge) Tokens() int64 { return c.Input + c.Output }

const maxFigure = 1 << 48 // thousands of the largest charges still add up

func (c Charge) capped() Charge {
	return Charge{
		Requests: min(max(c.Requests, 0), maxFigure),
		Input:    min(max(c.Input, 0), maxFigure),
		Output:   min(max(c.Output, 0), maxFigure),
	}
}

// amounts wants a capped charge.
func (c Charge) amounts() amounts {
	return amounts{Requests: c.Requests, Tokens: c.Input + c.Output, Input: c.Input, Output: c.Output}
}

// A Limit admits at most Amount in any Period. Its identity is Kind and
// Period; a Set holds no two of the same identity.
type Limit struct {
	Kind   Kind
	Amount int64         // at least 1
	Period time.Duration // above 0

	// Burst spreads the amount: in any interval d at most
	// Burst + Amount·d/(Period+Margin) is admitted, in addition to the window. A
	// single charge above Burst is admitted when nothing is owed. 0 and anything
	// from Amount up mean no pacing.
	Burst int64

	// Margin is how much longer than Period a charge counts. It slows the pacing
	// too: against a server that enforces by the second, the Burst fits in
	// between.
	Margin time.Duration

	// Daily, if not nil, makes the limit start anew at midnight in this
	// location, plus Margin, instead of sliding. Period is 24 hours then.
	Daily *time.Location
}

func (l Limit) paced() bool { return l.Burst > 0 && l.Burst < l.Amount }

func (l Limit) hold() int64 { return int64(l.Period + l.Margin) }

// long reports whether the limit counts on the wall clock: a machine that
// sleeps through the night has not used its day, while for minutes the
// monotonic clock is the one that nobody sets.
func (l Limit) long() bool { return l.Daily != nil || l.Period >= time.Hour }

// A window is one limit at work.
type window struct {
	log    *log
	pace   *pace // nil unless the limit is paced
	kind   Kind
	amount int64
	others others
}

func (w *window) fits(n *amounts) bool {
	x := n[w.kind]
	return w.log.sum[w.kind]+x <= w.amount && (w.pace == nil || w.pace.fits(w.log.now, x)) &&
		(w.others.n == 0 || w.log.sum[w.kind]+x+w.others.at(w.log.now) <= w.amount)
}

// A Set holds limits that are reserved together. At each reservation, the charges
// known then and dated within a limit's window, plus the new one, are at most
// its Amount. A Set without limits admits everything.
//
// Its memory is bounded: up to a few thousand charges per window are kept one
// by one; beyond that, charges close in time are merged and leave with the
// latest of them, so that the limit holds and at most 0.1% of it goes unused.
//
// Time that goes backwards counts as the latest instant seen. A Set is not
// safe for concurrent use.
type Set struct {
	clock   clock
	limits  []Limit
	windows []window // one per limit
	logs    []*log   // each once
	seq     uint64   // of the latest charge
	late    int64    // see LateAt
	exact   uint64   // exactEntries, less in tests
}

// NewSet returns a set of limits, which the caller has validated. All instants
// count from the epoch.
func NewSet(epoch time.Time, limits []Limit) *Set {
	s := &Set{clock: newClock(epoch), exact: exactEntries}
	s.SetLimitsAt(0, limits)
	return s
}

// Adjust says that the wall clock read so many nanoseconds since 1970 at ns. It
// may be called as often as one likes: less than a second that the wall clock
// fell behind since the last call is drift.
func (s *Set) Adjust(ns, wall int64) { s.clock.adjust(ns, wall) }

// WallClock reports whether a limit counts on the wall clock, so that Adjust
// matters.
func (s *Set) WallClock() bool { return s.clock.wall }

// Limits returns a copy of the limits, in the order in which they were given.
func (s *Set) Limits() []Limit { return slices.Clone(s.limits) }

// A Reservation is a charge that may still change. The zero Reservation
// stands for none: settling it does nothing.
type Reservation struct {
	seq    uint64
	booked Charge  // the latest figure
	high   amounts // the highest so far
}

// Charge returns the latest figure.
func (r *Reservation) Charge() Charge { return r.booked }

// ReserveAt charges c to all limits, or to none when it does not fit them all.
func (s *Set) ReserveAt(ns int64, c Charge) (Reservation, bool) {
	c = c.capped()
	n := c.amounts()
	s.advance(ns)
	for i := range s.windows {
		if !s.windows[i].fits(&n) {
			return Reservation{}, false
		}
	}
	s.seq++
	for _, l := range s.logs {
		l.charge(s.seq, l.now, &n)
	}
	return Reservation{seq: s.seq, booked: c, high: n}, true
}

// SettleAt makes actual what r is charged, in place of the previous figure, and
// reports whether that freed room. It may be called again and again.
//
// It is the entry made by ReserveAt that changes: a refund frees what was not
// used and leaves with that entry, an overrun may lift use above Amount. In a
// window that the entry has left, a refund does nothing, and what exceeds the
// highest figure so far is charged now. A limit that was added after the
// reservation and did not count it is not touched.
func (s *Set) SettleAt(ns int64, r *Reservation, actual Charge) (freed bool) {
	actual = actual.capped()
	n := actual.amounts()
	change := n
	was := r.booked.amounts()
	change.sub(&was)
	var over amounts
	if n[Requests] > r.high[Requests] || n[Tokens] > r.high[Tokens] || n[Input] > r.high[Input] || n[Output] > r.high[Output] {
		for k := range over {
			over[k] = max(n[k]-r.high[k], 0)
			r.high[k] = max(n[k], r.high[k])
		}
	}
	r.booked = actual

	s.advance(ns)
	var seq uint64
	for _, l := range s.logs {
		switch {
		case r.seq < l.from:
		case r.seq > l.gone:
			if pos, ok := l.find(r.seq); ok && change != (amounts{}) {
				l.adjust(pos, &change)
				freed = freed || s.frees(l, &change)
			}
		case over != (amounts{}):
			if seq == 0 {
				s.seq++
				seq = s.seq
			}
			l.charge(seq, l.now, &over)
		}
	}
	return freed
}

// frees reports whether a change makes room in one of the log's windows.
func (s *Set) frees(l *log, change *amounts) bool {
	for i := range s.windows { // by index: a window is large to copy
		if w := &s.windows[i]; w.log == l && change[w.kind] < 0 {
			return true
		}
	}
	return false
}

// UndoAt takes r back as if it had never been made: the request is not counted,
// and pacing is given back as far as r still holds anything back. Where its
// entry has left, nothing changes.
func (s *Set) UndoAt(ns int64, r *Reservation) {
	s.SettleAt(ns, r, Charge{})
	for _, l := range s.logs {
		l.pop(r.seq)
	}
	*r = Reservation{}
}

// AddAt charges what was started elsewhere: before now by an earlier process, or
// now by another one. Calls come in order of time; a charge dated before the
// latest one counts from the date of that one.
func (s *Set) AddAt(ns int64, c Charge) { s.add(ns, s.clock.wallAt(ns), c) }

func (s *Set) add(ns, wall int64, c Charge) {
	n := c.capped().amounts()
	if ns > s.clock.short {
		s.advance(ns)
	}
	s.seq++
	for _, l := range s.logs {
		at := ns
		if l.long {
			at = wall + s.clock.shift
		}
		l.add(&s.clock, s.seq, at, &n)
	}
}

// Exceeds returns the index of the first limit whose Amount is less than c
// takes of it, so that c can never be reserved, or -1.
func (s *Set) Exceeds(c Charge) int {
	n := c.capped().amounts()
	for i := range s.windows {
		if w := &s.windows[i]; n[w.kind] > w.amount {
			return i
		}
	}
	return -1
}

// Share returns the largest fraction that c takes of any limit's Amount.
func (s *Set) Share(c Charge) float64 {
	n := c.capped().amounts()
	var share float64
	for i := range s.windows {
		w := &s.windows[i]
		share = max(share, float64(n[w.kind])/float64(w.amount))
	}
	return share
}

// UsageAt returns what is charged to limit i now, by others too, how much room its
// window has left, and when everything charged now will have left: for a daily
// limit the next reset. That is ns when nothing is charged.
func (s *Set) UsageAt(ns int64, i int) (used, available, resetAt int64) {
	s.advance(ns)
	w := &s.windows[i]
	l := w.log
	own, theirs := l.sum[w.kind], w.others.at(l.now)
	used = own + theirs
	available = max(w.amount-used, 0)
	resetAt = ns
	if theirs > 0 {
		resetAt = after(ns, w.others.gone()-l.now)
	}
	if own > 0 {
		wait := l.last(w.kind) - l.raw(&s.clock)
		if l.day != nil {
			wait = l.day.reset - s.clock.rawWall
		}
		resetAt = max(resetAt, after(ns, wait))
	}
	return used, available, resetAt
}

// LateAt says how much later after its date one charge may be counted by the provider than
// another one. Windows that slide hold charges for that much longer from now on; what has
// left does not come back. It replaces what was said before.
func (s *Set) LateAt(ns int64, d time.Duration) {
	s.advance(ns)
	s.late = max(int64(d), 0)
	for _, l := range s.logs {
		if l.day == nil {
			l.hold = l.base + s.late
		}
	}
}

// advance brings everything up to ns.
func (s *Set) advance(ns int64) {
	s.clock.read(ns)
	for _, l := range s.logs {
		l.advance(&s.clock)
	}
}

package window

import (
	"math"
	"math/bits"
)

// NextAt returns the earliest instant at which c fits if nothing else starts,
// and the index of the limit that binds. That is ns and -1 when c fits now, and
// Never and the limit's index when c can never fit.
func (s *Set) NextAt(ns int64, c Charge) (at int64, limit int) {
	if i := s.Exceeds(c); i >= 0 {
		return Never, i
	}
	n := c.capped().amounts()
	s.advance(ns)
	wait, limit := int64(0), -1
	for i := range s.windows {
		if d := s.windows[i].wait(&s.clock, &n); d > wait {
			wait, limit = d, i
		}
	}
	return after(ns, wait), limit
}

// wait returns the time until n fits, which it does not exceed.
func (w *window) wait(c *clock, n *amounts) (wait int64) {
	l, x := w.log, n[w.kind]
	need := l.sum[w.kind] + x - w.amount
	switch {
	case w.others.n > 0:
		wait = w.free(c, x) - l.raw(c)
	case need <= 0:
	case l.day != nil:
		wait = l.day.reset - c.rawWall
	default:
		wait = l.freed(w.kind, need) - l.raw(c)
	}
	if w.pace != nil {
		if d := w.pace.wait(l.now, x, 0); d > 0 {
			wait = max(wait, addSat(d, l.now-l.raw(c)))
		}
	}
	return wait
}

// ForecastAt returns when a request that charges own is expected to start, if
// requests that charge ahead in total start before it, in order, and nothing
// else arrives, and the index of the limit that binds, or -1. It costs little
// enough to be asked for every request of a long line.
func (s *Set) ForecastAt(ns int64, ahead, own Charge) (at int64, limit int) {
	a, o := ahead.capped().amounts(), own.capped().amounts()
	s.advance(ns)
	wait, limit := int64(0), -1
	for i := range s.windows {
		if d := s.windows[i].forecast(&s.clock, &a, &o); d > wait {
			wait, limit = d, i
		}
	}
	return after(ns, wait), limit
}

func (w *window) forecast(c *clock, ahead, own *amounts) (wait int64) {
	l, k := w.log, w.kind
	demand := ahead[k] + own[k]
	if l.sum[k]+demand > w.amount {
		if l.day != nil {
			later := demand - max(w.amount-l.sum[k], 0)
			days := max((later+w.amount-1)/w.amount, 1)
			wait = l.day.nth(days) - c.rawWall
		} else {
			// What starts within one hold starts again a hold later, and comes
			// to nearly Amount: whole cycles, then the way that the charges of
			// now make room for the rest.
			cycle := w.amount - ahead.gap(k, w.amount)
			cycles := max(demand-1, 0) / cycle
			offset := l.now - l.raw(c)
			if need := l.sum[k] + demand - cycles*cycle - w.amount; need > 0 {
				offset = l.freedBySearch(k, need) - l.raw(c)
			}
			wait = addSat(mulSat(cycles, l.hold), offset)
		}
	}
	if w.others.n > 0 {
		wait = max(wait, w.free(c, own[k])-l.raw(c))
	}
	if w.pace != nil {
		if d := w.pace.wait(l.now, own[k], ahead[k]); d > 0 {
			wait = max(wait, addSat(d, l.now-l.raw(c)))
		}
	}
	return wait
}

// gap is what stays free at the end of a cycle because the next request does not fit:
// on average half a request.
func (ahead *amounts) gap(k Kind, amount int64) int64 {
	if k == Requests || ahead[Requests] < 2 {
		return 0
	}
	half := ahead[k] / ahead[Requests] / 2
	if half > amount/2 {
		return 0 // one at a time
	}
	return half
}

// freedBySearch is freed for a need that may lie thousands of entries ahead.
//
// Its prefix sums are brought up to date only when asked for: appending and
// expiring leave them right, and settling spoils them from the settled entry
// on, which usually is a recent one.
func (l *log) freedBySearch(k Kind, need int64) int64 {
	if len(l.prefix) != len(l.ring) {
		l.prefix, l.indexed = make([]amounts, len(l.ring)), l.head
	}
	mask := uint64(len(l.ring) - 1)
	for pos := max(l.indexed, l.head); pos != l.tail; pos++ {
		sum := l.at(pos).n
		if pos != l.head {
			sum.add(&l.prefix[(pos-1)&mask])
		}
		l.prefix[pos&mask] = sum
	}
	l.indexed = l.tail
	before := l.prefix[l.head&mask][k] - l.at(l.head).n[k]
	lo, hi := l.head, l.tail-1
	for lo < hi {
		mid := lo + (hi-lo)/2
		if l.prefix[mid&mask][k]-before < need {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return l.at(lo).at + l.hold
}

// raw returns the instant that answers are counted from.
func (l *log) raw(c *clock) int64 {
	if l.long {
		return c.rawLong
	}
	return c.rawShort
}

// addSat and mulSat stop at the largest duration, some 292 years. Their
// arguments are not negative.
func addSat(a, b int64) int64 { return a + min(b, math.MaxInt64-a) }

func mulSat(a, b int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi > 0 || lo > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(lo)
}

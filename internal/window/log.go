package window

import "math"

const (
	// exactEntries is how many entries a log keeps before it merges: a limit
	// of fewer requests than that is followed to the nanosecond.
	exactEntries = 4096
	// mergedEntries is how many a full log lets begin in one hold. A charge
	// leaves up to hold/mergedEntries late, so less than 0.05% of a limit goes
	// unused.
	mergedEntries = 2048
	// maxEntries bounds the ring. Of the live entries at most exactEntries
	// were there before the log was full; those after began hold/mergedEntries
	// apart and within a little more than the last hold, so they are at most
	// mergedEntries + 2. The ring is the next power of two.
	maxEntries = 8192
	firstRing  = 8
)

// amounts holds one figure per Kind.
type amounts [4]int64

func (a *amounts) add(b *amounts) {
	a[0] += b[0]
	a[1] += b[1]
	a[2] += b[2]
	a[3] += b[3]
}

func (a *amounts) sub(b *amounts) {
	a[0] -= b[0]
	a[1] -= b[1]
	a[2] -= b[2]
	a[3] -= b[3]
}

// entry is what started at one instant, or in the log's merged regime within
// one short stretch of time.
type entry struct {
	at  int64   // of its latest charge, so that it never leaves early
	seq uint64  // of its latest charge
	n   amounts // as settled so far
}

// A log keeps the charges that count in its windows: those of one hold on one
// clock scale which began to count at the same moment.
//
// Positions count entries ever appended; position p is at ring[p&(len-1)].
type log struct {
	base int64 // period and margin
	hold int64 // a charge counts while now − at < hold: base, and what Late says
	long bool  // dated on the long scale
	day  *day  // not nil: charges leave together at a local midnight instead

	exact uint64 // from so many entries on,
	gap   int64  // charges no further apart than this are merged

	now   int64  // the last instant it was brought up to
	since int64  // it knows nothing from before
	from  uint64 // charges with a lower seq never counted here
	gone  uint64 // charges up to this seq have left

	head, tail uint64
	ring       []entry
	sum        amounts // over all entries
	paces      []*pace // of those of its windows that are paced

	// About the newest entry: when its first charge came, and whether it holds
	// more than one.
	began  int64
	merged bool

	// prefix[p] sums the entries up to p, from an arbitrary start; it is right
	// for positions before indexed. See forecast.go.
	prefix  []amounts
	indexed uint64
}

func (l *log) at(pos uint64) *entry { return &l.ring[pos&uint64(len(l.ring)-1)] }

// advance brings the log up to the clock: what has left no longer counts.
func (l *log) advance(c *clock) {
	l.now = c.short
	if l.long {
		l.now = c.long
	}
	if l.day != nil {
		if l.day.over(c.rawWall) {
			l.drop(l.tail)
		}
		return
	}
	for l.head != l.tail {
		e := l.at(l.head)
		if l.now-e.at < l.hold {
			return
		}
		l.sum.sub(&e.n)
		l.gone = e.seq
		l.head++
	}
}

// drop lets the entries before pos leave.
func (l *log) drop(pos uint64) {
	for ; l.head != pos; l.head++ {
		e := l.at(l.head)
		l.sum.sub(&e.n)
		l.gone = e.seq
	}
}

// charge books n at the given instant, not before that of the newest entry.
func (l *log) charge(seq uint64, at int64, n *amounts) {
	l.sum.add(n)
	live := l.tail - l.head
	l.merged = live >= l.exact && at-l.began <= l.gap
	if l.merged {
		e := l.at(l.tail - 1)
		e.at, e.seq = at, seq
		e.n.add(n)
		l.indexed = min(l.indexed, l.tail-1)
	} else {
		if live == uint64(len(l.ring)) {
			l.grow()
		}
		e := l.at(l.tail)
		e.at, e.seq, e.n = at, seq, *n
		l.began = at
		l.tail++
	}
	for _, p := range l.paces {
		if l.merged {
			p.owe(l.tail-1, at, n[p.kind])
		} else {
			p.begin(l.tail-1, at, n[p.kind])
		}
	}
}

// add books n at an instant on the log's scale that may lie in the past, unless it has left by now.
func (l *log) add(c *clock, seq uint64, at int64, n *amounts) {
	at = min(at, l.now)
	if l.head != l.tail {
		at = max(at, l.at(l.tail-1).at)
	}
	if at > l.before(c) {
		l.charge(seq, at, n)
	}
}

// scale returns what ns reads on the log's scale.
func (l *log) scale(c *clock, ns int64) int64 {
	if l.long {
		return c.wallAt(ns) + c.shift
	}
	return ns
}

// before returns the latest date at which a charge has left by now.
func (l *log) before(c *clock) int64 {
	if l.day != nil {
		return l.day.start + c.shift - 1
	}
	return l.now - l.hold
}

// find returns the entry that a charge which has not left was booked in.
func (l *log) find(seq uint64) (pos uint64, ok bool) {
	if l.head == l.tail {
		return 0, false
	}
	// Each entry has at least one seq of its own, so the entry cannot lie
	// before the position that the distance in seq points at; without merged
	// entries and gaps it is there.
	lo, hi := l.head, l.tail-1
	newest := l.at(hi).seq
	if seq > newest {
		return 0, false
	}
	if back := newest - seq; back < hi-lo {
		lo = hi - back
	}
	if l.at(lo).seq >= seq {
		return lo, true
	}
	for lo < hi {
		mid := lo + (hi-lo)/2
		if l.at(mid).seq < seq {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, true
}

// adjust changes what the entry at pos holds by d.
func (l *log) adjust(pos uint64, d *amounts) {
	l.sum.add(d)
	l.at(pos).n.add(d)
	l.indexed = min(l.indexed, pos)
	for _, p := range l.paces {
		switch x := d[p.kind]; {
		case x > 0:
			p.owe(l.tail-1, l.now, x)
		case x < 0:
			p.refund(pos, l.tail, l.now, -x)
		}
	}
}

// pop removes the newest entry, which holds nothing any more, when only the
// charge seq was ever booked in it.
func (l *log) pop(seq uint64) {
	if l.head == l.tail || l.merged || l.at(l.tail-1).seq != seq {
		return
	}
	l.tail--
	l.indexed = min(l.indexed, l.tail)
	if l.head != l.tail {
		for _, p := range l.paces {
			p.forget(l.tail)
		}
	}
	// When the entry that is newest now began is not known. Starting another
	// keeps the bound: it takes the removed one's place and begins no earlier.
	l.began, l.merged = math.MinInt64/2, true
}

func (l *log) grow() {
	ring := make([]entry, max(firstRing, 2*len(l.ring)))
	for pos := l.head; pos != l.tail; pos++ {
		ring[pos&uint64(len(ring)-1)] = *l.at(pos)
	}
	for _, p := range l.paces {
		p.grow(l.head, l.tail, len(ring))
	}
	l.ring, l.prefix, l.indexed = ring, nil, 0
}

// freed returns when so many of the oldest entries have left that together
// they held at least need, which is at most the sum.
func (l *log) freed(k Kind, need int64) int64 {
	pos := l.head
	for need -= l.at(pos).n[k]; need > 0; need -= l.at(pos).n[k] {
		pos++
	}
	return l.at(pos).at + l.hold
}

// last returns when the last charge of this kind leaves; there is one.
func (l *log) last(k Kind) int64 {
	pos := l.tail - 1
	for l.at(pos).n[k] == 0 {
		pos--
	}
	return l.at(pos).at + l.hold
}

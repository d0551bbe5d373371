package window

import (
	"math"
	"math/bits"
)

// u128 is an unsigned integer of 128 bits: debts are counted in tokens times
// nanoseconds, so that neither charging nor draining ever rounds.
type u128 struct{ hi, lo uint64 }

var maxU128 = u128{math.MaxUint64, math.MaxUint64}

func mul(a, b int64) u128 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	return u128{hi, lo}
}

func (a u128) plus(b u128) u128 {
	lo, carry := bits.Add64(a.lo, b.lo, 0)
	hi, _ := bits.Add64(a.hi, b.hi, carry)
	return u128{hi, lo}
}

// minus returns a − b, or 0 when b is larger.
func (a u128) minus(b u128) u128 {
	lo, borrow := bits.Sub64(a.lo, b.lo, 0)
	hi, borrow := bits.Sub64(a.hi, b.hi, borrow)
	if borrow != 0 {
		return u128{}
	}
	return u128{hi, lo}
}

func (a u128) more(b u128) bool {
	return a.hi > b.hi || a.hi == b.hi && a.lo > b.lo
}

func (a u128) min(b u128) u128 {
	if a.more(b) {
		return b
	}
	return a
}

// ceilDiv returns a/b rounded up, or the largest int64 when that is less.
func (a u128) ceilDiv(b int64) int64 {
	if a.hi >= uint64(b) {
		return math.MaxInt64
	}
	q, r := bits.Div64(a.hi, a.lo, uint64(b))
	if r > 0 {
		q++
	}
	if q > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(q)
}

// floorDiv returns a/b rounded down, or the largest int64 when that is less.
func (a u128) floorDiv(b int64) int64 {
	if a.hi >= uint64(b) {
		return math.MaxInt64
	}
	q, _ := bits.Div64(a.hi, a.lo, uint64(b))
	return int64(min(q, math.MaxInt64))
}

// A pace spreads the charges of one window: in any interval d it admits at
// most burst + amount·d/hold. Every charge is owed, and the debt drains at
// amount/hold; a charge fits while the debt stays within burst. One that is
// larger than burst fits when nothing is owed.
type pace struct {
	kind   Kind
	amount int64
	burst  int64
	hold   int64

	debt  u128 // in tokens (or requests) × hold, as of at
	at    int64
	marks []mark // by position, like the log's ring
}

// mark remembers how low the debt was around an entry. A refund gives back no
// more than the lowest debt since its charge: what has drained in the meantime
// holds nothing back any more.
type mark struct {
	first u128 // just before the entry's first charge
	rest  u128 // the lowest just before what was owed after that, up to the next entry
}

func newPace(l Limit, ring int) *pace {
	return &pace{
		kind: l.Kind, amount: l.Amount, burst: l.Burst, hold: l.hold(),
		at: math.MinInt64, marks: make([]mark, ring),
	}
}

func (p *pace) mark(pos uint64) *mark { return &p.marks[pos&uint64(len(p.marks)-1)] }

func (p *pace) drain(now int64) {
	if now <= p.at {
		return
	}
	if p.debt != (u128{}) {
		p.debt = p.debt.minus(mul(p.amount, now-p.at))
	}
	p.at = now
}

func (p *pace) fits(now, n int64) bool {
	p.drain(now)
	return p.tooMuch(n, 0) == u128{}
}

// tooMuch returns how much debt must drain before a charge of n fits, when
// ahead is charged before it.
func (p *pace) tooMuch(n, ahead int64) u128 {
	debt := p.debt.plus(mul(ahead, p.hold))
	if n > p.burst {
		return debt
	}
	return debt.plus(mul(n, p.hold)).minus(mul(p.burst, p.hold))
}

// wait returns the time from now until a charge of n fits, when ahead is
// charged before it.
func (p *pace) wait(now, n, ahead int64) int64 {
	p.drain(now)
	return p.tooMuch(n, ahead).ceilDiv(p.amount)
}

// begin owes the first charge of the entry at pos.
func (p *pace) begin(pos uint64, at, n int64) {
	p.drain(at)
	*p.mark(pos) = mark{first: p.debt, rest: maxU128}
	p.debt = p.debt.plus(mul(n, p.hold))
}

// owe owes what comes after that while the entry at pos is the newest: another
// charge merged into it, or an overrun of any entry, which is owed from now.
func (p *pace) owe(pos uint64, at, n int64) {
	p.drain(at)
	m := p.mark(pos)
	m.rest = m.rest.min(p.debt)
	p.debt = p.debt.plus(mul(n, p.hold))
}

// forget folds the mark of the newest entry, which is removed, into the one
// before it.
func (p *pace) forget(pos uint64) {
	m := p.mark(pos)
	prev := p.mark(pos - 1)
	prev.rest = prev.rest.min(m.first).min(m.rest)
}

// refund takes n off a charge that was booked in the entry at pos. Had the
// charge been smaller from the start, every later debt would be lower by that
// much, but never below zero: what is given back shrinks to the lowest debt
// on the way, and the marks move along so that the next refund is exact too.
func (p *pace) refund(pos, tail uint64, now, n int64) {
	p.drain(now)
	m := p.mark(pos)
	back := mul(n, p.hold).min(m.rest)
	m.rest = m.rest.minus(back)
	for pos++; pos != tail && back != (u128{}); pos++ {
		m := p.mark(pos)
		back = back.min(m.first)
		m.first = m.first.minus(back)
		back = back.min(m.rest)
		m.rest = m.rest.minus(back)
	}
	p.debt = p.debt.minus(back.min(p.debt))
}

func (p *pace) grow(head, tail uint64, size int) {
	marks := make([]mark, size)
	for pos := head; pos != tail; pos++ {
		marks[pos&uint64(size-1)] = *p.mark(pos)
	}
	p.marks = marks
}

// replay owes what is in the log, as if it had all been charged as it stands.
func (p *pace) replay(l *log) {
	for pos := l.head; pos != l.tail; pos++ {
		e := l.at(pos)
		p.begin(pos, e.at, e.n[p.kind])
	}
}

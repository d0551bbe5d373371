package llmtest

import (
	"math/bits"
	"time"
)

// A fixedWindow counts from zero in each window of time.
type fixedWindow struct {
	amount     int64
	bounds     func(now time.Duration) (begin, end time.Duration)
	begin, end time.Duration // of the window that used belongs to
	used       int64
}

// everyPeriod makes a window of each period since the server's start.
func everyPeriod(period time.Duration) func(time.Duration) (begin, end time.Duration) {
	return func(now time.Duration) (begin, end time.Duration) {
		begin = now - now%period
		return begin, begin + period
	}
}

// everyDay makes a window of each day in the zone, 23 and 25 hours long where
// clocks are put forward and back.
func everyDay(start time.Time, zone *time.Location) func(time.Duration) (begin, end time.Duration) {
	return func(now time.Duration) (begin, end time.Duration) {
		t := start.Add(now)
		y, m, d := t.In(zone).Date()
		return now - t.Sub(time.Date(y, m, d, 0, 0, 0, 0, zone)),
			now + time.Date(y, m, d+1, 0, 0, 0, 0, zone).Sub(t)
	}
}

func (w *fixedWindow) roll(now time.Duration) {
	if now >= w.end {
		w.begin, w.end = w.bounds(now)
		w.used = 0
	}
}

func (w *fixedWindow) wait(now time.Duration, n int64) (time.Duration, bool) {
	if n > w.amount {
		return 0, false
	}
	w.roll(now)
	if w.used+n <= w.amount {
		return 0, true
	}
	return w.end - now, true
}

func (w *fixedWindow) take(now time.Duration, n int64) {
	w.roll(now)
	w.used += n
}

func (w *fixedWindow) refund(now, at time.Duration, n int64) {
	w.roll(now)
	if at >= w.begin {
		w.used -= n
	}
}

func (w *fixedWindow) state(now time.Duration) (int64, int64, time.Duration) {
	w.roll(now)
	if w.used == 0 {
		return w.amount, w.amount, 0
	}
	return w.amount, max(w.amount-w.used, 0), w.end - now
}

// A quantized meter gives each slice of the period its part of the amount. What
// does not fit into a slice takes up the ones after it.
type quantized struct {
	amount int64
	slice  time.Duration
	slices int64 // in a period

	index int64 // of the slice that used belongs to, counted from the server's start
	used  int64 // in this slice, and what it takes up of later ones
}

// parts returns what the slices from a up to but not including b have together.
// The parts of a period add up to the amount exactly.
func (q *quantized) parts(a, b int64) int64 {
	whole := b/q.slices - a/q.slices
	if whole > 2 { // more than used ever is
		whole = 3
	}
	return whole*q.amount + q.before(b%q.slices) - q.before(a%q.slices)
}

// before returns what the first n slices of a period have together.
func (q *quantized) before(n int64) int64 {
	hi, lo := bits.Mul64(uint64(n), uint64(q.amount))
	part, _ := bits.Div64(hi, lo, uint64(q.slices))
	return int64(part)
}

func (q *quantized) roll(now time.Duration) {
	if i := int64(now / q.slice); i != q.index {
		q.used = max(q.used-q.parts(q.index, i), 0)
		q.index = i
	}
}

func (q *quantized) wait(now time.Duration, n int64) (time.Duration, bool) {
	if n > q.amount {
		return 0, false
	}
	q.roll(now)
	for i := q.index; ; i++ {
		left := max(q.used-q.parts(q.index, i), 0)
		if left == 0 || left+n <= q.parts(i, i+1) {
			return max(time.Duration(i)*q.slice-now, 0), true
		}
	}
}

// take takes up no more than two periods, as a bucket's debt is one at most.
func (q *quantized) take(now time.Duration, n int64) {
	q.roll(now)
	q.used = min(q.used+n, 2*q.amount)
}

func (q *quantized) refund(now, _ time.Duration, n int64) {
	q.roll(now)
	q.used = max(q.used-n, 0)
}

// state describes the current slice: an Azure deployment of 120 requests a
// minute has been seen to announce a limit of 20, likely that of 10 s.
func (q *quantized) state(now time.Duration) (int64, int64, time.Duration) {
	q.roll(now)
	part := q.parts(q.index, q.index+1)
	if q.used == 0 {
		return max(part, 1), max(part, 1), 0
	}
	i := q.index
	for q.parts(q.index, i) < q.used {
		i++
	}
	return max(part, 1), max(part-q.used, 0), time.Duration(i)*q.slice - now
}

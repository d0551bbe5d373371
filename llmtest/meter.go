package llmtest

import "time"

// A meter counts charges against one limit. Times are durations since the
// server's start and never go back. A meter is not safe for concurrent use:
// the enforcer's lock guards it.
type meter interface {
	// wait returns how long it takes until a charge of n fits, zero if it
	// fits now, if nothing else is charged. It returns false if n can never
	// fit.
	wait(now time.Duration, n int64) (time.Duration, bool)

	// take charges n, whether or not it fits.
	take(now time.Duration, n int64)

	// state returns what is left now, never below zero, and how long it takes
	// until all of it is there again.
	state(now time.Duration) (remaining int64, reset time.Duration)
}

func newMeter(l Limit) meter {
	switch {
	case l.Kind == KindConcurrent:
		return &gauge{amount: l.Amount}
	case l.Strategy == SlidingWindow:
		return &slidingWindow{amount: l.Amount, period: l.Period}
	case l.Strategy == FixedWindow:
		return &fixedWindow{amount: l.Amount, period: l.Period}
	}
	return newBucket(l.Amount, l.Period)
}

// A slidingWindow keeps every charge of the last period. A charge made at t
// counts until just before t+period.
type slidingWindow struct {
	amount  int64
	period  time.Duration
	entries []entry // in order of time; entries[:head] have left the window
	head    int
	used    int64 // the sum of entries[head:]
}

type entry struct {
	at time.Duration
	n  int64
}

// expire drops what has left the window.
func (w *slidingWindow) expire(now time.Duration) {
	for w.head < len(w.entries) && now-w.entries[w.head].at >= w.period {
		w.used -= w.entries[w.head].n
		w.head++
	}
	if w.head > 64 && w.head > len(w.entries)/2 {
		w.entries = w.entries[:copy(w.entries, w.entries[w.head:])]
		w.head = 0
	}
}

func (w *slidingWindow) wait(now time.Duration, n int64) (time.Duration, bool) {
	if n > w.amount {
		return 0, false
	}
	w.expire(now)
	over := w.used + n - w.amount
	for i := w.head; over > 0; i++ {
		e := w.entries[i]
		if over -= e.n; over <= 0 {
			return e.at + w.period - now, true
		}
	}
	return 0, true
}

func (w *slidingWindow) take(now time.Duration, n int64) {
	w.expire(now)
	w.entries = append(w.entries, entry{now, n})
	w.used += n
}

func (w *slidingWindow) state(now time.Duration) (int64, time.Duration) {
	w.expire(now)
	if w.head == len(w.entries) {
		return w.amount, 0
	}
	return max(w.amount-w.used, 0), w.entries[len(w.entries)-1].at + w.period - now
}

// A fixedWindow counts from zero in each period since the server's start.
type fixedWindow struct {
	amount int64
	period time.Duration
	index  int64 // which period used belongs to
	used   int64
}

func (w *fixedWindow) roll(now time.Duration) {
	if i := int64(now / w.period); i != w.index {
		w.index, w.used = i, 0
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
	return w.period - now%w.period, true
}

func (w *fixedWindow) take(now time.Duration, n int64) {
	w.roll(now)
	w.used += n
}

func (w *fixedWindow) state(now time.Duration) (int64, time.Duration) {
	w.roll(now)
	if w.used == 0 {
		return w.amount, 0
	}
	return max(w.amount-w.used, 0), w.period - now%w.period
}

// A gauge counts what is in progress: a take of -1 ends what a take of 1 began.
type gauge struct {
	amount, used, peak int64
}

// gaugeWait is the advice to a request that finds no slot. When one becomes
// free cannot be known; one second is the least that Retry-After can say.
const gaugeWait = time.Second

func (g *gauge) wait(_ time.Duration, n int64) (time.Duration, bool) {
	if g.used+n <= g.amount {
		return 0, true
	}
	return gaugeWait, true
}

func (g *gauge) take(_ time.Duration, n int64) {
	g.used += n
	g.peak = max(g.peak, g.used)
}

func (g *gauge) state(time.Duration) (int64, time.Duration) {
	return max(g.amount-g.used, 0), 0
}

package llmtest

import (
	"sort"
	"time"
)

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

	// refund gives back n of what was taken at a time. What no longer counts
	// cannot be given back.
	refund(now, at time.Duration, n int64)

	// state returns the limit that counts now, what is left of it, never below
	// zero, and how long it takes until all of it is there again.
	state(now time.Duration) (limit, remaining int64, reset time.Duration)
}

// newMeter returns the meter of a limit on a server that started at start.
func newMeter(l Limit, start time.Time) meter {
	if l.Kind == KindConcurrent {
		return &gauge{amount: l.Amount}
	}
	switch l.Strategy {
	case SlidingWindow:
		return &slidingWindow{amount: l.Amount, period: l.Period}
	case FixedWindow:
		return &fixedWindow{amount: l.Amount, bounds: everyPeriod(l.Period)}
	case Daily:
		return &fixedWindow{amount: l.Amount, bounds: everyDay(start, l.Zone)}
	case Quantized:
		return &quantized{amount: l.Amount, slice: l.Slice, slices: int64(l.Period / l.Slice)}
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
	if n == 0 {
		return
	}
	w.entries = append(w.entries, entry{now, n})
	w.used += n
}

func (w *slidingWindow) refund(now, at time.Duration, n int64) {
	w.expire(now)
	live := w.entries[w.head:]
	i := sort.Search(len(live), func(i int) bool { return live[i].at >= at })
	for ; n > 0 && i < len(live) && live[i].at == at; i++ {
		back := min(n, live[i].n)
		live[i].n -= back
		w.used -= back
		n -= back
	}
}

func (w *slidingWindow) state(now time.Duration) (int64, int64, time.Duration) {
	w.expire(now)
	last := len(w.entries) - 1
	for last >= w.head && w.entries[last].n == 0 { // given back
		last--
	}
	if last < w.head {
		return w.amount, w.amount, 0
	}
	return w.amount, max(w.amount-w.used, 0), w.entries[last].at + w.period - now
}

// A gauge counts what is in progress: a refund ends what a take began.
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

func (g *gauge) refund(_, _ time.Duration, n int64) { g.used -= n }

func (g *gauge) state(time.Duration) (int64, int64, time.Duration) {
	return g.amount, max(g.amount-g.used, 0), 0
}

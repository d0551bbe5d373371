package makespan

import (
	"math/bits"
	"slices"
	"time"
)

// A Minimum is the least time in which all questions can be answered under limits,
// from the provider's start to the last answer. It is computed offline, from the true
// costs and latencies, and knows neither network nor margin.
type Minimum struct {
	// InOrder is the least when calls start in the order of the questions.
	InOrder time.Duration
	// AnyOrder is a bound from below: nothing that keeps the limits is faster, in
	// whatever order it makes the calls.
	AnyOrder time.Duration
	// ByRequests and ByTokens are how many calls waited for which limit, in order.
	ByRequests, ByTokens int
}

// MinimumOf computes it. latencies are those of the questions.
func MinimumOf(e Enforcement, l Limits, questions []Question, latencies []time.Duration) Minimum {
	var least Minimum
	for i, s := range schedule(e, l, questions) {
		least.InOrder = max(least.InOrder, s.at+latencies[i])
		switch s.waited {
		case byRequests:
			least.ByRequests++
		case byTokens:
			least.ByTokens++
		}
	}
	least.AnyOrder = inAnyOrder(e, l, questions, latencies)
	return least
}

// A start is when a call starts and what it had to wait for last.
type start struct {
	at     time.Duration
	waited reason
}

type reason int

const (
	notAtAll reason = iota
	byRequests
	byTokens
)

// schedule starts each call as early as the limits allow, in order. That is best: no way
// of counting lets a later call start earlier because this one started later.
func schedule(e Enforcement, l Limits, questions []Question) []start {
	requests, tokens := e.meter(l.Requests, l.Period), e.meter(l.Tokens, l.Period)
	starts := make([]start, len(questions))
	now := time.Duration(0)
	for i, q := range questions {
		n, waited := q.tokens(), notAtAll
		for {
			r, t := requests.earliest(now, 1), tokens.earliest(now, n)
			if max(r, t) == now {
				break
			}
			if now = max(r, t); t > r {
				waited = byTokens
			} else {
				waited = byRequests
			}
		}
		requests.take(now, 1)
		tokens.take(now, n)
		starts[i] = start{now, waited}
	}
	return starts
}

// inAnyOrder looks at the last k calls to start, for each k: they start no earlier than
// all the others and one of them can have started, even if they are the k largest, and
// one of them takes no less than the k-th shortest latency.
func inAnyOrder(e Enforcement, l Limits, questions []Question, latencies []time.Duration) (least time.Duration) {
	requests, tokens := e.meter(l.Requests, l.Period), e.meter(l.Tokens, l.Period)
	shortest := slices.Sorted(slices.Values(latencies))
	var costs []int64
	sum := int64(0)
	for _, q := range questions {
		costs = append(costs, q.tokens())
		sum += q.tokens()
	}
	slices.Sort(costs)
	slices.Reverse(costs)
	for i, latency := range shortest {
		least = max(least, latency+max(
			requests.until(int64(len(questions)-i), 1),
			tokens.until(sum, costs[0])))
		sum -= costs[i]
	}
	return least
}

// A meter counts against one limit, by arithmetic of its own: it shares none with the
// simulator, which the tests hold it against. Times never go back.
type meter interface {
	// earliest returns the first instant, not before now, at which n fits.
	earliest(now time.Duration, n int64) time.Duration
	// take charges n, which fits.
	take(now time.Duration, n int64)
	// until returns an instant before which charges of at most largest each cannot
	// have summed up to sum, whatever their order. The meter is unused.
	until(sum, largest int64) time.Duration
}

// sliding lets at most amount pass in any period.
type sliding struct {
	amount int64
	period time.Duration
	held   []charge // of the last period, in order of time
	sum    int64    // of held
}

type charge struct {
	at time.Duration
	n  int64
}

func newSliding(amount int64, period time.Duration) meter {
	return &sliding{amount: amount, period: period}
}

func (w *sliding) leave(now time.Duration) {
	for len(w.held) > 0 && w.held[0].at+w.period <= now {
		w.sum -= w.held[0].n
		w.held = w.held[1:]
	}
}

func (w *sliding) earliest(now time.Duration, n int64) time.Duration {
	w.leave(now)
	left := w.sum
	for _, c := range w.held {
		if left+n <= w.amount {
			break
		}
		left -= c.n
		now = c.at + w.period
	}
	return now
}

func (w *sliding) take(now time.Duration, n int64) {
	w.leave(now)
	w.held = append(w.held, charge{now, n})
	w.sum += n
}

func (w *sliding) until(sum, _ int64) time.Duration {
	return time.Duration((sum-1)/w.amount) * w.period
}

// fixed counts anew in each period since the start.
type fixed struct {
	amount int64
	period time.Duration
	index  int64 // of the period that used belongs to
	used   int64
}

func newFixed(amount int64, period time.Duration) meter {
	return &fixed{amount: amount, period: period}
}

func (w *fixed) earliest(now time.Duration, n int64) time.Duration {
	if int64(now/w.period) != w.index || w.used+n <= w.amount {
		return now
	}
	return time.Duration(w.index+1) * w.period
}

func (w *fixed) take(now time.Duration, n int64) {
	if i := int64(now / w.period); i != w.index {
		w.index, w.used = i, 0
	}
	w.used += n
}

func (w *fixed) until(sum, _ int64) time.Duration {
	return time.Duration((sum-1)/w.amount) * w.period
}

// bucket holds amount, is full at the start and gains amount per period, evenly. It
// keeps the instant at which it will be full again, to a part of a nanosecond.
type bucket struct {
	amount int64
	period time.Duration
	full   time.Duration
	part   int64 // of the nanosecond after full, in 1/amount
}

func newBucket(amount int64, period time.Duration) meter {
	return &bucket{amount: amount, period: period}
}

func (b *bucket) refill(now time.Duration) {
	if b.full < now {
		b.full, b.part = now, 0
	}
}

// with returns full and part as they are when n more is taken.
func (b *bucket) with(n int64) (time.Duration, int64) {
	hi, lo := bits.Mul64(uint64(n), uint64(b.period))
	lo, carry := bits.Add64(lo, uint64(b.part), 0)
	more, part := bits.Div64(hi+carry, lo, uint64(b.amount))
	return b.full + time.Duration(more), int64(part)
}

func (b *bucket) earliest(now time.Duration, n int64) time.Duration {
	b.refill(now)
	later, part := b.with(n)
	if part > 0 {
		later++
	}
	return max(now, later-b.period)
}

func (b *bucket) take(now time.Duration, n int64) {
	b.refill(now)
	b.full, b.part = b.with(n)
}

func (b *bucket) until(sum, _ int64) time.Duration {
	return b.earliest(0, sum)
}

// sliced gives each slice of the period its part of amount. What is larger than the
// part of a slice starts in one of which nothing is used, and uses those after it up.
type sliced struct {
	amount int64
	slice  time.Duration
	free   time.Duration // the start of the first slice of which anything is left
	used   int64         // of that slice
}

func newSliced(amount int64, period time.Duration) meter {
	return &sliced{amount: amount, slice: period / parts}
}

// part is that of the slice that begins at an instant. Those of a period sum up to
// amount.
func (w *sliced) part(begin time.Duration) int64 {
	i := int64(begin/w.slice) % parts
	return w.amount*(i+1)/parts - w.amount*i/parts
}

func (w *sliced) roll(now time.Duration) {
	if begin := now - now%w.slice; begin > w.free {
		w.free, w.used = begin, 0
	}
}

func (w *sliced) earliest(now time.Duration, n int64) time.Duration {
	w.roll(now)
	if w.used == 0 || w.used+n <= w.part(w.free) {
		return max(now, w.free)
	}
	return w.free + w.slice
}

func (w *sliced) take(now time.Duration, n int64) {
	w.roll(now)
	w.used += n
	for w.used > 0 && w.used >= w.part(w.free) {
		w.used -= w.part(w.free)
		w.free += w.slice
	}
}

func (w *sliced) until(sum, largest int64) time.Duration {
	begin := time.Duration(0)
	// The last charge of all may have begun in the last of these slices.
	for sum -= w.part(0) + largest; sum > 0; sum -= w.part(begin) {
		begin += w.slice
	}
	return begin
}

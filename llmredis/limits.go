package llmredis

import (
	"fmt"
	"time"

	"github.com/llmqueue/llmqueue"
)

// amounts holds one figure per kind that a limit may count: requests, tokens, input
// and output tokens.
type amounts [4]int64

func charge(u llmqueue.Usage) amounts {
	return amounts{1, u.Total(), u.InputTokens, u.OutputTokens}
}

func (a amounts) plus(b amounts) amounts {
	for k := range a {
		a[k] += b[k]
	}
	return a
}

func (a amounts) minus(b amounts) amounts {
	for k := range a {
		a[k] -= b[k]
	}
	return a
}

func (a amounts) times(n int64) amounts {
	for k := range a {
		a[k] *= n
	}
	return a
}

// above is what a has more than b, nothing below zero.
func (a amounts) above(b amounts) amounts {
	for k := range a {
		a[k] = max(a[k]-b[k], 0)
	}
	return a
}

func (a amounts) isZero() bool { return a == amounts{} }

// kinds gives what a kind of limit counts, and over which period when none is given.
var kinds = map[llmqueue.LimitKind]struct {
	counts int
	period time.Duration
}{
	llmqueue.KindRPM:  {0, time.Minute},
	llmqueue.KindRPD:  {0, day},
	llmqueue.KindTPM:  {1, time.Minute},
	llmqueue.KindTPD:  {1, day},
	llmqueue.KindITPM: {2, time.Minute},
	llmqueue.KindOTPM: {3, time.Minute},
}

const day = 24 * time.Hour

// buckets is how many a period is divided into: a charge leaves up to a part of that
// late, so less than 0.05% of a limit goes unused.
const buckets = 2048

// rule is a limit other than of concurrency, as the script wants it.
type rule struct {
	limit  llmqueue.Limit
	kind   int // of amounts
	burst  int64
	hold   int64 // milliseconds that a charge counts
	bucket int64 // milliseconds
	name   string
	margin time.Duration
}

// rules translates validated limits. A negative margin stands for the default, which
// is that of every queue: 2% of the period, at most 250 ms.
func rules(limits []llmqueue.Limit, margin time.Duration) (rs []rule, slots int64, lease time.Duration) {
	lease = longestLease
	for _, l := range limits {
		if l.Kind == llmqueue.KindConcurrent {
			slots = l.Amount
			continue
		}
		period := l.Period
		if period == 0 {
			period = kinds[l.Kind].period
		}
		r := rule{limit: l, kind: kinds[l.Kind].counts, margin: margin}
		if margin < 0 {
			r.margin = min(period/50, 250*time.Millisecond)
		}
		r.hold = max((period + r.margin + time.Millisecond - 1).Milliseconds(), 1)
		r.bucket = max(period.Milliseconds()/buckets, 1)
		r.name = fmt.Sprintf("p%d", period.Milliseconds())
		if l.Resets != nil {
			r.name = "d" + l.Resets.String()
		}
		lease = min(lease, max(period/10, shortestLease))
		rs = append(rs, r)
	}
	for i := range rs {
		// What is leased may be used as late as the lease ends, and so close to what is
		// granted then: the burst leaves room for that.
		r := &rs[i]
		b := r.limit.Burst
		if b <= 0 || b >= r.limit.Amount {
			continue
		}
		inLease := func() int64 { return ceilDiv(r.limit.Amount*lease.Milliseconds(), r.hold) }
		for lease > time.Millisecond && inLease() > max(b/4, 1) {
			lease /= 2
		}
		r.burst = max(b-inLease(), 1)
	}
	return rs, slots, max(lease, time.Millisecond)
}

const (
	longestLease  = 2 * time.Second
	shortestLease = 100 * time.Millisecond
)

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }

// midnights gives, in milliseconds, when the days around an instant begin in the
// rule's location, moved by its margin.
func (r *rule) midnights(around time.Time) []int64 {
	loc := r.limit.Resets
	if loc == nil {
		return nil
	}
	year, month, mday := around.In(loc).Date()
	var out []int64
	for d := -1; d <= 2; d++ {
		t := time.Date(year, month, mday+d, 0, 0, 0, 0, loc)
		if t.Hour() >= 12 {
			// The clocks jump over midnight, and time.Date counted it in the zone
			// before: the day begins with the jump.
			_, t = t.ZoneBounds()
		}
		out = append(out, t.Add(r.margin).UnixMilli())
	}
	return out
}

// exceeded gives the first limit that c can never fit under.
func exceeded(rs []rule, c amounts) (llmqueue.Limit, bool) {
	for _, r := range rs {
		if c[r.kind] > r.limit.Amount {
			return r.limit, true
		}
	}
	return llmqueue.Limit{}, false
}

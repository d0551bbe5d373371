package engine

import (
	"iter"
	"math"
	"slices"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/line"
)

// times is a part of l.
func times(l line.Size, part float64) line.Size {
	return line.Size{
		Requests: int64(math.Round(float64(l.Requests) * part)),
		Input:    int64(float64(l.Input) * part), Output: int64(float64(l.Output) * part),
		Unsized: int64(float64(l.Unsized) * part),
	}
}

// Forecast says when a request would start if it came now and nothing else did.
func (q *Engine) Forecast(r *Request) endpoint.Wait {
	w := q.check(r.Estimate, r.Sized, q.line.Ahead(r.Priority), 0)
	w.Guessed = w.Guessed || !r.Sized && q.tokens
	return w
}

// Ahead is how many requests would start before one that comes now.
func (q *Engine) Ahead(priority int) int64 { return q.line.Ahead(priority).Requests }

// ForecastLast says the rank in line of a request that came last of its priority, and when
// it starts if nothing else comes.
func (q *Engine) ForecastLast(h uint32) (rank int, w endpoint.Wait) {
	r := q.records.at(h)
	ahead, own := q.line.Ahead(r.priority), r.size()
	ahead = line.Size{
		Requests: ahead.Requests - 1, Input: ahead.Input - own.Input,
		Output: ahead.Output - own.Output, Unsized: ahead.Unsized - own.Unsized,
	}
	return q.rank(h), q.check(r.estimate, r.sized(), ahead, 0)
}

// exactForecast bounds how far the line is walked for one forecast; the requests ahead
// beyond it count with the average of their priority and the higher ones.
const exactForecast = 256

// ForecastOf says the rank of a request anywhere in line, and when it starts if nothing
// else comes.
func (q *Engine) ForecastOf(h uint32) (rank int, w endpoint.Wait) {
	r := q.records.at(h)
	rank = q.rank(h)
	var ahead line.Size
	if rank <= exactForecast {
		for other := range q.allInLine() {
			if other == h || ahead.Requests == exactForecast {
				break
			}
			ahead = sum(ahead, q.records.at(other).size())
		}
	} else {
		all := q.line.Ahead(r.priority)
		ahead = times(all, float64(rank-1)/float64(all.Requests))
		ahead.Requests = int64(rank - 1)
	}
	return rank, q.check(r.estimate, r.sized(), ahead, 0)
}

func sum(a, b line.Size) line.Size {
	return line.Size{Requests: a.Requests + b.Requests, Input: a.Input + b.Input, Output: a.Output + b.Output, Unsized: a.Unsized + b.Unsized}
}

// Head says what the request waits for that starts next. slot is when the next attempt
// ends, where the owner of a single endpoint knows that; 0 lets a mean stand for it.
func (q *Engine) Head(slot int64) (h uint32, w endpoint.Wait, waits bool) {
	if h, waits = q.head(); !waits {
		return 0, w, false
	}
	r := q.records.at(h)
	return h, q.check(r.estimate, r.sized(), line.Size{}, slot), true
}

// InLine gives what waits in line, in order, with its rank and forecast. Nothing may be
// changed meanwhile.
func (q *Engine) InLine() iter.Seq2[uint32, func() (rank int, w endpoint.Wait)] {
	return func(yield func(uint32, func() (int, endpoint.Wait)) bool) {
		var ahead line.Size
		for h := range q.allInLine() {
			r := q.records.at(h)
			if !yield(h, func() (int, endpoint.Wait) {
				return int(ahead.Requests) + 1, q.check(r.estimate, r.sized(), ahead, 0)
			}) {
				return
			}
			ahead = sum(ahead, r.size())
		}
	}
}

// BackingOff gives the requests between two attempts, in no order.
func (q *Engine) BackingOff() iter.Seq2[uint32, int64] { return q.backoff.All() }

// RetryAt is when a request between two attempts goes back in line, 0 when it is not.
func (q *Engine) RetryAt(h uint32) int64 {
	at, _ := q.backoff.At(h)
	return at
}

// UnderWay are the requests whose attempt is under way and that did not end, in the order
// in which these started.
func (q *Engine) UnderWay() []uint32 {
	running := make([]*attempt, 0, len(q.underWay))
	for _, n := range q.underWay {
		if a := q.attempts[n]; !a.cut && q.attemptOf(q.records.at(a.handle)) == a {
			running = append(running, a)
		}
	}
	slices.SortFunc(running, func(a, b *attempt) int {
		if a.lease.Started != b.lease.Started {
			return int(min(max(a.lease.Started-b.lease.Started, -1), 1))
		}
		return int(q.records.at(a.handle).seq) - int(q.records.at(b.handle).seq)
	})
	handles := make([]uint32, len(running))
	for i, a := range running {
		handles[i] = a.handle
	}
	return handles
}

// check is the one answer to whether a request may start, and if not, why and until when:
// on the endpoint that is soonest, when all take their share of what is ahead. slot is when
// the next attempt ends, 0 when that is not known.
func (q *Engine) check(estimate endpoint.Usage, sized bool, ahead line.Size, slot int64) (w endpoint.Wait) {
	if q.paused {
		return endpoint.Wait{At: endpoint.Never, Cause: endpoint.ManualPause}
	}
	mean := q.sizes.mean()
	ends := endpoint.Ends{Mean: q.duration.value, Next: slot}
	if len(q.endpoints) == 1 {
		return q.endpoints[0].Check(q.now, endpoint.Load(ahead), estimate, sized, mean, ends)
	}
	rates, all := make([]float64, len(q.endpoints)), 0.0
	for _, held := range []bool{false, true} { // those that are held back count when all are
		for i, e := range q.endpoints {
			u := e.Reservation(estimate, sized, mean)
			if _, never := e.Exceeds(u); !never && (held || e.HeldUntil(q.now) <= q.now && !e.HeldOut()) {
				rates[i] = e.PerSecond(mean)
				all += rates[i]
			}
		}
		if all > 0 {
			break
		}
	}
	first := true
	for i, e := range q.endpoints {
		if rates[i] == 0 {
			continue
		}
		g := e.Check(q.now, endpoint.Load(times(ahead, rates[i]/all)), estimate, sized, mean, ends)
		if first || g.At < w.At {
			w, first = g, false
		}
	}
	w.Guessed = w.Guessed || ahead.Requests > 0
	return w
}

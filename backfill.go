package llmqueue

import (
	"time"

	"github.com/llmqueue/llmqueue/internal/window"
)

// WithBackfill lets smaller requests pass the head of the line while it waits for
// room in the limits, as long as that does not put its start off: they use room that
// the head does not need when its turn comes, and leave it a free slot. Without it
// nothing is ever overtaken because it is large. Of what stands behind the head, the
// next 64 in order are looked at.
//
// It holds for what is known: a request that passes and then uses more than it reserved may
// put the head off, as any overrun does, and what others give back is no longer the head's
// alone. Requests of unknown size pass only once there is a mean to reserve. A request
// that passes is charged to its tenant's share, unless nothing else of that tenant waits.
// Nothing passes on an endpoint that has shared limits, nor while a breaker is not closed.
// Position and EstimatedStart are those of a line in which nothing passes.
func WithBackfill() Option { return Option{func(s *settings) { s.backfill = true }} }

// backfillReach is how many requests behind the head are looked at for one that may pass.
const backfillReach = 64

// pass starts requests from behind head, which waits, as long as that does not put it off.
func (q *Queue[P, T]) pass(now time.Time, ns int64, head *record[P, T], free *worker[P, T]) {
	for q.passSome(now, ns, head, &free) {
		q.passAt = 0
	}
}

// passSome is one look at what stands behind head. It reports whether anything started:
// then more has come into reach.
func (q *Queue[P, T]) passSome(now time.Time, ns int64, head *record[P, T], free **worker[P, T]) (started bool) {
	any := false
	for _, e := range q.endpoints {
		e.spare = q.spare(now, ns, e, head)
		any = any || e.spare.Holds(window.Charge{Requests: 1})
	}
	if !any {
		return false
	}
	q.behind = q.behind[:0]
	for handle := range q.line.All() {
		if handle == head.handle {
			continue
		}
		if q.behind = append(q.behind, handle); len(q.behind) == backfillReach {
			break
		}
	}
	for _, handle := range q.behind {
		rec := q.records.at(handle)
		s, ok := q.passage(now, rec)
		if !ok {
			continue
		}
		if *free != nil && (*free).attempt != nil {
			*free = nil
		}
		q.line.Take(handle)
		q.leftLine(rec)
		q.start(now, rec, s, *free)
		s.e.spare = q.spare(now, ns, s.e, head)
		started = true
	}
	return started
}

// spare is what may start on e now without putting head off; nothing while e has other
// reasons to wait.
func (q *Queue[P, T]) spare(now time.Time, ns int64, e *endpoint, head *record[P, T]) window.Spare {
	if len(e.shared) > 0 || !e.mayStart(ns) || e.running+1 >= e.slotsNow() || e.breaker != nil && !e.breaker.IsClosed() {
		return window.Spare{}
	}
	return e.own.Spare(now, charge(q.reservation(e, head.estimate)))
}

// passage reserves for rec on an endpoint where it does not put the head off, or notes when
// it may fit there.
func (q *Queue[P, T]) passage(now time.Time, rec *record[P, T]) (s seat, ok bool) {
	if !rec.sized && q.tokens && !q.sizes.open {
		return s, false
	}
	for _, e := range q.byLoad() {
		s.e, s.usage = e, q.reservation(e, rec.estimate)
		c := charge(s.usage)
		if !e.spare.Holds(c) {
			continue
		}
		if s.taken, ok = e.own.Reserve(now, c); !ok {
			if at, _ := e.own.Next(now, c); !at.IsZero() && (q.passAt == 0 || q.since(at) < q.passAt) {
				q.passAt = q.since(at)
			}
			continue
		}
		if e.permit() {
			return s, true
		}
		e.own.Undo(now, &s.taken)
	}
	return s, false
}

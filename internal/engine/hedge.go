package engine

import (
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/timeline"
)

// This file starts second attempts beside slow ones, from room that nobody waits for.

const (
	hedgesAtOnce = 1   // how many may start before calls have earned one
	hedgesSaved  = 10  // how many that were earned are kept
	timesKept    = 256 // for the quantile of times to first output
	timesNeeded  = 20  // before it counts
	timesReused  = 16  // new times before it is found anew

	// hedgeAgain is how long nothing is looked at again that may not start, at the least.
	hedgeAgain = int64(50 * time.Millisecond)
)

// hedges is when a second attempt may start.
type hedges struct {
	due   timeline.Timeline // attempts, by number
	left  float64           // how many may start by their share of all calls
	times []int64           // to first output, the latest timesKept
	next  int               // where the next one goes
	fresh int               // times since the quantile was found
	known int64             // the quantile; 0: not yet
}

// earn books a call.
func (s *hedges) earn(share float64) { s.left = min(s.left+share, hedgesSaved) }

// seen takes in how long an attempt took until output came.
func (s *hedges) seen(took int64) {
	s.fresh++
	if len(s.times) < timesKept {
		s.times = append(s.times, took)
		return
	}
	s.times[s.next] = took
	s.next = (s.next + 1) % timesKept
}

// after is how long nothing may have come of an attempt, 0 while that is not known.
func (s *hedges) after(cfg *Hedge) int64 {
	if cfg.Quantile == 0 {
		return cfg.After
	}
	if len(s.times) >= timesNeeded && (s.known == 0 || s.fresh >= timesReused) {
		sorted := slices.Clone(s.times)
		slices.Sort(sorted)
		s.known, s.fresh = max(sorted[min(int(cfg.Quantile*float64(len(sorted))), len(sorted)-1)], 1), 0
	}
	if s.known == 0 {
		return 0
	}
	return max(s.known, cfg.After)
}

// watchSlow looks at an attempt again when a second one may start beside it.
func (q *Engine) watchSlow(number uint32) {
	if after := q.hedges.after(&q.cfg.Hedge); after > 0 {
		q.hedges.due.Set(number, endpoint.After(q.now, after))
	}
}

// startHedges starts what is due, as long as nobody waits. What is due and may not start is
// looked at again later.
func (q *Engine) startHedges() {
	for q.hedges.due.Len() > 0 {
		number, at, _ := q.hedges.due.First()
		if at > q.now {
			return
		}
		q.hedges.due.Pop()
		a := q.attempts[number]
		r := q.records.at(a.handle)
		if r.state != Running || q.attemptOf(r) != a || a.pair != 0 {
			continue
		}
		if q.hedges.left < 1 || q.Waiting() > 0 || q.paused || q.cutOff || !q.hedge(a.handle, r, a) {
			q.hedges.due.Set(number, endpoint.After(q.now, max(q.hedges.after(&q.cfg.Hedge)/2, hedgeAgain)))
		}
	}
}

// hedge starts a second attempt of r, at another endpoint if one has room.
func (q *Engine) hedge(h uint32, r *record, a *attempt) bool {
	of, places := q.reach(r), uint64(0)
	for _, e := range q.endpoints {
		if !e.HeldOut() {
			places |= e.Bit & q.places(&of)
		}
	}
	here := a.lease.Endpoint.Bit
	admitted := q.admit(r, places&^here) == endpoint.Admitted || q.admit(r, places&here) == endpoint.Admitted
	for _, e := range q.endpoints {
		e.Withdraw(q.now) // nobody waits there
	}
	if !admitted {
		return false
	}
	b := q.next
	q.next, b.hedge = nil, true
	number := q.number(h, b)
	q.hedges.left--
	q.counts.Hedges++
	a.count++
	a.pair = number + 1
	q.begin(number, b, &a.progress)
	q.Effects = append(q.Effects, Effect{Kind: Start, Handle: h, Attempt: number, Count: int(a.count), Endpoint: b.lease.Endpoint, Hedge: true})
	return true
}

// win ends the other attempt of a request that has two under way.
func (q *Engine) win(r *record, number uint32) {
	latest := q.attemptOf(r)
	if latest.pair == 0 {
		return
	}
	loser := latest.pair - 1
	if latest.pair = 0; loser == number {
		loser = r.attempt - 1
		q.supersede(r, number)
	}
	q.cut(loser, Outrun)
}

// otherGoesOn leaves a request to the other of its two attempts, if it has two, when this one
// has failed.
func (q *Engine) otherGoesOn(r *record, a *attempt, v Verdict) bool {
	latest := q.attemptOf(r)
	if latest.pair == 0 {
		return false
	}
	if v == EndpointFault || v == PassingFault {
		latest.avoid |= a.lease.Endpoint.Bit
	}
	other := latest.pair - 1
	if latest.pair = 0; latest == a {
		q.supersede(r, other)
	}
	return true
}

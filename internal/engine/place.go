package engine

import (
	"cmp"
	"iter"
	"slices"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/line"
)

// This file decides where a request may start. What the head of the line can never use is no
// room of its: a request that may use only some endpoints, and waits for these, steps aside,
// keeps its turn there, and holds nobody up elsewhere.

// group is what waits aside with the same reach.
type group struct {
	reach reach
	stale bool      // limits have changed since: each of them has another reach, perhaps
	line  line.Line // in the order in which they left the line
}

// reach is what decides where a request may start. Requests with the same one may always use
// the same endpoints.
type reach struct {
	fits   uint64 // the endpoints whose limits are not below what it takes
	avoid  uint64 // those that failed it of late
	faulty uint64 // of them those that were at fault themselves
	last   bool   // it has one attempt left, and has made a probe
}

// reach says what decides where r may start.
func (q *Engine) reach(r *record) reach {
	if len(q.endpoints) == 1 {
		return reach{}
	}
	of := reach{fits: q.fits(r)}
	if a := q.attemptOf(r); a != nil {
		of.avoid, of.faulty, of.last = a.avoid|a.faulty, a.faulty, a.probed && int(a.spent)+1 >= q.cfg.MaxAttempts
	}
	return of
}

// maxAside bounds how many requests step aside in one decision.
const maxAside = 64

// fits gives the endpoints whose limits are not below what r takes.
func (q *Engine) fits(r *record) (places uint64) {
	for _, e := range q.endpoints {
		if r.sized() {
			if _, never := e.Exceeds(q.reservation(e, r)); never {
				continue
			}
		}
		places |= e.Bit
	}
	return places
}

// places gives the endpoints where r may start, now or once there is room: those that it fits,
// without those that failed it while another one can take it, and without those that are held
// out while others are not. A probe is made by a request that was not tried yet, or that all
// others failed.
func (q *Engine) places(of *reach) uint64 {
	if len(q.endpoints) == 1 {
		return q.endpoints[0].Bit
	}
	fits, avoid, faulty := of.fits, of.avoid, of.faulty
	var sound, able, probes uint64
	for _, e := range q.endpoints {
		switch bit := e.Bit & fits; {
		case !e.HeldOut():
			sound |= bit
			if e.HeldUntil(q.now) <= q.now {
				able |= bit
			}
		case e.ProbeDue(q.now, false):
			probes |= bit
		}
	}
	switch {
	case sound&^faulty == 0:
		sound, able = fits, fits
	case avoid == 0:
		sound |= probes
	}
	if able&^avoid != 0 {
		return sound &^ avoid
	}
	switch untried := q.eagerProbes(of); {
	case untried != 0:
		return untried
	case sound&^faulty != 0:
		return sound &^ faulty
	}
	return sound
}

// eagerProbes gives the endpoints that a request may probe which can start nowhere else now: it
// must have another attempt left.
func (q *Engine) eagerProbes(of *reach) (places uint64) {
	if len(q.endpoints) == 1 {
		return 0
	}
	for _, e := range q.endpoints {
		if e.ProbeDue(q.now, true) && (e.AtFault() || !of.last) {
			places |= e.Bit & of.fits &^ of.avoid
		}
	}
	return places
}

// tryNow reserves for r, in q.next, at one of its places that earlier ones have not taken, or
// else as a probe.
func (q *Engine) tryNow(r *record, of *reach, taken uint64) endpoint.Admission {
	got := q.admit(r, q.places(of)&^taken)
	if got == endpoint.NotNow {
		if probes := q.eagerProbes(of) &^ taken; probes != 0 {
			return q.admit(r, probes)
		}
	}
	return got
}

// hasOther reports whether some endpoint can take r now, or as soon as it has room, that did
// not fail it.
func (q *Engine) hasOther(r *record, a *attempt) bool {
	if len(q.endpoints) == 1 {
		return false
	}
	fits, avoid := q.fits(r), a.avoid|a.faulty
	return slices.ContainsFunc(q.endpoints, func(e *endpoint.Endpoint) bool {
		return e.Bit&fits&^avoid != 0 && e.HeldUntil(q.now) <= q.now && (!e.HeldOut() || e.ProbeDue(q.now, true))
	})
}

// admit reserves for r, in q.next, at one of the places that has room now. Impossible means
// that it can never fit anywhere.
func (q *Engine) admit(r *record, places uint64) endpoint.Admission {
	if q.next == nil {
		q.next = q.unused()
	}
	mean := q.mean(r.sized())
	impossible := true
	for _, e := range q.preferred() {
		if e.Bit&places == 0 {
			impossible = impossible && r.sized()
			continue
		}
		e.Advance(q.now) // before what starts there, when the timer is late
		switch e.Admit(q.now, e.Reservation(r.estimate, r.sized(), mean), &q.next.lease) {
		case endpoint.Admitted:
			return endpoint.Admitted
		case endpoint.NotNow:
			impossible = false
		}
	}
	if impossible && r.sized() && q.tooLarge(r.estimate) != nil {
		return endpoint.Impossible
	}
	return endpoint.NotNow
}

// preferred gives the endpoints in the order in which they are tried: those that a probe is
// due for, then those that work well, and of these those with the fewest attempts for their
// slots. Chance decides between equals.
func (q *Engine) preferred() []*endpoint.Endpoint {
	n := len(q.endpoints)
	if n == 1 {
		return q.endpoints
	}
	first := q.rand.IntN(n)
	q.order = append(append(q.order[:0], q.endpoints[first:]...), q.endpoints[:first]...)
	fastest := int64(0)
	for _, e := range q.endpoints {
		if d := e.Recent(q.now).FirstOutput; d > 0 && !e.HeldOut() && (fastest == 0 || d < fastest) {
			fastest = d
		}
	}
	rank := func(e *endpoint.Endpoint) int {
		switch {
		case e.ProbeDue(q.now, false):
			return -1
		case e.HeldOut():
			return 3
		}
		return e.Rank(q.now, fastest)
	}
	slices.SortStableFunc(q.order, func(a, b *endpoint.Endpoint) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Running()*b.Slots(), b.Running()*a.Slots()))
	})
	return q.order
}

// roomBeyond reports whether an endpoint outside the places may start something.
func (q *Engine) roomBeyond(places uint64) bool {
	return len(q.endpoints) > 1 && slices.ContainsFunc(q.endpoints, func(e *endpoint.Endpoint) bool {
		return e.Bit&^places != 0 && e.HasRoom(q.now) && (!e.HeldOut() || e.ProbeDue(q.now, true))
	})
}

// setAside puts a request that has left the line with those of the same reach.
func (q *Engine) setAside(h uint32, r *record, of reach, order uint64) {
	i := slices.IndexFunc(q.aside, func(g *group) bool { return g.reach == of && !g.stale })
	if i < 0 {
		i = len(q.aside)
		q.aside = append(q.aside, &group{reach: of})
	}
	if q.asideOrder == nil {
		q.asideOrder = make(map[uint32]uint64)
	}
	q.asideOrder[h] = order
	q.aside[i].line.Return(h, r.priority, order)
}

// takeAside takes a request out of those that stepped aside, and reports whether it was there.
func (q *Engine) takeAside(h uint32) bool {
	if _, ok := q.asideOrder[h]; !ok {
		return false
	}
	delete(q.asideOrder, h)
	for i, g := range q.aside {
		if g.line.Remove(h) {
			if g.line.Len() == 0 {
				q.aside = slices.Delete(q.aside, i, i+1)
			}
			break
		}
	}
	return true
}

// inLine is how many requests wait in line, those that stepped aside included.
func (q *Engine) inLine() int { return q.line.Len() + len(q.asideOrder) }

// heads gives those of the groups and of the line in the order in which they start.
func (q *Engine) heads() []head {
	q.headsBuf = q.headsBuf[:0]
	for _, g := range q.aside {
		h, _ := g.line.Head()
		q.headsBuf = append(q.headsBuf, head{h, g, q.records.at(h).priority, q.asideOrder[h]})
	}
	if h, ok := q.line.Head(); ok {
		q.headsBuf = append(q.headsBuf, head{h, nil, q.records.at(h).priority, q.asideSeq + 1})
	}
	if len(q.headsBuf) > 1 {
		slices.SortFunc(q.headsBuf, head.compare)
	}
	return q.headsBuf
}

// head is the first of those that wait for the same places.
type head struct {
	handle   uint32
	group    *group // nil: of the line
	priority int
	order    uint64
}

// compare is below 0 when a goes before b.
func (a head) compare(b head) int {
	return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.order, b.order))
}

// head is the request whose turn is next.
func (q *Engine) head() (h uint32, ok bool) {
	if len(q.aside) == 0 {
		return q.line.Head()
	}
	return q.heads()[0].handle, true
}

// allInLine gives what waits in line in order: of each priority first those that stepped aside.
// It is worked out while it is consumed, as line.All is.
func (q *Engine) allInLine() iter.Seq[uint32] {
	if len(q.aside) == 0 {
		return q.line.All()
	}
	return func(yield func(uint32) bool) {
		type source struct {
			head
			next func() (uint32, bool)
		}
		var sources []source
		add := func(l *line.Line) (stop func()) {
			next, stop := iter.Pull(l.All())
			sources = append(sources, source{head: head{order: q.asideSeq + 1}, next: next})
			return stop
		}
		for _, g := range q.aside {
			defer add(&g.line)()
		}
		defer add(&q.line)()
		advance := func(i int) {
			of := &sources[i]
			h, ok := of.next()
			if !ok {
				sources = slices.Delete(sources, i, i+1)
				return
			}
			of.handle, of.priority = h, q.records.at(h).priority
			if order, aside := q.asideOrder[h]; aside {
				of.order = order
			}
		}
		for i := len(sources) - 1; i >= 0; i-- {
			advance(i)
		}
		for len(sources) > 0 {
			first := 0
			for i := range sources {
				if sources[i].compare(sources[first].head) < 0 {
					first = i
				}
			}
			if !yield(sources[first].handle) {
				return
			}
			advance(first)
		}
	}
}

// rank is the place of a request in line, or an upper bound.
func (q *Engine) rank(h uint32) int {
	if _, ok := q.asideOrder[h]; !ok {
		return q.line.Rank(h) + len(q.asideOrder)
	}
	rank := int(q.line.Above(q.records.at(h).priority))
	for _, g := range q.aside {
		if n := g.line.Rank(h); n > 0 {
			rank += n
		} else {
			rank += g.line.Len()
		}
	}
	return rank
}

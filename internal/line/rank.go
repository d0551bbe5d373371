package line

import (
	"iter"
	"slices"
)

// Rank returns the place of h in the order of starting if nothing else
// arrives: 1 is next, 0 is not in line. It is exact for a returned request and
// when its priority has one tenant; otherwise it may be too large, never too
// small. Where all requests cost the same it is off by a few for each other
// tenant; one very cheap request loosens it until its priority empties.
//
// It takes a step for each higher priority. Where requests were removed from
// the middle of the tenant's queue it also counts to the nearer end of it, and
// for a returned request it looks at each returned one.
func (l *Line) Rank(h uint32) int {
	if !l.Contains(h) {
		return 0
	}
	t := l.tenants[l.nodes[h].tenant]
	lv := t.level
	rank := 0
	for i := len(l.levels) - 1; l.levels[i] != lv; i-- {
		rank += l.levels[i].count
	}
	if t == lv.returned {
		own := &lv.back.entries[l.places[h]]
		for i := range lv.back.entries {
			if lv.back.less(&lv.back.entries[i], own) {
				rank++
			}
		}
		return rank + 1
	}
	own := t.queue.rank(l.places[h])
	rank += len(lv.back.entries) + own

	// How many of the other tenants' requests go first depends on all costs
	// ahead. A bound needs none of them: the tag of h is at most this far from
	// the virtual time when all of its own tenant's requests cost the most that
	// one does, and each other tenant starts the most requests up to there when
	// they cost the least that one does.
	others := lv.count - len(lv.back.entries) - t.queue.live
	tag := lv.ready.entries[l.spots[t.number]].tag - lv.ready.base
	reach := float64(tag) + float64(own-1)*float64(units(t.most))
	if own > 1 {
		reach += float64(t.owed)
	}
	each := reach/float64(units(lv.least))*(1+1e-9) + 1
	if bound := each * float64(len(lv.ready.entries)-1); bound < float64(others) {
		others = int(bound)
	}
	return rank + others
}

// All returns the requests in the order in which they would start if nothing
// else arrived. It changes nothing. The line must not be changed while the
// sequence runs. It takes memory for each tenant and each returned request of
// the priority it has come to, and none for the others.
func (l *Line) All() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for _, lv := range slices.Backward(l.levels) {
			if !l.walkReturned(lv, yield) || !l.walkReady(lv, yield) {
				return
			}
		}
	}
}

// walkReturned yields the returned requests of a level in order. It returns
// false when the caller has stopped.
func (l *Line) walkReturned(lv *level, yield func(uint32) bool) bool {
	entries := slices.Clone(lv.back.entries)
	slices.SortFunc(entries, func(a, b entry) int {
		if lv.back.less(&a, &b) {
			return -1
		}
		return 1
	})
	for _, e := range entries {
		if !yield(e.id) {
			return false
		}
	}
	return true
}

// walkReady yields the requests of a level that have not started, in order, by
// popping from a copy of its heap in which an id is an index to cursors. It
// returns false when the caller has stopped.
func (l *Line) walkReady(lv *level, yield func(uint32) bool) bool {
	type cursor struct {
		queue *ring
		next  uint32 // ticket
		owed  uint64
	}
	n := len(lv.ready.entries)
	cursors, places := make([]cursor, n), make([]uint32, n)
	ready := heap{base: lv.ready.base, entries: slices.Clone(lv.ready.entries)}
	for i := range ready.entries {
		e := &ready.entries[i]
		t := l.tenants[e.id]
		cursors[i] = cursor{&t.queue, t.queue.head, t.owed}
		e.id = uint32(i)
	}
	for len(ready.entries) > 0 {
		top := &ready.entries[0]
		c := &cursors[top.id]
		if !yield(*c.queue.at(c.next)) {
			return false
		}
		c.next++
		for c.next != c.queue.tail && *c.queue.at(c.next) == gone {
			c.next++
		}
		ready.base = top.tag
		if c.next == c.queue.tail {
			ready.remove(0, places)
			continue
		}
		node := &l.nodes[*c.queue.at(c.next)]
		top.tag, top.seq = ready.ahead(top.tag, c.owed)+units(node.cost), node.seq
		c.owed = 0
		ready.down(0, places)
	}
	return true
}

package line

// Rank returns the place of h in the order of starting if nothing else
// arrives: 1 is next, 0 is not in line. It is exact for a returned request with
// fewer than 256 ahead of it and when its priority has one tenant; otherwise it
// may be too large, never too small. Where all requests cost the same it is off
// by a few for each other tenant; one very cheap request loosens it until its
// priority empties.
//
// It takes O(log n) of the priorities in line. Where requests were removed from
// the middle of the tenant's queue it also counts to the nearer end of it.
func (l *Line) Rank(h uint32) int {
	if !l.Contains(h) {
		return 0
	}
	t := l.tenants[l.nodes[h].tenant]
	lv := t.level
	rank := 0
	if lv != l.top {
		rank = int(l.tree.from(lv.priority).waiting) - lv.count
	}
	if t == lv.returned {
		return rank + lv.back.rank(int(l.places[h]))
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

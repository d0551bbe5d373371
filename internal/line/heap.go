package line

// An entry is one member of a heap.
type entry struct {
	tag uint64 // smallest first
	seq uint32 // of equal tags, the earlier arrival first
	id  uint32 // a tenant's number or a handle
}

// A heap is a binary heap that writes the place of every member to a table of
// the caller's, indexed by id, so that a member can be found and taken out.
type heap struct {
	// Tags are compared by their distance from base, so that virtual time may
	// run through the end of uint64 and around: it needs no resets, and its
	// precision never fades. No tag is ever behind base.
	base    uint64
	entries []entry
}

// less reports whether a goes before b.
func (h *heap) less(a, b *entry) bool {
	if a.tag != b.tag {
		return a.tag-h.base < b.tag-h.base
	}
	return int32(a.seq-b.seq) < 0 // arrival numbers wrap too
}

// ahead returns start put off by more, but not past a cost of 1 from base: what a tenant
// started out of turn must not shut it out for long.
func (h *heap) ahead(start, more uint64) uint64 {
	lead, most := int64(start-h.base), int64(units(1))
	return h.base + uint64(max(lead, min(lead+int64(more), most)))
}

// push adds e.
func (h *heap) push(e entry, places []uint32) {
	h.entries = append(h.entries, e)
	h.up(len(h.entries)-1, places)
}

// remove takes out the entry at place i.
func (h *heap) remove(i int, places []uint32) {
	last := len(h.entries) - 1
	h.entries[i] = h.entries[last]
	h.entries = h.entries[:last]
	if i < last {
		h.fix(i, places)
	}
	if c := cap(h.entries); c > 64 && last <= c/8 {
		h.entries = append(make([]entry, 0, c/2), h.entries...)
	}
}

// rankLimit is up to how many entries ahead a rank is counted.
const rankLimit = 256

// rank returns the place of the entry at place i in order, from 1: exactly as
// long as fewer than rankLimit go first, otherwise the last one possible.
func (h *heap) rank(i int) int {
	own, rank := &h.entries[i], 1
	// What goes first is connected at the top.
	var stack [rankLimit + 2]int
	for n := 1; n > 0; {
		n--
		top := stack[n]
		if !h.less(&h.entries[top], own) {
			continue
		}
		if rank++; rank > rankLimit {
			return len(h.entries)
		}
		for child := 2*top + 1; child <= 2*top+2 && child < len(h.entries); child++ {
			stack[n] = child
			n++
		}
	}
	return rank
}

// fix restores the order after the entry at place i has changed.
func (h *heap) fix(i int, places []uint32) {
	if h.up(i, places) == i {
		h.down(i, places)
	}
}

// up moves the entry at place i toward the top and returns where it ends.
func (h *heap) up(i int, places []uint32) int {
	e := h.entries[i]
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(&e, &h.entries[parent]) {
			break
		}
		h.entries[i] = h.entries[parent]
		places[h.entries[i].id] = uint32(i)
		i = parent
	}
	h.entries[i] = e
	places[e.id] = uint32(i)
	return i
}

// down moves the entry at place i toward the bottom.
func (h *heap) down(i int, places []uint32) {
	e := h.entries[i]
	for {
		child := 2*i + 1
		if child >= len(h.entries) {
			break
		}
		if right := child + 1; right < len(h.entries) && h.less(&h.entries[right], &h.entries[child]) {
			child = right
		}
		if !h.less(&h.entries[child], &e) {
			break
		}
		h.entries[i] = h.entries[child]
		places[h.entries[i].id] = uint32(i)
		i = child
	}
	h.entries[i] = e
	places[e.id] = uint32(i)
}

// Package timeline orders instants by handle: when a retry is due, when a wait
// is over. It reads no clock and arms no timer; the owner looks at the first
// instant and comes back.
package timeline

import "iter"

// keepPlaces is the length up to which the table of places survives an empty
// timeline.
const keepPlaces = 16384

// Timeline is a set of handles, each with an instant in nanoseconds. Its zero
// value is empty and ready to use. A Timeline must not be copied after first
// use and is not safe for concurrent use.
//
// Handles are small numbers that the owner chooses, such as the slots of its
// own records; memory is proportional to the largest one. What is stored per
// handle holds no pointers: 16 bytes for those on the timeline and 4 for each
// number up to the largest.
type Timeline struct {
	entries []entry  // a binary heap
	places  []uint32 // by handle: its place in the heap plus 1, or 0
	seq     uint32   // of the next entry; wraps
	sets    int      // handles added since places was last given back
}

type entry struct {
	at  int64
	seq uint32 // of equal instants, the one set first goes first
	h   uint32
}

func (a *entry) before(b *entry) bool {
	if a.at != b.at {
		return a.at < b.at
	}
	return int32(a.seq-b.seq) < 0
}

// Len returns how many handles have an instant.
func (t *Timeline) Len() int { return len(t.entries) }

// Set gives h the instant at, in place of the one it had. Of equal instants the
// one set first comes first; a handle that is set again counts from then. It
// takes O(log n).
func (t *Timeline) Set(h uint32, at int64) {
	if more := int(h) + 1 - len(t.places); more > 0 {
		t.places = append(t.places, make([]uint32, more)...)
	}
	e := entry{at: at, seq: t.seq, h: h}
	t.seq++
	if p := t.places[h]; p != 0 {
		t.entries[p-1] = e
		t.fix(int(p - 1))
		return
	}
	t.sets++
	t.entries = append(t.entries, e)
	t.up(len(t.entries) - 1)
}

// Remove takes the instant of h away, in O(log n). It returns false when h has
// none.
func (t *Timeline) Remove(h uint32) bool {
	if int(h) >= len(t.places) || t.places[h] == 0 {
		return false
	}
	t.remove(int(t.places[h] - 1))
	return true
}

// At returns the instant of h, and false when h has none. It takes O(1).
func (t *Timeline) At(h uint32) (at int64, ok bool) {
	if int(h) >= len(t.places) || t.places[h] == 0 {
		return 0, false
	}
	return t.entries[t.places[h]-1].at, true
}

// First returns the handle with the earliest instant, and false when there is
// none. It takes O(1).
func (t *Timeline) First() (h uint32, at int64, ok bool) {
	if len(t.entries) == 0 {
		return 0, 0, false
	}
	return t.entries[0].h, t.entries[0].at, true
}

// Pop removes what First returns, in O(log n).
func (t *Timeline) Pop() (h uint32, at int64, ok bool) {
	if h, at, ok = t.First(); ok {
		t.remove(0)
	}
	return h, at, ok
}

// All returns the handles and their instants in no particular order. The
// timeline must not be changed while the sequence runs.
func (t *Timeline) All() iter.Seq2[uint32, int64] {
	return func(yield func(uint32, int64) bool) {
		for i := range t.entries {
			if !yield(t.entries[i].h, t.entries[i].at) {
				return
			}
		}
	}
}

// remove takes out the entry at place i.
func (t *Timeline) remove(i int) {
	last := len(t.entries) - 1
	t.places[t.entries[i].h] = 0
	if i < last {
		t.entries[i] = t.entries[last]
	}
	t.entries = t.entries[:last]
	if i < last {
		t.fix(i)
	}
	if c := cap(t.entries); c > 64 && last <= c/8 {
		t.entries = append(make([]entry, 0, c/2), t.entries...)
	}
	// Growing the table again costs a step for each handle, so it goes only
	// when it has been used as often as it is long.
	if last == 0 && len(t.places) > keepPlaces && t.sets >= len(t.places) {
		t.places, t.sets = nil, 0
	}
}

// fix restores the order after the entry at place i has changed.
func (t *Timeline) fix(i int) {
	if t.up(i) == i {
		t.down(i)
	}
}

// up moves the entry at place i toward the top and returns where it ends.
func (t *Timeline) up(i int) int {
	e := t.entries[i]
	for i > 0 {
		parent := (i - 1) / 2
		if !e.before(&t.entries[parent]) {
			break
		}
		t.put(i, t.entries[parent])
		i = parent
	}
	t.put(i, e)
	return i
}

// down moves the entry at place i toward the bottom.
func (t *Timeline) down(i int) {
	e := t.entries[i]
	for {
		child := 2*i + 1
		if child >= len(t.entries) {
			break
		}
		if right := child + 1; right < len(t.entries) && t.entries[right].before(&t.entries[child]) {
			child = right
		}
		if !t.entries[child].before(&e) {
			break
		}
		t.put(i, t.entries[child])
		i = child
	}
	t.put(i, e)
}

func (t *Timeline) put(i int, e entry) {
	t.entries[i] = e
	t.places[e.h] = uint32(i) + 1
}

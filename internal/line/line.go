// Package line is the order in which the requests of one queue start: higher
// priority first, equal shares between the tenants of a priority, first come
// first served within a tenant.
//
// # Order
//
// Priority is strict: nothing of a lower priority starts while something of a
// higher one waits, and nothing ages.
//
// Within a priority, tenants share by cost. The method is self-clocked fair
// queueing: the head request of each tenant carries a finish tag, the virtual
// time at which the tenant became ready for it plus its cost. The smallest tag
// goes next, and the virtual time moves to it. Two tenants that both have work
// waiting therefore start equal amounts of cost, however many requests each of
// them has piled up. A tenant that has nothing waiting keeps no tag, and needs
// none: virtual time is never behind the last tag it used, so coming back earns
// neither credit nor penalty.
//
// A request that started once and has to start again (a retry) returns ahead of
// everything of its priority that has not started, and its tenant is not
// charged for it again.
//
// # Memory
//
// What is stored per waiting request holds no pointers, so the garbage
// collector does not walk the line: 16 bytes in tables that the handle indexes
// and 4 in the ring of its tenant. The tables are as long as the largest handle
// in use; they are given back when the line empties.
package line

import "math"

const (
	gone       = ^uint32(0) // a ring slot whose request was removed
	keepNodes  = 16384      // tables up to this length survive an empty line
	keepSpares = 1024       // records of tenants kept for reuse, and places in tables of them
	keepLevels = 8          // records of levels kept for reuse
)

// Line is a waiting line of handles. Its zero value is an empty line ready to
// use. A Line must not be copied after first use and is not safe for concurrent
// use: the owner's lock guards it.
//
// Handles are small numbers that the owner chooses, such as the slots of its
// own records; memory is proportional to the largest one. A handle is in line at
// most once and may be used again as soon as it has left. The largest uint32 is
// not a handle.
type Line struct {
	tree   tree   // levels and sums by priority
	top    *level // the highest in which somebody waits, or nil
	count  int    // requests waiting, in all levels
	seq    uint32 // the next arrival number; wraps
	pushes int    // arrivals since the tables below were last given back

	// Indexed by handle. They are apart so that a heap of handles and a heap
	// of tenants can record places in the same way.
	nodes  []node
	places []uint32 // the ticket in its tenant's ring; for a returned request, its place in the heap

	// Indexed by a tenant's number. Number 0 is nobody.
	tenants []*tenant
	spots   []uint32 // the tenant's place in its level's heap
	free    []uint32 // numbers free to use again

	spareTenants []*tenant
	spareLevels  []*level
	steps        []step // for All
}

// A node is what the line knows of a waiting request, apart from its place.
type node struct {
	tenant uint32  // the number of its tenant; 0 when the handle is not in line
	seq    uint32  // arrival number, which decides between equal tags
	cost   float32 // see Push
}

// Book adds delta to the size of what waits with that priority. The line does
// not know the sizes of its requests: the owner books what joins, takes out what
// leaves, and may do both at any time before or after.
func (l *Line) Book(priority int, delta Size) {
	l.tree.add(priority, &sum{size: delta})
}

// Ahead returns the size of all that waits with that priority or a higher one,
// as it was booked. Like everything about a priority it takes O(log n) of those
// in line.
func (l *Line) Ahead(priority int) Size { return l.tree.from(priority).size }

// Len returns how many requests wait.
func (l *Line) Len() int { return l.count }

// Contains reports whether h is in line.
func (l *Line) Contains(h uint32) bool {
	return int(h) < len(l.nodes) && l.nodes[h].tenant != 0
}

// Push puts h, which must not be in line, at the end of its tenant's queue. The
// tenant's name counts within the priority only; the empty name is a tenant
// too. The cost is what starting h charges to its tenant: the largest fraction,
// above 0 and up to 1, that the request takes of any limit. A cost that is not
// above 1e-9 counts as 1e-9, one above a million as a million.
//
// Push panics when h is in line already.
func (l *Line) Push(h uint32, priority int, tenant string, cost float64) {
	l.admit(h)
	lv := l.join(priority)
	t := lv.last
	if t == nil || t.name != tenant {
		t = l.tenant(lv, tenant)
	}
	c := clean(cost)
	lv.least = min(lv.least, c)
	t.most = max(t.most, c)

	l.nodes[h] = node{tenant: t.number, seq: l.seq, cost: c}
	l.places[h] = t.queue.push(h)
	if t.queue.live == 1 {
		t.start = lv.ready.base
		lv.ready.push(entry{tag: t.start + units(c), seq: l.seq, id: t.number}, l.spots)
	}
	l.seq++
}

// Return puts h, which must not be in line, back: ahead of everything of its
// priority that has not started. Among returned requests the lower order goes
// first, and of equal orders the one that returned first. No tenant is charged
// when h starts again.
//
// Return panics when h is in line already.
func (l *Line) Return(h uint32, priority int, order uint64) {
	l.admit(h)
	lv := l.join(priority)
	if lv.returned == nil {
		lv.returned = l.enlist(lv, "")
	}
	l.nodes[h] = node{tenant: lv.returned.number, seq: l.seq}
	lv.back.push(entry{tag: order, seq: l.seq, id: h}, l.places)
	l.seq++
}

// Head returns the request that starts next, and false when the line is empty.
func (l *Line) Head() (h uint32, ok bool) {
	if l.count == 0 {
		return 0, false
	}
	lv := l.top
	if len(lv.back.entries) > 0 {
		return lv.back.entries[0].id, true
	}
	return l.tenants[lv.ready.entries[0].id].queue.first(), true
}

// Pop removes the request that starts next and charges its tenant. It returns
// false when the line is empty.
func (l *Line) Pop() (h uint32, ok bool) {
	if l.count == 0 {
		return 0, false
	}
	lv := l.top
	if len(lv.back.entries) > 0 {
		h = lv.back.entries[0].id
		lv.back.remove(0, l.places)
		l.leave(h, lv)
		return h, true
	}
	top := &lv.ready.entries[0]
	t := l.tenants[top.id]
	h = t.queue.pop(l.places)
	v := top.tag
	lv.ready.base = v
	if t.queue.live == 0 {
		l.dismiss(t)
	} else {
		n := &l.nodes[t.queue.first()]
		t.start = lv.ready.ahead(v, t.owed)
		t.owed = 0
		top.tag, top.seq = t.start+units(n.cost), n.seq
		lv.ready.down(0, l.spots)
	}
	l.leave(h, lv)
	return h, true
}

// Take is Pop for a request that starts out of turn, wherever it stands: its tenant is
// charged as if its turn had come, but for no more than a cost of 1 ahead of
// the virtual time, and not when nothing else of it waits. No request that is
// ahead of h is put back by that. It returns false when h is not in line.
func (l *Line) Take(h uint32) bool {
	if !l.Contains(h) {
		return false
	}
	if head, _ := l.Head(); head == h {
		l.Pop()
		return true
	}
	n := l.nodes[h]
	if t := l.tenants[n.tenant]; t != t.level.returned {
		if t.queue.first() == h {
			ready := &t.level.ready
			tag := ready.entries[l.spots[t.number]].tag
			t.start = ready.ahead(t.start, tag-t.start+t.owed)
			t.owed = 0
		} else {
			t.owed = min(t.owed+units(n.cost), units(1))
		}
	}
	return l.Remove(h)
}

// Remove takes h out of the line, wherever it stands and without a scan, and
// charges nobody. It returns false when h is not in line.
func (l *Line) Remove(h uint32) bool {
	if !l.Contains(h) {
		return false
	}
	t := l.tenants[l.nodes[h].tenant]
	lv := t.level
	if t == lv.returned {
		lv.back.remove(int(l.places[h]), l.places)
		l.leave(h, lv)
		return true
	}
	head := t.queue.first() == h
	t.queue.remove(l.places[h], l.places)
	switch {
	case t.queue.live == 0:
		l.dismiss(t)
	case head:
		l.retag(t)
	}
	l.leave(h, lv)
	return true
}

// SetCost changes what starting h will charge to its tenant; see Push for its
// range. It does nothing when h is not in line or has started before.
func (l *Line) SetCost(h uint32, cost float64) {
	if !l.Contains(h) {
		return
	}
	n := &l.nodes[h]
	t := l.tenants[n.tenant]
	lv := t.level
	if t == lv.returned {
		return
	}
	n.cost = clean(cost)
	lv.least = min(lv.least, n.cost)
	t.most = max(t.most, n.cost)
	if t.queue.first() == h {
		l.retag(t)
	}
}

// admit makes room for h in the tables.
func (l *Line) admit(h uint32) {
	if h == gone {
		panic("line: not a handle: the largest uint32")
	}
	if more := int(h) + 1 - len(l.nodes); more > 0 {
		l.nodes = append(l.nodes, make([]node, more)...)
		l.places = append(l.places, make([]uint32, more)...)
	} else if l.nodes[h].tenant != 0 {
		panic("line: the handle is in line already")
	}
	l.pushes++
}

// leave forgets h, which its tenant or heap no longer holds, and what has
// become empty without it.
func (l *Line) leave(h uint32, lv *level) {
	l.nodes[h].tenant = 0
	lv.count--
	l.count--
	slot := l.tree.add(lv.priority, &sum{waiting: -1})
	if lv.count == 0 {
		if slot != nil {
			*slot = nil
		}
		l.drop(lv)
	}
	if l.count == 0 {
		l.rest()
	}
}

// rest gives memory back when nobody waits.
func (l *Line) rest() {
	// An owner may use large handles in a line that is short. Growing the
	// tables again for each of them would cost more than the line itself, so
	// they go only when they have been used as often as they are long.
	if len(l.nodes) > keepNodes && l.pushes >= len(l.nodes) {
		l.nodes, l.places, l.pushes = nil, nil, 0
	}
	if len(l.tenants) > keepSpares {
		l.tenants, l.spots, l.free = nil, nil, nil
	}
}

// Above returns how many requests of higher priorities wait.
func (l *Line) Above(priority int) int64 {
	if priority == math.MaxInt {
		return 0
	}
	return l.tree.from(priority + 1).waiting
}

// Before returns how many requests start before one of that priority and tenant that comes now,
// whatever others cost: all of a higher priority, those that started before, and those of its
// own tenant.
func (l *Line) Before(priority int, tenant string) int64 {
	n := l.tree.from(priority).waiting
	lv := l.tree.last(priority)
	if lv == nil || lv.priority != priority {
		return n
	}
	n += int64(len(lv.back.entries) - lv.count)
	if t := l.find(lv, tenant); t != nil {
		n += int64(t.queue.live)
	}
	return n
}

package line

import (
	"maps"
	"math"
)

// A level is everything that waits with one priority.
type level struct {
	priority int
	count    int     // requests waiting, the returned ones included
	ready    heap    // tenants by the finish tag of their head; its base is the virtual time
	back     heap    // returned requests by their order
	returned *tenant // who the returned requests belong to; nil while there was none

	last *tenant // the one found last; nil when it has left

	// Tenants by name. A few are found without it, by looking at each, and it
	// is filled when they are more; from then on until the level empties it
	// holds them all.
	names   map[string]*tenant
	indexed bool
	peak    int // most names since it was made: a map does not shrink by itself

	least float32 // the least that one cost since the level was empty
}

// A tenant is one that has requests waiting in a level.
type tenant struct {
	level  *level
	name   string
	number uint32 // its index in the tables of the line
	queue  ring
	start  uint64  // virtual time at which it became ready for its head
	owed   uint64  // cost of what was taken from behind its head, charged when that starts
	most   float32 // the most that one cost since it had nothing waiting
}

const fewTenants = 8 // up to so many are found by looking at each

// join returns the level of that priority, a new one if need be, in which one
// more request waits from now on.
func (l *Line) join(priority int) *level {
	slot := l.tree.add(priority, &sum{waiting: 1})
	lv := *slot
	if lv == nil {
		if n := len(l.spareLevels); n > 0 {
			lv, l.spareLevels[n-1] = l.spareLevels[n-1], nil
			l.spareLevels = l.spareLevels[:n-1]
		} else {
			lv = new(level)
		}
		lv.priority, lv.least = priority, math.MaxFloat32
		*slot = lv
		if l.top == nil || l.top.priority < priority {
			l.top = lv
		}
	}
	lv.count++
	l.count++
	return lv
}

// drop forgets a level in which nobody waits, and which has left the tree.
func (l *Line) drop(lv *level) {
	if l.top == lv {
		l.top = l.tree.below(lv.priority)
	}
	if lv.returned != nil {
		l.delist(lv.returned)
		lv.returned = nil
	}
	if len(l.spareLevels) < keepLevels {
		// Its heaps and names are empty by now, and have shrunk. Virtual time
		// may stay where it is: only distances from it count.
		l.spareLevels = append(l.spareLevels, lv)
	}
}

// tenant returns the tenant of that name in a level, a new one if need be.
func (l *Line) tenant(lv *level, name string) *tenant {
	t := l.find(lv, name)
	if t == nil {
		t = l.enlist(lv, name)
		if !lv.indexed && len(lv.ready.entries) >= fewTenants {
			lv.indexed = true
			if lv.names == nil {
				lv.names = make(map[string]*tenant, 2*fewTenants)
			}
			for _, e := range lv.ready.entries {
				other := l.tenants[e.id]
				lv.names[other.name] = other
			}
		}
		if lv.indexed {
			lv.names[name] = t
			lv.peak = max(lv.peak, len(lv.names))
		}
	}
	lv.last = t
	return t
}

// find returns the tenant of that name in a level, or nil.
func (l *Line) find(lv *level, name string) *tenant {
	if lv.indexed {
		return lv.names[name]
	}
	for _, e := range lv.ready.entries {
		if t := l.tenants[e.id]; t.name == name {
			return t
		}
	}
	return nil
}

// dismiss forgets a tenant that has nothing waiting any more.
func (l *Line) dismiss(t *tenant) {
	lv := t.level
	lv.ready.remove(int(l.spots[t.number]), l.spots)
	if lv.last == t {
		lv.last = nil
	}
	if lv.indexed {
		delete(lv.names, t.name)
		if n := len(lv.names); lv.peak > keepSpares && n < lv.peak/4 {
			names := make(map[string]*tenant, n)
			maps.Copy(names, lv.names)
			lv.names, lv.peak = names, n
		}
		lv.indexed = len(lv.ready.entries) > 0
	}
	l.delist(t)
}

// enlist gives a tenant a number. Its queue is empty.
func (l *Line) enlist(lv *level, name string) *tenant {
	var t *tenant
	if n := len(l.spareTenants); n > 0 {
		t, l.spareTenants[n-1] = l.spareTenants[n-1], nil
		l.spareTenants = l.spareTenants[:n-1]
	} else {
		t = new(tenant)
	}
	if n := len(l.free); n > 0 {
		t.number = l.free[n-1]
		l.free = l.free[:n-1]
		l.tenants[t.number] = t
	} else {
		if len(l.tenants) == 0 { // number 0 is nobody
			l.tenants, l.spots = append(l.tenants, nil), append(l.spots, 0)
		}
		t.number = uint32(len(l.tenants))
		l.tenants, l.spots = append(l.tenants, t), append(l.spots, 0)
	}
	t.level, t.name = lv, name
	return t
}

// delist takes a tenant's number back and keeps its record for the next one.
func (l *Line) delist(t *tenant) {
	l.tenants[t.number] = nil
	l.free = append(l.free, t.number)
	if len(l.spareTenants) < keepSpares {
		t.level, t.name, t.most, t.owed = nil, "", 0, 0 // its ring is empty, and has shrunk
		l.spareTenants = append(l.spareTenants, t)
	}
}

// retag computes the tag of a tenant again after its head was replaced or has
// another cost. What the tenant has waited for stays with it, but a tag is
// never behind the virtual time, which must not run backward.
func (l *Line) retag(t *tenant) {
	ready := &t.level.ready
	n := &l.nodes[t.queue.first()]
	tag := t.start + units(n.cost)
	if int64(tag-ready.base) < 0 {
		tag = ready.base
	}
	i := int(l.spots[t.number])
	ready.entries[i].tag, ready.entries[i].seq = tag, n.seq
	ready.fix(i, l.spots)
}

// clean brings a cost into range; see Line.Push.
func clean(cost float64) float32 {
	const least, most = 1e-9, 1e6
	if !(cost > least) { // not a number is not above it either
		return least
	}
	return float32(min(cost, most))
}

// units converts a cost to virtual time, of which one unit is 2⁻⁴⁰. The largest
// cost is less than 2⁶⁰ units, so all tags lie close enough together to be
// compared while virtual time wraps.
func units(cost float32) uint64 { return uint64(float64(cost) * (1 << 40)) }

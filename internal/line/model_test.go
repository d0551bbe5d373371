package line

import (
	"cmp"
	"slices"
)

// A model is the line written down as its contract says it, with a list for
// everything and a search for every question. Its virtual time is a float64,
// which is exact as long as costs are multiples of 1/64.
type model struct {
	levels map[int]*modelLevel
	seq    int
}

type modelLevel struct {
	v        float64
	tenants  map[string]*modelTenant
	returned []modelRequest
}

type modelTenant struct {
	start, finish float64
	owed          float64 // for what was taken from behind its first
	queue         []modelRequest
}

// ahead puts start off by more, to a cost of 1 past the virtual time at most.
func (lv *modelLevel) ahead(start, more float64) float64 {
	return max(start, min(start+more, lv.v+1))
}

type modelRequest struct {
	h     uint32
	seq   int
	cost  float64
	order uint64
}

func (m *model) level(priority int) *modelLevel {
	if m.levels == nil {
		m.levels = map[int]*modelLevel{}
	}
	if m.levels[priority] == nil {
		m.levels[priority] = &modelLevel{tenants: map[string]*modelTenant{}}
	}
	return m.levels[priority]
}

func (m *model) push(h uint32, priority int, name string, cost float64) {
	lv := m.level(priority)
	t := lv.tenants[name]
	if t == nil {
		t = &modelTenant{start: lv.v, finish: lv.v + cost}
		lv.tenants[name] = t
	}
	m.seq++
	t.queue = append(t.queue, modelRequest{h: h, seq: m.seq, cost: cost})
}

func (m *model) giveBack(h uint32, priority int, order uint64) {
	lv := m.level(priority)
	m.seq++
	lv.returned = append(lv.returned, modelRequest{h: h, seq: m.seq, order: order})
}

func (m *model) pop() (uint32, bool) {
	if len(m.levels) == 0 {
		return 0, false
	}
	var top int
	first := true
	for p := range m.levels {
		if first || p > top {
			top, first = p, false
		}
	}
	lv := m.levels[top]
	if len(lv.returned) > 0 {
		r := slices.MinFunc(lv.returned, func(a, b modelRequest) int {
			return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.seq, b.seq))
		})
		m.remove(r.h)
		return r.h, true
	}
	var next *modelTenant
	var name string
	for n, t := range lv.tenants {
		if next == nil || t.finish < next.finish ||
			t.finish == next.finish && t.queue[0].seq < next.queue[0].seq {
			next, name = t, n
		}
	}
	h := next.queue[0].h
	lv.v = next.finish
	next.queue = next.queue[1:]
	if len(next.queue) > 0 {
		next.start = lv.ahead(lv.v, next.owed)
		next.owed = 0
		next.finish = next.start + next.queue[0].cost
	} else {
		delete(lv.tenants, name)
	}
	m.tidy(top)
	return h, true
}

func (m *model) take(h uint32) bool {
	if order := m.order(); len(order) > 0 && order[0] == h {
		m.pop()
		return true
	}
	for _, lv := range m.levels {
		for _, t := range lv.tenants {
			switch i := slices.IndexFunc(t.queue, func(r modelRequest) bool { return r.h == h }); {
			case i == 0:
				t.start = lv.ahead(t.start, t.finish-t.start+t.owed)
				t.owed = 0
			case i > 0:
				t.owed = min(t.owed+t.queue[i].cost, 1)
			}
		}
	}
	return m.remove(h)
}

func (m *model) remove(h uint32) bool {
	is := func(r modelRequest) bool { return r.h == h }
	for p, lv := range m.levels {
		if i := slices.IndexFunc(lv.returned, is); i >= 0 {
			lv.returned = slices.Delete(lv.returned, i, i+1)
			m.tidy(p)
			return true
		}
		for name, t := range lv.tenants {
			i := slices.IndexFunc(t.queue, is)
			if i < 0 {
				continue
			}
			t.queue = slices.Delete(slices.Clone(t.queue), i, i+1)
			if len(t.queue) == 0 {
				delete(lv.tenants, name)
				m.tidy(p)
			} else if i == 0 {
				t.finish = max(lv.v, t.start+t.queue[0].cost)
			}
			return true
		}
	}
	return false
}

func (m *model) setCost(h uint32, cost float64) {
	for _, lv := range m.levels {
		for _, t := range lv.tenants {
			for i := range t.queue {
				if t.queue[i].h != h {
					continue
				}
				t.queue[i].cost = cost
				if i == 0 {
					t.finish = max(lv.v, t.start+cost)
				}
			}
		}
	}
}

func (m *model) tidy(priority int) {
	if lv := m.levels[priority]; len(lv.tenants) == 0 && len(lv.returned) == 0 {
		delete(m.levels, priority)
	}
}

// clone is a model that goes its own way.
func (m *model) clone() *model {
	c := &model{levels: map[int]*modelLevel{}, seq: m.seq}
	for p, lv := range m.levels {
		l := &modelLevel{v: lv.v, tenants: map[string]*modelTenant{}, returned: slices.Clone(lv.returned)}
		for name, t := range lv.tenants {
			l.tenants[name] = &modelTenant{t.start, t.finish, t.owed, slices.Clone(t.queue)}
		}
		c.levels[p] = l
	}
	return c
}

// order returns all requests in the order of popping them.
func (m *model) order() (order []uint32) {
	c := m.clone()
	for h, ok := c.pop(); ok; h, ok = c.pop() {
		order = append(order, h)
	}
	return order
}

// above is how many requests have a higher priority, and before how many start before one of that
// priority and tenant that comes now, whatever any costs.
func (m *model) above(priority int) (n int64) {
	for p, lv := range m.levels {
		if p <= priority {
			continue
		}
		n += int64(len(lv.returned))
		for _, t := range lv.tenants {
			n += int64(len(t.queue))
		}
	}
	return n
}

func (m *model) before(priority int, tenant string) int64 {
	n := m.above(priority)
	if lv := m.levels[priority]; lv != nil {
		n += int64(len(lv.returned))
		if t := lv.tenants[tenant]; t != nil {
			n += int64(len(t.queue))
		}
	}
	return n
}

// exact reports whether the rank of h must be exact: it has been returned, or
// its priority has one tenant.
func (m *model) exact(h uint32) bool {
	for _, lv := range m.levels {
		if slices.ContainsFunc(lv.returned, func(r modelRequest) bool { return r.h == h }) {
			return true
		}
		for _, t := range lv.tenants {
			if slices.ContainsFunc(t.queue, func(r modelRequest) bool { return r.h == h }) {
				return len(lv.tenants) == 1
			}
		}
	}
	return false
}

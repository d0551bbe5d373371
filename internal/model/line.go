package model

import (
	"slices"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

func (m *model) cost(u endpoint.Usage) uint64 {
	share := 1e-9
	for _, l := range m.limits {
		share = max(share, float64(l.Takes(u))/float64(l.Amount))
	}
	return uint64(float64(float32(share)) * (1 << 40))
}

// tenantLine is what waits of a tenant in a priority and has not started yet.
func (m *model) tenantLine(priority int, tenant string) (out []*modelRequest) {
	for _, r := range m.line {
		if r.Priority == priority && r.Tenant == tenant && r.tries == 0 {
			out = append(out, r)
		}
	}
	return out
}

func (m *model) level(priority int) *modelLevel {
	if m.levels[priority] == nil {
		m.levels[priority] = &modelLevel{start: map[string]uint64{}}
	}
	return m.levels[priority]
}

func (m *model) join(r *modelRequest) {
	r.state = "line"
	m.line = append(m.line, r)
	if r.tries > 0 {
		return
	}
	lv := m.level(r.Priority)
	if _, ok := lv.start[r.Tenant]; !ok {
		lv.start[r.Tenant] = lv.virtual
	}
}

// leave takes r out of line without starting it.
func (m *model) leave(r *modelRequest) {
	m.line = slices.DeleteFunc(m.line, func(o *modelRequest) bool { return o == r })
	if r.tries == 0 && len(m.tenantLine(r.Priority, r.Tenant)) == 0 {
		delete(m.level(r.Priority).start, r.Tenant)
	}
}

func (lv *modelLevel) tag(r *modelRequest) uint64 {
	return max(lv.start[r.Tenant]+r.cost, lv.virtual)
}

// head is who starts next: the highest priority, in it those that return first, in
// order, then the tenant with the smallest tag, in it first come first served.
func (m *model) head() *modelRequest {
	var best *modelRequest
	before := func(a, b *modelRequest) bool {
		switch {
		case a.Priority != b.Priority:
			return a.Priority > b.Priority
		case (a.tries > 0) != (b.tries > 0):
			return a.tries > 0
		case a.tries > 0:
			return a.seq < b.seq
		case a.Tenant == b.Tenant:
			return a.seq < b.seq
		}
		lv := m.level(a.Priority)
		if x, y := lv.tag(a), lv.tag(b); x != y {
			return x < y
		}
		return a.seq < b.seq
	}
	for _, r := range m.line {
		if r.tries == 0 && m.tenantLine(r.Priority, r.Tenant)[0] != r {
			continue
		}
		if best == nil || before(r, best) {
			best = r
		}
	}
	return best
}

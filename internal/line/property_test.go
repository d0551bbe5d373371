package line

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLineDoesWhatTheModelDoes(t *testing.T) {
	shapes := []struct {
		name                string
		priorities, tenants int
		handles             int
		grow                float64 // the share of steps that add, while it grows
		removals            int     // of ten steps that take away, how many remove
	}{
		{"one tenant", 1, 1, 300, 0.6, 5},
		{"one tenant, mostly cancelled", 1, 1, 300, 0.7, 10},
		{"two tenants", 1, 2, 200, 0.6, 3},
		{"a few tenants in three priorities", 3, 5, 150, 0.6, 5},
		{"many tenants", 1, 40, 150, 0.6, 5},
		{"many tenants, many priorities", 12, 20, 150, 0.55, 5},
		{"nearly empty", 3, 12, 30, 0.5, 3},
	}
	for _, s := range shapes {
		for seed := range uint64(6) {
			t.Run(fmt.Sprintf("%s/%d", s.name, seed), func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 1))
				l, m := &Line{}, &model{}
				if seed%2 == 1 { // numbers that are about to wrap
					l.seq = math.MaxUint32 - 400
					l.spareLevels = []*level{{ready: heap{base: math.MaxUint64 - 20<<40}}}
				}
				cost := func() float64 { return float64(1+r.IntN(64)) / 64 }
				if seed%3 == 2 { // everything costs the same, so that ties decide
					cost = func() float64 { return 0.5 }
				}
				priority := func() int { return 7 * (r.IntN(s.priorities) - s.priorities/2) }
				grow := true
				for step := range 1500 {
					if step%300 == 0 || l.Len() == s.handles {
						grow = l.Len() < s.handles/2
					}
					h := uint32(r.IntN(s.handles))
					share := s.grow
					if !grow {
						share = 1 - s.grow
					}
					switch add := r.Float64() < share; {
					case r.IntN(8) == 0:
						c := cost()
						l.SetCost(h, c)
						m.setCost(h, c)
					case add && l.Contains(h):
						require.Panics(t, func() { l.Push(h, 0, "", 1) })
					case add && r.IntN(6) == 0:
						p, o := priority(), r.Uint64N(8)<<61
						l.Return(h, p, o)
						m.giveBack(h, p, o)
					case add:
						p, n, c := priority(), fmt.Sprint(r.IntN(s.tenants)), cost()
						l.Push(h, p, n, c)
						m.push(h, p, n, c)
					case r.IntN(10) < s.removals:
						require.Equal(t, m.remove(h), l.Remove(h), "step %d: Remove(%d)", step, h)
					default:
						head, any := l.Head()
						got, ok := l.Pop()
						want, wantOK := m.pop()
						require.Equal(t, wantOK, ok)
						require.Equal(t, want, got, "step %d: the wrong request starts", step)
						require.Equal(t, got, head, "step %d: Head announced another request than Pop gave", step)
						require.Equal(t, ok, any)
					}
					if step%5 == 0 || l.Len() < 3 {
						agree(t, l, m, s.handles)
					}
				}
				for h, ok := l.Pop(); ok; h, ok = l.Pop() {
					want, _ := m.pop()
					require.Equal(t, want, h)
				}
				agree(t, l, m, s.handles)
			})
		}
	}
}

// agree requires that everything a user can ask of the line is what the model
// says, and that the line is sound within.
func agree(t *testing.T, l *Line, m *model, handles int) {
	t.Helper()
	want := m.order()
	got := slices.Collect(l.All())
	require.Equal(t, want, got, "All is not the order of starting")
	require.Equal(t, len(want), l.Len())
	for i, h := range want {
		require.True(t, l.Contains(h))
		if rank := l.Rank(h); m.exact(h) {
			require.Equal(t, i+1, rank, "%d is told the wrong position", h)
		} else {
			require.GreaterOrEqual(t, rank, i+1, "%d is told a position that is too good", h)
			require.LessOrEqual(t, rank, len(want))
		}
	}
	in := 0
	for h := range uint32(handles + 1) {
		if l.Contains(h) {
			in++
		} else {
			require.Zero(t, l.Rank(h))
		}
	}
	require.Equal(t, len(want), in)
	sound(t, l)
}

// sound requires that the line holds nothing that it should have let go of.
func sound(t *testing.T, l *Line) {
	t.Helper()
	tenants := 0
	for i, lv := range l.levels {
		require.Positive(t, lv.count, "an empty level was kept")
		if i > 0 {
			require.Less(t, l.levels[i-1].priority, lv.priority)
		}
		waiting := len(lv.back.entries)
		tenants += len(lv.ready.entries)
		if lv.returned != nil {
			tenants++
		}
		for place, e := range lv.ready.entries {
			q := &l.tenants[e.id].queue
			require.Equal(t, place, int(l.spots[e.id]))
			require.Positive(t, q.live, "a tenant was kept that has nothing waiting")
			require.LessOrEqual(t, q.span()-q.live, max(q.live, keepRing), "the gaps were not closed")
			require.LessOrEqual(t, len(q.slots), max(keepRing, 8*q.span()), "a ring did not shrink")
			waiting += q.live
		}
		require.Equal(t, lv.count, waiting)
		require.Equal(t, lv.indexed, len(lv.names) > 0)
		if lv.indexed {
			require.Len(t, lv.names, len(lv.ready.entries))
		}
	}
	require.Equal(t, tenants, max(len(l.tenants)-1, 0)-len(l.free), "tenant numbers were lost")
	if l.Len() == 0 {
		require.Empty(t, l.levels)
		require.Nil(t, l.recent)
		require.LessOrEqual(t, len(l.nodes), keepNodes)
		require.LessOrEqual(t, len(l.tenants), keepSpares)
		for _, n := range l.nodes {
			require.Zero(t, n.tenant)
		}
		for _, tn := range l.tenants {
			require.Nil(t, tn)
		}
	}
	for _, lv := range l.spareLevels {
		require.Empty(t, lv.names)
		require.Empty(t, lv.ready.entries)
		require.Empty(t, lv.back.entries)
		require.Nil(t, lv.last)
	}
}

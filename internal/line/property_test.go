package line

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLineDoesWhatTheModelDoes runs random steps on a line and on its model, and
// compares what both say after each few. Each of these faults was put into the
// package on purpose, and each made it fail:
//
// Order
//   - the lowest priority starts first
//   - of equal tags, the later arrival goes first
//   - the next head of a tenant is charged what the one before it cost
//   - the next head of a tenant keeps the arrival number of the one before it
//   - the heap is not restored after a tenant was charged
//   - a changed tag can sink in the heap but not rise
//   - sinking does not record places, or overlooks the last child
//
// Fairness
//   - virtual time stays where it is when a request starts
//   - a tenant that joins is given a tag from time zero: credit for idleness
//   - a returned request moves virtual time: its tenants pay again
//   - a tag may fall behind virtual time when the head becomes cheaper
//   - whoever cancels its head, or changes its cost, waits anew
//   - the tag is not computed again when the head is canceled
//   - the tag is not computed again when the head's cost changes
//   - tags, or arrival numbers, are compared without regard to wrapping
//
// Out of turn
//   - Take charges nobody, or charges the tenant's head for what stood behind it
//   - it charges more than a cost of 1 ahead, or moves virtual time
//   - what is owed is charged again and again, or is not in All, or not in Rank
//
// Leaving
//   - a handle that left still counts as in line
//   - removing a returned request removes the first of them
//   - slots whose request is gone are not skipped when they come to the front
//   - slots that are gone are kept at the end, or in the middle however many
//   - closing the gaps does not give the survivors their new tickets
//   - a ring that grows or shrinks moves tickets to other slots
//   - a ring does not shrink
//   - the last used tenant, or level, is remembered after it left
//   - the name of a tenant that left stays in the map
//   - the map is not filled with the tenants that were there before it
//   - the number of a level's returned requests is never given back
//   - the table of tenants keeps one that left
//
// Looking
//   - Rank ignores higher priorities, or returned requests, or counts gaps
//   - Rank is off by one when it counts from the end
//   - the bound for other tenants leaves out the one at the tag itself
//   - the bound does not learn of dearer, or of cheaper, costs from SetCost
//   - All yields slots that are gone, or works on the heap itself
//   - Before counts other tenants, or not its own, or leaves out what was returned
//   - Above counts its own priority
func TestLineDoesWhatTheModelDoes(t *testing.T) {
	shapes := []struct {
		name                string
		priorities, tenants int
		handles             int
		grow                float64 // the share of steps that add, while it grows
		removals            int     // of ten steps that take away, how many remove
	}{
		{"one tenant", 1, 1, 300, 0.6, 5},
		{"one tenant, mostly canceled", 1, 1, 300, 0.7, 10},
		{"two tenants", 1, 2, 200, 0.6, 3},
		{"a few tenants in three priorities", 3, 5, 150, 0.6, 5},
		{"many tenants", 1, 40, 150, 0.6, 5},
		{"many tenants, many priorities", 12, 20, 150, 0.55, 5},
		{"nearly empty", 3, 12, 30, 0.5, 3},
	}
	for _, s := range shapes {
		for seed := range uint64(8) {
			t.Run(fmt.Sprintf("%s/%d", s.name, seed), func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 1))
				l, m := &Line{}, &model{}
				if seed >= 4 { // numbers that are about to wrap
					l.seq = math.MaxUint32 - 400
					l.spareLevels = []*level{{ready: heap{base: math.MaxUint64 - 20<<40}}}
				}
				// Costs when a request joins and when it changes: anything, all
				// the same so that ties decide, only dearer, only cheaper.
				random := func() float64 { return float64(1+r.IntN(64)) / 64 }
				always := func(c float64) func() float64 { return func() float64 { return c } }
				costs := []struct{ join, change func() float64 }{
					{random, random}, {always(0.5), always(0.5)}, {always(0.25), always(1)}, {always(1), always(0.25)},
				}[seed%4]
				priority := func() int { return 7 * (r.IntN(s.priorities) - s.priorities/2) }
				grow := true
				for step := range 1200 {
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
						c := costs.change()
						l.SetCost(h, c)
						m.setCost(h, c)
					case add && l.Contains(h):
						require.Panics(t, func() { l.Push(h, 0, "", 1) })
					case add && r.IntN(6) == 0:
						p, o := priority(), r.Uint64N(8)<<61
						l.Return(h, p, o)
						m.giveBack(h, p, o)
					case add:
						p, n, c := priority(), fmt.Sprint(r.IntN(s.tenants)), costs.join()
						l.Push(h, p, n, c)
						m.push(h, p, n, c)
					case r.IntN(10) < s.removals:
						require.Equal(t, m.remove(h), l.Remove(h), "step %d: Remove(%d)", step, h)
					case r.IntN(4) == 0:
						ahead := slices.DeleteFunc(slices.Collect(l.All()), func(o uint32) bool { return o == h })
						first, _ := l.Head()
						require.Equal(t, m.take(h), l.Take(h), "step %d: Take(%d)", step, h)
						if after, ok := l.Head(); ok && first != h {
							require.Equal(t, ahead[0], after, "step %d: Take(%d) put the head back", step, h)
						}
					default:
						head, headOK := l.Head()
						got, ok := l.Pop()
						want, wantOK := m.pop()
						require.Equal(t, wantOK, ok)
						require.Equal(t, want, got, "step %d: the wrong request starts", step)
						require.Equal(t, got, head, "step %d: Head announced another request than Pop gave", step)
						require.Equal(t, ok, headOK)
					}
					if step%5 == 0 || l.Len() < 3 {
						agree(t, l, m, s.handles)
					}
				}
				for h, ok := l.Pop(); ok; h, ok = l.Pop() {
					want, _ := m.pop()
					require.Equal(t, want, h)
					sound(t, l)
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
	if n := len(want); n > 0 { // who comes now, in this priority or beside it
		priorities := slices.Sorted(maps.Keys(m.levels))
		priority := priorities[n%len(priorities)] + n/2%3 - 1
		tenant := []string{"0", "1", "nobody"}[n/3%3]
		require.Equal(t, m.above(priority), l.Above(priority), "above %d", priority)
		before := l.Before(priority, tenant)
		require.Equal(t, m.before(priority, tenant), before, "before one of %q in %d", tenant, priority)
		with := m.clone()
		with.push(math.MaxUint32, priority, tenant, 1.0/64)
		ahead := slices.Index(with.order(), math.MaxUint32)
		require.LessOrEqual(t, before, int64(ahead), "one of %q in %d may start sooner", tenant, priority)
	}
	require.Equal(t, int64(len(want)), l.Above(math.MinInt))
	require.Zero(t, l.Above(math.MaxInt))
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
	levels := levels(l)
	if len(levels) == 0 {
		require.Nil(t, l.top)
	} else {
		require.Same(t, levels[0], l.top)
	}
	if l.tree.root != nil {
		soundBranch(t, l.tree.root, true)
	}
	for _, lv := range levels {
		require.Positive(t, lv.count, "an empty level was kept")
		waiting := len(lv.back.entries)
		tenants += len(lv.ready.entries)
		if lv.returned != nil {
			tenants++
		}
		for place, e := range lv.ready.entries {
			q := &l.tenants[e.id].queue
			require.Equal(t, place, int(l.spots[e.id]))
			require.Positive(t, q.live, "a tenant was kept that has nothing waiting")
			require.NotEqual(t, gone, *q.at(q.head))
			require.NotEqual(t, gone, *q.at(q.tail - 1))
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
		require.Empty(t, levels)
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

// levels returns those with somebody waiting, the highest first.
func levels(l *Line) (levels []*level) {
	for lv := l.tree.last(math.MaxInt); lv != nil; lv = l.tree.below(lv.priority) {
		levels = append(levels, lv)
	}
	return levels
}

// soundBranch requires that the sums of a branch add up, and returns its lowest
// and highest priority, and how many it has.
func soundBranch(t *testing.T, b *branch, root bool) (low, high, n int) {
	t.Helper()
	if b.kids == nil {
		require.True(t, root || b.n > 0)
		for i, lv := range b.levels {
			switch {
			case i >= b.n && lv != nil:
				t.Fatal("a level was kept that has left")
			case i >= b.n:
			case b.sums[i] == sum{} && !(root && b.n == 1):
				t.Fatal("a priority was kept that is empty")
			case b.sums[i].waiting > 0 != (lv != nil), lv != nil && (lv.priority != b.keys[i] || int64(lv.count) != b.sums[i].waiting):
				t.Fatal("a level is in the wrong place")
			case i > 0 && b.keys[i-1] >= b.keys[i]:
				t.Fatal("priorities are out of order")
			}
		}
		if b.n == 0 {
			return 0, 0, 0
		}
		return b.keys[0], b.keys[b.n-1], b.n
	}
	require.True(t, b.n > 1 || b.n == 1 && !root)
	for i := range b.n {
		l, h, m := soundBranch(t, b.kids[i], false)
		require.Equal(t, b.kids[i].total(), b.sums[i], "the sums do not add up")
		require.LessOrEqual(t, b.keys[i], l)
		if i == 0 {
			low = l
		} else {
			require.Less(t, high, b.keys[i])
			require.GreaterOrEqual(t, b.kids[i].n+b.kids[i-1].n, fanout/4, "neighbors were not merged")
		}
		high = h
		n += m
	}
	for i := b.n; i < fanout; i++ {
		require.Nil(t, b.kids[i])
	}
	return low, high, n
}

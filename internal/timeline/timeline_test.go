package timeline

import (
	"cmp"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A model is the timeline as a list in the order of setting.
type model []item

type item struct {
	h  uint32
	at int64
}

func (m *model) set(h uint32, at int64) {
	m.remove(h)
	*m = append(*m, item{h, at})
}

func (m *model) remove(h uint32) bool {
	n := len(*m)
	*m = slices.DeleteFunc(*m, func(i item) bool { return i.h == h })
	return len(*m) < n
}

// order returns the items as they pop.
func (m model) order() []item {
	return slices.SortedStableFunc(slices.Values(m), func(a, b item) int { return cmp.Compare(a.at, b.at) })
}

// TestTimelineDoesWhatTheModelDoes fails for each of these faults: equal
// instants pop in any order, or by a number that does not wrap; a handle that
// is set again keeps its number, or is in twice; a changed instant sinks but
// does not rise, or the reverse; a removed handle keeps its place; the last
// child is overlooked.
func TestTimelineDoesWhatTheModelDoes(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		tl, m := &Timeline{seq: math.MaxUint32 - 300}, model{}
		handles := 5 + r.IntN(60)
		for range 1000 {
			h := uint32(r.IntN(handles))
			switch r.IntN(6) {
			case 0, 1, 2:
				at := int64(r.IntN(20) - 10)
				tl.Set(h, at)
				m.set(h, at)
			case 3:
				require.Equal(t, m.remove(h), tl.Remove(h))
			default:
				first, firstAt, some := tl.First()
				got, at, ok := tl.Pop()
				require.Equal(t, len(m) > 0, ok)
				require.Equal(t, []any{got, at, ok}, []any{first, firstAt, some}, "First announced another handle than Pop gave")
				if ok {
					require.Equal(t, m.order()[0], item{got, at}, "the wrong handle is first")
					m.remove(got)
				}
			}
			agree(t, tl, m, handles)
		}
		for _, want := range m.order() {
			h, at, _ := tl.Pop()
			require.Equal(t, want, item{h, at})
		}
		assert.Zero(t, tl.Len())
	}
}

func agree(t *testing.T, tl *Timeline, m model, handles int) {
	t.Helper()
	require.Equal(t, len(m), tl.Len())
	want := map[uint32]int64{}
	for _, i := range m {
		want[i.h] = i.at
	}
	require.Equal(t, want, maps.Collect(tl.All()))
	for h := range uint32(handles + 1) {
		at, ok := tl.At(h)
		wantAt, wantOK := want[h]
		require.Equal(t, wantOK, ok)
		require.Equal(t, wantAt, at)
	}
}

func TestAnEmptyTimelineHoldsOnToNothing(t *testing.T) {
	var tl Timeline
	_, _, ok := tl.First()
	assert.False(t, ok)
	_, _, ok = tl.Pop()
	assert.False(t, ok)
	assert.False(t, tl.Remove(7))
	for h := range uint32(100_000) {
		tl.Set(h, int64(h^0x5555))
	}
	for h := range uint32(100_000) {
		require.True(t, tl.Remove(h))
	}
	assert.Empty(t, tl.places)
	assert.LessOrEqual(t, cap(tl.entries), 64)

	// A timeline of one does not grow its table again and again.
	assert.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		tl.Set(50_000, 1)
		tl.Pop()
	}), 0.1)
}

func TestAllStopsEarly(t *testing.T) {
	var tl Timeline
	tl.Set(1, 1)
	tl.Set(2, 2)
	n := 0
	for range tl.All() {
		n++
		break
	}
	assert.Equal(t, 1, n)
}

// BenchmarkSetPop is one handle joining and the first one leaving, with 10,000
// on the timeline.
func BenchmarkSetPop(b *testing.B) {
	var tl Timeline
	r := rand.New(rand.NewPCG(1, 2))
	for h := range uint32(10_000) {
		tl.Set(h, r.Int64N(1e9))
	}
	b.ReportAllocs()
	for b.Loop() {
		h, at, _ := tl.Pop()
		tl.Set(h, at+r.Int64N(1e9))
	}
}

package line

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// crowd returns a line of n requests of so many tenants in three priorities,
// after some have started, left from anywhere, returned and gone out of turn.
func crowd(n, tenants int) *Line {
	l, r := &Line{}, rand.New(rand.NewPCG(uint64(n), uint64(tenants)))
	names := names(tenants)
	var gone []uint32
	for h := range n {
		l.Push(uint32(h), h%3, names[r.IntN(tenants)], float64(1+r.IntN(64))/64)
	}
	for range n / 10 {
		h, _ := l.Pop()
		gone = append(gone, h)
	}
	for range n / 4 {
		if h := uint32(r.IntN(n)); r.IntN(3) == 0 {
			l.Take(h)
		} else {
			l.Remove(h)
		}
	}
	for i, h := range gone {
		if i%2 == 0 {
			l.Return(h, i%3, uint64(r.IntN(n)))
		}
	}
	return l
}

// The first k of All are what k times Pop gives. These faults make it fail: the
// walk forgets a child, or goes by the tags of the start; a tenant joins again
// without what it owes, or with the tag of the request before.
func TestAllIsWhatPopGives(t *testing.T) {
	for _, tenants := range []int{1, 10, 100_000} {
		for _, n := range []int{300, 30_000} {
			for _, k := range []int{1, 7, 100, n} {
				l := crowd(n, tenants)
				var got []uint32
				for h := range l.All() {
					if got = append(got, h); len(got) == k {
						break
					}
				}
				require.Len(t, got, min(k, l.Len()))
				for i, h := range got {
					want, _ := l.Pop()
					require.Equal(t, want, h, "%d tenants, number %d of %d", tenants, i, k)
				}
			}
		}
	}
}

// A walk goes on as virtual time wraps on the way.
func TestAllGoesAroundTheEndOfTime(t *testing.T) {
	var l Line
	names := names(7)
	for h := range 300 {
		l.Push(uint32(h), 0, names[h*h%7], 1e6/float64(1+h%5))
	}
	for _, h := range slices.Collect(l.All()) {
		want, _ := l.Pop()
		require.Equal(t, want, h)
	}
}

func TestAllWithinAll(t *testing.T) {
	l := crowd(300, 10)
	want := slices.Collect(l.All())
	i := 0
	for h := range l.All() {
		require.Equal(t, want[i], h)
		require.Equal(t, want, slices.Collect(l.All()))
		i++
	}
	assert.Equal(t, len(want), i)
}

// What a page costs is bounded by the page.
func TestAllTakesMemoryForWhatIsConsumed(t *testing.T) {
	l := crowd(300_000, 100_000)
	read := func(k int) {
		for range l.All() {
			if k--; k == 0 {
				break
			}
		}
	}
	read(200)
	assert.LessOrEqual(t, testing.AllocsPerRun(10, func() { read(200) }), 5.0)
	assert.LessOrEqual(t, cap(l.steps), 1024)
	read(0) // all of it
	assert.LessOrEqual(t, cap(l.steps), keepSteps)
}

// The rank of a returned request is exact up to a bound and never too small.
func TestRankAmongManyReturned(t *testing.T) {
	var l Line
	const n = 5000
	for _, h := range rand.New(rand.NewPCG(1, 1)).Perm(n) {
		l.Return(uint32(h), 0, uint64(h/2))
	}
	i := 0
	for h := range l.All() {
		i++
		if i <= rankLimit {
			require.Equal(t, i, l.Rank(h))
		} else {
			require.Equal(t, n, l.Rank(h))
		}
	}
}

// BenchmarkPage is the first 200 of a long line in order.
func BenchmarkPage(b *testing.B) {
	for _, tenants := range []int{1, 1000, 100_000} {
		b.Run(fmt.Sprint("tenants=", tenants), func(b *testing.B) {
			l := lined(100_000, names(tenants))
			b.ReportAllocs()
			for b.Loop() {
				k := 200
				for range l.All() {
					if k--; k == 0 {
						break
					}
				}
			}
		})
	}
}

// BenchmarkPriorities is one request joining and one starting, while one waits
// in each of so many priorities, with sizes booked.
func BenchmarkPriorities(b *testing.B) {
	for _, priorities := range []int{1, 10, 40_000} {
		b.Run(fmt.Sprint("priorities=", priorities), func(b *testing.B) {
			var l Line
			r := rand.New(rand.NewPCG(1, 2))
			size := Size{Requests: 1, Input: 600, Output: 400}
			at := make([]int, 40_001) // by handle
			for h := range 40_000 {
				at[h] = r.IntN(priorities)
				if priorities == 40_000 {
					at[h] = h
				}
				l.Book(at[h], size)
				l.Push(uint32(h), at[h], "", 0.002)
			}
			free := uint32(40_000)
			b.ReportAllocs()
			for b.Loop() {
				at[free] = r.IntN(priorities)
				l.Book(at[free], size)
				l.Push(free, at[free], "", 0.002)
				free, _ = l.Pop()
				l.Book(at[free], Size{Requests: -1, Input: -600, Output: -400})
			}
		})
	}
}

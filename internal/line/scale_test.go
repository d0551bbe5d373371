package line

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// heapBytes returns how much more is reachable after build than before.
func heapBytes(build func()) int {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	build()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return int(after.HeapAlloc) - int(before.HeapAlloc)
}

func TestMemoryOfAMillion(t *testing.T) {
	const n = 1_000_000
	for _, size := range []struct{ tenants, most int }{{1, 28}, {1000, 28}, {n, 300}} {
		t.Run(fmt.Sprint("tenants=", size.tenants), func(t *testing.T) {
			names := names(size.tenants)
			var l *Line
			per := float64(heapBytes(func() { l = lined(n, names) })) / n
			t.Logf("%.1f bytes per waiting request", per)
			assert.LessOrEqual(t, per, float64(size.most))

			r := rand.New(rand.NewPCG(1, 2))
			left := heapBytes(func() {
				for l.Len() > 0 {
					if h, _ := l.Pop(); r.IntN(4) == 0 {
						l.Remove(h ^ 1)
					}
				}
			}) + int(per*n)
			t.Logf("%d bytes when it is empty again", left)
			assert.LessOrEqual(t, left, 512<<10, "an empty line holds on to memory")
			sound(t, l)
			runtime.KeepAlive(names)
		})
	}
}

func TestAMillionCancellationsFromAnywhere(t *testing.T) {
	const n = 1_000_000
	for _, tenants := range []int{1, 1000} {
		l := lined(n, names(tenants))
		for i, h := range rand.New(rand.NewPCG(3, 4)).Perm(n) {
			if !l.Remove(uint32(h)) || l.Remove(uint32(h)) {
				t.Fatalf("Remove(%d) does not know who is in line", h)
			}
			if i%100_000 == 0 {
				sound(t, l)
			}
		}
		require.Zero(t, l.Len())
		sound(t, l)
	}
}

func TestAHeadThatWaitsADayDoesNotLeak(t *testing.T) {
	var l Line
	l.Push(0, 0, "a", 1)
	for i := range 300_000 {
		h := uint32(1 + i%100)
		l.Remove(h)
		l.Push(h, 0, "a", 1)
	}
	q := &l.tenants[1].queue
	assert.Equal(t, 101, q.live)
	assert.LessOrEqual(t, len(q.slots), 512)
	assert.Equal(t, 101, l.Rank(uint32(1+299_999%100)))
}

func TestTenantsThatComeAndGoLeaveNothingBehindOneThatStays(t *testing.T) {
	var l Line
	l.Push(0, 0, "stays", 1)
	const n = 100_000
	left := heapBytes(func() {
		for i := range n {
			l.Push(uint32(1+i), 0, fmt.Sprint(i), 1)
		}
		for i := range n {
			l.Remove(uint32(1 + i))
		}
	})
	sound(t, &l)
	assert.Len(t, l.top.names, 1)
	assert.LessOrEqual(t, left, 512<<10+40*n, "more is left than the tables that numbers index")
	assert.True(t, l.Remove(0))
	sound(t, &l)
}

func TestManyPriorities(t *testing.T) {
	const n = 20_000
	var l Line
	for i, h := range rand.New(rand.NewPCG(5, 6)).Perm(n) {
		l.Push(uint32(h), h, fmt.Sprint(i%3), 1)
	}
	for i := range n {
		h, _ := l.Pop()
		require.Equal(t, uint32(n-1-i), h)
	}
	sound(t, &l)
}

func TestJoiningAndStartingAllocateNothing(t *testing.T) {
	for _, tenants := range []int{1, 3, 1000} {
		for _, depth := range []int{0, 10_000} {
			l := lined(depth, names(tenants))
			names, i := names(tenants), 0
			round := func() {
				for range 1000 {
					l.Push(uint32(depth), i%2, names[i%tenants], 0.01)
					l.Push(uint32(depth+1), 0, names[(i+1)%tenants], 0.01)
					l.Return(uint32(depth+2), 0, 7)
					i++
					for h, _ := l.Head(); l.Len() > depth; h, _ = l.Head() {
						l.Remove(h)
					}
					for h := range uint32(3) {
						if l.Remove(uint32(depth) + h) {
							l.Push(uint32(depth)+h, 0, names[i%tenants], 0.01)
							l.Remove(uint32(depth) + h)
						}
					}
					for h := range uint32(depth) {
						if l.Contains(h) {
							break
						}
						l.Push(h, 0, names[int(h)%tenants], 0.01)
					}
				}
			}
			round()
			assert.LessOrEqual(t, testing.AllocsPerRun(5, round), 10.0, "in 1,000 rounds, %d tenants, %d waiting", tenants, depth)
		}
	}
}

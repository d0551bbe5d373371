package line

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Sums by priority are what adding up the booked sizes gives, whatever joins and
// leaves, and whether the owner books before or after. These faults make it
// fail: a split or a merge leaves the sums above as they were; a priority that
// is lower than all is lost; a priority with a sum is dropped because nobody
// waits there, or found as a level; one whose sum is zero stays.
func TestSumsByPriority(t *testing.T) {
	for _, spread := range []int{1, 60, 5000} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%d priorities/%d", spread, seed), func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 9))
				var l Line
				type request struct {
					priority int
					size     Size
				}
				in := map[uint32]request{}
				booked := map[int]Size{}
				book := func(p int, s Size, sign int64) {
					d := Size{sign * s.Requests, sign * s.Input, sign * s.Output, sign * s.Unsized}
					l.Book(p, d)
					had := sum{size: booked[p]}
					had.add(&sum{size: d})
					booked[p] = had.size
				}
				var late []request // left the line, and still booked
				grow := true
				for step := range 6000 {
					if step%1500 == 0 {
						grow = step%3000 == 0
					}
					h := uint32(r.IntN(1000))
					q, waits := in[h]
					switch {
					case waits && (!grow || r.IntN(4) == 0):
						l.Remove(h)
						delete(in, h)
						if r.IntN(3) == 0 {
							late = append(late, q)
						} else {
							book(q.priority, q.size, -1)
						}
					case !waits && (grow || r.IntN(4) == 0):
						q = request{r.IntN(spread) - spread/2, Size{1, r.Int64N(1000), r.Int64N(100), 0}}
						if r.IntN(5) == 0 {
							q.size = Size{Requests: 1, Unsized: 1}
						}
						book(q.priority, q.size, 1)
						if r.IntN(8) == 0 {
							l.Return(h, q.priority, r.Uint64())
						} else {
							l.Push(h, q.priority, fmt.Sprint(r.IntN(3)), 0.1)
						}
						in[h] = q
					case len(late) > 0:
						book(late[0].priority, late[0].size, -1)
						late = late[1:]
					}
					if step%150 != 0 {
						continue
					}
					sound(t, &l)
					for _, p := range []int{r.IntN(spread) - spread/2, -spread, spread, math.MinInt, math.MaxInt} {
						var want sum
						for other, s := range booked {
							if other >= p {
								want.add(&sum{size: s})
							}
						}
						require.Equal(t, want.size, l.Ahead(p), "of %d and up", p)
					}
				}
				for h, q := range in {
					l.Remove(h)
					book(q.priority, q.size, -1)
				}
				for _, q := range late {
					book(q.priority, q.size, -1)
				}
				require.Zero(t, l.Ahead(math.MinInt))
				require.Nil(t, l.tree.root.kids)
				require.LessOrEqual(t, l.tree.root.n, 1, "priorities were kept that have no sum")
				sound(t, &l)
			})
		}
	}
}

func TestTheHighestAndTheLowestPriority(t *testing.T) {
	var l Line
	assert.Zero(t, l.Ahead(0))
	l.Push(1, math.MinInt, "", 1)
	l.Push(2, math.MaxInt, "", 1)
	l.Book(math.MinInt, Size{Requests: 1})
	l.Book(math.MaxInt, Size{Requests: 2})
	assert.EqualValues(t, 2, l.Ahead(math.MaxInt).Requests)
	assert.EqualValues(t, 3, l.Ahead(math.MinInt).Requests)
	assert.Equal(t, 2, l.Rank(1))
	h, _ := l.Pop()
	assert.EqualValues(t, 2, h)
	h, _ = l.Pop()
	assert.EqualValues(t, 1, h)
	_, ok := l.Head()
	assert.False(t, ok)
}

package engine

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Pages that emptied are given back and none is listed twice, in whatever order a
// million requests come and go.
func TestPagesComeAndGo(t *testing.T) {
	const peak = 5000
	random := rand.New(rand.NewPCG(1, 2))
	for name, next := range map[string]func(live int) int{
		"first come, first gone": func(int) int { return 0 },
		"last come, first gone":  func(live int) int { return live - 1 },
		"any order":              random.IntN,
	} {
		t.Run(name, func(t *testing.T) {
			var s records
			type request struct {
				handle uint32
				seq    uint64
			}
			var live []request
			forget := func(at int) {
				r := s.get(live[at].handle)
				if r == nil || r.seq != live[at].seq {
					t.Fatal("a request is gone that nobody forgot")
				}
				s.remove(live[at].handle)
				if r := s.get(live[at].handle); r != nil {
					t.Fatal("a request is there that was forgotten")
				}
				if at > 0 {
					live[at] = live[len(live)-1]
					live = live[:len(live)-1]
				} else {
					live = live[1:]
				}
			}
			for taken := 0; taken < 200_000; {
				for target := random.IntN(peak); len(live) <= target; taken++ {
					h, r := s.add()
					live = append(live, request{h, r.seq})
				}
				for target := random.IntN(len(live)); len(live) > target; {
					forget(next(len(live)))
				}
				require.LessOrEqual(t, len(s.pages), peak/PageSize+1)
				require.LessOrEqual(t, len(s.available)+len(s.released), len(s.pages), "a page stands in one list")
			}
			for len(live) > 0 {
				forget(next(len(live)))
			}
			assert.Zero(t, s.live)
			assert.Len(t, s.available, 1)
			assert.Len(t, s.released, len(s.pages)-1, "all other pages are given back")
		})
	}
}

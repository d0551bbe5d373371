package line

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A story is a line whose requests know their tenants.
type story struct {
	Line
	owner []string // by handle
}

func (s *story) submit(tenant string, n int, cost float64) (first uint32) {
	first = uint32(len(s.owner))
	for range n {
		s.Push(uint32(len(s.owner)), 0, tenant, cost)
		s.owner = append(s.owner, tenant)
	}
	return first
}

// start pops n requests and counts them by tenant.
func (s *story) start(n int) map[string]int {
	got := map[string]int{}
	for range n {
		if h, ok := s.Pop(); ok {
			got[s.owner[h]]++
		}
	}
	return got
}

func TestHigherPriorityFirst(t *testing.T) {
	var l Line
	for h, p := range []int{0, -5, 3, math.MinInt, math.MaxInt, 3, 0} {
		l.Push(uint32(h), p, "", 1)
	}
	assert.Equal(t, []uint32{4, 2, 5, 0, 6, 1, 3}, slices.Collect(l.All()))
}

func TestFirstComeFirstServedWithinATenant(t *testing.T) {
	var s story
	s.submit("a", 1000, 0.3)
	for h := range uint32(1000) {
		s.SetCost(h, float64(1+h*7%13)/13) // what it costs does not change its turn
	}
	for h := range uint32(1000) {
		got, _ := s.Pop()
		require.Equal(t, h, got)
	}
}

func TestABacklogDoesNotBuyALargerShare(t *testing.T) {
	for _, cost := range []float64{1, 0.1, 1e-6} {
		var s story
		s.submit("backlog", 100_000, cost)
		s.submit("one at a time", 1, cost)
		got := map[string]int{}
		for range 20_000 {
			h, _ := s.Pop()
			got[s.owner[h]]++
			if s.owner[h] == "one at a time" {
				s.submit("one at a time", 1, cost)
			}
		}
		assert.InDelta(t, 10_000, got["one at a time"], 1, "at a cost of %v", cost)
	}
}

func TestSharesAreOfCostNotOfRequests(t *testing.T) {
	var s story
	s.submit("large", 100_000, 0.03)
	s.submit("small", 100_000, 0.01)
	got := s.start(40_000)
	assert.InDelta(t, 10_000, got["large"], 10)
	assert.InDelta(t, 30_000, got["small"], 10)
}

func TestANewTenantWaitsForTwoRequestsOfEachOtherAtMost(t *testing.T) {
	var s story
	for i := range 10 {
		s.submit(fmt.Sprint("busy", i), 10_000, 0.5)
	}
	for i := range 100 {
		s.start(i)
		h := s.submit("new", 1, 0.5)
		assert.LessOrEqual(t, s.Rank(h), 21, "its position does not tell that its turn is near")
		starts := 1
		for got, _ := s.Pop(); got != h; got, _ = s.Pop() {
			starts++
		}
		require.LessOrEqual(t, starts, 21)
	}
}

func TestOneRequestBehindAHundredThousand(t *testing.T) {
	var s story
	s.submit("backlog", 100_000, 0.2)
	s.start(77)
	h := s.submit("new", 1, 0.2)
	assert.LessOrEqual(t, s.Rank(h), 3)
	assert.Equal(t, 1, s.start(2)["new"])
}

func TestALargeRequestIsNotStarved(t *testing.T) {
	var s story
	s.submit("large", 1, 1)
	waited := 0
	s.submit("small", 1, 0.001)
	for {
		h, _ := s.Pop()
		if s.owner[h] == "large" {
			break
		}
		waited++
		s.submit("small", 1, 0.001)
	}
	assert.InDelta(t, 1000, waited, 1, "it waits until the others have started as much as it takes")
}

func TestIdlenessEarnsNoCredit(t *testing.T) {
	var s story
	s.submit("late", 10, 0.5)
	s.submit("busy", 20_000, 0.5)
	s.start(5000) // late has long been empty
	s.submit("late", 10_000, 0.5)
	got := s.start(1000)
	assert.InDelta(t, 500, got["late"], 1, "it may not catch up on what it did not ask for")
}

func TestCancelingChangesNobodysShare(t *testing.T) {
	var s story
	s.submit("backlog", 50_000, 0.5)
	s.submit("fickle", 1, 0.5)
	got := map[string]int{}
	for range 10_000 {
		h := s.submit("fickle", 3, 0.5)
		s.Remove(h + 1)
		s.Remove(h + 2)
		h, _ = s.Pop()
		got[s.owner[h]]++
	}
	assert.InDelta(t, 5000, got["fickle"], 1)

	// One who cancels its head does not have to wait anew.
	var w story
	w.submit("backlog", 100, 0.1)
	h := w.submit("large", 2, 1)
	w.start(5)
	w.Remove(h)
	assert.Equal(t, 5, w.start(6)["backlog"])
	assert.Equal(t, 90, w.Len(), "the large one has started as if the first had never been there")
}

func TestACheaperHeadGoesSoonerButNotBackInTime(t *testing.T) {
	var s story
	h := s.submit("large", 1, 1)
	s.submit("backlog", 1000, 0.1)
	s.start(5)
	s.SetCost(h, 0.1)
	got, _ := s.Pop()
	assert.Equal(t, h, got)
	// Time did not run backward: a newcomer is not ahead of its turn.
	s.submit("new", 10, 0.1)
	assert.InDelta(t, 5, s.start(10)["new"], 1)
}

func TestAReturnedRequestIsNextAndFree(t *testing.T) {
	var s story
	s.submit("a", 100, 0.5)
	s.submit("b", 100, 0.5)
	for range 50 {
		first, _ := s.Pop()
		second, _ := s.Pop()
		third, _ := s.Pop()
		s.Return(third, 0, uint64(third))
		s.Return(first, 0, 0)
		s.Return(second, 0, math.MaxUint64)
		assert.Equal(t, []int{1, 2, 3}, []int{s.Rank(first), s.Rank(third), s.Rank(second)})
		s.SetCost(first, 1000) // charged once, at its first start
		for _, want := range []uint32{first, third, second} {
			got, _ := s.Pop()
			require.Equal(t, want, got)
		}
	}
	// 150 of 200 have started, however often.
	assert.Equal(t, map[string]int{"a": 25, "b": 25}, s.start(50))
}

func TestAReturnedRequestWaitsForHigherPriorities(t *testing.T) {
	var l Line
	l.Push(1, 0, "", 1)
	l.Return(2, 0, 9)
	l.Push(3, 1, "", 1)
	assert.Equal(t, []uint32{3, 2, 1}, slices.Collect(l.All()))
	assert.True(t, l.Remove(2))
	assert.Equal(t, []uint32{3, 1}, slices.Collect(l.All()))
}

func TestOddCosts(t *testing.T) {
	for _, cost := range []float64{0, -1, math.NaN(), math.Inf(-1), math.Inf(1), math.MaxFloat64, math.SmallestNonzeroFloat64} {
		var s story
		s.submit("odd", 1000, cost)
		s.submit("odd too", 1000, cost)
		got := s.start(1000)
		assert.Equal(t, map[string]int{"odd": 500, "odd too": 500}, got, "at a cost of %v", cost)
	}
}

func TestSharesHoldHoweverLongTheLineIsBusy(t *testing.T) {
	var s story
	// Virtual time stands where it does after some sixteen million starts at
	// full cost, close to the end of its numbers, and so do the arrivals.
	s.spareLevels = []*level{{ready: heap{base: math.MaxUint64 - 1<<40}}}
	s.seq = math.MaxUint32 - 5000
	s.submit("a", 10_000, 0.001)
	s.submit("b", 10_000, 0.002)
	for range 5 {
		got := s.start(600)
		assert.InDelta(t, 400, got["a"], 2)
		assert.InDelta(t, 200, got["b"], 2)
	}
}

func TestAllStopsEarly(t *testing.T) {
	var l Line
	l.Return(1, 0, 5)
	l.Return(2, 0, 6)
	l.Push(3, 0, "a", 1)
	l.Push(4, 0, "b", 1)
	l.Push(5, -1, "b", 1)
	for n := 1; n <= 5; n++ {
		var got []uint32
		for h := range l.All() {
			if got = append(got, h); len(got) == n {
				break
			}
		}
		assert.Equal(t, []uint32{1, 2, 3, 4, 5}[:n], got)
	}
}

func TestMisuse(t *testing.T) {
	var l Line
	_, ok := l.Head()
	assert.False(t, ok)
	assert.False(t, l.Remove(9))
	assert.Zero(t, l.Rank(9))
	l.SetCost(9, 1)
	assert.Panics(t, func() { l.Push(math.MaxUint32, 0, "", 1) })
	l.Push(9, 0, "", 1)
	assert.Panics(t, func() { l.Return(9, 0, 1) })
	assert.Equal(t, 1, l.Len())
}

func TestWhatStartsOutOfTurnCountsAsAShare(t *testing.T) {
	var s story
	a := s.submit("a", 100, 0.25)
	b := s.submit("b", 100, 0.25)
	for i := range uint32(2) {
		s.Take(a + 1 + i) // from behind the head of the line, which stays
		s.Take(b + i)
	}
	h, _ := s.Head()
	assert.Equal(t, a, h)
	s.Take(b + 2)
	assert.Equal(t, map[string]int{"a": 9, "b": 8}, s.start(17), "b has started one more than a")

	// However much passes, it shuts its tenant out for a whole limit at most.
	for i := range uint32(60) {
		s.Take(b + 20 + i)
	}
	got := s.start(12)
	assert.InDelta(t, 8, got["a"], 2)
}

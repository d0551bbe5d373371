package endpoint

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newSet(limits ...Limit) *SharedSet {
	return NewSharedSet(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), limits)
}

// joined adds a member, and counts how often it is woken.
func joined(s *SharedSet) (m *Member, woken *int) {
	woken = new(int)
	return s.Join(func() { *woken++ }), woken
}

func TestMembersTakeTurnsByTicket(t *testing.T) {
	s := newSet(Limit{Kind: Concurrent, Amount: 1})
	a, _ := joined(s)
	b, wokenB := joined(s)
	c, wokenC := joined(s)
	held, _ := a.Reserve(1, Usage{}, 1)
	require.NotNil(t, held)
	refused := func(m *Member, ticket uint64) {
		r, at := m.Reserve(2, Usage{}, ticket)
		assert.Nil(t, r)
		assert.Zero(t, at, "only a wake tells")
	}
	refused(c, 3)
	refused(b, 2)
	assert.Equal(t, 2, s.Waiting())
	held.Release()
	held.Release()
	assert.Zero(t, s.Running())
	assert.Equal(t, []int{1, 0}, []int{*wokenB, *wokenC}, "the lower ticket's turn comes first")
	refused(c, 3)
	held, _ = b.Reserve(3, Usage{}, 2)
	require.NotNil(t, held)
	assert.Equal(t, 1, *wokenC, "it is first now")
	held.Undo(4)
	assert.Equal(t, 2, s.Waiting(), "who undoes waits where it did")
	refused(c, 3)
	b.Withdraw()
	assert.Equal(t, 2, *wokenC)
	held, _ = c.Reserve(5, Usage{}, 3)
	assert.NotNil(t, held)
	assert.Zero(t, s.Waiting())
}

func TestSharedSetSettles(t *testing.T) {
	s := newSet(Limit{Kind: TPM, Amount: 100})
	a, woken := joined(s)
	held, _ := a.Reserve(1, Usage{Input: 80}, 1)
	require.NotNil(t, held)
	none, at := a.Reserve(2, Usage{Output: 40}, 2)
	assert.Nil(t, none)
	assert.GreaterOrEqual(t, at, int64(time.Minute))
	assert.Equal(t, at, s.Forecast(2, 0, Usage{}, Usage{Output: 40}))
	held.Settle(3, Usage{Input: 50})
	assert.Equal(t, 1, *woken, "there is room now")
	used, available, _ := s.WindowUsage(3, 0)
	assert.EqualValues(t, 50, used)
	assert.EqualValues(t, 50, available)
	_, exceeds := s.Exceeds(Usage{Input: 100})
	assert.False(t, exceeds)
	l, exceeds := s.Exceeds(Usage{Input: 101})
	assert.True(t, exceeds && l.Kind == TPM)
	assert.InDelta(t, 0.5, s.Share(Usage{Input: 50}), 1e-9)
}

func TestSharedSetLearnsNoMoreThanWasConfigured(t *testing.T) {
	s := newSet(Limit{Kind: Concurrent, Amount: 9}, Limit{Kind: RPM, Amount: 100})
	learn := func(sent, amount int64) bool {
		has, changed := s.Learn(sent+1, sent, Stated{Limit: Limit{Kind: RPM, Amount: amount}, Remaining: -1})
		assert.True(t, has)
		return changed
	}
	second := int64(time.Second)
	assert.False(t, learn(second, 1000), "more than was configured")
	assert.True(t, learn(2*second, 50))
	assert.False(t, learn(second, 20), "an answer to an earlier call tells of how it was")
	assert.False(t, learn(2*second+1, 60), "so soon after it may be one as well")
	assert.True(t, learn(3*second, 1000))
	assert.EqualValues(t, 100, s.Limits()[1].Amount)
	has, _ := s.Learn(1, 1, Stated{Limit: Limit{Kind: TPM, Amount: 5}})
	assert.False(t, has)

	_, _ = s.Learn(4*second, 4*second, Stated{Limit: Limit{Kind: RPM, Amount: 100}, Remaining: 40, Reset: second})
	_, available, _ := s.WindowUsage(4*second, 0)
	assert.EqualValues(t, 40, available, "others hold the rest")
}

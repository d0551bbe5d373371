package endpoint

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lineOf is a shared set that remembers who stands in its line.
type lineOf struct {
	full    bool
	waiting uint64 // the ticket in line, 0: nobody
	granted int
	asked   int
}

type grantOf struct {
	set *lineOf
	was uint64
}

func (s *lineOf) Reserve(now int64, _ Usage, ticket uint64) (Grant, int64) {
	s.asked++
	if s.full {
		s.waiting = ticket
		return nil, now + 1
	}
	g := &grantOf{s, s.waiting}
	s.waiting = 0
	s.granted++
	return g, 0
}
func (s *lineOf) Withdraw(int64)                             { s.waiting = 0 }
func (s *lineOf) Exceeds(Usage) (l Limit, never bool)        { return l, false }
func (s *lineOf) Share(Usage) float64                        { return 0 }
func (s *lineOf) Forecast(now, _ int64, _, _ Usage) int64    { return now }
func (s *lineOf) Limits(int64) []Limit                       { return nil }
func (s *lineOf) Learn(_, _ int64, _ Stated) (has, did bool) { return false, false }
func (g *grantOf) Settle(int64, Usage)                       {}
func (g *grantOf) Release(int64)                             { g.set.granted-- }
func (g *grantOf) Undo(int64) {
	g.set.granted--
	g.set.waiting = g.was
}

// probing is a breaker whose probes are all under way.
type probing struct{ busy bool }

func (b *probing) TryAcquirePermit() bool        { return !b.busy }
func (b *probing) RecordSuccess()                {}
func (b *probing) RecordFailure()                {}
func (b *probing) IsClosed() bool                { return !b.busy }
func (b *probing) RemainingDelay() time.Duration { return 0 }

// A request that its endpoint's breaker refuses has taken its place in the line of the shared
// set again, under the ticket that it had. When it starts elsewhere it has to leave that line:
// everybody who shares the limits would wait for nobody.
func TestBreakerRefusesWhoWaitedForASharedSet(t *testing.T) {
	s, b, tickets := &lineOf{full: true}, &probing{}, uint64(0)
	e := New(0, time.Unix(0, 0), Config{
		Breaker: b, Shared: []Shared{s}, Emit: func(Event) {},
		Ticket: func() uint64 { tickets++; return tickets },
	})
	var l Lease
	require.Equal(t, NotNow, e.Admit(0, Usage{}, &l))
	require.EqualValues(t, 1, s.waiting)

	s.full, b.busy = false, true
	e.Reset()
	require.Equal(t, NotNow, e.Admit(1, Usage{}, &l))
	assert.False(t, e.Queued(), "nobody is to wait behind it until a probe ends")
	assert.EqualValues(t, 1, s.waiting, "it came back to where it was, and is to leave")
	assert.Zero(t, s.granted)

	e.Reset()
	require.Equal(t, NotNow, e.Admit(2, Usage{}, &l))
	assert.EqualValues(t, 1, s.waiting, "under the same ticket")

	e.Withdraw(3)
	assert.Zero(t, s.waiting, "nobody waits, and who shares the limits waits behind him")

	b.busy = false
	require.Equal(t, Admitted, e.Admit(4, Usage{}, &l))
	assert.Equal(t, 1, s.granted)
	assert.EqualValues(t, 2, tickets)
	s.full = true
	e.Reset()
	require.Equal(t, NotNow, e.Admit(5, Usage{}, &l))
	assert.EqualValues(t, 3, s.waiting, "the next one stands where the last one did, ahead of all others")
}

// What one set gives and gets back, because another one refuses, wakes who waits there next.
// When that is done with every look, two endpoints of a queue wake it for good.
func TestSetThatRefusedIsAskedFirst(t *testing.T) {
	busy, idle := &lineOf{full: true}, &lineOf{}
	e := New(0, time.Unix(0, 0), Config{Shared: []Shared{idle, busy}, Emit: func(Event) {}, Ticket: func() uint64 { return 1 }})
	var l Lease
	for now := range int64(5) {
		e.Reset()
		require.Equal(t, NotNow, e.Admit(now, Usage{}, &l))
		assert.Equal(t, now+1, e.Next(now))
	}
	assert.Equal(t, 1, idle.asked, "a set has to do with a request that another one holds")
	assert.Equal(t, 5, busy.asked)
	busy.full = false
	e.Reset()
	require.Equal(t, Admitted, e.Admit(5, Usage{}, &l))
	assert.Equal(t, 1, idle.granted)
	assert.Equal(t, 1, busy.granted)
	l.Release(6)
	assert.Zero(t, idle.granted+busy.granted)
}

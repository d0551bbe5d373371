package window

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The wall clock is followed when the owner says where it stands, and until then
// it is taken to run along. These faults make it fail: Adjust is ignored, moves
// the short scale, or takes every drift for a step; a clock set back stops hours.
func TestAdjust(t *testing.T) {
	const minute, hour = int64(time.Minute), int64(time.Hour)
	limits := []Limit{
		{Kind: Requests, Amount: 1, Period: time.Minute},
		{Kind: Requests, Amount: 1, Period: time.Hour},
		{Kind: Requests, Amount: 1, Period: 24 * time.Hour, Daily: time.UTC},
	}
	started := func() *Set {
		s := NewSet(noon, limits)
		_, ok := s.ReserveAt(0, tokens(1))
		require.True(t, ok)
		return s
	}
	room := func(s *Set, ns int64) (room []int64) {
		for i := range limits {
			_, n, _ := s.UsageAt(ns, i)
			room = append(room, n)
		}
		return room
	}
	wall := func(d time.Duration) int64 { return noon.Add(d).UnixNano() }

	s := started()
	assert.True(t, s.WallClock())
	assert.Equal(t, []int64{1, 0, 0}, room(s, hour-1))
	assert.Equal(t, []int64{1, 1, 0}, room(s, hour), "the clocks run together")
	assert.Equal(t, []int64{1, 1, 0}, room(s, 12*hour-1))
	assert.Equal(t, []int64{1, 1, 1}, room(s, 12*hour), "midnight")

	s = started()
	s.Adjust(1, wall(50*time.Minute)) // slept for 50 minutes
	assert.Equal(t, []int64{0, 0, 0}, room(s, 10*minute/20))
	assert.Equal(t, []int64{1, 1, 0}, room(s, 10*minute+1))
	at, limit := s.NextAt(10*minute+1, tokens(1))
	assert.Equal(t, 2, limit)
	assert.Equal(t, 11*hour+10*minute+1, at, "midnight is nearer")

	s = started()
	s.Adjust(minute, wall(-10*time.Hour)) // set back
	assert.Equal(t, []int64{1, 0, 0}, room(s, hour-1))
	assert.Equal(t, []int64{1, 1, 0}, room(s, hour), "an hour is an hour")
	assert.Equal(t, []int64{1, 1, 0}, room(s, 22*hour), "midnight is further")
	assert.Equal(t, []int64{1, 1, 1}, room(s, 22*hour+minute))

	s = started()
	for i := range int64(30) { // drifts back by half a second a minute
		s.Adjust(i*minute, wall(time.Duration(i*(minute-int64(time.Second)/2))))
	}
	assert.Equal(t, []int64{1, 0, 0}, room(s, hour+14*int64(time.Second)))
	assert.Equal(t, []int64{1, 1, 0}, room(s, hour+15*int64(time.Second)))

	s = NewSet(noon, limits[:1])
	assert.False(t, s.WallClock())
}

// Instants far out are far out, and the one that does not come is Never.
func TestNever(t *testing.T) {
	s := NewSet(noon, []Limit{{Kind: Tokens, Amount: 10, Period: 24 * time.Hour}})
	for _, ns := range []int64{-5, 0, 5} {
		at, limit := s.NextAt(ns, tokens(11))
		assert.EqualValues(t, Never, at)
		assert.Zero(t, limit)
		at, limit = s.ForecastAt(ns, tokens(1<<48), tokens(1))
		assert.EqualValues(t, Never-1-max(ns, 0)+ns, at)
		assert.Zero(t, limit)
		used, _, resetAt := s.UsageAt(ns, 0)
		assert.Zero(t, used)
		assert.Equal(t, ns, resetAt)
	}
}

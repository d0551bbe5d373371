package clock

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestNoInstantIsZero(t *testing.T) {
	c := New(noon)
	assert.EqualValues(t, 1, c.Since(noon))
	assert.True(t, c.Date(1).Equal(noon))
	assert.True(t, c.Date(0).IsZero(), "0 means none")
	assert.True(t, c.At(0).Equal(noon.Add(-1)), "of At it is the epoch")
}

func TestDatesFollowTheWallClock(t *testing.T) {
	c := New(noon)
	wall := func(d time.Duration) int64 { return noon.Add(d).UnixNano() }
	minute := c.Since(noon.Add(time.Minute))
	assert.False(t, c.Stepped(minute, wall(time.Minute)+leastStep), "that is drift")
	assert.True(t, c.Stepped(minute, wall(3*time.Hour)))
	assert.EqualValues(t, 3*time.Hour-time.Minute, c.Step(minute, wall(3*time.Hour)))
	assert.False(t, c.Stepped(minute, wall(3*time.Hour)), "that is known now")
	assert.True(t, c.At(minute).Equal(noon.Add(3*time.Hour)))
	assert.True(t, c.At(minute-1).Equal(noon.Add(time.Minute-1)), "what was before the sleep stays where it was")

	later := minute + int64(time.Minute)
	assert.True(t, c.Stepped(later, wall(0)), "somebody set it back")
	assert.Zero(t, c.Step(later, wall(0)), "which is no sleep")
	assert.True(t, c.At(later).Equal(noon))
	assert.True(t, c.At(minute).Equal(noon.Add(3*time.Hour)))
}

func TestStepsAreBounded(t *testing.T) {
	c := New(noon)
	for i := range int64(3 * maxSteps) {
		ns := (i + 1) * int64(time.Minute)
		assert.Equal(t, int64(time.Hour), c.Step(ns, c.Epoch.UnixNano()+ns+(i+1)*int64(time.Hour)))
	}
	assert.Len(t, *c.steps.Load(), maxSteps)
}

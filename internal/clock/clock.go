// Package clock turns readings of the clock into the nanoseconds that a queue counts in, and
// back into dates.
package clock

import (
	"slices"
	"sync/atomic"
	"time"
)

// Clock counts in nanoseconds since Epoch. They are the monotonic clock's. The wall clock may
// run ahead of that, when the machine slept, or be set: from then on dates follow it.
//
// Stepped and Step are called under the owner's lock; the other methods at any time.
type Clock struct {
	Epoch time.Time
	wall  int64 // Unix ns at the epoch
	steps atomic.Pointer[[]step]
	last  int64 // when the wall clock was read last
}

// step says that from at on the wall clock is ahead by offset.
type step struct{ at, offset int64 }

const (
	// leastStep is how far the wall clock must move against the monotonic one to count as
	// set, or ahead after a sleep. Less is drift.
	leastStep = int64(10 * time.Millisecond)
	// leastSleep is how far ahead it must get to count as a machine's sleep. Less than that
	// is a correction.
	leastSleep = int64(time.Second)
	// maxSteps bounds how many are remembered.
	maxSteps = 64
)

// New begins just before now, so that no instant is 0, which means none.
func New(now time.Time) Clock { return Clock{Epoch: now.Add(-1), wall: now.UnixNano() - 1} }

// Since is now as the clock counts it.
func (c *Clock) Since(now time.Time) int64 { return int64(now.Sub(c.Epoch)) }

// offset is how far the wall clock is ahead of what the nanoseconds say.
func (c *Clock) offset(ns int64) int64 {
	if steps := c.steps.Load(); steps != nil {
		for _, s := range slices.Backward(*steps) {
			if s.at <= ns {
				return s.offset
			}
		}
	}
	return 0
}

// Now is the present instant. It reads the monotonic clock only, which costs half.
func (c *Clock) Now() int64 { return int64(time.Since(c.Epoch)) }

// Stepped reports whether the wall clock has moved against the monotonic one since it was
// read last. Its owner's lock guards it.
func (c *Clock) Stepped(ns, wall int64) bool {
	moved := wall - c.wall - ns
	if steps := c.steps.Load(); steps != nil {
		moved -= (*steps)[len(*steps)-1].offset
	}
	if moved > leastStep || moved < -leastStep {
		return true
	}
	c.last = max(c.last, ns)
	return false
}

// Step takes note of that, and says for how long the machine slept.
func (c *Clock) Step(ns, wall int64) (slept int64) {
	var steps []step
	offset, was := wall-c.wall-ns, int64(0)
	if before := c.steps.Load(); before != nil {
		steps = slices.Clone(*before)
		was = steps[len(steps)-1].offset
	}
	if len(steps) == maxSteps {
		steps = steps[1:]
	}
	// It moved some time after it was read last: most likely before whatever came since.
	steps = append(steps, step{min(c.last+1, ns), offset})
	c.last = ns
	c.steps.Store(&steps)
	if slept = offset - was; slept < leastSleep {
		return 0
	}
	return slept
}

// Date is the reverse of Since. Zero stays the zero time.
func (c *Clock) Date(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return c.At(ns)
}

// At is Date for an instant that may be the epoch itself.
func (c *Clock) At(ns int64) time.Time {
	if c.steps.Load() == nil {
		return c.Epoch.Add(time.Duration(ns))
	}
	return time.Unix(0, c.wall+ns+c.offset(ns))
}

package llmqueue

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// clock turns readings of the clock into the nanoseconds since the queue's epoch that it
// counts in, and back into dates. The nanoseconds are the monotonic clock's. The wall clock
// may run ahead of that, when the machine slept, or be set: from then on dates follow it.
type clock struct {
	epoch time.Time
	wall  int64 // Unix ns at the epoch
	steps atomic.Pointer[[]clockStep]
}

// clockStep says that from at on the wall clock is ahead by offset.
type clockStep struct{ at, offset int64 }

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

// newClock begins just before now, so that no instant is 0, which means none.
func newClock(now time.Time) clock { return clock{epoch: now.Add(-1), wall: now.UnixNano() - 1} }

// since is now as the queue counts it.
func (c *clock) since(now time.Time) int64 { return int64(now.Sub(c.epoch)) }

// offset is how far the wall clock is ahead of what the nanoseconds say.
func (c *clock) offset(ns int64) int64 {
	if steps := c.steps.Load(); steps != nil {
		for _, s := range slices.Backward(*steps) {
			if s.at <= ns {
				return s.offset
			}
		}
	}
	return 0
}

// stepped reports whether the wall clock has moved against the monotonic one since it was
// read last.
func (c *clock) stepped(ns, wall int64) bool {
	moved := wall - c.wall - ns
	if steps := c.steps.Load(); steps != nil {
		moved -= (*steps)[len(*steps)-1].offset
	}
	return moved > leastStep || moved < -leastStep
}

// step takes note of that, and says for how long the machine slept. The queue's lock guards
// it.
func (c *clock) step(ns, wall int64) (slept int64) {
	var steps []clockStep
	offset, was := wall-c.wall-ns, int64(0)
	if before := c.steps.Load(); before != nil {
		steps = slices.Clone(*before)
		was = steps[len(steps)-1].offset
	}
	if len(steps) == maxSteps {
		steps = steps[1:]
	}
	steps = append(steps, clockStep{ns, offset})
	c.steps.Store(&steps)
	if slept = offset - was; slept < leastSleep {
		return 0
	}
	return slept
}

// date is the reverse of since. Zero stays the zero time.
func (c *clock) date(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return c.at(ns)
}

// at is date for an instant that may be the epoch itself.
func (c *clock) at(ns int64) time.Time {
	if c.steps.Load() == nil {
		return c.epoch.Add(time.Duration(ns))
	}
	return time.Unix(0, c.wall+ns+c.offset(ns))
}

// after is at + d, for d of any size.
func after(at, d int64) int64 { return endpoint.After(at, d) }

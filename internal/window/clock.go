package window

import "time"

// stepBack is how far the wall clock must fall behind the monotonic one, from
// one reading to the next, to count as set back. Less than that is drift, and
// waiting it out costs nothing worth mentioning.
const stepBack = int64(time.Second)

// A clock turns instants into two scales of nanoseconds that never go back.
//
// The short scale follows the monotonic clock. The long scale follows the wall
// clock, so that a machine that sleeps finds its hours passed when it wakes;
// when the wall clock is set back the long scale goes on with the monotonic
// one, because standing still until the wall clock has caught up could take a
// year.
type clock struct {
	epoch       time.Time
	short, long int64 // the latest readings, never lower than an earlier one

	// What the last instant itself read, which is lower than the above when it
	// came out of order. Answers are counted from here.
	rawShort, rawLong, rawWall int64

	// The long scale is kept up only while a limit needs it. shift is how far
	// it is ahead of the wall clock, which read pairedWall when the monotonic
	// one read paired and is expected to have gone on with it.
	wall               bool
	shift              int64
	paired, pairedWall int64
}

func newClock(epoch time.Time) clock {
	w := epoch.UnixNano()
	return clock{epoch: epoch, long: w, rawLong: w, rawWall: w, pairedWall: w}
}

func (c *clock) read(ns int64) {
	c.rawShort, c.short = ns, max(c.short, ns)
	if c.wall {
		c.rawWall = c.wallAt(ns)
		c.rawLong = c.rawWall + c.shift
		c.long = max(c.long, c.rawLong)
	}
}

// adjust takes note of what the wall clock read at ns.
func (c *clock) adjust(ns, wall int64) {
	if lag := c.wallAt(ns) - wall; lag > stepBack {
		c.shift += lag
	}
	c.paired, c.pairedWall = ns, wall
}

// wallAt returns what the wall clock reads at ns, as far as is known.
func (c *clock) wallAt(ns int64) int64 { return c.pairedWall + ns - c.paired }

// after returns the instant that comes so long after ns. It stops just short of
// Never.
func after(ns, wait int64) int64 { return ns + min(wait, Never-1-max(ns, 0)) }

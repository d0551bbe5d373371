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

	// The wall clock is read only while a limit needs it: for a decision of
	// some 30 ns it costs something. shift is how far the long scale is ahead
	// of it, and paired what the monotonic clock read along with rawWall.
	wall   bool
	shift  int64
	paired int64
}

func newClock(now time.Time) clock {
	w := now.UnixNano()
	return clock{epoch: now, long: w, rawLong: w, rawWall: w}
}

func (c *clock) read(now time.Time) {
	m := int64(now.Sub(c.epoch))
	c.rawShort, c.short = m, max(c.short, m)
	if c.wall {
		c.readWall(m, now.UnixNano())
	}
}

func (c *clock) readWall(m, w int64) {
	if lag := (m - c.paired) - (w - c.rawWall); lag > stepBack {
		c.shift += lag
	}
	c.paired, c.rawWall, c.rawLong = m, w, w+c.shift
	c.long = max(c.long, c.rawLong)
}

// past returns what at reads on both scales, without moving the clock.
func (c *clock) past(at time.Time) (short, long int64) {
	return int64(at.Sub(c.epoch)), at.UnixNano() + c.shift
}

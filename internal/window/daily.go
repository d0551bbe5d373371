package window

import "time"

// setBack is how far before its reset a day can be believed to have begun; an
// instant before that means the wall clock was set back by days.
const setBack = int64(50 * time.Hour)

// A day is the current day of a daily limit, in wall-clock nanoseconds. It
// runs from one local midnight to the next, both moved by the margin, and is
// as long as the location makes it: 23 or 25 hours when the clocks change.
type day struct {
	loc          *time.Location
	margin       int64
	start, reset int64
}

func newDay(l Limit, wall int64) *day {
	d := &day{loc: l.Daily, margin: int64(l.Margin)}
	d.set(wall)
	return d
}

// set makes d the day that wall is in.
func (d *day) set(wall int64) {
	local := time.Unix(0, wall-d.margin).In(d.loc)
	// Of a midnight that comes twice time.Date knows one, and of a day that a
	// location skipped it makes another, so neither neighbour is certain to be
	// on the right side of wall.
	i := 0
	for d.midnight(local, i) > wall {
		i--
	}
	d.start = d.midnight(local, i)
	for i++; d.midnight(local, i) <= wall; i++ {
	}
	d.reset = d.midnight(local, i)
}

// over reports whether the day has ended by wall, and if so goes on to the
// next. A wall clock that is set back never begins a day again.
func (d *day) over(wall int64) bool {
	if wall >= d.reset {
		d.set(wall)
		return true
	}
	if wall < d.reset-d.margin-setBack {
		d.set(wall)
	}
	return false
}

// nth returns the nth reset from now; 1 is the next one.
func (d *day) nth(n int64) int64 {
	const century = 36525
	return d.midnight(time.Unix(0, d.reset-d.margin).In(d.loc), int(min(n-1, century)))
}

// midnight returns when the day begins that comes so many days after local's.
func (d *day) midnight(local time.Time, days int) int64 {
	year, month, mday := local.Date()
	t := time.Date(year, month, mday+days, 0, 0, 0, 0, d.loc)
	if t.Hour() >= 12 {
		// The clocks jump over midnight, and time.Date counted it in the zone
		// before: the day begins with the jump.
		_, t = t.ZoneBounds()
	}
	return t.UnixNano() + d.margin
}

package window

// others is what somebody else has charged to a limit that the provider counts for
// all of them together: so much when it was told, and nothing from until on. Evenly
// says that it leaves little by little, otherwise all of it leaves at once. Then they
// are expected to hold later, until end.
type others struct {
	n           int64
	from, until int64 // on the log's scale
	evenly      bool
	later, end  int64
}

// OthersAt says that somebody else holds n of limit i now, until the given instant. It
// replaces what was said before; n of zero, or an instant that has passed, takes it
// back.
func (s *Set) OthersAt(ns int64, i int, n, until int64, evenly bool) {
	s.advance(ns)
	w := &s.windows[i]
	w.others = others{}
	if d := until - ns; n > 0 && d > 0 {
		w.others = others{n: min(n, w.amount), from: w.log.now, until: addSat(w.log.now, d), evenly: evenly}
	}
}

// OthersLaterAt says how much they are expected to hold, at most what they hold now, from
// when that leaves until the given instant. The next OthersAt takes it back.
func (s *Set) OthersLaterAt(ns int64, i int, n, until int64) {
	s.advance(ns)
	w := &s.windows[i]
	o := &w.others
	if end := addSat(w.log.now, until-ns); o.n > 0 && n > 0 && end > o.until {
		o.later, o.end = min(n, o.n), end
	}
}

// gone is when they hold nothing any more.
func (o *others) gone() int64 { return max(o.until, o.end) }

// Booked appends what is charged to each limit as of the latest call, others left
// out.
func (s *Set) Booked(to []int64) []int64 {
	for i := range s.windows {
		to = append(to, s.windows[i].log.sum[s.windows[i].kind])
	}
	return to
}

// ChargedAfterAt returns what was charged to limit i after r and not after the given
// instant, as far as it still counts. It may include what r was merged with.
func (s *Set) ChargedAfterAt(i int, r *Reservation, until int64) int64 {
	w := &s.windows[i]
	l := w.log
	to := l.scale(&s.clock, until)
	var sum int64
	for pos := l.tail; pos != l.head && l.at(pos-1).seq > r.seq; pos-- {
		if e := l.at(pos - 1); e.at <= to {
			sum += e.n[w.kind]
		}
	}
	return sum
}

// at returns what still counts at t.
func (o *others) at(t int64) int64 {
	switch {
	case t >= o.gone():
		return 0
	case t >= o.until:
		return o.later
	case !o.evenly || t <= o.from:
		return o.n
	}
	return max(mul(o.n, o.until-t).ceilDiv(o.until-o.from), o.later)
}

// when returns the first instant, from the telling on, at which no more than n
// counts.
func (o *others) when(n int64) int64 {
	switch {
	case n >= o.n:
		return o.from
	case n < o.later:
		return o.end
	case !o.evenly || n < 0:
		return o.until
	}
	return o.from + mul(o.n-n, o.until-o.from).ceilDiv(o.n)
}

// free returns the first instant, on the log's scale, at which there is room for x
// beside others; what is more than the amount counts as the amount.
func (w *window) free(c *clock, x int64) int64 {
	l := w.log
	x = min(x, w.amount)
	at, left := l.now, l.sum[w.kind]
	if l.day != nil {
		if left+x > w.amount {
			at, left = l.day.reset+c.shift, 0
		}
		return max(at, w.others.when(w.amount-x-left))
	}
	for pos := l.head; ; pos++ {
		if room := w.amount - x - left; room >= 0 {
			t := max(at, w.others.when(room))
			if pos == l.tail || t <= l.at(pos).at+l.hold {
				return t
			}
		}
		at = max(at, l.at(pos).at+l.hold)
		left -= l.at(pos).n[w.kind]
	}
}

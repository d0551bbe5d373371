package window

import (
	"math"
	"slices"
	"sort"
	"time"
)

// model is the contract of Set by brute force: every window keeps a list of
// its own, nothing is shared, cached, merged or summed up in advance, and each
// question is answered by walking through everything.
type model struct {
	limits  []Limit
	windows []*mwindow
	kept    *mwindow // while there are no limits, the last one that was

	// The clock as the test moves it: what the wall shows, what the monotonic
	// clock shows, and by how much the wall clock was set back in all.
	wall, mono, shift int64
	short, long       int64 // the latest seen

	// How far the wall clock fell behind since it was last read. It is read
	// only when some limit needs it.
	lag int64
}

// mwindow is one limit. entries are those that count; where has an item for
// each reservation that ever counted here, nil when its entry has left.
type mwindow struct {
	Limit
	entries []*mentry
	where   map[*mreservation]*mentry
	today   int   // of a daily limit
	since   int64 // it knows nothing from before, on its scale

	owed  []mowed // if paced: what was owed, in order of time
	rates []mrate
}

type mentry struct {
	at   int64
	n    [4]int64
	owed int // index in owed
}

type mowed struct{ at, n int64 }

type mrate struct{ from, amount int64 }

type mreservation struct {
	booked, high [4]int64
}

func figures(c Charge) [4]int64 {
	return [4]int64{c.Requests, c.Input + c.Output, c.Input, c.Output}
}

func newModel(now time.Time, limits []Limit) *model {
	m := &model{wall: now.UnixNano()}
	m.long = m.wall
	m.setLimits(limits)
	return m
}

// scales returns what an instant ahead of the present reading will read.
func (m *model) scales(ahead int64) (short, long, wall int64) {
	return max(m.short, m.mono+ahead), max(m.long, m.wall+m.shift+ahead), m.wall + ahead
}

func (w *mwindow) wallClock() bool { return w.Period >= time.Hour }

func (w *mwindow) pick(short, long int64) int64 {
	if w.wallClock() {
		return long
	}
	return short
}

func (w *mwindow) date(wall int64) int {
	t := time.Unix(0, wall-int64(w.Margin)).In(w.Daily)
	return t.Year()*1000 + t.YearDay()
}

func (w *mwindow) holdsAt(e *mentry, short, long, wall int64) bool {
	if w.Daily != nil {
		return w.date(wall) <= w.today
	}
	return w.pick(short, long)-e.at < int64(w.Period+w.Margin)
}

// advance makes the present reading the latest seen and lets leave what leaves.
func (m *model) advance() {
	m.read(m.needsWall())
	for _, w := range m.all() {
		w.leave(func(e *mentry) bool { return w.holdsAt(e, m.short, m.long, m.wall) })
		if w.Daily != nil {
			w.today = max(w.today, w.date(m.wall))
		}
	}
}

func (m *model) read(wall bool) {
	m.short = max(m.short, m.mono)
	if !wall {
		return
	}
	if m.lag > stepBack {
		m.shift += m.lag
	}
	m.lag = 0
	m.long = max(m.long, m.wall+m.shift)
}

func (w *mwindow) leave(stays func(*mentry) bool) {
	var kept []*mentry
	for _, e := range w.entries {
		if stays(e) {
			kept = append(kept, e)
			continue
		}
		for r, at := range w.where {
			if at == e {
				w.where[r] = nil
			}
		}
	}
	w.entries = kept
}

func (w *mwindow) paced() bool { return w.Limit.paced() }

// all returns the windows, and the one that is kept without its limit.
func (m *model) all() []*mwindow {
	if m.kept != nil {
		return append(m.windows[:len(m.windows):len(m.windows)], m.kept)
	}
	return m.windows
}

// needsWall reports whether the wall clock is needed.
func (m *model) needsWall() bool {
	return slices.ContainsFunc(m.all(), func(w *mwindow) bool { return w.Limit.long() })
}

func (w *mwindow) now(m *model) int64 { return w.pick(m.short, m.long) }

func (w *mwindow) book(at int64, n [4]int64) *mentry {
	e := &mentry{at: at, n: n, owed: len(w.owed)}
	w.entries = append(w.entries, e)
	w.owed = append(w.owed, mowed{at, n[w.Kind]})
	return e
}

// debt returns what is owed at t, times the hold.
func (w *mwindow) debt(t int64) int64 {
	var d int64
	at := t
	if len(w.owed) > 0 {
		at = w.owed[0].at
	}
	drain := func(to int64) {
		for i, r := range w.rates {
			from, end := max(at, r.from), to
			if i+1 < len(w.rates) {
				end = min(to, w.rates[i+1].from)
			}
			if span := end - from; span > 0 {
				if span > d/r.amount {
					d = 0
				} else {
					d -= span * r.amount
				}
			}
		}
		at = to
	}
	for _, o := range w.owed {
		if o.at > at {
			drain(o.at)
		}
		d = max(d+o.n*w.hold(), 0)
	}
	if t > at {
		drain(t)
	}
	return d
}

func (w *mwindow) fitsAt(n, short, long, wall int64) bool {
	var used int64
	for _, e := range w.entries {
		if w.holdsAt(e, short, long, wall) {
			used += e.n[w.Kind]
		}
	}
	if used+n > w.Amount {
		return false
	}
	if !w.paced() {
		return true
	}
	d := w.debt(w.pick(short, long))
	return d == 0 && n > w.Burst || d+n*w.hold() <= w.Burst*w.hold()
}

// fits reports whether c fits so far ahead of now, if nothing else starts.
func (m *model) fits(ahead int64, c Charge) bool {
	short, long, wall := m.scales(ahead)
	for _, w := range m.windows {
		if !w.fitsAt(figures(c)[w.Kind], short, long, wall) {
			return false
		}
	}
	return true
}

func (m *model) reserve(c Charge) *mreservation {
	m.advance()
	if !m.fits(0, c) {
		return nil
	}
	r := &mreservation{booked: figures(c), high: figures(c)}
	for _, w := range m.all() {
		w.where[r] = w.book(w.now(m), r.booked)
	}
	return r
}

func (m *model) settle(r *mreservation, c Charge) (freed bool) {
	m.advance()
	n := figures(c)
	var over [4]int64
	for k := range n {
		over[k] = max(n[k]-r.high[k], 0)
	}
	for _, w := range m.all() {
		e, counted := w.where[r]
		if !counted {
			continue
		}
		if e == nil {
			if over != [4]int64{} {
				w.book(w.now(m), over)
			}
			continue
		}
		for k := range n {
			e.n[k] += n[k] - r.booked[k]
		}
		switch d := n[w.Kind] - r.booked[w.Kind]; {
		case d > 0:
			w.owed = append(w.owed, mowed{w.now(m), d})
		case d < 0:
			freed = freed || w != m.kept
			w.owed[e.owed].n += d
		}
	}
	r.booked = n
	for k := range n {
		r.high[k] = max(r.high[k], n[k])
	}
	return freed
}

// add takes the time as so much before the present reading.
func (m *model) add(ago int64, c Charge) {
	for _, w := range m.all() {
		e := &mentry{at: w.pick(m.mono-ago, m.wall+m.shift-ago)}
		if w.Daily != nil && w.date(m.wall-ago) < w.today || !w.holdsAt(e, m.short, m.long, m.wall) {
			continue
		}
		w.book(e.at, figures(c))
	}
}

func (m *model) setLimits(limits []Limit) {
	m.read(true)
	m.advance()
	var longest *mwindow
	for _, w := range m.all() {
		if longest == nil || w.reach(m) > longest.reach(m) {
			longest = w
		}
	}
	var windows []*mwindow
	for _, lim := range limits {
		w := &mwindow{Limit: lim, where: make(map[*mreservation]*mentry), since: math.MinInt64}
		from := longest
		for _, o := range m.windows {
			if o.Kind == lim.Kind && o.Period == lim.Period {
				from = o
			}
		}
		if lim.Daily != nil {
			w.today = w.date(m.long - m.shift)
			if from != nil && from.Daily == lim.Daily && from.Margin == lim.Margin {
				w.today = from.today
			}
		}
		w.rates = []mrate{{math.MinInt64, lim.Amount}}
		if from != nil {
			w.takeOver(m, from)
		}
		windows = append(windows, w)
	}
	m.limits, m.windows, m.kept = limits, windows, nil
	if len(limits) == 0 {
		m.kept = longest
	}
}

// reach returns for how long it knows everything.
func (w *mwindow) reach(m *model) int64 {
	from := w.now(m) - w.hold()
	if w.Daily != nil {
		noon := time.Date(w.today/1000, 1, w.today%1000, 12, 0, 0, 0, w.Daily).UnixNano() + int64(w.Margin)
		const day = 24 * int64(time.Hour)
		into := sort.Search(int(2*day), func(d int) bool { return w.date(noon-day+int64(d)) >= w.today })
		from = noon - day + int64(into) + m.shift - 1
	}
	return w.now(m) - max(w.since, from)
}

func (w *mwindow) takeOver(m *model, from *mwindow) {
	w.since = w.now(m) - from.reach(m)
	copies := make(map[*mentry]*mentry)
	for _, e := range from.entries {
		c := *e
		c.at += w.now(m) - from.now(m)
		copies[e] = &c
		w.entries = append(w.entries, &c)
	}
	for r, e := range from.where {
		w.where[r] = copies[e]
	}
	if from != m.kept && from.Kind == w.Kind && from.Period == w.Period && from.hold() == w.hold() && from.paced() && w.paced() {
		w.owed = append(w.owed, from.owed...)
		w.rates = append(append(w.rates[:0], from.rates...), mrate{w.now(m), w.Amount})
	}
	w.leave(func(e *mentry) bool {
		if w.Daily != nil {
			return w.date(e.at-m.shift) >= w.today
		}
		return w.now(m)-e.at < int64(w.Period+w.Margin)
	})
	if len(w.owed) == 0 {
		for _, e := range w.entries {
			e.owed = len(w.owed)
			w.owed = append(w.owed, mowed{e.at, e.n[w.Kind]})
		}
	}
}

func (m *model) usage(i int) (used int64, last *mentry) {
	for _, e := range m.windows[i].entries {
		used += e.n[m.windows[i].Kind]
		if e.n[m.windows[i].Kind] != 0 {
			last = e
		}
	}
	return used, last
}

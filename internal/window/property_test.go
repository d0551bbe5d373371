package window

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// choices is where a run takes its decisions from: at random, or from the
// bytes of a fuzzer.
type choices struct {
	rand  *rand.Rand
	bytes []byte
}

func (c *choices) done() bool { return c.rand == nil && len(c.bytes) == 0 }

// n returns a number below limit.
func (c *choices) n(limit int64) int64 {
	if c.rand != nil {
		return c.rand.Int64N(limit)
	}
	var v uint64
	for size := limit - 1; size > 0; size >>= 8 {
		var b byte
		if len(c.bytes) > 0 {
			b, c.bytes = c.bytes[0], c.bytes[1:]
		}
		v = v<<8 | uint64(b)
	}
	return int64(v % uint64(limit))
}

func (c *choices) oneIn(n int64) bool { return c.n(n) == 0 }

func pick[T any](c *choices, of ...T) T { return of[c.n(int64(len(of)))] }

func mustLoad(name string) *time.Location {
	loc, err := time.LoadLocation(name)
	if err != nil {
		panic(err)
	}
	return loc
}

var (
	newYork  = mustLoad("America/New_York")
	saoPaulo = mustLoad("America/Sao_Paulo")
)

func (c *choices) limits() []Limit {
	var limits []Limit
next:
	for range c.n(4) + 1 {
		l := Limit{
			Kind:   Kind(c.n(4)),
			Amount: c.n(40) + 1,
			Period: pick(c, time.Second, 7*time.Second, time.Minute, time.Minute, time.Hour, 24*time.Hour),
			Margin: pick[time.Duration](c, 0, 0, 1, 250*time.Millisecond, 3*time.Second),
		}
		for _, o := range limits {
			if o.Kind == l.Kind && o.Period == l.Period {
				continue next
			}
		}
		if l.Period == 24*time.Hour {
			l.Daily = pick(c, nil, time.UTC, newYork, saoPaulo)
		}
		if c.oneIn(2) {
			l.Burst = c.n(l.Amount+5) + 1
		}
		limits = append(limits, l)
	}
	return limits
}

func (c *choices) charge() Charge {
	return Charge{pick[int64](c, 1, 1, 1, 1, 0, 2), c.n(pick(c, int64(4), 12, 30)), c.n(pick(c, int64(4), 12))}
}

// A run drives a Set and the model with the same calls and compares every
// answer.
type run struct {
	*choices
	t       require.TestingT
	merging bool // the set merges what it can: it holds no less than the model
	s       *Set
	m       *model
	now     time.Time
	flights []*flight
	log     []string
}

// flight is a reservation in both.
type flight struct {
	r Reservation
	m *mreservation
}

func (r *run) say(format string, args ...any) {
	r.log = append(r.log, fmt.Sprintf(format, args...))
}

func (r *run) story() string { return "\n" + strings.Join(r.log, "\n") }

func runChoices(t require.TestingT, c *choices, steps int, merging bool) {
	start := pick(c,
		time.Date(2026, 3, 7, 20, 0, 0, 0, newYork),   // the clocks go forward
		time.Date(2025, 11, 1, 20, 0, 0, 0, newYork),  // and back
		time.Date(2018, 11, 3, 20, 0, 0, 0, saoPaulo), // over midnight
		time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC))
	limits := c.limits()
	r := &run{choices: c, t: t, s: NewSet(start, limits), m: newModel(start, limits), now: start, merging: merging}
	if merging {
		r.s.exact = uint64(c.n(4) + 1)
		r.s.SetLimits(start, limits)
	}
	r.say("%v %+v", start, limits)
	ago := int64(3 * time.Hour)
	for range c.n(8) {
		ago = r.prior(ago)
	}
	for i := 0; i < steps && !c.done(); i++ {
		r.step()
		r.compare()
	}
}

// prior adds usage from before the start, in order of time.
func (r *run) prior(ago int64) int64 {
	ago = r.n(ago + 1)
	c := r.charge()
	r.say("add %v ago %v", time.Duration(ago), c)
	r.s.Add(r.now.Add(-time.Duration(ago)), c)
	r.m.add(ago, c)
	return ago
}

func (r *run) step() {
	switch r.n(16) {
	case 0, 1, 2:
		r.pass()
	case 3, 4, 5, 6, 7, 8:
		r.reserve(r.charge())
	case 9, 10, 11:
		r.settle()
	case 12:
		r.undo()
	case 13:
		r.toNext()
	case 14:
		r.m.advance()
		if r.m.mono == r.m.short && r.m.wall+r.m.shift >= r.m.long && r.oneIn(3) {
			c := r.charge()
			r.say("add now %v", c)
			r.s.Add(r.now, c)
			r.m.add(0, c)
		}
	case 15:
		switch r.n(4) {
		case 0:
			r.setLimits()
		case 1:
			r.clockStep()
		}
	}
}

func (r *run) forward(d int64) {
	r.now = r.now.Add(time.Duration(d))
	r.m.wall += d
	r.m.mono += d
}

func (r *run) pass() {
	l := Limit{Period: time.Minute}
	if len(r.m.limits) > 0 {
		l = r.m.limits[r.n(int64(len(r.m.limits)))]
	}
	d := pick(r.choices, int64(0), 1, r.n(int64(time.Second)), r.n(int64(l.Period)/8+1), r.n(int64(l.Period+l.Margin)), l.hold())
	r.say("pass %v", time.Duration(d))
	r.forward(d)
}

// clockStep has the clocks do what clocks do; see run.now and model.
func (r *run) clockStep() {
	sleep := func(d int64) { // the monotonic clock stands still
		r.s.clock.epoch = r.s.clock.epoch.Add(time.Duration(d))
		r.now = r.now.Add(time.Duration(d))
		r.m.wall += d
		r.m.lag -= d
	}
	switch d := r.n(int64(3 * time.Hour)); r.n(4) {
	case 0:
		r.say("out of order %v", time.Duration(d))
		r.forward(-d)
	case 1:
		r.say("sleep %v", time.Duration(d))
		sleep(d)
	case 2:
		r.say("set back %v", time.Duration(d)+time.Second+1)
		sleep(-d - stepBack - 1)
	case 3:
		d %= stepBack
		r.say("drift %v", -time.Duration(d))
		sleep(-d)
	}
	r.compare()
}

func (r *run) reserve(c Charge) {
	waiting := r.charge()
	before, _ := r.s.Next(r.now, waiting)
	slack := r.s.Slack(r.now, waiting).Holds(c)
	r.say("reserve %v, while %v waits, slack %v", c, waiting, slack)
	got, ok := r.s.Reserve(r.now, c)
	if after, _ := r.s.Next(r.now, waiting); ok && slack {
		require.Equal(r.t, before, after, "Slack let %v start, which puts %v off%s", c, waiting, lazy(r.story))
	} else if ok && !r.merging {
		require.Greater(r.t, after, before, "Slack did not let %v start, which does not put %v off%s", c, waiting, lazy(r.story))
	}
	if !ok && r.merging {
		return
	}
	want := r.m.reserve(c)
	require.Equal(r.t, want != nil, ok, "Reserve(%v)%s", c, lazy(r.story))
	if !ok {
		return
	}
	r.flights = append(r.flights, &flight{got, want})
	for i, w := range r.m.windows {
		used, _ := r.m.usage(i)
		require.LessOrEqual(r.t, used, w.Amount, "charges in the window of %+v%s", w.Limit, lazy(r.story))
		r.checkPace(w, figures(c)[w.Kind])
	}
}

// checkPace checks the pacing of the charge n just made over all intervals
// that end now, straight from what was owed: a charge that fits within Burst
// keeps them all within Burst and the rate, a larger one follows intervals
// that kept within the rate.
func (r *run) checkPace(w *mwindow, n int64) {
	if !w.paced() || len(w.rates) > 1 {
		return
	}
	allowed, sum := w.Burst, int64(0)
	if n > w.Burst {
		allowed, sum = 0, -n
	}
	now := w.now(r.m)
	for i := len(w.owed) - 1; i >= 0; i-- {
		sum += w.owed[i].n
		over := sum - allowed
		rate := float64(now-w.owed[i].at) * float64(w.Amount) / float64(w.Period)
		require.LessOrEqual(r.t, float64(over), rate+1e-6, "pace of %+v%s", w.Limit, lazy(r.story))
	}
}

func (r *run) flight() *flight {
	if len(r.flights) == 0 {
		return &flight{}
	}
	if r.oneIn(2) {
		return r.flights[len(r.flights)-1]
	}
	return r.flights[r.n(int64(len(r.flights)))]
}

func (r *run) settle() {
	f := r.flight()
	if f.m == nil {
		return
	}
	actual := Charge{f.m.booked[Requests], f.m.booked[Input], f.m.booked[Output]}
	switch r.n(4) {
	case 0: // a refund
		actual.Input, actual.Output = r.n(actual.Input+1), r.n(actual.Output+1)
	case 1: // an overrun
		actual.Input += r.n(10)
		actual.Output += r.n(3)
	case 2:
		actual.Input, actual.Output = r.n(20), r.n(20)
	case 3:
		actual = r.charge()
	}
	if r.merging {
		// Only refunds: an overrun of a charge that has left in the model alone
		// is charged anew there, so that the two cannot be compared any more.
		b := f.m.booked
		actual = Charge{min(actual.Requests, b[Requests]), min(actual.Input, b[Input]), min(actual.Output, b[Output])}
	}
	r.say("settle #%d %v", f.r.seq, actual)
	freed := r.s.Settle(r.now, &f.r, actual)
	if r.merging {
		r.m.settle(f.m, actual)
		return
	}
	require.Equal(r.t, r.m.settle(f.m, actual), freed, "Settle freed room%s", lazy(r.story))
}

func (r *run) undo() {
	f := r.flight()
	if f.m == nil {
		return
	}
	r.say("undo #%d", f.r.seq)
	r.s.Undo(r.now, &f.r)
	r.m.settle(f.m, Charge{})
	f.m = nil
}

func (r *run) setLimits() {
	limits := r.limits()
	for i, l := range r.m.limits { // most of what is asked for is a change of what is there
		if r.oneIn(2) {
			continue
		}
		l.Amount = r.n(40) + 1
		if r.oneIn(2) {
			l.Burst = r.n(l.Amount + 5)
		}
		if r.oneIn(2) && l.Period == 24*time.Hour {
			l.Daily = pick(r.choices, nil, time.UTC, newYork)
		}
		if r.oneIn(2) {
			l.Margin = pick[time.Duration](r.choices, 0, time.Second)
		}
		for j := 0; j < len(limits); j++ {
			if limits[j].Kind == l.Kind && limits[j].Period == l.Period {
				limits = append(limits[:j], limits[j+1:]...)
			}
		}
		limits = append(limits, l)
		if i == 3 {
			break
		}
	}
	if r.oneIn(4) {
		limits = limits[:r.n(2)] // all of them, or all but one
	}
	r.say("limits %+v", limits)
	r.s.SetLimits(r.now, limits)
	r.m.setLimits(limits)
	require.Equal(r.t, len(limits), len(r.s.Limits()))
	if len(limits) > 0 {
		require.Equal(r.t, limits, r.s.Limits())
	}
}

// toNext asks when something fits, goes there, and tries a nanosecond early.
func (r *run) toNext() {
	c := r.charge()
	at, limit := r.s.Next(r.now, c)
	r.say("next %v: %v, limit %d", c, at.Sub(r.now), limit)
	if at.IsZero() {
		require.Equal(r.t, r.s.Exceeds(c), limit)
		l := r.m.limits[limit]
		require.Greater(r.t, figures(c)[l.Kind], l.Amount)
		_, ok := r.s.Reserve(r.now, c)
		require.False(r.t, ok)
		r.m.advance()
		return
	}
	require.Negative(r.t, r.s.Exceeds(c))
	wait := int64(at.Sub(r.now))
	switch {
	case r.merging:
	case limit < 0:
		require.Zero(r.t, wait)
	default:
		require.Positive(r.t, wait)
		require.False(r.t, r.m.fits(wait-1, c), "fits earlier than Next%s", lazy(r.story))
		w := r.m.windows[limit]
		short, long, wall := r.m.scales(wait - 1)
		require.False(r.t, w.fitsAt(figures(c)[w.Kind], short, long, wall), "another limit binds%s", lazy(r.story))
	}
	require.True(r.t, r.m.fits(wait, c), "does not fit at Next%s", lazy(r.story))
	require.Equal(r.t, at, forecast(r.s, r.now, Charge{}, c), "Forecast with nothing ahead%s", lazy(r.story))
	if wait > 0 && r.oneIn(2) {
		started := len(r.flights)
		r.forward(wait - 1)
		r.reserve(c)
		r.compare()
		require.Len(r.t, r.flights, started, "started before Next%s", lazy(r.story))
		r.forward(1)
		r.reserve(c)
		require.Len(r.t, r.flights, started+1, "did not start at Next%s", lazy(r.story))
	}
}

func (r *run) compare() {
	r.m.advance()
	r.s.Next(r.now, Charge{}) // both have seen this instant
	for i, w := range r.m.windows {
		used, available, resetAt := r.s.Usage(r.now, i)
		want, last := r.m.usage(i)
		if p := r.s.windows[i].pace; p != nil {
			p.drain(r.s.windows[i].log.now)
			owed := mul(w.debt(w.now(r.m)), 1)
			if r.merging {
				require.False(r.t, owed.more(p.debt), "owed to limit %d%s", i, lazy(r.story))
			} else {
				require.Equal(r.t, owed, p.debt, "owed to limit %d%s", i, lazy(r.story))
			}
		}
		if r.merging {
			require.GreaterOrEqual(r.t, used, want, "used of limit %d%s", i, lazy(r.story))
			continue
		}
		require.Equal(r.t, want, used, "used of limit %d%s", i, lazy(r.story))
		require.Equal(r.t, max(w.Amount-want, 0), available)
		if want == 0 {
			require.Zero(r.t, resetAt)
			continue
		}
		ahead := int64(resetAt.Sub(r.now))
		for _, d := range []int64{0, -1} {
			short, long, wall := r.m.scales(ahead + d)
			require.Equal(r.t, d < 0, w.holdsAt(last, short, long, wall), "resetAt of limit %d%s", i, lazy(r.story))
		}
	}
}

type lazy func() string

func (f lazy) String() string { return f() }

// TestSetAgreesWithBruteForce drives a Set and a model that does everything
// the long way, with random limits (sliding, daily, paced), arrivals, refunds,
// overruns, calls longer than their windows, Undo, usage from elsewhere,
// SetLimits and clocks that go wrong.
//
// Each of these faults, put into the package, makes it fail:
//
//   - a charge expires with > instead of >=
//   - the margin is left out of the hold
//   - room is < instead of <=
//   - a limit without room is passed over, so that some but not all are charged
//   - a refund is booked as a new entry with today's date
//   - a refund of a charge that has left is taken off another entry
//   - an overrun is dropped, with its entry there or gone
//   - an overrun is measured from the latest figure instead of the highest
//   - an overrun costs no pacing, or leaves no mark for refunds after it
//   - a refund gives pacing back in full, or leaves the later marks as they were
//   - a removed entry takes its mark along
//   - pacing drains by the hold instead of the period
//   - a changed rate also applies to the past
//   - a limit that becomes paced owes nothing for what is in its window
//   - a charge above Burst starts while something is owed, or never
//   - Next rounds down, walks one entry too far, or counts from the latest
//     instant seen instead of now
//   - Forecast keeps sums from before a settlement
//   - settling finds entries by distance alone, or touches a limit that never
//     counted the request
//   - a new limit starts empty, or from a window that knows a shorter past; the
//     last window is not kept when its limit goes, or counts no more; dates are
//     not carried from one clock to the other
//   - what a shorter margin or a new day lets leave is kept, or forgotten to
//     have left
//   - time runs back; limits of an hour ignore the wall clock, or stand still
//     when it is set back
//   - a day lasts 24 hours, ignores its margin, never ends, begins again when
//     limits change, or is wrong where the clocks jump over midnight
//   - prior usage counts from now, or yesterday's counts today
//   - Undo keeps the request; Settle reports room that no limit got
//   - tokens leave out the output
//   - Slack leaves out a charge that stays, or what waits, or counts one that has
//     left; it rounds up, or knows nothing of pacing, of Burst, or of midnight
//
// And these are caught by TestMergingAdmitsNoMore: a merged entry is dated, or
// found, by its first charge; a merged charge leaves no mark; Undo removes an
// entry that holds others' charges too; Slack lets a merged entry leave in time.
func TestSetAgreesWithBruteForce(t *testing.T) {
	for seed := range runs() {
		runChoices(t, &choices{rand: rand.New(rand.NewPCG(uint64(seed), 1))}, 150, false)
	}
}

// A set that merges what it can admits nothing that the model would not.
func TestMergingAdmitsNoMore(t *testing.T) {
	for seed := range runs() {
		runChoices(t, &choices{rand: rand.New(rand.NewPCG(uint64(seed), 2))}, 150, true)
	}
}

func runs() int {
	if testing.Short() {
		return 300
	}
	return 2000
}

func FuzzSet(f *testing.F) {
	for seed := range byte(20) {
		b := make([]byte, 400)
		rand.NewChaCha8([32]byte{seed}).Read(b)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		runChoices(t, &choices{bytes: b}, 1000, len(b)%2 == 1)
	})
}

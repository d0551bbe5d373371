// Package endpoint says what one way to a provider (a key, a region, a deployment)
// allows now: its windows, slots and shared limits, its pauses, its circuit breaker, and
// what its answers taught about its limits.
//
// It is pure: it calls no clock, timer or random source, starts no goroutine and takes no
// lock. Time comes in as nanoseconds since the owner's epoch, and instants are returned
// the same way. The owner's lock guards an Endpoint; the methods of Breaker and Shared
// are called under it.
package endpoint

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/internal/window"
)

// Never is an instant that does not come by itself.
const Never = math.MaxInt64

// DefaultSlots bounds the attempts under way when no limit does.
const DefaultSlots = 256

// Breaker is a circuit breaker.
type Breaker interface {
	TryAcquirePermit() bool
	RecordSuccess()
	RecordFailure()
	IsClosed() bool
	RemainingDelay() time.Duration
}

// Config is how an endpoint is made.
type Config struct {
	Limits     []Limit // validated
	Margin     time.Duration
	Learn      bool       // answers decide what the limits are
	Unlimited  bool       // it needs no limit
	Accounting Accounting // nil: what was used
	Breaker    Breaker    // nil: none
	Shared     []Shared
	Ticket     func() uint64 // numbers who waits for shared limits, in order of arrival
	Prior      []Prior       // charges from before, in order of time
	Emit       func(Event)   // what the owner is to know, in order
}

// Prior is what was started before the epoch, which lies at 0.
type Prior struct {
	At       int64
	Requests int64
	Charged  Usage
}

// Event is something that the owner may tell others of.
type Event struct {
	Kind     EventKind
	Endpoint *Endpoint
	Until    int64   // of Paused, Opened and HeldOut
	Limits   []Limit // of LimitsLearned
	Refused  bool    // LimitsLearned: because a call was refused
}

// EventKind says what happened to an endpoint.
type EventKind uint8

// What happens to an endpoint.
const (
	Paused        EventKind = iota // by its provider, until Until
	Resumed                        // that pause is over
	Opened                         // its breaker lets no call through before Until
	Closed                         // it lets calls through again
	HeldOut                        // calls fail there: the next probe goes there at Until
	LetIn                          // a call was served there
	LimitsLearned                  // an answer changed the limits in force
	LimitIgnored                   // an answer stated one that makes no sense
	NoLimits                       // limits were to be learned, but answers state none
)

// Endpoint is one way to a provider. Make one with New.
type Endpoint struct {
	ID         uint32 // the owner's
	Bit        uint64 // the engine's: its name in sets of endpoints
	margin     time.Duration
	learn      bool
	unlimited  bool
	accounting Accounting
	breaker    Breaker
	emit       func(Event)

	configured []Limit // as they were given
	limits     []Limit // in force: see inForce
	windows    *window.Set
	tokens     bool  // some limit counts tokens
	guess      Usage // see firstGuess
	slots      int64
	running    int64
	unanswered int64 // attempts under way whose answer has not begun, as far as observed
	unsettled  Usage // what attempts under way reserved

	shared   []Shared
	patience []int64 // by shared set: see reserveShared
	refuser  int     // the shared set that refused last
	ticket   uint64  // the place in the lines of the shared sets, 0: none
	numbers  func() uint64

	pausedUntil    int64
	announces      bool  // the end of that pause is to be told
	slowly         bool  // after that pause calls start slowly
	exhaustedUntil int64 // a quota is used up until then
	opened         bool  // the breaker was seen to open, and not yet to close
	removed        bool
	roomAt         int64 // when the head of the line fits the limits; 0: something else holds it
	queued         bool  // the head waits for a shared set
	slack          window.Slack

	learned     learned
	pacing      pacing
	concurrency concurrency
	slowStart   slowStart
	refusals    int   // calls in a row that were refused
	refusedAt   int64 // the latest that was counted
	departures  departures
	health      health
}

// New makes an endpoint at the instant now.
func New(now int64, epoch time.Time, c Config) *Endpoint {
	e := &Endpoint{
		margin: c.Margin, learn: c.Learn, unlimited: c.Unlimited, accounting: c.Accounting,
		breaker: c.Breaker, emit: c.Emit, numbers: c.Ticket,
		configured: c.Limits, windows: window.NewSet(epoch, Windows(c.Limits, c.Margin)), shared: c.Shared,
	}
	if c.Learn {
		e.learned.watched, e.slowStart.allowed = true, slowStartFirst
	}
	for _, p := range c.Prior {
		e.windows.AddAt(min(p.At, now), window.Charge{Requests: p.Requests, Input: p.Charged.Input, Output: p.Charged.Output})
	}
	for _, s := range e.shared {
		e.patience = append(e.patience, int64(Shortest(s.Limits(now))))
	}
	e.take(now, c.Limits)
	return e
}

// take notes the limits in force, the windows excepted.
func (e *Endpoint) take(now int64, limits []Limit) {
	e.limits = slices.Clone(limits)
	e.slots = Slots(limits, DefaultSlots)
	e.tokens = countsTokens(limits)
	e.guess = firstGuess(Usage{}, limits)
	for _, s := range e.shared {
		limits := s.Limits(now)
		e.tokens = e.tokens || countsTokens(limits)
		e.guess = firstGuess(e.guess, limits)
	}
}

// Lease is what one attempt holds of an endpoint. The owner keeps it for as long as the
// attempt's usage may still be corrected.
type Lease struct {
	Endpoint *Endpoint
	Reserved Usage // at the start
	Started  int64
	charge   window.Reservation
	shared   []Grant

	// What the limits held when the attempt started, for comparison with what the
	// provider says remains of them.
	booked   []int64
	version  int
	compared bool // an answer was compared already
	answered bool // the provider's answer has begun
	probe    bool // the endpoint is held out, and this tells whether it still has to be
	told     bool // it has
	open     bool // it is under way
}

// Probe reports whether the attempt started on an endpoint that was held out.
func (l *Lease) Probe() bool { return l.probe }

// Reservation is what a request with this estimate takes from the limits if it starts
// now. mean is what attempts used so far; it stands for a size that is not known.
func (e *Endpoint) Reservation(estimate Usage, sized bool, mean Usage) Usage {
	if !sized {
		estimate = e.unsized(mean)
	}
	if e.accounting == nil {
		return estimate
	}
	u := e.accounting.Reserved(estimate, 1, mean.Output)
	if !sized {
		u = e.Capped(u) // again: it would never start
	}
	return u
}

// UnknownMean is the mean while no attempt has told what it used.
var UnknownMean = Usage{Input: -1}

// unsized is what a request of unknown size is taken for.
func (e *Endpoint) unsized(mean Usage) Usage {
	if mean == UnknownMean {
		mean = e.guess
	}
	return e.Capped(mean)
}

// firstGuess stands for the mean while that is unknown: a sixteenth of the smallest limit on
// tokens, and at least 1,000. u is what other limits came to.
func firstGuess(u Usage, limits []Limit) Usage {
	const part, least = 16, 1000
	for _, l := range limits {
		n := max(l.Amount/part, least)
		switch {
		case l.Kind == Concurrent || kinds[l.Kind].counts == window.Requests:
		case kinds[l.Kind].counts == window.Output:
			u.Output = min(cmp.Or(u.Output, n), n)
		default:
			u.Input = min(cmp.Or(u.Input, n), n)
		}
	}
	return u
}

// Admission is what Admit found.
type Admission uint8

// What Admit finds.
const (
	Admitted Admission = iota
	NotNow             // look again at RoomAt, or when something else happens
	Impossible
)

// Admit reserves u for an attempt that starts now, in all limits or in none. It leaves l as
// it was unless it admits.
func (e *Endpoint) Admit(now int64, u Usage, l *Lease) Admission {
	if !e.MayStart(now) {
		return NotNow
	}
	c := u.charge()
	var grants []Grant
	if len(e.shared) > 0 {
		// The endpoint's limits first, without taking: nobody sees them meanwhile.
		if at, limit := e.windows.NextAt(now, c); limit >= 0 {
			return e.lookAgain(at)
		}
		var at int64
		var ok bool
		if grants, at, ok = e.reserveShared(now, u); !ok {
			if _, never := e.Exceeds(u); never {
				return Impossible
			}
			e.queued = true
			e.lookAt(at)
			return NotNow
		}
	}
	charge, ok := e.windows.ReserveAt(now, c)
	if !ok {
		at, _ := e.windows.NextAt(now, c)
		return e.lookAgain(at)
	}
	if e.breaker != nil && !e.breaker.TryAcquirePermit() { // its probes are under way
		e.windows.UndoAt(now, &charge)
		for _, g := range slices.Backward(grants) {
			g.Undo(now)
		}
		return NotNow // e is not queued: others shall not wait for the probes in a shared set's line
	}
	l.charge, l.shared = charge, grants
	e.ticket = 0 // not before: what the breaker refused has its places in line again
	e.start(now, u, l)
	return Admitted
}

func (e *Endpoint) start(now int64, u Usage, l *Lease) {
	l.Endpoint, l.Reserved, l.Started = e, u, now
	l.compared, l.answered, l.open = false, false, true
	l.told = false
	if l.probe = e.health.held; l.probe {
		e.health.probing = true
	}
	if e.learned.watched {
		l.booked, l.version = e.windows.Booked(l.booked[:0]), e.learned.version
	}
	e.running++
	e.unanswered++
	e.unsettled = e.unsettled.Plus(u)
}

func (e *Endpoint) lookAgain(at int64) Admission {
	if at == window.Never {
		return Impossible
	}
	e.lookAt(at)
	return NotNow
}

// lookAt notes when there may be room, 0 when that is not known. Several requests may look in one
// decision: the first instant counts.
func (e *Endpoint) lookAt(at int64) {
	if at != 0 && (e.roomAt == 0 || at < e.roomAt) {
		e.roomAt = at
	}
}

// Settle books what an attempt used, in place of an earlier figure.
func (l *Lease) Settle(now int64, used Usage) {
	e := l.Endpoint
	charged := e.Settled(l.Reserved, used)
	e.windows.SettleAt(now, &l.charge, charged.charge())
	for _, g := range l.shared {
		g.Settle(now, charged)
	}
}

// Release says that the attempt is over: its slot is free.
func (l *Lease) Release(now int64) {
	e := l.Endpoint
	e.running--
	l.open = false
	e.unsettled = e.unsettled.Minus(l.Reserved)
	if !l.answered {
		e.begun(l)
	}
	if l.probe && !l.told {
		e.health.probing = false
	}
	for _, g := range l.shared {
		g.Release(now)
	}
}

// Exceeds gives a limit that u can never fit under, if there is one.
func (e *Endpoint) Exceeds(u Usage) (limit Limit, never bool) {
	if i := e.windows.Exceeds(u.charge()); i >= 0 {
		return WindowAt(e.limits, i), true
	}
	for _, s := range e.shared {
		if limit, never = s.Exceeds(u); never {
			return limit, true
		}
	}
	return limit, false
}

// Capped brings u under every limit's amount.
func (e *Endpoint) Capped(u Usage) Usage {
	if !e.tokens {
		return u
	}
	u = capped(e.limits, u)
	for _, s := range e.shared {
		for range kinds { // a set may bound input, output and both
			if limit, never := s.Exceeds(u); never {
				u = capped([]Limit{limit}, u)
			}
		}
	}
	return u
}

// Share is the largest fraction that u takes of any limit.
func (e *Endpoint) Share(u Usage) float64 {
	share := e.windows.Share(u.charge())
	for _, s := range e.shared {
		share = max(share, s.Share(u))
	}
	return share
}

// PerSecond is how many requests that take u the limits admit in a second, for comparison
// between endpoints.
func (e *Endpoint) PerSecond(u Usage) float64 {
	rate := float64(e.slots)
	for _, l := range e.limits {
		if l.Kind != Concurrent {
			rate = min(rate, float64(l.Amount)/l.period().Seconds()/float64(max(l.Takes(u), 1)))
		}
	}
	return rate
}

// Remove says that nothing starts here any more.
func (e *Endpoint) Remove(now int64) {
	e.Withdraw(now)
	e.removed, e.announces = true, false
}

// Stop says that the owner ends: nothing more is to be told.
func (e *Endpoint) Stop() { e.announces = false }

// Removed reports whether Remove was called.
func (e *Endpoint) Removed() bool { return e.removed }

// Running is how many attempts are under way.
func (e *Endpoint) Running() int64 { return e.running }

// Slots is how many attempts may be under way by the limits.
func (e *Endpoint) Slots() int64 { return e.slots }

// CountsTokens reports whether some limit counts tokens.
func (e *Endpoint) CountsTokens() bool { return e.tokens }

// Limits are those in force. They must not be changed.
func (e *Endpoint) Limits() []Limit { return e.limits }

// NeedsLimit reports whether an endpoint without a limit of its own would have none.
func (e *Endpoint) NeedsLimit() bool { return len(e.shared) == 0 && !e.unlimited && !e.learn }

// Shared are the sets of limits that are shared with others.
func (e *Endpoint) Shared() []Shared { return e.shared }

// Margin is how much longer than its period a window is held; negative means the default.
func (e *Endpoint) Margin() time.Duration { return e.margin }

// WindowUsage is what is charged to the i-th window now, what room it has left, and when
// everything charged will have left; now when nothing is charged.
func (e *Endpoint) WindowUsage(now int64, i int) (used, available, resetAt int64) {
	return e.windows.UsageAt(now, i)
}

// WallClock reports whether a limit counts on the wall clock, so that the owner has to
// tell how it stands: see Adjust.
func (e *Endpoint) WallClock() bool { return e.windows.WallClock() }

// Adjust says that at now the wall clock read wall (Unix nanoseconds). slept is by how much it ran
// ahead of the monotonic clock since the last call: the provider's pauses end sooner by
// as much.
func (e *Endpoint) Adjust(now, wall, slept int64) {
	e.windows.Adjust(now, wall)
	if slept > 0 {
		e.pausedUntil = max(e.pausedUntil-slept, 0)
		e.exhaustedUntil = max(e.exhaustedUntil-slept, 0)
	}
}

// Reuse lets go of what l points to. What else it holds is written anew by who admits.
func (l *Lease) Reuse() { l.Endpoint, l.shared, l.booked = nil, nil, l.booked[:0] }

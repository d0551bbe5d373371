package llmredis

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"time"
)

// A set is what this process knows and holds of one set of limits. A goroutine of its
// own speaks with Redis, one exchange after the other: see exchange.go.
type set struct {
	limiter *Limiter
	tag     string
	rules   []rule
	slots   int64 // 0: no bound
	lease   time.Duration
	ttl     time.Duration // of slots
	slotOf  time.Duration // how exactly the time of use is told
	longest time.Duration // that a charge counts
	stop    context.CancelFunc
	kicked  chan struct{}
	over    chan struct{} // closed when the set ended
	ahead   time.Duration // the server's clock, if this machine's is days off; the goroutine's
	mailbox string        // the channel on which this process is told to come

	// mu guards the rest. It is taken after a queue's lock; nothing of a queue but
	// its wake is called while it is held, and nothing waits.
	mu      sync.Mutex
	members int
	waiting []*member // by turn

	leases   []*lease // what may be used, the oldest first
	using    *spend   // what is being used now
	spends   []*spend // not told yet, using among them
	adjusted []*spend // of which a figure changed since
	returned []change // of leases that are given back

	busy, idle int64     // slots of running requests, and free ones that are leased
	slotsUntil time.Time // when no request may start on a slot any more
	usedAt     time.Time // when a request took something

	askAt    time.Time // when the first in waiting asks, zero: not by itself
	asking   bool      // an exchange that asks is under way
	inLine   bool      // this process has a place in the line at the server
	prefetch bool
	noAhead  bool      // there was no room for it: not before the next grant
	tellAt   time.Time // when what changed is told at the latest, zero: nothing did
	beatAt   time.Time
	look     bool // somebody wants to see the figures
	others   int64
	part     int64 // of the slots, when processes wait

	taken     int64     // reservations since the latest grant
	average   amounts   // of reservations
	grantedAt time.Time // of the latest grant

	heard   bool // there was a reply
	seen    []figures
	seenAt  time.Time
	inUse   int64 // slots in use by all
	base    int64 // what the server's clock said at baseAt
	baseAt  time.Time
	down    time.Time // when Redis was found gone
	failing time.Time // the same, until it was told
	epoch   int
	local   *fallback // not nil while Redis is gone and the local share is in force
	lates   []*late   // to be told when Redis is back
}

// figures are what the server said of one limit.
type figures struct {
	used int64
	full time.Time // nothing is granted before
}

// A lease is quota that this process may use until then.
type lease struct {
	ends  int64     // server's milliseconds: what is not used yet is charged as of then
	until time.Time // surely before that
	left  amounts   // of kinds that no limit counts it may be below zero
}

// A spend is what was taken from leases within a short time. Once told, it is charged
// as of its latest use instead of the end of its lease.
type spend struct {
	first, last time.Time
	at          int64 // server's milliseconds once told, unknown before
	epoch       int   // of the set's; the server does not know those before
	inFlight    bool
	from        []piece

	changed    bool
	delta, add amounts // of settlements not told yet: change, and what is charged anew where it has left
}

type piece struct {
	ends int64
	n    amounts
}

func newSet(l *Limiter, tag string) *set {
	ctx, stop := context.WithCancel(context.Background())
	s := &set{
		limiter: l, tag: tag, ttl: l.options.SlotTTL, stop: stop,
		kicked: make(chan struct{}, 1), over: make(chan struct{}),
		mailbox: "{" + tag + "}:c:" + rand.Text(), look: true,
	}
	s.rules, s.slots, s.lease = rules(l.limits, l.options.Margin)
	shortest := longestLease.Milliseconds()
	for _, r := range s.rules {
		shortest = min(shortest, r.hold)
		s.longest = max(s.longest, time.Duration(r.hold)*time.Millisecond)
	}
	s.slotOf = max(time.Duration(shortest)*time.Millisecond/1000, time.Millisecond)
	s.seen = make([]figures, len(s.rules))
	go s.run(ctx)
	return s
}

// kick makes the goroutine look at what is due.
func (s *set) kick() {
	select {
	case s.kicked <- struct{}{}:
	default:
	}
}

// unused tells whether the set may end. Callers hold mu.
func (s *set) unused() bool { return s.members == 0 && s.busy == 0 && len(s.waiting) == 0 }

// ask makes the first in waiting ask at once. Callers hold mu.
func (s *set) ask(now time.Time) {
	if len(s.waiting) == 0 {
		return
	}
	s.askAt = now
	s.kick()
}

// tell bounds how long what changed may stay here. Callers hold mu.
func (s *set) tell(at time.Time) {
	if s.tellAt.IsZero() || at.Before(s.tellAt) {
		s.tellAt = at
		s.kick()
	}
}

// soon is how long a settlement may wait for others to be told with it.
func (s *set) soon() time.Duration {
	if s.others > 0 {
		return 2 * time.Millisecond
	}
	return min(50*time.Millisecond, 10*s.slotOf)
}

// expire gives back leases that have ended. Callers hold mu.
func (s *set) expire(now time.Time) {
	n := 0
	for n < len(s.leases) && !now.Before(s.leases[n].until) {
		s.giveBack(s.leases[n])
		n++
	}
	if n > 0 {
		s.leases = slices.Delete(s.leases, 0, n)
		s.tell(now)
	}
}

func (s *set) giveBack(l *lease) {
	if !l.left.isZero() {
		s.returned = append(s.returned, change{at: l.ends, n: amounts{}.minus(l.left)})
	}
}

// giveAllBack gives back every lease. Callers hold mu.
func (s *set) giveAllBack() {
	for _, l := range s.leases {
		s.giveBack(l)
	}
	clear(s.leases)
	s.leases = s.leases[:0]
}

// fits tells whether n can be taken from the leases. Callers hold mu.
func (s *set) fits(n amounts) bool {
	if len(s.leases) == 0 {
		return len(s.rules) == 0 && s.slots > 0
	}
	for _, r := range s.rules {
		var have int64
		for _, l := range s.leases {
			have += l.left[r.kind]
		}
		if have < n[r.kind] {
			return false
		}
	}
	return true
}

// slotFree tells whether a request may start on a slot. Callers hold mu.
func (s *set) slotFree(now time.Time) bool {
	return s.slots == 0 || s.idle > 0 && now.Before(s.slotsUntil)
}

// take takes n, which fits, from the leases, the oldest first. Callers hold mu.
func (s *set) take(now time.Time, n amounts) (*spend, []taken) {
	u := s.using
	if u == nil || u.inFlight || now.Sub(u.first) > s.slotOf {
		u = &spend{first: now, epoch: s.epoch}
		s.using = u
		s.spends = append(s.spends, u)
	}
	u.last = now
	var parts []taken
	for i, l := range s.leases {
		part := n
		if i < len(s.leases)-1 {
			for _, r := range s.rules {
				part[r.kind] = min(n[r.kind], max(l.left[r.kind], 0))
			}
		}
		if part.isZero() {
			continue
		}
		l.left = l.left.minus(part)
		n = n.minus(part)
		parts = append(parts, taken{l, part})
		u.put(l.ends, part)
		if n.isZero() {
			break
		}
	}
	return u, parts
}

// put adds n to what came from the lease that ends then.
func (u *spend) put(ends int64, n amounts) {
	for i := range u.from {
		if u.from[i].ends == ends {
			u.from[i].n = u.from[i].n.plus(n)
			return
		}
	}
	u.from = append(u.from, piece{ends, n})
}

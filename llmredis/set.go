package llmredis

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue"
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

// taken is what a reservation took of one lease.
type taken struct {
	lease *lease
	n     amounts
}

// member is one queue's part in a set.
type member struct {
	set  *set
	wake func()
	turn uint64 // its place in waiting, 0 when it has none
	need amounts

	inner    llmqueue.SharedMember // while the local share is in force
	innerOf  *fallback
	finished bool
}

// enter gives m its place in waiting. Callers hold mu.
func (m *member) enter(now time.Time, turn uint64, need amounts) {
	s := m.set
	changed := m.need != need
	m.need = need
	if m.turn == 0 {
		m.turn = turn
		i := len(s.waiting)
		for i > 0 && s.waiting[i-1].turn > turn {
			i--
		}
		s.waiting = slices.Insert(s.waiting, i, m)
		changed = true
	}
	if s.waiting[0] == m && !s.asking && (changed || s.askAt.IsZero()) {
		s.ask(now)
	}
}

// leave gives m's place up. Callers hold mu.
func (m *member) leave(now time.Time) {
	if m.turn == 0 {
		return
	}
	m.turn = 0
	s := m.set
	i := slices.Index(s.waiting, m)
	s.waiting = slices.Delete(s.waiting, i, i+1)
	if i > 0 {
		return
	}
	s.askAt = time.Time{}
	if len(s.waiting) > 0 {
		s.waiting[0].wake()
	} else if s.inLine {
		s.tell(now)
	}
}

func (m *member) Reserve(now time.Time, u llmqueue.Usage, turn uint64) (llmqueue.SharedReservation, time.Time) {
	s := m.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.local != nil {
		return m.reserveLocally(now, u, turn)
	}
	n := charge(u)
	if len(s.waiting) > 0 && s.waiting[0] != m && s.waiting[0].turn < turn {
		m.enter(now, turn, n)
		return nil, time.Time{} // woken when it is this member's turn
	}
	s.expire(now)
	if !s.fits(n) || !s.slotFree(now) {
		m.enter(now, turn, n)
		if s.askAt.After(now) {
			return nil, s.askAt
		}
		return nil, time.Time{}
	}
	r := &reservation{member: m, booked: n, high: n, turn: m.turn, held: true}
	if len(s.leases) > 0 {
		r.spend, r.parts = s.take(now, n)
	}
	m.leave(now)
	s.busy++
	if s.slots > 0 {
		s.idle--
	}
	s.usedAt = now
	s.taken++
	s.learnSize(n)
	if len(s.rules) > 0 && len(s.waiting) == 0 && s.low() && !s.asking && s.others == 0 && !s.noAhead {
		s.prefetch = true
		s.kick()
	}
	return r, time.Time{}
}

// learnSize keeps the average of what requests take, rounded up.
func (s *set) learnSize(n amounts) {
	if s.average.isZero() {
		s.average = n
		return
	}
	for k := range n {
		s.average[k] += (n[k] - s.average[k] + 7) / 8
	}
}

// low tells whether the leases will be used up before another round trip, at a rate
// that makes one ahead worth its while.
func (s *set) low() bool {
	if s.taken < 8 {
		return false
	}
	for _, r := range s.rules {
		var have int64
		for _, l := range s.leases {
			have += l.left[r.kind]
		}
		if have < s.average[r.kind]*s.taken/4 {
			return true
		}
	}
	return false
}

func (m *member) Withdraw(now time.Time) {
	s := m.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.inner != nil {
		m.inner.Withdraw(now)
	}
	m.leave(now)
}

func (m *member) Leave() {
	s := m.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.finished {
		return
	}
	m.finished = true
	if m.inner != nil {
		m.inner.Leave()
	}
	m.leave(time.Now())
	s.members--
	s.kick()
}

// reservation is what one attempt holds.
type reservation struct {
	member *member
	spend  *spend
	parts  []taken // to give back while the spend is not told
	booked amounts
	high   amounts // the highest figure so far
	turn   uint64  // the member's place before, for Undo
	held   bool    // the slot

	inner llmqueue.SharedReservation // of the local share
	late  *late
}

func (r *reservation) Settle(now time.Time, u llmqueue.Usage) {
	s := r.member.set
	s.mu.Lock()
	defer s.mu.Unlock()
	r.settle(now, charge(u))
	if r.inner != nil {
		r.inner.Settle(now, u)
	}
}

// settle makes n the figure. Callers hold mu.
func (r *reservation) settle(now time.Time, n amounts) {
	s := r.member.set
	delta, over := n.minus(r.booked), n.above(r.high)
	for k := range n {
		r.high[k] = max(r.high[k], n[k])
	}
	r.booked = n
	if delta.isZero() && over.isZero() {
		return
	}
	if r.spend == nil { // of the local share, or only slots are bound
		s.settleLate(now, r.late, delta, over)
		return
	}
	if r.spend.epoch != s.epoch {
		// Who the server does not know has a period in which everything is full, for
		// what was reserved; not for what is used beyond.
		if !over.isZero() {
			s.later(now, over)
			s.tell(now.Add(s.soon()))
		}
		return
	}
	u := r.spend
	u.delta, u.add = u.delta.plus(delta), u.add.plus(over)
	if !u.changed {
		u.changed = true
		s.adjusted = append(s.adjusted, u)
	}
	if !over.isZero() || len(s.waiting) > 0 && s.inLine {
		s.tell(now)
	} else {
		s.tell(now.Add(s.soon()))
	}
}

func (r *reservation) Undo(now time.Time) {
	s := r.member.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.inner != nil {
		r.inner.Undo(now)
		r.settle(now, amounts{})
		r.release(now)
		return
	}
	if r.turn != 0 {
		defer r.member.enter(now, r.turn, r.booked)
	}
	if u := r.spend; u != nil && !u.inFlight && u.at == 0 && u.epoch == s.epoch {
		for _, p := range r.parts {
			u.put(p.lease.ends, amounts{}.minus(p.n))
			if p.lease.left = p.lease.left.plus(p.n); !slices.Contains(s.leases, p.lease) {
				s.giveBack(&lease{ends: p.lease.ends, left: p.n})
				s.tell(now.Add(s.soon()))
			}
		}
	} else {
		r.settle(now, amounts{})
	}
	s.taken = max(s.taken-1, 0)
	if r.held && s.slots > 0 {
		s.idle++
		s.busy--
		r.held = false
	}
	r.release(now)
	if len(s.waiting) > 0 && s.waiting[0] != r.member {
		s.waiting[0].wake()
	}
}

func (r *reservation) Release(now time.Time) {
	s := r.member.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.inner != nil {
		r.inner.Release(now)
	}
	r.release(now)
}

// release gives the slot back, once. Callers hold mu.
func (r *reservation) release(now time.Time) {
	if !r.held {
		return
	}
	r.held = false
	s := r.member.set
	s.busy--
	if s.slots > 0 && s.local == nil {
		switch {
		case s.others > 0 && s.busy+s.idle >= s.part, !now.Before(s.slotsUntil):
			// Others wait, and this process has its part, or it may be taken for gone.
			s.tell(now)
		default:
			s.idle++
			if len(s.waiting) > 0 && s.fits(s.waiting[0].need) {
				s.waiting[0].wake()
			}
		}
		if len(s.waiting) > 0 && !s.asking && s.inLine {
			s.ask(now) // with a slot less
		}
	}
	if s.unused() {
		s.kick()
	}
}

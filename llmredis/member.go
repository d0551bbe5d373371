package llmredis

import (
	"slices"
	"time"

	"github.com/llmqueue/llmqueue"
)

// This file is the queue's side of a set: members, and what they hold of its leases.

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

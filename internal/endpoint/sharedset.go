package endpoint

import (
	"math"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/internal/window"
)

// SharedSet is one set of limits that several members draw from. Those that wait for it take
// turns, one request each. Its owner's lock guards it and its members; instants are
// nanoseconds since its epoch.
type SharedSet struct {
	configured []Limit
	limits     []Limit // in force: at most those configured
	latest     int64   // when the call was sent whose answer changed them last
	set        *window.Set
	slots      int64 // 0: no bound
	running    int64
	waiting    []*Member // by ticket
}

// NewSharedSet makes a set of validated limits with the default margin.
func NewSharedSet(epoch time.Time, limits []Limit) *SharedSet {
	return &SharedSet{
		configured: limits, limits: slices.Clone(limits), latest: math.MinInt64, slots: Slots(limits, 0),
		set: window.NewSet(epoch, Windows(limits, -1)),
	}
}

// Adjust takes note of what the wall clock read, in Unix nanoseconds.
func (s *SharedSet) Adjust(now, wall int64) {
	if s.set.WallClock() {
		s.set.Adjust(now, wall)
	}
}

// Limits are those in force.
func (s *SharedSet) Limits() []Limit { return s.limits }

// Running is how many attempts hold a slot.
func (s *SharedSet) Running() int64 { return s.running }

// Waiting is how many members wait.
func (s *SharedSet) Waiting() int { return len(s.waiting) }

// WindowUsage says how much of the i-th window counts, what is left of it, and when what
// counts no longer does.
func (s *SharedSet) WindowUsage(now int64, i int) (used, available, reset int64) {
	return s.set.UsageAt(now, i)
}

// Exceeds gives a limit that u can never fit under, if there is one.
func (s *SharedSet) Exceeds(u Usage) (Limit, bool) {
	if i := s.set.Exceeds(u.charge()); i >= 0 {
		return WindowAt(s.limits, i), true
	}
	return Limit{}, false
}

// Share is the largest fraction of any limit that u takes.
func (s *SharedSet) Share(u Usage) float64 { return s.set.Share(u.charge()) }

// Forecast guesses when a request using own starts behind others, Never when it cannot tell.
func (s *SharedSet) Forecast(now, requests int64, ahead, own Usage) int64 {
	all := ahead.charge()
	all.Requests = requests
	at, _ := s.set.ForecastAt(now, all, own.charge())
	return at
}

// Learn makes the limit that is like the stated one as low as an answer states it, and no
// higher than it was configured. What others hold is what remains less than all members booked.
// sent is when the call went out that was answered.
func (s *SharedSet) Learn(now, sent int64, stated Stated) (has, changed bool) {
	i := indexLike(s.limits, stated.Limit)
	if i < 0 {
		return false, false
	}
	amount, was := min(s.configured[i].Amount, stated.Limit.Amount), s.limits[i].Amount
	// Answers overtake each other: one to an earlier call tells of how it was.
	if amount < was && sent >= s.latest || amount > was && sent > s.latest+reordering {
		s.limits[i].Amount, changed = amount, true
		s.latest = max(s.latest, sent)
		s.set.SetLimitsAt(now, Windows(s.limits, -1))
		s.wake()
	}
	if stated.Remaining >= 0 && stated.Remaining <= stated.Limit.Amount {
		w := WindowOf(s.limits, stated.Limit)
		others := stated.Limit.Amount - stated.Remaining - s.set.Booked(nil)[w]
		if float64(others) <= noise*float64(stated.Limit.Amount) {
			others = 0
		}
		until := int64(stated.Limit.period())
		if stated.Reset > 0 {
			until = min(stated.Reset, until)
		}
		s.set.OthersAt(now, w, others, now+until, false)
	}
	return true, changed
}

// wake wakes the member whose turn it is.
func (s *SharedSet) wake() {
	if len(s.waiting) > 0 {
		s.waiting[0].wake()
	}
}

// Member is one owner's part in a SharedSet.
type Member struct {
	set    *SharedSet
	wake   func()
	ticket uint64 // by which it waits, 0 when it does not
}

// Join adds a member. wake tells it that a reservation that was refused may succeed now; it is
// called under the set's lock.
func (s *SharedSet) Join(wake func()) *Member { return &Member{set: s, wake: wake} }

// enter lets m wait.
func (m *Member) enter(ticket uint64) {
	if m.ticket != 0 {
		return
	}
	m.ticket = ticket
	s := m.set
	i := len(s.waiting)
	for i > 0 && s.waiting[i-1].ticket > ticket {
		i--
	}
	s.waiting = slices.Insert(s.waiting, i, m)
}

// Withdraw ends m's wait, and wakes the next when it was the first.
func (m *Member) Withdraw() {
	if m.ticket == 0 {
		return
	}
	m.ticket = 0
	s := m.set
	i := slices.Index(s.waiting, m)
	s.waiting = slices.Delete(s.waiting, i, i+1)
	if i == 0 {
		s.wake()
	}
}

// Reserve takes one request and u from every limit of the set, or from none. Refused, it gives
// nil and the instant from which asking again is of use, 0 when only a wake will tell; m then
// waits, ordered by ticket, until it reserves or withdraws.
func (m *Member) Reserve(now int64, u Usage, ticket uint64) (*Reservation, int64) {
	s := m.set
	if len(s.waiting) > 0 && s.waiting[0] != m && s.waiting[0].ticket < ticket {
		m.enter(ticket)
		return nil, 0 // woken when it is this member's turn
	}
	if s.slots == 0 || s.running < s.slots {
		if taken, ok := s.set.ReserveAt(now, u.charge()); ok {
			r := &Reservation{member: m, taken: taken, running: true, ticket: m.ticket}
			m.Withdraw()
			s.running++
			return r, 0
		}
	}
	m.enter(ticket)
	at, _ := s.set.NextAt(now, u.charge())
	if at <= now || at == Never {
		return nil, 0 // a slot is missing, or it can never fit
	}
	return nil, at
}

// Reservation is what one attempt holds of a SharedSet.
type Reservation struct {
	member  *Member
	taken   window.Reservation
	ticket  uint64 // by which the member waited before, for Undo
	running bool   // it holds a slot
}

// Settle replaces the reserved tokens by those used: any number of times, also after Release.
func (r *Reservation) Settle(now int64, u Usage) {
	if s := r.member.set; s.set.SettleAt(now, &r.taken, u.charge()) {
		s.wake()
	}
}

// Undo takes the reservation back as if it had never been made: the member waits again, if it
// had.
func (r *Reservation) Undo(now int64) {
	s := r.member.set
	s.set.UndoAt(now, &r.taken)
	r.release()
	if r.ticket != 0 {
		r.member.enter(r.ticket)
	}
	if len(s.waiting) > 0 && s.waiting[0] != r.member {
		s.wake()
	}
}

// Release gives the slot back.
func (r *Reservation) Release() {
	if s := r.member.set; r.release() && s.slots > 0 {
		s.wake()
	}
}

// release gives the slot back, once.
func (r *Reservation) release() bool {
	was := r.running
	if was {
		r.running = false
		r.member.set.running--
	}
	return was
}

package llmqueue

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue/internal/window"
)

// SharedLimiter is a set of limits that several queues draw from: those of an
// organisation or a model family in this process (SharedLimits), or limits held
// outside it. Implementations must be safe for concurrent use and comparable.
type SharedLimiter interface {
	// Join makes a queue a member. wake tells the queue that a reservation that
	// was refused may succeed now; it never blocks and may be called from any
	// goroutine, at any time, under any lock.
	Join(modelID string, wake func()) (SharedMember, error)
}

// SharedMember is one queue's part in a SharedLimiter. The queue calls it under
// its own lock, so no method may block, do I/O or call back into the queue (wake
// excepted). A limiter whose answer takes a round trip refuses at first, asks in
// the background, and wakes the queue when it can grant.
type SharedMember interface {
	// Reserve takes one request and u from every limit of the set, or from none.
	// Refused, it returns nil and the earliest time at which asking again is of
	// use, zero when only wake will tell; the member then keeps its place among
	// the members that wait until it reserves or withdraws.
	Reserve(now time.Time, u Usage) (SharedReservation, time.Time)
	// Withdraw gives up the place that a refused Reserve took.
	Withdraw(now time.Time)
	// Exceeds gives a limit that u can never fit under, if there is one.
	Exceeds(u Usage) (Limit, bool)
	// Share is the largest fraction of any limit that u takes.
	Share(u Usage) float64
	// Forecast guesses when a request using own would start if others taking
	// requests and ahead in total start before it; now when it cannot tell.
	Forecast(now time.Time, requests int64, ahead, own Usage) time.Time
	// Limits is a snapshot of the set.
	Limits(now time.Time) []LimitInfo
	// Leave ends the membership. Reservations still settle afterwards.
	Leave()
}

// SharedReservation is what one attempt holds of a SharedLimiter.
type SharedReservation interface {
	// Settle replaces the reserved tokens by those used. It may come again, and
	// after Release.
	Settle(now time.Time, u Usage)
	// Undo takes the reservation back as if it had never been made.
	Undo(now time.Time)
	// Release says that the processor returned: a concurrency slot is free.
	Release(now time.Time)
}

// SharedLimits holds one set of limits for several queues of this process, also
// queues of different managers and types. Each request takes from it in the same
// step as from its queue's own limits. Queues that wait for it take turns, one
// request each. Safe for concurrent use.
type SharedLimits struct {
	err error // what NewSharedLimits found wrong, told by Join

	// mu guards the rest. It is taken after a queue's lock; no other lock is taken
	// and nothing of a queue but its wake is called while it is held.
	mu      sync.Mutex
	limits  []Limit
	set     *window.Set
	slots   int64 // 0: no bound
	running int64
	waiting []*sharedMember // first come first served
}

// NewSharedLimits returns a set of shared limits with the default margin. Limits
// that are wrong are reported by NewQueue or Register as ErrInvalidConfiguration.
func NewSharedLimits(limits ...Limit) *SharedLimits {
	s := &SharedLimits{limits: slices.Clone(limits), err: validateLimits(limits)}
	if s.err == nil && len(limits) == 0 {
		s.err = fmt.Errorf("%w: NewSharedLimits without a limit, give at least one", ErrInvalidConfiguration)
	}
	if s.err == nil {
		s.slots = concurrency(limits, 0)
		s.set = window.NewSet(time.Now(), windowLimits(limits, -1))
	}
	return s
}

// Join is called by NewQueue; programs do not call it.
func (s *SharedLimits) Join(_ string, wake func()) (SharedMember, error) {
	if s.err != nil {
		return nil, s.err
	}
	return &sharedMember{limits: s, wake: wake}, nil
}

// Info is a snapshot of the limits.
func (s *SharedLimits) Info() []LimitInfo {
	if s.err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return limitInfos(time.Now(), s.limits, s.set, s.running)
}

// next wakes the member whose turn it is. Callers hold mu.
func (s *SharedLimits) next() {
	if len(s.waiting) > 0 {
		s.waiting[0].wake()
	}
}

type sharedMember struct {
	limits *SharedLimits
	wake   func()
}

func (m *sharedMember) Reserve(now time.Time, u Usage) (SharedReservation, time.Time) {
	s := m.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	place := slices.Index(s.waiting, m)
	if place > 0 || place < 0 && len(s.waiting) > 0 {
		if place < 0 {
			s.waiting = append(s.waiting, m)
		}
		return nil, time.Time{} // woken when it is this member's turn
	}
	if s.slots == 0 || s.running < s.slots {
		if r, ok := s.set.Reserve(now, charge(u)); ok {
			if place == 0 {
				s.waiting = slices.Delete(s.waiting, 0, 1)
				s.next()
			}
			s.running++
			return &sharedReservation{limits: s, taken: r, held: true}, time.Time{}
		}
	}
	if place < 0 {
		s.waiting = append(s.waiting, m)
	}
	at, _ := s.set.Next(now, charge(u))
	if !at.After(now) {
		at = time.Time{} // a slot is missing, or it can never fit
	}
	return nil, at
}

func (m *sharedMember) Withdraw(time.Time) {
	s := m.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, m); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		if i == 0 {
			s.next()
		}
	}
}

func (m *sharedMember) Exceeds(u Usage) (Limit, bool) {
	s := m.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	return exceeded(s.limits, s.set, u)
}

func (m *sharedMember) Share(u Usage) float64 {
	s := m.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set.Share(charge(u))
}

func (m *sharedMember) Forecast(now time.Time, requests int64, ahead, own Usage) time.Time {
	s := m.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	all := charge(ahead)
	all.Requests = requests
	return s.set.Forecast(now, all, charge(own))
}

func (m *sharedMember) Limits(now time.Time) []LimitInfo {
	s := m.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	return limitInfos(now, s.limits, s.set, s.running)
}

func (m *sharedMember) Leave() { m.Withdraw(time.Time{}) }

type sharedReservation struct {
	limits *SharedLimits
	taken  window.Reservation
	held   bool // the slot
}

func (r *sharedReservation) Settle(now time.Time, u Usage) {
	s := r.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set.Settle(now, &r.taken, charge(u)) {
		s.next()
	}
}

func (r *sharedReservation) Undo(now time.Time) {
	s := r.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set.Undo(now, &r.taken)
	r.release()
	s.next()
}

func (r *sharedReservation) Release(time.Time) {
	s := r.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.release() && s.slots > 0 {
		s.next()
	}
}

func (r *sharedReservation) release() bool {
	was := r.held
	if was {
		r.held = false
		r.limits.running--
	}
	return was
}

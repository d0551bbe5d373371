package llmqueue

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
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
	// use, zero when only wake will tell; the member then has a place among the
	// members that wait, until it reserves or withdraws. Places are ordered by
	// turn, lower first, and whoever is behind is refused: a turn is the process's
	// order of arrival, the same in every set of a queue, so that queues that wait
	// in several sets never wait for each other.
	Reserve(now time.Time, u Usage, turn uint64) (SharedReservation, time.Time)
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
	// Undo takes the reservation back as if it had never been made: the member is
	// in its place again, if it had one.
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
	mu    sync.Mutex
	epoch time.Time // what the set counts from
	set   *endpoint.SharedSet
}

// NewSharedLimits returns a set of shared limits with the default margin. Limits
// that are wrong are reported by NewQueue or Register as ErrInvalidConfiguration.
func NewSharedLimits(limits ...Limit) *SharedLimits {
	s := &SharedLimits{err: validateLimits(limits)}
	if s.err == nil && len(limits) == 0 {
		s.err = fmt.Errorf("%w: NewSharedLimits without a limit, give at least one", ErrInvalidConfiguration)
	}
	if s.err == nil {
		s.epoch = time.Now()
		s.set = endpoint.NewSharedSet(s.epoch, toEngineLimits(limits))
	}
	return s
}

// lock takes mu and gives now as the set counts it.
func (s *SharedLimits) lock(now time.Time) (ns int64) {
	s.mu.Lock()
	ns = int64(now.Sub(s.epoch))
	s.set.Adjust(ns, now.UnixNano())
	return ns
}

func (s *SharedLimits) infos(now time.Time) []LimitInfo {
	ns := s.lock(now)
	defer s.mu.Unlock()
	return limitInfos(fromEngineLimits(s.set.Limits()), s.set.Running(), func(i int) (used, available int64, resetAt time.Time) {
		used, available, reset := s.set.WindowUsage(ns, i)
		if reset > ns {
			resetAt = now.Add(time.Duration(reset - ns))
		}
		return used, available, resetAt
	})
}

// Join is called by NewQueue; programs do not call it.
func (s *SharedLimits) Join(_ string, wake func()) (SharedMember, error) {
	if s == nil {
		return nil, fmt.Errorf("%w: WithSharedLimits got nil", ErrInvalidConfiguration)
	}
	if s.err != nil {
		return nil, s.err
	}
	return &sharedMember{s, s.set.Join(wake)}, nil
}

// Info is a snapshot of the limits.
func (s *SharedLimits) Info() []LimitInfo {
	if s.err != nil {
		return nil
	}
	return s.infos(time.Now())
}

type sharedMember struct {
	limits *SharedLimits
	member *endpoint.Member
}

func (m *sharedMember) Reserve(now time.Time, u Usage, turn uint64) (SharedReservation, time.Time) {
	ns := m.limits.lock(now)
	defer m.limits.mu.Unlock()
	r, at := m.member.Reserve(ns, toEngineUsage(u), turn)
	switch {
	case r != nil:
		return &sharedReservation{m.limits, r}, time.Time{}
	case at == 0:
		return nil, time.Time{}
	}
	return nil, now.Add(time.Duration(at - ns))
}

func (m *sharedMember) learn(now, sent time.Time, stated endpoint.Stated) (has, changed bool) {
	ns := m.limits.lock(now)
	defer m.limits.mu.Unlock()
	return m.limits.set.Learn(ns, int64(sent.Sub(m.limits.epoch)), stated)
}

func (m *sharedMember) Withdraw(time.Time) {
	m.limits.mu.Lock()
	defer m.limits.mu.Unlock()
	m.member.Withdraw()
}

func (m *sharedMember) Exceeds(u Usage) (Limit, bool) {
	m.limits.mu.Lock()
	defer m.limits.mu.Unlock()
	l, exceeds := m.limits.set.Exceeds(toEngineUsage(u))
	if !exceeds {
		return Limit{}, false
	}
	return fromEngineLimit(l), true
}

func (m *sharedMember) Share(u Usage) float64 {
	m.limits.mu.Lock()
	defer m.limits.mu.Unlock()
	return m.limits.set.Share(toEngineUsage(u))
}

func (m *sharedMember) Forecast(now time.Time, requests int64, ahead, own Usage) time.Time {
	ns := m.limits.lock(now)
	defer m.limits.mu.Unlock()
	at := m.limits.set.Forecast(ns, requests, toEngineUsage(ahead), toEngineUsage(own))
	if at == endpoint.Never {
		return now
	}
	return now.Add(time.Duration(at - ns))
}

func (m *sharedMember) Limits(now time.Time) []LimitInfo { return m.limits.infos(now) }

func (m *sharedMember) Leave() { m.Withdraw(time.Time{}) }

type sharedReservation struct {
	limits      *SharedLimits
	reservation *endpoint.Reservation
}

func (r *sharedReservation) Settle(now time.Time, u Usage) {
	ns := r.limits.lock(now)
	defer r.limits.mu.Unlock()
	r.reservation.Settle(ns, toEngineUsage(u))
}

func (r *sharedReservation) Undo(now time.Time) {
	ns := r.limits.lock(now)
	defer r.limits.mu.Unlock()
	r.reservation.Undo(ns)
}

func (r *sharedReservation) Release(time.Time) {
	r.limits.mu.Lock()
	defer r.limits.mu.Unlock()
	r.reservation.Release()
}

// tickets numbers the queues that wait for shared limits, in order of arrival.
var tickets atomic.Uint64

// limitLearner is a shared set that answers correct: see endpoint.Shared.
type limitLearner interface {
	learn(now, sent time.Time, stated endpoint.Stated) (has, changed bool)
}

// membership is a SharedMember in the words of the engine.
type membership struct {
	core   *core
	member SharedMember
}

func (m membership) Reserve(now int64, u endpoint.Usage, ticket uint64) (endpoint.Grant, int64) {
	r, at := m.member.Reserve(m.core.instant(now), fromEngineUsage(u), ticket)
	if r != nil {
		return grant{m.core, r}, 0
	}
	if at.IsZero() {
		return nil, 0
	}
	return nil, m.core.clock.Since(at)
}

func (m membership) Withdraw(now int64) { m.member.Withdraw(m.core.instant(now)) }

func (m membership) Exceeds(u endpoint.Usage) (endpoint.Limit, bool) {
	l, never := m.member.Exceeds(fromEngineUsage(u))
	if !never {
		return endpoint.Limit{}, false
	}
	return toEngineLimit(l), true
}

func (m membership) Share(u endpoint.Usage) float64 { return m.member.Share(fromEngineUsage(u)) }

func (m membership) Forecast(now, requests int64, ahead, own endpoint.Usage) int64 {
	return m.core.clock.Since(m.member.Forecast(m.core.instant(now), requests, fromEngineUsage(ahead), fromEngineUsage(own)))
}

func (m membership) Limits(now int64) []endpoint.Limit {
	return each(m.member.Limits(m.core.instant(now)), func(l LimitInfo) endpoint.Limit { return toEngineLimit(l.Limit) })
}

func (m membership) Learn(now, sent int64, s endpoint.Stated) (has, changed bool) {
	learner, ok := m.member.(limitLearner)
	if !ok {
		return false, false
	}
	return learner.learn(m.core.instant(now), m.core.clock.Epoch.Add(time.Duration(sent)), s)
}

// grant is a SharedReservation in the words of the engine.
type grant struct {
	core        *core
	reservation SharedReservation
}

func (g grant) Settle(now int64, u endpoint.Usage) {
	g.reservation.Settle(g.core.instant(now), fromEngineUsage(u))
}
func (g grant) Undo(now int64)    { g.reservation.Undo(g.core.instant(now)) }
func (g grant) Release(now int64) { g.reservation.Release(g.core.instant(now)) }

// instant is ns as a reading of the clock, both of whose parts count.
func (c *core) instant(ns int64) time.Time {
	return c.read.Add(time.Duration(ns - c.clock.Since(c.read)))
}

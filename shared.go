package llmqueue

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
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
	err        error // what NewSharedLimits found wrong, told by Join
	configured []Limit

	// mu guards the rest. It is taken after a queue's lock; no other lock is taken
	// and nothing of a queue but its wake is called while it is held.
	mu      sync.Mutex
	epoch   time.Time // what the windows count from
	limits  []Limit   // in force: at most those configured
	latest  time.Time // when the call was sent whose answer changed them last
	set     *window.Set
	slots   int64 // 0: no bound
	running int64
	waiting []*sharedMember // by turn
}

// NewSharedLimits returns a set of shared limits with the default margin. Limits
// that are wrong are reported by NewQueue or Register as ErrInvalidConfiguration.
func NewSharedLimits(limits ...Limit) *SharedLimits {
	s := &SharedLimits{configured: slices.Clone(limits), limits: slices.Clone(limits), err: validateLimits(limits)}
	if s.err == nil && len(limits) == 0 {
		s.err = fmt.Errorf("%w: NewSharedLimits without a limit, give at least one", ErrInvalidConfiguration)
	}
	if s.err == nil {
		s.slots = endpoint.Slots(toEngineLimits(limits), 0)
		s.epoch = time.Now()
		s.set = window.NewSet(s.epoch, windowLimits(limits, -1))
	}
	return s
}

// since is now as the windows count it. Callers hold mu.
func (s *SharedLimits) since(now time.Time) int64 {
	ns := int64(now.Sub(s.epoch))
	if s.set.WallClock() {
		s.set.Adjust(ns, now.UnixNano())
	}
	return ns
}

// infos is a snapshot. Callers hold mu.
func (s *SharedLimits) infos(now time.Time) []LimitInfo {
	ns := s.since(now)
	return limitInfos(s.limits, s.running, func(i int) (used, available int64, resetAt time.Time) {
		used, available, reset := s.set.UsageAt(ns, i)
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
	return &sharedMember{limits: s, wake: wake}, nil
}

// Info is a snapshot of the limits.
func (s *SharedLimits) Info() []LimitInfo {
	if s.err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.infos(time.Now())
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
	turn   uint64 // its place in waiting, 0 when it has none
}

// enter puts m in its place. Callers hold mu.
func (m *sharedMember) enter(turn uint64) {
	if m.turn != 0 {
		return
	}
	m.turn = turn
	s := m.limits
	i := len(s.waiting)
	for i > 0 && s.waiting[i-1].turn > turn {
		i--
	}
	s.waiting = slices.Insert(s.waiting, i, m)
}

// leave gives m's place up, and wakes the next when it was the first.
func (m *sharedMember) leave() {
	if m.turn == 0 {
		return
	}
	m.turn = 0
	s := m.limits
	i := slices.Index(s.waiting, m)
	s.waiting = slices.Delete(s.waiting, i, i+1)
	if i == 0 {
		s.next()
	}
}

func (m *sharedMember) Reserve(now time.Time, u Usage, turn uint64) (SharedReservation, time.Time) {
	s := m.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) > 0 && s.waiting[0] != m && s.waiting[0].turn < turn {
		m.enter(turn)
		return nil, time.Time{} // woken when it is this member's turn
	}
	if s.slots == 0 || s.running < s.slots {
		if taken, ok := s.set.ReserveAt(s.since(now), charge(u)); ok {
			r := &sharedReservation{member: m, taken: taken, held: true, turn: m.turn}
			m.leave()
			s.running++
			return r, time.Time{}
		}
	}
	m.enter(turn)
	ns := s.since(now)
	at, _ := s.set.NextAt(ns, charge(u))
	if at <= ns || at == window.Never {
		return nil, time.Time{} // a slot is missing, or it can never fit
	}
	return nil, now.Add(time.Duration(at - ns))
}

// learn makes the limit that is like l as low as an answer states it, and no higher
// than it was configured. What others hold is what remains less than all members
// booked.
func (m *sharedMember) learn(now, sent time.Time, l Limit, seen ObservedLimit) (has, changed bool) {
	s := m.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.limits, l.like)
	if i < 0 {
		return false, false
	}
	amount, was := min(s.configured[i].Amount, l.Amount), s.limits[i].Amount
	// Answers overtake each other: one to an earlier call tells of how it was.
	if amount < was && !sent.Before(s.latest) || amount > was && sent.After(s.latest.Add(reordering)) {
		s.limits[i].Amount, changed = amount, true
		if sent.After(s.latest) {
			s.latest = sent
		}
		s.set.SetLimitsAt(s.since(now), windowLimits(s.limits, -1))
		s.next()
	}
	if w := endpoint.WindowOf(toEngineLimits(s.limits), toEngineLimit(l)); seen.Remaining >= 0 && seen.Remaining <= seen.Amount {
		others := seen.Amount - seen.Remaining - s.set.Booked(nil)[w]
		if float64(others) <= noise*float64(seen.Amount) {
			others = 0
		}
		until := l.period()
		if seen.Reset > 0 {
			until = min(seen.Reset, until)
		}
		ns := s.since(now)
		s.set.OthersAt(ns, w, others, ns+int64(until), false)
	}
	return true, changed
}

func (m *sharedMember) Withdraw(time.Time) {
	m.limits.mu.Lock()
	defer m.limits.mu.Unlock()
	m.leave()
}

func (m *sharedMember) Exceeds(u Usage) (Limit, bool) {
	s := m.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.set.Exceeds(charge(u)); i >= 0 {
		return fromEngineLimit(endpoint.WindowAt(toEngineLimits(s.limits), i)), true
	}
	return Limit{}, false
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
	ns := s.since(now)
	at, _ := s.set.ForecastAt(ns, all, charge(own))
	if at == window.Never {
		return now
	}
	return now.Add(time.Duration(at - ns))
}

func (m *sharedMember) Limits(now time.Time) []LimitInfo {
	s := m.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.infos(now)
}

func (m *sharedMember) Leave() { m.Withdraw(time.Time{}) }

type sharedReservation struct {
	member *sharedMember
	taken  window.Reservation
	turn   uint64 // the member's place before, for Undo
	held   bool   // the slot
}

func (r *sharedReservation) Settle(now time.Time, u Usage) {
	s := r.member.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set.SettleAt(s.since(now), &r.taken, charge(u)) {
		s.next()
	}
}

func (r *sharedReservation) Undo(now time.Time) {
	s := r.member.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set.UndoAt(s.since(now), &r.taken)
	r.release()
	if r.turn != 0 {
		r.member.enter(r.turn)
	}
	if len(s.waiting) > 0 && s.waiting[0] != r.member {
		s.next()
	}
}

func (r *sharedReservation) Release(time.Time) {
	s := r.member.limits
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.release() && s.slots > 0 {
		s.next()
	}
}

// release gives the slot back, once.
func (r *sharedReservation) release() bool {
	was := r.held
	if was {
		r.held = false
		r.member.limits.running--
	}
	return was
}

// charge is what one request using u takes from windows.
func charge(u Usage) window.Charge {
	return window.Charge{Requests: 1, Input: u.InputTokens, Output: u.OutputTokens}
}

// like reports whether a and b count the same over the same period.
func (l Limit) like(o Limit) bool { return toEngineLimit(l).Like(toEngineLimit(o)) }

const (
	// reordering is how long after it was sent the provider may have counted other calls
	// before this one.
	reordering = 250 * time.Millisecond
	// noise is the part of a limit by which the provider's count and ours may differ without
	// anybody else: it rounds, and it estimates tokens in its own way.
	noise = 0.01
)

// tickets numbers the queues that wait for shared limits, in order of arrival.
var tickets atomic.Uint64

// limitLearner is a shared set that answers correct: it lowers the limit that is like l, and
// reports whether it has one, and whether that changed. sent is when the call went out that was
// answered.
type limitLearner interface {
	learn(now, sent time.Time, l Limit, seen ObservedLimit) (has, changed bool)
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

func (m membership) Limits(now int64) (limits []endpoint.Limit) {
	for _, l := range m.member.Limits(m.core.instant(now)) {
		limits = append(limits, toEngineLimit(l.Limit))
	}
	return limits
}

func (m membership) Learn(now, sent int64, s endpoint.Stated) (has, changed bool) {
	learner, ok := m.member.(limitLearner)
	if !ok {
		return false, false
	}
	l := fromEngineLimit(s.Limit)
	return learner.learn(m.core.instant(now), m.core.clock.Epoch.Add(time.Duration(sent)), l, ObservedLimit{
		Kind: l.Kind, Period: l.Period, Amount: l.Amount, Remaining: s.Remaining, Reset: time.Duration(s.Reset),
	})
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

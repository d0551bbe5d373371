package llmredis

import (
	"time"

	"github.com/llmqueue/llmqueue"
)

// A fallback is this process's share of the limits while Redis is gone.
type fallback struct {
	since  time.Time
	limits *llmqueue.SharedLimits
	wakes  []*member
}

// bridged is how long the period of a limit may be for the local share to wait until
// what was granted before has left it. Of longer ones the share is taken of what was
// free.
const bridged = 2 * time.Minute

// fallbackAfter is how long after Redis was found gone the local share is in force.
func (s *set) fallbackAfter() time.Duration {
	var d time.Duration
	for _, r := range s.rules {
		if hold := time.Duration(r.hold) * time.Millisecond; hold <= bridged && r.limit.Resets == nil {
			d = max(d, hold+s.lease)
		}
	}
	if s.slots > 0 {
		d = max(d, s.ttl)
	}
	return d
}

// startFallback puts the local share into force, if there is one and it is time, and
// says when it will be, zero when it is or never will be. Callers hold mu.
func (s *set) startFallback(now time.Time) (at time.Time) {
	share := s.limiter.options.LocalShare
	if share == 0 || s.local != nil {
		return time.Time{}
	}
	if at = s.failing.Add(s.fallbackAfter()); now.Before(at) {
		return at
	}
	var limits []llmqueue.Limit
	i := 0
	for _, l := range s.limiter.limits {
		whole := l.Amount
		if l.Kind != llmqueue.KindConcurrent {
			r, f := s.rules[i], s.seen[i]
			i++
			if time.Duration(r.hold)*time.Millisecond > bridged || l.Resets != nil {
				whole = max(whole-f.used, 0)
				if f.full.After(now) {
					whole = 0
				}
			}
			if l.Burst > 0 {
				l.Burst = max(int64(share*float64(l.Burst)), 1)
			}
		}
		if l.Amount = int64(share * float64(whole)); l.Amount < 1 {
			return time.Time{} // nothing of it is left for this process
		}
		limits = append(limits, l)
	}
	// What is leased and not used ends before the share begins.
	s.expire(now)
	s.local = &fallback{since: now, limits: llmqueue.NewSharedLimits(limits...)}
	for _, m := range s.waiting {
		m.turn = 0
		m.wake()
	}
	s.waiting, s.askAt = nil, time.Time{}
	return time.Time{}
}

// endFallback goes back to the common limits. Callers hold mu.
func (s *set) endFallback(now time.Time) {
	f := s.local
	if f == nil {
		return
	}
	s.local = nil
	for _, m := range f.wakes {
		if m.innerOf == f {
			m.inner.Leave()
			m.inner, m.innerOf = nil, nil
		}
		m.wake()
	}
}

// reserveLocally is Reserve from the local share. Callers hold mu.
func (m *member) reserveLocally(now time.Time, u llmqueue.Usage, turn uint64) (llmqueue.SharedReservation, time.Time) {
	s := m.set
	if m.innerOf != s.local {
		inner, err := s.local.limits.Join("", m.wake)
		if err != nil {
			return nil, time.Time{} // its limits are parts of limits that were checked
		}
		m.inner, m.innerOf = inner, s.local
		s.local.wakes = append(s.local.wakes, m)
	}
	if _, never := m.inner.Exceeds(u); never {
		// Larger than the share: it waits for Redis, and holds up nobody.
		m.inner.Withdraw(now)
		return nil, time.Time{}
	}
	inner, at := m.inner.Reserve(now, u, turn)
	if inner == nil {
		return nil, at
	}
	n := charge(u)
	s.busy++
	return &reservation{member: m, inner: inner, booked: n, high: n, held: true, late: s.later(now, n)}, time.Time{}
}

// A late is use that is told when Redis is back: what was taken from local shares
// within a short time.
type late struct {
	first, last time.Time
	n           amounts
	told        bool
}

// later notes n, used now, to be told. Callers hold mu.
func (s *set) later(now time.Time, n amounts) *late {
	if len(s.lates) > 0 {
		if l := s.lates[len(s.lates)-1]; now.Sub(l.first) <= 100*s.slotOf {
			l.last, l.n = now, l.n.plus(n)
			return l
		}
		if old := s.lates[0]; now.Sub(old.last) > s.longest {
			s.lates = s.lates[1:]
		}
	}
	l := &late{first: now, last: now, n: n}
	s.lates = append(s.lates, l)
	return l
}

// settleLate corrects what a reservation from the local share used. Callers hold mu.
func (s *set) settleLate(now time.Time, l *late, delta, over amounts) {
	switch {
	case l == nil:
	case !l.told:
		l.n = l.n.plus(delta)
	case !over.isZero():
		s.later(now, over)
		s.tell(now.Add(s.soon()))
	}
}

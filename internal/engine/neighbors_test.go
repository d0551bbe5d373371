package engine

import (
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// What the stories of the tests have around an engine: a breaker and a shared set, in as few
// lines as their contracts allow.

// breaker opens after three failures in a row, and then lets one probe through at a time.
type breaker struct {
	now       *int64
	delay     int64
	openUntil int64
	failures  int
	half      bool // open, or waiting for a probe to tell
	probing   bool
}

func (b *breaker) TryAcquirePermit() bool {
	switch {
	case !b.half:
		return true
	case *b.now < b.openUntil || b.probing:
		return false
	}
	b.probing = true
	return true
}

func (b *breaker) RecordSuccess() { b.failures, b.half, b.probing = 0, false, false }

func (b *breaker) RecordFailure() {
	if b.failures++; b.failures >= 3 || b.half {
		b.half, b.probing, b.openUntil = true, false, *b.now+b.delay
	}
}

func (b *breaker) IsClosed() bool { return !b.half }

func (b *breaker) RemainingDelay() time.Duration {
	if !b.half {
		return 0
	}
	return time.Duration(max(b.openUntil-*b.now, 0))
}

// set is a shared set of one limit on requests, with what it gave.
type set struct {
	limit   endpoint.Limit
	given   []*given
	waiting []*member // by ticket
	held    int       // grants that were neither undone nor released
	wakes   bool      // some member is to ask again
	fault   string
}

type given struct {
	set      *set
	of       *member
	ticket   uint64 // that the member had before
	at       int64
	over     bool // undone
	released bool
}

type member struct {
	set    *set
	ticket uint64 // 0: not in line
}

func (s *set) used(now int64) (n int64) {
	for _, g := range s.given {
		if !g.over && now-g.at < int64(s.limit.Period) {
			n++
		}
	}
	return n
}

// room is when one more fits.
func (s *set) room(now int64) int64 {
	var leave []int64
	for _, g := range s.given {
		if at := g.at + int64(s.limit.Period); !g.over && at > now {
			leave = append(leave, at)
		}
	}
	if int64(len(leave)) < s.limit.Amount {
		return now
	}
	slices.Sort(leave)
	return leave[int64(len(leave))-s.limit.Amount]
}

func (m *member) Reserve(now int64, _ endpoint.Usage, ticket uint64) (endpoint.Grant, int64) {
	s := m.set
	if ticket == 0 || m.ticket != 0 && m.ticket != ticket {
		s.fault = "a member changed its ticket while it was in line"
	}
	had := m.ticket
	m.leave()
	first := len(s.waiting) == 0 || s.waiting[0].ticket > ticket
	if first && s.used(now) < s.limit.Amount {
		g := &given{set: s, of: m, ticket: had, at: now}
		s.given, s.held, s.wakes = append(s.given, g), s.held+1, s.wakes || len(s.waiting) > 0
		return g, 0
	}
	m.enter(ticket)
	if !first {
		return nil, 0
	}
	return nil, s.room(now)
}

func (m *member) enter(ticket uint64) {
	s := m.set
	m.ticket = ticket
	i := slices.IndexFunc(s.waiting, func(o *member) bool { return o.ticket > ticket })
	if i < 0 {
		i = len(s.waiting)
	}
	s.waiting = slices.Insert(s.waiting, i, m)
}

func (m *member) leave() {
	if m.ticket != 0 {
		m.ticket = 0
		m.set.waiting = slices.DeleteFunc(m.set.waiting, func(o *member) bool { return o == m })
	}
}

func (m *member) Withdraw(int64) {
	if s := m.set; m.ticket != 0 {
		first := s.waiting[0] == m
		m.leave()
		s.wakes = s.wakes || first && len(s.waiting) > 0
	}
}

func (m *member) Exceeds(endpoint.Usage) (l endpoint.Limit, never bool) { return l, false }

func (m *member) Share(endpoint.Usage) float64 { return 1 / float64(m.set.limit.Amount) }

func (m *member) Forecast(now, _ int64, _, _ endpoint.Usage) int64 { return m.set.room(now) }

func (m *member) Limits(int64) []endpoint.Limit { return []endpoint.Limit{m.set.limit} }

func (m *member) Learn(int64, int64, endpoint.Stated) (has, changed bool) { return false, false }

func (g *given) Settle(int64, endpoint.Usage) {
	if g.over {
		g.set.fault = "settled what was undone"
	}
}

func (g *given) Undo(int64) {
	if g.over || g.released {
		g.set.fault = "undone twice, or after its attempt"
	}
	g.over = true
	g.set.held--
	if g.ticket != 0 {
		g.of.enter(g.ticket)
	}
	g.set.wakes = g.set.wakes || len(g.set.waiting) > 0 && g.set.waiting[0] != g.of
}

func (g *given) Release(int64) {
	if g.over || g.released {
		g.set.fault = "released twice"
	}
	g.released = true
	g.set.held--
}

package model

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

func (l *modelLimit) used(now time.Duration) (sum int64) {
	l.charges = slices.DeleteFunc(l.charges, func(c *modelCharge) bool { return now-c.at >= l.hold })
	for _, c := range l.charges {
		switch l.Kind {
		case endpoint.RPM:
			sum += c.calls
		case endpoint.ITPM:
			sum += c.u.Input
		case endpoint.OTPM:
			sum += c.u.Output
		default:
			sum += c.total
		}
	}
	return sum
}

// knows is since when l knows all charges.
func (l *modelLimit) knows(now time.Duration) time.Duration { return max(l.since, now-l.hold) }

// setLimits replaces the limits. One of the same kind and period goes on with its charges; any
// other starts from what the limit knows whose past is longest, whatever that counts.
func (m *model) setLimits(limits []endpoint.Limit) {
	old := m.limits
	var longest *modelLimit
	for _, o := range old {
		if longest == nil || m.now-o.knows(m.now) > m.now-longest.knows(m.now) {
			longest = o
		}
	}
	m.limits, m.slots = nil, 256
	for _, l := range limits {
		if l.Kind == endpoint.Concurrent {
			m.slots = int(l.Amount)
			continue
		}
		n := &modelLimit{Limit: l, hold: l.Hold(m.Margin), counted: map[*modelAttempt]bool{}, since: math.MinInt64}
		from := longest
		for _, o := range old {
			if o.Like(l) { // tpm and tpd count the same
				from = o
			}
		}
		if from != nil {
			n.since = from.knows(m.now)
			for _, c := range from.charges {
				same := *c
				n.charges = append(n.charges, &same)
			}
			n.used(m.now)
			maps.Copy(n.counted, from.counted)
		}
		m.limits = append(m.limits, n)
	}
}

func (m *model) impossible(u endpoint.Usage) bool {
	return slices.ContainsFunc(m.limits, func(l *modelLimit) bool { return l.Takes(u) > l.Amount })
}

// reserves is what r takes when it starts now: for an unknown size the mean of all
// reports so far, rounded up. Before the first it is a sixteenth of the smallest limit, and at
// least 1,000. Either is brought under every limit.
func (m *model) reserves(r *modelRequest) endpoint.Usage {
	if r.estimate != (endpoint.Usage{}) {
		return r.estimate
	}
	var u endpoint.Usage
	for _, one := range m.reports {
		u = u.Plus(*one)
	}
	if n := int64(len(m.reports)); n > 0 {
		u = endpoint.Usage{Input: (u.Input + n - 1) / n, Output: (u.Output + n - 1) / n}
	} else if !m.known {
		u = m.guess()
	}
	for _, l := range m.limits {
		switch over := l.Takes(u) - l.Amount; {
		case over <= 0 || l.Kind == endpoint.RPM:
		case l.Kind == endpoint.ITPM:
			u.Input = l.Amount
		case l.Kind == endpoint.OTPM:
			u.Output = l.Amount
		default: // output gives way first
			u.Input -= max(over-u.Output, 0)
			u.Output = l.Amount - u.Input
		}
	}
	return u
}

func (m *model) guess() (u endpoint.Usage) {
	var inputs, outputs []int64
	for _, l := range m.limits {
		switch n := max(l.Amount/16, 1000); l.Kind {
		case endpoint.RPM:
		case endpoint.OTPM:
			outputs = append(outputs, n)
		default:
			inputs = append(inputs, n)
		}
	}
	if len(inputs) > 0 {
		u.Input = slices.Min(inputs)
	}
	if len(outputs) > 0 {
		u.Output = slices.Min(outputs)
	}
	return u
}

// maySlowly reports whether a slow start lets another attempt start.
func (m *model) maySlowly() bool {
	if m.slow == nil {
		return true
	}
	n := 0
	for _, a := range m.running {
		if a.start >= m.slow.since {
			n++
		}
	}
	return n < m.slow.allowed
}

// allow lets more attempts run after a pause, or all that have a slot.
func (m *model) allow(n int) {
	if m.slow.allowed = n; n >= m.slots {
		m.slow = nil
	}
}

// pass brings up to date what time alone changes.
func (m *model) pass() {
	if m.pausing && m.now >= m.until {
		m.pausing = false
		m.beginSlowly(m.until)
	}
	for m.slow != nil && m.now >= m.slow.doubles {
		m.slow.doubles += step
		m.allow(2 * m.slow.allowed)
	}
}

// step is after how long twice as many calls are made after a pause.
const step = 500 * time.Millisecond

func (m *model) beginSlowly(at time.Duration) {
	m.slow = &slowStart{since: at, allowed: 1, doubles: at + step}
}

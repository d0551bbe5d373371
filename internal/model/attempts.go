package model

import (
	"math"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// decide starts whatever may start. No startable head waits: this is the model's
// whole policy.
func (m *model) decide() {
	for {
		for !m.paused && m.now >= m.until && len(m.running) < m.slots && m.maySlowly() {
			r := m.head()
			if r == nil {
				break
			}
			u := m.reserves(r)
			if m.impossible(u) {
				m.end(r, Failed) // limits changed while it ran, and it came back
				continue
			}
			if slices.ContainsFunc(m.limits, func(l *modelLimit) bool { return l.used(m.now)+l.Takes(u) > l.Amount }) {
				break
			}
			m.start(r, u)
		}
		late := slices.IndexFunc(m.line, func(r *modelRequest) bool {
			return r.tries == 0 && r.MaxWait > 0 && m.now >= r.created+r.MaxWait
		})
		if late < 0 {
			return
		}
		m.end(m.line[late], Failed)
	}
}

func (m *model) start(r *modelRequest, u endpoint.Usage) {
	if r.tries == 0 {
		lv := m.level(r.Priority)
		tag := lv.tag(r)
		m.leave(r)
		lv.virtual = tag
		if len(m.tenantLine(r.Priority, r.Tenant)) > 0 {
			lv.start[r.Tenant] = tag
		}
	} else {
		m.leave(r)
	}
	f := r.Fates[r.tries]
	a := &modelAttempt{req: r, fate: f, ends: m.now + f.Lasts, booked: u, high: u, start: m.now, total: u.Total(), unknown: r.estimate == (endpoint.Usage{})}
	r.tries++
	r.state, r.last = "running", a
	m.running = append(m.running, a)
	for _, l := range m.limits {
		l.charges = append(l.charges, &modelCharge{a, m.now, u, u.Total(), 1})
		l.counted[a] = true
	}
	m.booked += u.Total()
	m.starts = append(m.starts, Happened{m.now, r.id, Started, r.tries})
}

func (m *model) end(r *modelRequest, how What) {
	if r.state == "line" {
		m.leave(r)
	}
	running := r.state == "running"
	r.state = "ended"
	m.ends = append(m.ends, Happened{m.now, r.id, how, r.tries})
	if running && !r.last.over && r.last.fate.Returns {
		m.conclude(r.last) // it returns as soon as its context ends
	}
}

// health is whether nearly all calls failed of late: then calls start slowly when one is served.
type health struct {
	at      time.Duration // when calls was brought up to date
	calls   float64       // of the last ones, at most 6; half as much 30 s later
	share   float64       // of failures among them
	inRow   int           // that failed
	held    bool
	started time.Duration // the latest of those that failed, by its start
}

// ends takes in how a call ended, and reports whether calls are served again.
func (h *health) ends(now time.Duration, a *modelAttempt) (again bool) {
	if past := now - h.at; past >= 100*time.Millisecond {
		h.calls *= math.Exp2(-float64(past) / float64(30*time.Second))
		h.at = now
	}
	failed := 0.0
	switch a.fate.Ends {
	case "ok":
		h.inRow = 0
	case "retry":
		failed = 1
		h.inRow++
		h.started = max(h.started, a.start)
	default:
		return false // it says nothing
	}
	h.calls = min(h.calls+1, 6)
	h.share += (failed - h.share) / h.calls
	switch {
	case h.inRow >= 3 && h.share >= 0.75:
		h.held = true
	case failed == 0 && h.held && a.start > h.started:
		*h = health{at: h.at, started: h.started}
		return true
	}
	return false
}

func (m *model) settle(a *modelAttempt, used endpoint.Usage) {
	if m.known = true; a.booking == nil {
		a.booking = new(endpoint.Usage)
		m.reports = append(m.reports, a.booking)
	}
	*a.booking = used
	m.charge(a, used)
}

// charge books what an attempt takes of the limits, in place of an earlier figure.
func (m *model) charge(a *modelAttempt, used endpoint.Usage) {
	m.booked += used.Total() - a.booked.Total()
	over := endpoint.Usage{Input: max(used.Input-a.high.Input, 0), Output: max(used.Output-a.high.Output, 0)}
	overTotal := max(used.Total()-a.total, 0)
	for _, l := range m.limits {
		if !l.counted[a] {
			continue
		}
		l.used(m.now)
		if i := slices.IndexFunc(l.charges, func(c *modelCharge) bool { return c.by == a }); i >= 0 {
			l.charges[i].u, l.charges[i].total = used, used.Total()
		} else if over != (endpoint.Usage{}) || overTotal > 0 {
			l.charges = append(l.charges, &modelCharge{nil, m.now, over, overTotal, 0})
		}
	}
	a.booked = used
	a.high = endpoint.Usage{Input: max(a.high.Input, used.Input), Output: max(a.high.Output, used.Output)}
	a.total = max(a.total, used.Total())
}

func (m *model) conclude(a *modelAttempt) {
	a.over = true
	m.running = slices.DeleteFunc(m.running, func(o *modelAttempt) bool { return o == a })
	f, r := a.fate, a.req
	if f.Reports {
		a.report = &f.Used
	}
	if a.report != nil {
		m.settle(a, *a.report)
	} else if f.Ends == "ok" {
		m.known = m.known || a.unknown // who never reports cannot be waited for
	} else if a.unknown && !m.known && r.state == "running" && (f.Ends == "retry" || f.Ends == "limited") {
		m.charge(a, endpoint.Usage{}) // a guess, and what failed so is hardly charged
	}
	if f.Ends == "limited" && m.now+f.After > m.until {
		m.until, m.pausing = m.now+f.After, true
	}
	if r.state != "running" {
		return
	}
	if m.health.ends(m.now, a) {
		defer m.beginSlowly(m.now)
	}
	switch f.Ends {
	case "ok":
		m.served = max(m.served, a.start)
		if m.slow != nil {
			m.allow(m.slow.allowed + 1)
		}
		m.end(r, Completed)
	case "limited":
		m.refuse(r)
	case "retry":
		r.refused, r.alone = 0, 0
		if r.spent++; r.spent < m.Attempts {
			m.backOff(r)
			return
		}
		m.end(r, Failed)
	default:
		m.end(r, Failed)
	}
}

func (m *model) backOff(r *modelRequest) {
	r.state = "retrying"
	r.due = m.seen.RetryAt[AttemptKey(r.id, r.tries)] // the jitter is the queue's
}

// refuse lets a request that was refused wait: the first time in its place, and then, when
// others wait, outside the line, so that they try first.
func (m *model) refuse(r *modelRequest) {
	last, others := time.Duration(-1), 0
	for _, one := range m.refusals {
		if others++; one.of == r {
			last, others = one.at, 0
		}
	}
	m.refusals = append(m.refusals, refusal{r, m.now})
	if r.refused > 0 && m.served > last {
		r.refused = 1
		r.alone++
	} else {
		r.refused++
	}
	if others > 0 {
		r.alone = 0
	}
	if (r.refused > 1 || r.alone > 0) && len(m.line) > 0 {
		m.backOff(r)
	} else {
		m.join(r)
	}
}

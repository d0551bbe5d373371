package llmqueue

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The brute-force model of the property test.

// model follows a story instant by instant with lists and nothing clever.
type model struct {
	*story
	seen    *seen
	now     time.Duration
	limits  []*modelLimit
	slots   int
	line    []*modelRequest
	levels  map[int]*modelLevel
	all     map[string]*modelRequest
	running []*modelAttempt
	paused  bool
	until   time.Duration // a provider's pause
	seq     int

	starts, ends []happened
	refused      map[string]bool
	booked       int64    // tokens: reserved, and changed by settling since
	reports      []*Usage // of all attempts, in order: what a size unknown is taken for
	open         bool     // more than one request of unknown size may run
}

type modelLimit struct {
	Limit
	hold    time.Duration
	charges []*modelCharge
	counted map[*modelAttempt]bool
	since   time.Duration // it knows nothing from before
}

// modelCharge is what every limit keeps of an attempt, of all kinds: another limit may start
// from it.
type modelCharge struct {
	by    *modelAttempt // nil for an overrun of a charge that had left
	at    time.Duration
	u     Usage
	total int64
	calls int64
}

type modelRequest struct {
	*told
	id       string
	state    string // line, retrying, running, ended
	estimate Usage  // zero: unknown
	cost     uint64
	seq      int
	created  time.Duration
	last     *modelAttempt
	tries    int
	due      time.Duration // retrying: when it returns
}

type modelAttempt struct {
	req     *modelRequest
	fate    fate
	ends    time.Duration
	booked  Usage
	high    Usage
	total   int64 // the highest total
	report  *Usage
	booking *Usage // its entry in the model's reports
	blind   bool   // no size was known when it started
	over    bool
}

// modelLevel is the fair share of a priority: self-clocked fair queueing, in the
// line's own fixed point so that ties are ties.
type modelLevel struct {
	virtual uint64
	start   map[string]uint64 // of tenants that have someone waiting
}

// counts is what a kind counts, over whatever period.
func counts(k LimitKind) string { return strings.TrimRight(string(k), "md") }

func (l *modelLimit) of(u Usage) int64 {
	switch l.Kind {
	case KindRPM:
		return 1
	case KindITPM:
		return u.InputTokens
	case KindOTPM:
		return u.OutputTokens
	}
	return u.Total()
}

func (l *modelLimit) used(now time.Duration) (sum int64) {
	l.charges = slices.DeleteFunc(l.charges, func(c *modelCharge) bool { return now-c.at >= l.hold })
	for _, c := range l.charges {
		switch l.Kind {
		case KindRPM:
			sum += c.calls
		case KindITPM:
			sum += c.u.InputTokens
		case KindOTPM:
			sum += c.u.OutputTokens
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
func (m *model) setLimits(limits []Limit) {
	old := m.limits
	var longest *modelLimit
	for _, o := range old {
		if longest == nil || m.now-o.knows(m.now) > m.now-longest.knows(m.now) {
			longest = o
		}
	}
	m.limits, m.slots = nil, 256
	for _, l := range limits {
		if l.Kind == KindConcurrent {
			m.slots = int(l.Amount)
			continue
		}
		margin := m.margin
		if margin < 0 {
			margin = min(l.period()/50, 250*time.Millisecond)
		}
		n := &modelLimit{Limit: l, hold: l.period() + margin, counted: map[*modelAttempt]bool{}, since: math.MinInt64}
		from := longest
		for _, o := range old {
			if counts(o.Kind) == counts(l.Kind) && o.period() == l.period() { // tpm and tpd count the same
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

func (m *model) impossible(u Usage) bool {
	return slices.ContainsFunc(m.limits, func(l *modelLimit) bool { return l.of(u) > l.Amount })
}

// reserves is what r takes when it starts now: for an unknown size the mean of all
// reports so far, rounded up and brought under every limit.
func (m *model) reserves(r *modelRequest) Usage {
	if r.estimate != (Usage{}) || len(m.reports) == 0 {
		return r.estimate
	}
	var u Usage
	for _, one := range m.reports {
		u = u.plus(*one)
	}
	n := int64(len(m.reports))
	u = Usage{InputTokens: (u.InputTokens + n - 1) / n, OutputTokens: (u.OutputTokens + n - 1) / n}
	for _, l := range m.limits {
		switch over := l.of(u) - l.Amount; {
		case over <= 0:
		case l.Kind == KindITPM:
			u.InputTokens = l.Amount
		case l.Kind == KindOTPM:
			u.OutputTokens = l.Amount
		default: // output gives way first
			u.InputTokens -= max(over-u.OutputTokens, 0)
			u.OutputTokens = l.Amount - u.InputTokens
		}
	}
	return u
}

// gated: until one report is in, requests of unknown size run one at a time.
func (m *model) gated(r *modelRequest) bool {
	return r.estimate == (Usage{}) && !m.open &&
		slices.ContainsFunc(m.running, func(a *modelAttempt) bool { return a.blind })
}

func (m *model) cost(u Usage) uint64 {
	share := 1e-9
	for _, l := range m.limits {
		share = max(share, float64(l.of(u))/float64(l.Amount))
	}
	return uint64(float64(float32(share)) * (1 << 40))
}

// tenantLine is what waits of a tenant in a priority and has not started yet.
func (m *model) tenantLine(priority int, tenant string) (out []*modelRequest) {
	for _, r := range m.line {
		if r.priority == priority && r.tenant == tenant && r.tries == 0 {
			out = append(out, r)
		}
	}
	return out
}

func (m *model) level(priority int) *modelLevel {
	if m.levels[priority] == nil {
		m.levels[priority] = &modelLevel{start: map[string]uint64{}}
	}
	return m.levels[priority]
}

func (m *model) join(r *modelRequest) {
	r.state = "line"
	m.line = append(m.line, r)
	if r.tries > 0 {
		return
	}
	lv := m.level(r.priority)
	if _, ok := lv.start[r.tenant]; !ok {
		lv.start[r.tenant] = lv.virtual
	}
}

// leave takes r out of line without starting it.
func (m *model) leave(r *modelRequest) {
	m.line = slices.DeleteFunc(m.line, func(o *modelRequest) bool { return o == r })
	if r.tries == 0 && len(m.tenantLine(r.priority, r.tenant)) == 0 {
		delete(m.level(r.priority).start, r.tenant)
	}
}

func (lv *modelLevel) tag(r *modelRequest) uint64 {
	return max(lv.start[r.tenant]+r.cost, lv.virtual)
}

// head is who starts next: the highest priority, in it those that return first, in
// order, then the tenant with the smallest tag, in it first come first served.
func (m *model) head() *modelRequest {
	var best *modelRequest
	before := func(a, b *modelRequest) bool {
		switch {
		case a.priority != b.priority:
			return a.priority > b.priority
		case (a.tries > 0) != (b.tries > 0):
			return a.tries > 0
		case a.tries > 0:
			return a.seq < b.seq
		case a.tenant == b.tenant:
			return a.seq < b.seq
		}
		lv := m.level(a.priority)
		if x, y := lv.tag(a), lv.tag(b); x != y {
			return x < y
		}
		return a.seq < b.seq
	}
	for _, r := range m.line {
		if r.tries == 0 && m.tenantLine(r.priority, r.tenant)[0] != r {
			continue
		}
		if best == nil || before(r, best) {
			best = r
		}
	}
	return best
}

// decide starts whatever may start. No startable head waits: this is the model's
// whole policy.
func (m *model) decide(t *testing.T) {
	for {
		for !m.paused && m.now >= m.until && len(m.running) < m.slots {
			r := m.head()
			if r == nil || m.gated(r) {
				break
			}
			u := m.reserves(r)
			if m.impossible(u) {
				m.end(r, EventFailed) // limits changed while it ran, and it came back
				continue
			}
			if slices.ContainsFunc(m.limits, func(l *modelLimit) bool { return l.used(m.now)+l.of(u) > l.Amount }) {
				break
			}
			m.start(r, u)
		}
		late := slices.IndexFunc(m.line, func(r *modelRequest) bool {
			return r.tries == 0 && r.maxWait > 0 && m.now >= r.created+r.maxWait
		})
		if late < 0 {
			return
		}
		m.end(m.line[late], EventFailed)
	}
}

func (m *model) start(r *modelRequest, u Usage) {
	if r.tries == 0 {
		lv := m.level(r.priority)
		tag := lv.tag(r)
		m.leave(r)
		lv.virtual = tag
		if len(m.tenantLine(r.priority, r.tenant)) > 0 {
			lv.start[r.tenant] = tag
		}
	} else {
		m.leave(r)
	}
	f := r.fates[r.tries]
	a := &modelAttempt{req: r, fate: f, ends: m.now + f.lasts, booked: u, high: u, total: u.Total()}
	a.blind = r.estimate == (Usage{}) && !m.open
	r.tries++
	r.state, r.last = "running", a
	m.running = append(m.running, a)
	for _, l := range m.limits {
		l.charges = append(l.charges, &modelCharge{a, m.now, u, u.Total(), 1})
		l.counted[a] = true
	}
	m.booked += u.Total()
	m.starts = append(m.starts, happened{m.now, r.id, EventStarted, r.tries})
}

func (m *model) end(r *modelRequest, how EventType) {
	if r.state == "line" {
		m.leave(r)
	}
	running := r.state == "running"
	r.state = "ended"
	m.ends = append(m.ends, happened{m.now, r.id, how, r.tries})
	if running && !r.last.over && r.last.fate.heeds {
		m.conclude(r.last) // it returns as soon as its context ends
	}
}

func (m *model) settle(a *modelAttempt, used Usage) {
	if m.open = true; a.booking == nil {
		a.booking = new(Usage)
		m.reports = append(m.reports, a.booking)
	}
	*a.booking = used
	m.booked += used.Total() - a.booked.Total()
	over := Usage{InputTokens: max(used.InputTokens-a.high.InputTokens, 0), OutputTokens: max(used.OutputTokens-a.high.OutputTokens, 0)}
	overTotal := max(used.Total()-a.total, 0)
	for _, l := range m.limits {
		if !l.counted[a] {
			continue
		}
		l.used(m.now)
		if i := slices.IndexFunc(l.charges, func(c *modelCharge) bool { return c.by == a }); i >= 0 {
			l.charges[i].u, l.charges[i].total = used, used.Total()
		} else if over != (Usage{}) || overTotal > 0 {
			l.charges = append(l.charges, &modelCharge{nil, m.now, over, overTotal, 0})
		}
	}
	a.booked = used
	a.high = Usage{InputTokens: max(a.high.InputTokens, used.InputTokens), OutputTokens: max(a.high.OutputTokens, used.OutputTokens)}
	a.total = max(a.total, used.Total())
}

func (m *model) conclude(a *modelAttempt) {
	a.over = true
	m.running = slices.DeleteFunc(m.running, func(o *modelAttempt) bool { return o == a })
	f, r := a.fate, a.req
	if f.reports {
		a.report = &f.used
	}
	if a.report != nil {
		m.settle(a, *a.report)
	} else if a.blind && f.ends == "ok" {
		m.open = true // who never reports cannot be waited for
	}
	if f.ends == "limited" {
		m.until = max(m.until, m.now+f.after)
	}
	if r.state != "running" {
		return
	}
	switch {
	case f.ends == "ok":
		m.end(r, EventCompleted)
	case f.ends != "retry" && f.ends != "limited" || r.tries >= m.attempts:
		m.end(r, EventFailed)
	case f.ends == "limited":
		m.join(r)
	default:
		r.state = "retrying"
		r.due = m.seen.retryAt[attemptKeyOf(r.id, r.tries)] // the jitter is the queue's
	}
}

func (m *model) step(t *testing.T, s step) {
	id := "r" + strconv.Itoa(s.i)
	r := m.all[id]
	if r == nil && slices.Contains([]string{"cancel", "leave", "update"}, s.what) {
		return // refused
	}
	switch s.what {
	case "submit":
		d := m.requests[s.i]
		if m.impossible(d.estimate) {
			m.refused[id] = true
			return
		}
		m.seq++
		r := &modelRequest{told: d, id: id, estimate: d.estimate, seq: m.seq, created: m.now}
		r.cost = m.cost(m.reserves(r))
		m.all[id] = r
		m.join(r)
	case "cancel", "leave":
		if r.state != "ended" {
			m.end(r, EventCanceled)
		}
	case "update":
		switch {
		case r.state == "line" || r.state == "retrying":
			if m.impossible(s.usage) {
				m.end(r, EventFailed)
				return
			}
			r.estimate, r.cost = s.usage, m.cost(s.usage)
		case r.last != nil:
			u := s.usage
			r.last.report = &u
			if r.last.over {
				m.settle(r.last, u)
			}
		}
	case "limits":
		m.setLimits(s.limits)
		for _, r := range m.all {
			if (r.state == "line" || r.state == "retrying") && m.impossible(m.reserves(r)) {
				m.end(r, EventFailed)
			}
		}
	case "pause":
		m.paused = true
	case "resume":
		m.paused = false
	case "check":
		m.check(t, s.at)
	}
}

// check compares a glance at the queue with the model.
func (m *model) check(t *testing.T, at time.Duration) {
	i := slices.IndexFunc(m.seen.checks, func(l looked) bool { return l.at == at })
	require.GreaterOrEqual(t, i, 0)
	got := m.seen.checks[i]
	want := looked{at: at}
	for _, l := range m.limits {
		want.used = append(want.used, l.used(m.now))
	}
	for _, r := range m.all {
		switch r.state {
		case "line", "retrying":
			want.pending++
		case "running":
			want.processing++
		}
	}
	want.abandoned = len(m.running) - want.processing
	if len(got.used) > len(want.used) {
		want.used = append(want.used, int64(len(m.running)))
	}
	require.Equal(t, want, got, "what a glance at %v shows", at)

	// Reserved = settled + refunded + in flight, in every limit that has not
	// forgotten any of it.
	if l := m.limits[0]; l.period() == day && m.now < day {
		require.Equal(t, m.booked, l.used(m.now))
	}
}

// next is the first instant after now at which anything can change.
func (m *model) next(steps []step) time.Duration {
	next := time.Duration(-1)
	consider := func(at time.Duration) {
		if at > m.now && (next < 0 || at < next) {
			next = at
		}
	}
	if len(steps) > 0 {
		consider(steps[0].at)
	}
	for _, a := range m.running {
		consider(a.ends)
	}
	for _, r := range m.all {
		if r.state == "retrying" {
			consider(r.due)
		}
		if r.state == "line" && r.tries == 0 && r.maxWait > 0 {
			consider(r.created + r.maxWait)
		}
	}
	if len(m.line) > 0 {
		consider(m.until)
		for _, l := range m.limits {
			for _, c := range l.charges {
				consider(c.at + l.hold)
			}
		}
	}
	return next
}

func (m *model) follow(t *testing.T) {
	m.setLimits(m.story.limits)
	steps := m.steps
	for {
		m.now = m.next(steps)
		if m.now < 0 {
			return
		}
		for _, a := range slices.Clone(m.running) {
			if a.ends == m.now {
				m.conclude(a)
			}
		}
		for _, r := range m.all {
			if r.state == "retrying" && r.due <= m.now {
				m.join(r)
			}
		}
		for len(steps) > 0 && steps[0].at == m.now {
			m.step(t, steps[0])
			steps = steps[1:]
		}
		m.decide(t)
	}
}

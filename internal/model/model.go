package model

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// model follows a story instant by instant with lists and nothing clever.
type model struct {
	*Story
	seen    *Seen
	now     time.Duration
	limits  []*modelLimit
	slots   int
	line    []*modelRequest
	levels  map[int]*modelLevel
	all     map[string]*modelRequest
	running []*modelAttempt
	paused  bool
	until   time.Duration // a provider's pause
	pausing bool          // its end has not come
	slow    *slowStart    // nil: none
	health  health
	seq     int

	refusals []refusal
	served   time.Duration // the latest start of an attempt that was served

	starts, ends []Happened
	fault        string
	refused      map[string]bool
	booked       int64             // tokens: reserved, and changed by settling since
	reports      []*endpoint.Usage // of all attempts, in order: what a size unknown is taken for
	known        bool              // an attempt told, or was served and did not
}

// slowStart bounds, after a pause, how many attempts may run that started since.
type slowStart struct {
	since   time.Duration
	allowed int
	doubles time.Duration // when it does next
}

// refusal is a call that was refused.
type refusal struct {
	of *modelRequest
	at time.Duration
}

type modelLimit struct {
	endpoint.Limit
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
	u     endpoint.Usage
	total int64
	calls int64
}

type modelRequest struct {
	*Told
	id       string
	state    string         // line, retrying, running, ended
	estimate endpoint.Usage // zero: unknown
	cost     uint64
	seq      int
	created  time.Duration
	last     *modelAttempt
	tries    int
	spent    int           // of them those that failed in a passing way
	refused  int           // in a row while nothing that started after a refusal was served
	alone    int           // in a row while others were served and not refused
	due      time.Duration // retrying: when it returns
}

type modelAttempt struct {
	req     *modelRequest
	fate    Fate
	ends    time.Duration
	booked  endpoint.Usage
	high    endpoint.Usage
	start   time.Duration
	total   int64 // the highest total
	report  *endpoint.Usage
	booking *endpoint.Usage // its entry in the model's reports
	unknown bool            // the size of its request
	over    bool
}

// modelLevel is the fair share of a priority: self-clocked fair queueing, in the
// line's own fixed point so that ties are ties.
type modelLevel struct {
	virtual uint64
	start   map[string]uint64 // of tenants that have someone waiting
}

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

func (m *model) cost(u endpoint.Usage) uint64 {
	share := 1e-9
	for _, l := range m.limits {
		share = max(share, float64(l.Takes(u))/float64(l.Amount))
	}
	return uint64(float64(float32(share)) * (1 << 40))
}

// tenantLine is what waits of a tenant in a priority and has not started yet.
func (m *model) tenantLine(priority int, tenant string) (out []*modelRequest) {
	for _, r := range m.line {
		if r.Priority == priority && r.Tenant == tenant && r.tries == 0 {
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
	lv := m.level(r.Priority)
	if _, ok := lv.start[r.Tenant]; !ok {
		lv.start[r.Tenant] = lv.virtual
	}
}

// leave takes r out of line without starting it.
func (m *model) leave(r *modelRequest) {
	m.line = slices.DeleteFunc(m.line, func(o *modelRequest) bool { return o == r })
	if r.tries == 0 && len(m.tenantLine(r.Priority, r.Tenant)) == 0 {
		delete(m.level(r.Priority).start, r.Tenant)
	}
}

func (lv *modelLevel) tag(r *modelRequest) uint64 {
	return max(lv.start[r.Tenant]+r.cost, lv.virtual)
}

// head is who starts next: the highest priority, in it those that return first, in
// order, then the tenant with the smallest tag, in it first come first served.
func (m *model) head() *modelRequest {
	var best *modelRequest
	before := func(a, b *modelRequest) bool {
		switch {
		case a.Priority != b.Priority:
			return a.Priority > b.Priority
		case (a.tries > 0) != (b.tries > 0):
			return a.tries > 0
		case a.tries > 0:
			return a.seq < b.seq
		case a.Tenant == b.Tenant:
			return a.seq < b.seq
		}
		lv := m.level(a.Priority)
		if x, y := lv.tag(a), lv.tag(b); x != y {
			return x < y
		}
		return a.seq < b.seq
	}
	for _, r := range m.line {
		if r.tries == 0 && m.tenantLine(r.Priority, r.Tenant)[0] != r {
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

func (m *model) step(s Step) {
	id := ID(s.I)
	r := m.all[id]
	if r == nil && slices.Contains([]string{"cancel", "leave", "update"}, s.What) {
		return // refused
	}
	switch s.What {
	case "submit":
		d := m.Requests[s.I]
		if m.impossible(d.Estimate) {
			m.refused[id] = true
			return
		}
		m.seq++
		r := &modelRequest{Told: d, id: id, estimate: d.Estimate, seq: m.seq, created: m.now}
		r.cost = m.cost(m.reserves(r))
		m.all[id] = r
		m.join(r)
	case "cancel", "leave":
		if r.state != "ended" {
			m.end(r, Canceled)
		}
	case "update":
		switch {
		case r.state == "line" || r.state == "retrying":
			if m.impossible(s.Usage) {
				m.end(r, Failed)
				return
			}
			r.estimate, r.cost = s.Usage, m.cost(s.Usage)
		case r.last != nil:
			u := s.Usage
			r.last.report = &u
			if r.last.over {
				m.settle(r.last, u)
			}
		}
	case "limits":
		m.setLimits(s.Limits)
		for _, r := range m.all {
			if (r.state == "line" || r.state == "retrying") && m.impossible(m.reserves(r)) {
				m.end(r, Failed)
			}
		}
	case "pause":
		m.paused = true
	case "resume":
		m.paused = false
	case "check":
		m.check(s.At)
	}
}

// check compares a look at the queue with the model.
func (m *model) check(at time.Duration) {
	i := slices.IndexFunc(m.seen.Checks, func(l Looked) bool { return l.At == at })
	if i < 0 {
		m.say("nobody looked at " + at.String())
		return
	}
	got, want := m.seen.Checks[i], Looked{At: at}
	for _, l := range m.limits {
		want.Used = append(want.Used, l.used(m.now))
	}
	for _, r := range m.all {
		switch r.state {
		case "line", "retrying":
			want.Pending++
		case "running":
			want.Processing++
		}
	}
	want.Abandoned = len(m.running) - want.Processing
	if len(got.Used) > len(want.Used) {
		want.Used = append(want.Used, int64(len(m.running)))
	}
	if !slices.Equal(got.Used, want.Used) || got.Pending != want.Pending || got.Processing != want.Processing || got.Abandoned != want.Abandoned {
		m.say("a look at " + at.String() + " shows " + got.String() + ", should show " + want.String())
	}

	// Reserved = settled + refunded + in flight, in every limit that has not forgotten any of
	// it: the first counts all tokens of a day.
	const day = 24 * time.Hour
	if l := m.limits[0]; m.now < day && l.used(m.now) != m.booked {
		m.say("at " + at.String() + " a day's tokens are not what was reserved and settled")
	}
}

// say notes the first thing that is wrong.
func (m *model) say(fault string) {
	if m.fault == "" {
		m.fault = fault
	}
}

// next is the first instant after now at which anything can change.
func (m *model) next(steps []Step) time.Duration {
	next := time.Duration(-1)
	consider := func(at time.Duration) {
		if at > m.now && (next < 0 || at < next) {
			next = at
		}
	}
	if len(steps) > 0 {
		consider(steps[0].At)
	}
	for _, a := range m.running {
		consider(a.ends)
	}
	for _, r := range m.all {
		if r.state == "retrying" {
			consider(r.due)
		}
		if r.state == "line" && r.tries == 0 && r.MaxWait > 0 {
			consider(r.created + r.MaxWait)
		}
	}
	if len(m.line) > 0 {
		consider(m.until)
		if m.slow != nil {
			consider(m.slow.doubles)
		}
		for _, l := range m.limits {
			for _, c := range l.charges {
				consider(c.at + l.hold)
			}
		}
	}
	return next
}

func (m *model) follow() {
	m.setLimits(m.Story.Limits)
	steps := m.Steps
	for {
		m.now = m.next(steps)
		if m.now < 0 {
			return
		}
		m.pass()
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
		for len(steps) > 0 && steps[0].At == m.now {
			m.step(steps[0])
			steps = steps[1:]
		}
		m.decide()
	}
}

// Compare follows the story and says what an onlooker should not have seen, "" when all was
// as it should be: who starts when, how and when each request ends, who is refused, and what
// each look at the queue shows. When retries are due is taken from what was seen.
func (s *Story) Compare(out *Seen) (fault string) {
	m := &model{Story: s, seen: out, levels: map[int]*modelLevel{}, all: map[string]*modelRequest{}, refused: map[string]bool{}}
	m.follow()
	for i, want := range m.starts {
		if i >= len(out.Starts) || out.Starts[i] != want {
			got := "nothing"
			if i < len(out.Starts) {
				got = out.Starts[i].String()
			}
			return "start " + strconv.Itoa(i) + " is " + got + ", the model starts " + want.String()
		}
	}
	byID := func(a, b Happened) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortStableFunc(out.Ends, byID)
	slices.SortStableFunc(m.ends, byID)
	switch {
	case len(out.Starts) != len(m.starts):
		return "there are more starts than the model's, first " + out.Starts[len(m.starts)].String()
	case !slices.Equal(out.Ends, m.ends):
		for i, want := range m.ends {
			if i >= len(out.Ends) || out.Ends[i] != want {
				return "a request ends otherwise than in the model, which ends " + want.String()
			}
		}
		return "more requests end than in the model"
	case !maps.Equal(out.Refused, m.refused):
		return "other requests are refused than in the model"
	case len(out.Ends) != len(s.Requests)-len(out.Refused):
		return "not every request ends"
	}
	return m.fault
}

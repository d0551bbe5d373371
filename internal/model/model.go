package model

import (
	"cmp"
	"maps"
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

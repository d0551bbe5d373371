package llmtest

import (
	"math"
	"sync"
	"time"
)

// A call is what the limits and the reply need to know about a request.
type call struct {
	model     string
	body      uint64 // hash of the request's body
	input     int64  // tokens
	maxTokens int64  // 0 means unbounded
}

// An enforcer decides which requests may pass, all limits in one step, and
// records what it decided. It is safe for concurrent use.
type enforcer struct {
	start        time.Time
	actualUsage  bool
	countRefused bool

	// mu guards everything below, and that the clock is read in the order in
	// which requests are decided. Nothing blocks while it is held.
	mu       sync.Mutex
	rules    []rule
	repeats  map[uint64]uint32 // how often a body was accepted
	accepted int64
	invalid  int64
	running  int64
	peak     int64 // the most that running ever was
	arrivals []Arrival
	charges  []charge
}

// A rule is one limit and its count.
type rule struct {
	limit   Limit
	meter   meter
	refused int64
}

func (r *rule) covers(model string) bool {
	return r.limit.Model == "" || r.limit.Model == model
}

// demand returns what a request of so many tokens takes from the rule.
func (r *rule) demand(tokens int64) int64 {
	if r.limit.Kind == KindTokens {
		return tokens
	}
	return 1
}

// A charge is what the limits were charged at one moment.
type charge struct {
	at       time.Duration
	model    string
	requests int64
	tokens   int64
}

// A ticket is the enforcer's answer to one request.
type ticket struct {
	refusal  *refusal // nil if it may pass
	arrival  int      // its index
	accepted int64    // how many were accepted before
	repeat   uint32   // how many with the same body were accepted before
	quota    quota
}

// A refusal says which limit a request broke.
type refusal struct {
	limit     Limit
	used      int64
	requested int64
	wait      time.Duration // until it would fit
	never     bool          // it is larger than the limit
}

// A quota is what the rate limit headers say, by kind.
type quota struct {
	requests, tokens quotaState
}

type quotaState struct {
	known            bool // there is a limit of this kind
	limit, remaining int64
	reset            time.Duration
}

func newEnforcer(c config) *enforcer {
	e := &enforcer{
		start:        time.Now(),
		actualUsage:  c.actualUsage,
		countRefused: c.countRefused,
		repeats:      make(map[uint64]uint32),
	}
	for _, l := range c.limits {
		e.rules = append(e.rules, rule{limit: l, meter: newMeter(l)})
	}
	return e
}

// admit decides about the call now, and charges and records it.
func (e *enforcer) admit(c call) ticket {
	tokens := c.input
	if !e.actualUsage {
		tokens += c.maxTokens
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Since(e.start)
	a := Arrival{At: e.start.Add(now), Model: c.model, InputTokens: c.input, Charged: tokens, Verdict: Running}
	t := ticket{arrival: len(e.arrivals), accepted: e.accepted}
	if broken := e.broken(now, c.model, tokens); broken != nil {
		t.refusal = broken.refusal(now, tokens)
		broken.refused++
		a.Verdict, a.Broken, a.Charged = Refused, broken.limit, 0
		if e.countRefused {
			e.chargeRequest(now, c.model)
		}
	} else {
		t.repeat = e.repeats[c.body]
		e.repeats[c.body]++
		e.accepted++
		e.running++
		e.peak = max(e.peak, e.running)
		for i := range e.rules {
			if r := &e.rules[i]; r.covers(c.model) {
				r.meter.take(now, r.demand(tokens))
			}
		}
		e.charges = append(e.charges, charge{now, c.model, 1, tokens})
	}
	e.arrivals = append(e.arrivals, a)
	t.quota = e.quota(now, c.model)
	return t
}

// broken returns the rule that keeps the call out for the longest, or nil if
// it fits all of them.
func (e *enforcer) broken(now time.Duration, model string, tokens int64) *rule {
	var worst *rule
	var longest time.Duration
	for i := range e.rules {
		r := &e.rules[i]
		if !r.covers(model) {
			continue
		}
		wait, ok := r.meter.wait(now, r.demand(tokens))
		if !ok {
			wait = math.MaxInt64
		}
		if wait > longest {
			worst, longest = r, wait
		}
	}
	return worst
}

func (r *rule) refusal(now time.Duration, tokens int64) *refusal {
	n := r.demand(tokens)
	remaining, _ := r.meter.state(now)
	wait, ok := r.meter.wait(now, n)
	return &refusal{
		limit:     r.limit,
		used:      r.limit.Amount - remaining,
		requested: n,
		wait:      wait,
		never:     !ok,
	}
}

// chargeRequest charges one request and no tokens.
func (e *enforcer) chargeRequest(now time.Duration, model string) {
	for i := range e.rules {
		if r := &e.rules[i]; r.limit.Kind == KindRequests && r.covers(model) {
			r.meter.take(now, 1)
		}
	}
	e.charges = append(e.charges, charge{now, model, 1, 0})
}

// quota reports, for requests and for tokens, the limit with the smallest part
// left. (Which of several limits OpenAI's headers describe is not documented.)
func (e *enforcer) quota(now time.Duration, model string) (q quota) {
	for i := range e.rules {
		r := &e.rules[i]
		if !r.covers(model) || r.limit.Kind == KindConcurrent {
			continue
		}
		s := &q.requests
		if r.limit.Kind == KindTokens {
			s = &q.tokens
		}
		remaining, reset := r.meter.state(now)
		if !s.known || float64(remaining)/float64(r.limit.Amount) < float64(s.remaining)/float64(s.limit) {
			*s = quotaState{true, r.limit.Amount, remaining, reset}
		}
	}
	return q
}

// finish records how an accepted request ended and gives its slot back.
func (e *enforcer) finish(t ticket, v Verdict, output int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Since(e.start)
	a := &e.arrivals[t.arrival]
	a.Verdict, a.OutputTokens, a.Duration = v, output, e.start.Add(now).Sub(a.At)
	e.running--
	charged := e.actualUsage && output > 0
	for i := range e.rules {
		switch r := &e.rules[i]; {
		case !r.covers(a.Model):
		case r.limit.Kind == KindConcurrent:
			r.meter.take(now, -1)
		case r.limit.Kind == KindTokens && charged:
			r.meter.take(now, output)
		}
	}
	if charged {
		a.Charged += output
		e.charges = append(e.charges, charge{now, a.Model, 0, output})
	}
}

// reject counts a request that never reached the limits.
func (e *enforcer) reject() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.invalid++
}

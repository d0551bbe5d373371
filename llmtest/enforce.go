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
	silent    bool   // the answer has no output tokens: an embedding
	stream    bool

	prefix       uint64 // hash of the part of the input to be cached; 0 means none
	prefixTokens int64  // how much of input that is
}

// An enforcer decides which requests may pass, all limits in one step, and
// records what it decided. It is safe for concurrent use.
type enforcer struct {
	start  time.Time
	config *config

	// mu guards everything below, and that the clock is read in the order in
	// which requests are decided. Nothing blocks while it is held.
	mu       sync.Mutex
	rules    []*rule
	retired  []*rule                  // replaced by SetLimits, oldest first
	repeats  map[uint64]uint32        // how often a body was accepted
	cached   map[uint64]time.Duration // when a prefix was last used
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

	// When it came into force and when it was replaced, and how many charges
	// there were by then. Until is zero while it is in force.
	since, until time.Duration
	first, last  int
}

func (r *rule) covers(model string) bool {
	return r.limit.Model == "" || r.limit.Model == model
}

// A ticket is the enforcer's answer to one request.
type ticket struct {
	refusal  *refusal // nil if it may pass
	at       time.Time
	full     bool   // the server has no capacity for it
	arrival  int    // its index
	charge   int    // index of what it was charged on arrival
	accepted int64  // how many were accepted before
	repeat   uint32 // how many with the same body were accepted before
	running  int64  // in progress, this one included
	tokens   int64  // charged on arrival
	cached   int64  // input tokens that were in the cache
	stored   int64  // input tokens that are in the cache now, and were not
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

// A quota is what the rate limit headers can say: how each limit stands that
// covers the request, without Concurrent.
type quota []quotaState

type quotaState struct {
	Limit
	total, remaining int64 // total is the slice's for a quantized limit
	reset            time.Duration
}

// tightest returns the limit with the smallest part left of those that the
// filter accepts.
func (q quota) tightest(accept func(Limit) bool) (s quotaState, ok bool) {
	for _, c := range q {
		if accept(c.Limit) && (!ok || float64(c.remaining)/float64(c.total) < float64(s.remaining)/float64(s.total)) {
			s, ok = c, true
		}
	}
	return s, ok
}

func newEnforcer(c *config) *enforcer {
	e := &enforcer{
		start:   time.Now(),
		config:  c,
		repeats: make(map[uint64]uint32),
		cached:  make(map[uint64]time.Duration),
	}
	for _, l := range c.limits {
		e.rules = append(e.rules, &rule{limit: l, meter: newMeter(l, e.start)})
	}
	return e
}

// admit decides about the call now, and charges and records it.
func (e *enforcer) admit(c *call) ticket {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Since(e.start)
	t := ticket{at: e.start.Add(now), arrival: len(e.arrivals), accepted: e.accepted}
	t.cached = e.lookUp(now, c)
	ch := e.config.onArrival(now, c, t.cached)
	a := Arrival{At: t.at, Model: c.model, InputTokens: c.input, CachedTokens: t.cached, Verdict: Running}
	if broken := e.broken(now, &ch); broken != nil {
		broken.refused++
		a.Verdict, a.Broken = Refused, broken.limit
		e.countRefused(now, c.model)
		t.refusal = e.refusal(now, &ch, broken)
	} else if capacity := e.config.load.Capacity; capacity > 0 && e.running >= capacity {
		a.Verdict, t.full = Overloaded, true
		e.countRefused(now, c.model)
	} else {
		t.repeat = e.repeats[c.body]
		e.repeats[c.body]++
		e.accepted++
		e.running++
		e.peak = max(e.peak, e.running)
		t.running, t.charge, t.tokens = e.running, len(e.charges), ch.amount(KindTokens)
		e.charge(ch)
		e.occupy(now, c.model, 1)
		a.Charged = t.tokens
		t.stored = e.store(now, c, t.cached)
	}
	e.arrivals = append(e.arrivals, a)
	t.quota = e.quota(now, c.model)
	return t
}

// countRefused charges a request that is turned away, if such requests count.
func (e *enforcer) countRefused(now time.Duration, model string) {
	if e.config.countRefused {
		e.charge(charge{at: now, model: model, requests: 1})
	}
}

// broken returns the rule that keeps the charge out for the longest, or nil if
// it fits all of them.
func (e *enforcer) broken(now time.Duration, ch *charge) *rule {
	var worst *rule
	var longest time.Duration
	for _, r := range e.rules {
		if !r.covers(ch.model) {
			continue
		}
		wait, ok := r.meter.wait(now, r.demand(ch))
		if !ok {
			wait = math.MaxInt64
		}
		if wait > longest {
			worst, longest = r, wait
		}
	}
	return worst
}

// demand returns how much room the charge needs. A request whose output is
// charged later needs room for its first token.
func (r *rule) demand(ch *charge) int64 {
	switch r.limit.Kind {
	case KindConcurrent:
		return 1
	case KindOutput:
		return max(ch.output, 1)
	}
	return ch.amount(r.limit.Kind)
}

// refusal describes why the rule keeps the charge out. The wait is until it fits
// every rule, what the refusal itself was charged included.
func (e *enforcer) refusal(now time.Duration, ch *charge, broken *rule) *refusal {
	n := broken.demand(ch)
	_, remaining, _ := broken.meter.state(now)
	_, ok := broken.meter.wait(now, n)
	ref := &refusal{limit: broken.limit, used: broken.limit.Amount - remaining, requested: n, never: !ok}
	if r := e.broken(now, ch); ok && r != nil {
		ref.wait, _ = r.meter.wait(now, r.demand(ch))
	}
	return ref
}

// quota reports how the limits stand.
func (e *enforcer) quota(now time.Duration, model string) quota {
	q := make(quota, 0, len(e.rules))
	for _, r := range e.rules {
		if r.covers(model) && r.limit.Kind != KindConcurrent {
			total, remaining, reset := r.meter.state(now)
			q = append(q, quotaState{r.limit, total, remaining, reset})
		}
	}
	return q
}

// reject counts a request that never reached the limits.
func (e *enforcer) reject() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.invalid++
}

// setLimits replaces the limits. A limit that stays as it is goes on counting;
// another one stands as if it had been in force all along.
func (e *enforcer) setLimits(limits []Limit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Since(e.start)
	old := make(map[Limit][]*rule)
	for _, r := range e.rules {
		old[r.limit] = append(old[r.limit], r)
	}
	rules := make([]*rule, 0, len(limits))
	for _, l := range limits {
		if same := old[l]; len(same) > 0 {
			rules, old[l] = append(rules, same[0]), same[1:]
			continue
		}
		r := &rule{limit: l, meter: newMeter(l, e.start), since: now, first: len(e.charges)}
		e.replay(r)
		rules = append(rules, r)
	}
	for _, r := range e.rules {
		for _, gone := range old[r.limit] {
			if gone == r {
				r.until, r.last = max(now, 1), len(e.charges)
				e.retired = append(e.retired, r)
			}
		}
	}
	e.rules = rules
}

// replay charges the rule everything that was charged so far.
func (e *enforcer) replay(r *rule) {
	if r.limit.Kind == KindConcurrent {
		for i := range e.arrivals {
			if a := &e.arrivals[i]; a.Verdict == Running && r.covers(a.Model) {
				r.meter.take(0, 1)
			}
		}
		return
	}
	for i := range e.charges {
		if ch := &e.charges[i]; r.covers(ch.model) {
			r.meter.take(ch.at, ch.amount(r.limit.Kind))
		}
	}
}

package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// world plays the owner of an engine, who is random, in virtual time, and looks after each
// input whether what the engine did is right.
type world struct {
	t    *testing.T
	seed uint64
	rand *rand.Rand
	q    *Engine
	now  int64
	cfg  Config

	events []event
	order  int
	soon   []func() // to be done before time goes on

	ends     []*road // all that were ever added
	sets     []*set
	tickets  uint64
	requests map[uint32]*story
	accepted []*story
	attempts map[uint32]*try // under way, by number
	closed   bool
	paused   bool
	cutOff   bool
	trace    strings.Builder
	input    string
	next     int64          // what Next gave after the last input
	longest  float64        // mean duration of attempts so far
	guests   bool           // some came from other models
	hedges   int            // that were started
	calls    float64        // what may earn hedges
	used     endpoint.Usage // of all attempts
}

// event is something that happens later.
type event struct {
	at    int64
	order int
	do    func()
}

// road is an endpoint and all that was ever charged to it.
type road struct {
	*endpoint.Endpoint
	breaker *breaker
	members []*member
	learns  bool
	charges []*charged
	paused  bool  // Paused was told, Resumed not yet
	resumed int64 // when the latest pause ended, plus 1
	answers int   // since then
}

// charged is what one attempt takes of the limits, as far as it is known.
type charged struct {
	at       int64
	requests int64
	used     endpoint.Usage
}

// story is a request, or a call, and what was seen of it.
type story struct {
	in        Request
	h         uint32
	created   int64
	count     int
	failures  int   // attempts that ended in a passing fault
	probed    bool  // one of them was a probe
	since     int64 // when it began to wait for its next attempt
	kept      bool  // no other model took it
	elsewhere bool  // it was started at another one
	state     State
	ended     bool
	gone      bool
	retryAt   int64 // of the retry that was told
	backoff   bool  // by a passing fault, not a refusal
	try       *try  // the last
	hedge     *try  // beside it
	used      endpoint.Usage
	call      *story
	shares    []*story // of a call, who follows it
	taken     bool     // the first took over what the call used
	expires   int64    // by its MaxWait, while it has not started
	forgotten bool
}

type try struct {
	of     *story
	number uint32
	road   *road
	charge *charged
	began  int64
	over   bool
	cut    bool
	said   endpoint.Outcome
	lasted int64 // once its request goes on without it

	begun    bool // its answer has begun
	answered bool // so that the endpoint knows
	probe    bool // its endpoint was held out
	stated   bool // an answer stated limits
	heard    int64
	output   bool
	streamed bool
	outrun   bool // the other attempt of its request has won
	used     endpoint.Usage
}

func (w *world) oneIn(n int) bool { return w.rand.IntN(n) == 0 }

func (w *world) upTo(d time.Duration) int64 { return w.rand.Int64N(int64(d)) + 1 }

func (w *world) usage(most int64) endpoint.Usage {
	return endpoint.Usage{Input: 1 + w.rand.Int64N(most), Output: w.rand.Int64N(most)}
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d, %v, after %s: %s", w.seed, time.Duration(w.now), w.input, fmt.Sprintf(format, args...))
}

// in does something later.
func (w *world) in(d int64, do func()) {
	w.order++
	w.events = append(w.events, event{w.now + d, w.order, do})
}

// limits are random ones; the first never holds anything and remembers every charge.
func (w *world) limits() []endpoint.Limit {
	out := []endpoint.Limit{{Kind: endpoint.RPD, Amount: 1 << 40}}
	periods := []time.Duration{3 * time.Second, 10 * time.Second, time.Minute, 2 * time.Hour}
	for _, l := range []endpoint.Limit{
		{Kind: endpoint.RPM, Amount: 1 + w.rand.Int64N(8)}, {Kind: endpoint.RPM, Amount: 1 + w.rand.Int64N(20)},
		{Kind: endpoint.TPM, Amount: 20 + w.rand.Int64N(100)}, {Kind: endpoint.TPM, Amount: 50 + w.rand.Int64N(300)},
		{Kind: endpoint.ITPM, Amount: 10 + w.rand.Int64N(60)}, {Kind: endpoint.OTPM, Amount: 10 + w.rand.Int64N(60)},
	} {
		if l.Period = periods[w.rand.IntN(len(periods))]; !w.oneIn(3) || slices.ContainsFunc(out, l.Like) {
			continue
		}
		if w.oneIn(5) {
			l.Burst = 1 + l.Amount/2
		}
		out = append(out, l)
	}
	if !w.oneIn(3) {
		out = append(out, endpoint.Limit{Kind: endpoint.Concurrent, Amount: 1 + w.rand.Int64N(6)})
	}
	return out
}

// charging reserves a little more than the estimate.
type charging struct{}

func (charging) Reserved(u endpoint.Usage, n, _ int64) endpoint.Usage {
	u.Output += n
	return u
}
func (charging) Settled(_, used endpoint.Usage) endpoint.Usage { return used }

func (w *world) addEndpoint() {
	r := &road{}
	c := endpoint.Config{
		Limits: w.limits(), Margin: -1, Emit: w.q.Emit,
		Ticket: func() uint64 { w.tickets++; return w.tickets },
	}
	if w.oneIn(2) {
		c.Margin = time.Duration(w.upTo(time.Second) - 1)
	}
	if w.oneIn(3) {
		r.breaker = &breaker{now: &w.now, delay: w.upTo(10 * time.Second)}
		c.Breaker = r.breaker
	}
	if w.oneIn(8) {
		c.Accounting = charging{}
	}
	if r.learns = w.oneIn(8); r.learns {
		c.Learn = true
	}
	for _, s := range w.sets {
		if w.oneIn(2) {
			m := &member{set: s}
			r.members, c.Shared = append(r.members, m), append(c.Shared, m)
		}
	}
	r.Endpoint = endpoint.New(w.now, time.Unix(0, 0), c)
	r.ID = uint32(len(w.ends))
	w.ends = append(w.ends, r)
	w.do("AddEndpoint", func() { w.q.AddEndpoint(w.now, r.Endpoint) })
}

// newWorld tells a story: what comes when is decided here, what follows from it on the way.
func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 3)), requests: map[uint32]*story{}, attempts: map[uint32]*try{}}
	w.cfg = Config{
		MaxAttempts: 1 + w.rand.IntN(4), BaseDelay: w.upTo(2 * time.Second),
		RetryBudget: []float64{-1, 0, 0.2}[w.rand.IntN(3)], Backfill: w.oneIn(3), WaitForQuota: w.oneIn(2),
		NoDeadlineCheck: w.oneIn(2), Fallback: w.oneIn(2), Seed: seed,
	}
	w.cfg.MaxDelay = w.cfg.BaseDelay + w.upTo(6*time.Second)
	bound := func(d *int64, n int, most time.Duration) {
		if w.oneIn(n) {
			*d = w.upTo(most)
		}
	}
	bound(&w.cfg.Timeout, 3, 20*time.Second)
	bound(&w.cfg.FirstByte, 5, 5*time.Second)
	bound(&w.cfg.Stall, 5, 5*time.Second)
	bound(&w.cfg.MaxPause, 4, 6*time.Second)
	if w.oneIn(3) {
		bound(&w.cfg.Hedge.After, 1, 3*time.Second)
		w.cfg.Hedge.Share = 0.05 + w.rand.Float64()
		if w.oneIn(2) {
			w.cfg.Hedge.Quantile = w.rand.Float64()
		}
	}
	if w.oneIn(4) {
		w.cfg.MaxQueued = 1 + w.rand.IntN(20)
	}
	w.q = New(w.cfg)
	if w.oneIn(3) {
		for range 1 + w.rand.IntN(2) {
			w.sets = append(w.sets, &set{limit: endpoint.Limit{Kind: endpoint.RPM, Amount: 1 + w.rand.Int64N(6), Period: time.Duration(w.upTo(20 * time.Second))}})
		}
	}
	for range 1 + max(w.rand.IntN(6)-2, 0) {
		w.addEndpoint()
	}
	span := time.Duration(1+w.rand.IntN(100)) * time.Second
	unknown := []int{1, 3, 1000, 1000}[w.rand.IntN(4)]
	for range 5 + w.rand.IntN(80) {
		w.in(w.upTo(span), func() { w.submit(w.oneIn(unknown)) })
	}
	for range w.rand.IntN(4) {
		w.in(w.upTo(span+30*time.Second), w.setLimits)
	}
	for range w.rand.IntN(3) {
		w.in(w.upTo(span), func() {
			w.paused = true
			w.do("Pause", func() { w.q.Pause(w.now) })
			w.in(w.upTo(20*time.Second), func() {
				w.paused = false
				w.do("Resume", func() { w.q.Resume(w.now) })
			})
		})
	}
	for range w.rand.IntN(2) {
		w.in(w.upTo(span), w.endPauses)
	}
	if w.oneIn(3) {
		w.in(w.upTo(span), w.addEndpoint)
		w.in(w.upTo(span), w.removeEndpoint)
	}
	for range 10 {
		w.in(w.upTo(span), w.foreign)
	}
	end := int64(span)
	if w.oneIn(2) {
		end += w.upTo(time.Minute)
	}
	w.in(end, func() {
		w.closed = true
		w.do("Close", func() { w.q.Close(w.now) })
		if w.oneIn(3) {
			w.in(w.upTo(10*time.Second), func() {
				w.cutOff = true
				w.do("CutOff", func() { w.q.CutOff(w.now) })
			})
		}
	})
	return w
}

// foreign is another queue that draws from a shared set.
func (w *world) foreign() {
	for _, s := range w.sets {
		m := &member{set: s}
		w.tickets++
		g, _ := m.Reserve(w.now, endpoint.Usage{}, w.tickets)
		if g != nil {
			g.Release(w.now)
		} else {
			m.Withdraw(w.now)
		}
	}
}

// endPauses ends the pauses of all providers.
func (w *world) endPauses() {
	was := w.paused
	w.paused = false
	w.do("Resume", func() { w.q.Resume(w.now) })
	for _, r := range w.current() {
		if !was && (r.PausedUntil() > w.now || r.HeldOut() && r.ProbeAt(false) > w.now) {
			w.fail("Resume leaves endpoint %d paused or unproved", r.ID)
		}
	}
}

func (w *world) submit(unknown bool) {
	in := Request{Estimate: w.usage(14), Sized: true, Priority: w.rand.IntN(3), Tenant: []string{"", "a", "b"}[w.rand.IntN(3)]}
	if w.oneIn(10) {
		in.Estimate = w.usage(50) // fits few endpoints
	}
	if unknown {
		in.Estimate, in.Sized = endpoint.Usage{}, false
	}
	if w.oneIn(5) {
		in.MaxWait = w.upTo(time.Minute)
	}
	if w.oneIn(10) {
		in.Deadline = w.now + w.upTo(time.Minute)
	}
	var call *story
	switch w.rand.IntN(6) {
	case 0:
		in.Stays, in.Held = true, w.oneIn(2)
	case 3:
		in.Guest = w.oneIn(2)
		w.guests = w.guests || in.Guest
	case 1:
		in.Call = true
	case 2: // joins one that has not ended
		for _, s := range w.accepted {
			if s.in.Call && !s.ended {
				call = s
			}
		}
	}
	if no := w.q.Refuse(w.now, &in, call != nil); no != nil {
		w.checkRefusal(&in, no, call != nil)
		return
	}
	if call != nil {
		w.join(call, in, false)
		return
	}
	if w.cfg.MaxQueued > 0 && w.q.Waiting() >= w.cfg.MaxQueued {
		w.fail("%d wait, and another one may", w.q.Waiting())
	}
	unserved := w.q.Unserved(&in)
	if unserved != nil {
		w.checkUnserved(&in, unserved)
		if !w.cfg.Fallback || in.Stays {
			return
		}
		copied := *unserved
		unserved = &copied
	}
	of := in
	if in.Call {
		of.MaxWait, of.Deadline = 0, 0
	}
	s := &story{in: of, created: w.now, since: w.now}
	w.accepted = append(w.accepted, s)
	w.input = "Submit"
	w.q.advance(w.now)
	s.h = w.q.Submit(w.now, &of, unserved)
	w.know(s)
	if unserved == nil && !of.Call && of.MaxWait > 0 {
		s.expires = w.now + of.MaxWait
	}
	if in.Call {
		in.Call = false
		w.join(s, in, true)
		return
	}
	w.after()
	w.fate(s)
	if of.Deadline > 0 {
		w.in(of.Deadline-w.now, func() { w.cancel(s, CallerLeft) })
	}
}

func (w *world) know(s *story) {
	if o := w.requests[s.h]; o != nil && !o.gone {
		w.fail("the handle %d is in use", s.h)
	}
	w.requests[s.h] = s
}

func (w *world) join(call *story, in Request, first bool) {
	s := &story{in: in, created: w.now, since: w.now, call: call}
	w.accepted = append(w.accepted, s)
	call.shares = append(call.shares, s)
	w.input = "Join"
	s.h = w.q.Join(w.now, call.h, &in, first)
	w.know(s)
	if in.MaxWait > 0 {
		s.expires = w.now + in.MaxWait
	}
	w.after()
	if !first && in.Priority > call.in.Priority && !call.ended {
		call.in.Priority = in.Priority
		w.do("Raise", func() { w.q.Raise(w.now, call.h, in.Priority, call.in.Tenant) })
	}
	w.fate(s)
}

// fate is what others may do to a request.
func (w *world) fate(s *story) {
	if w.oneIn(8) {
		w.in(w.upTo(20*time.Second), func() { w.cancel(s, Canceled) })
	}
	if w.oneIn(5) {
		w.in(w.upTo(40*time.Second), func() { w.update(s) })
	}
}

func (w *world) cancel(s *story, code Code) {
	if s.gone {
		return
	}
	was := s.ended
	var did bool
	w.do("Cancel", func() { did = w.q.Cancel(w.now, s.h, CanceledState, code) })
	if did == was || !s.ended {
		w.fail("Cancel of a request that had ended: %v says %v", was, did)
	}
}

func (w *world) update(s *story) {
	if s.gone {
		return
	}
	if s.call != nil && !s.ended {
		s = s.call
	}
	u := w.usage(30)
	switch v := w.q.View(s.h); {
	case v.State == InLine || v.State == BackingOff:
		s.in.Estimate, s.in.Sized = u, true
		w.do("UpdateEstimate", func() { w.q.UpdateEstimate(w.now, s.h, u, true) })
		if !s.ended && w.q.tooLarge(u) != nil {
			w.fail("a request of %v can never start and waits on", u)
		}
	case v.State == HandedOff || v.UnderWay || v.State == Following:
	default:
		var own bool
		c := new(charged)
		if s.try != nil && v.Attempts > 0 {
			c = s.try.charge
			w.book(s, s.try, u)
		}
		was := *c
		c.settle(u) // before anything starts in the room that it makes
		w.do("UpdateUsage", func() { own = w.q.UpdateUsage(w.now, s.h, u) })
		if !own {
			*c = was
		}
		if got := w.q.View(s.h); own && v.Attempts > 0 && got.Usage != got.Prior.Plus(u) {
			w.fail("usage is %v after it was revised to %v", got.Usage, u)
		}
	}
}

func (c *charged) settle(u endpoint.Usage) { c.used, c.requests = u, 1 }

func (w *world) current() []*road {
	var out []*road
	for _, r := range w.ends {
		if !r.Removed() {
			out = append(out, r)
		}
	}
	return out
}

func (w *world) setLimits() {
	now := w.current()
	r := now[w.rand.IntN(len(now))]
	l := w.limits()
	r.resumed = 0 // with more slots than the bound had when it ended, more may start
	w.do("SetLimits", func() { w.q.SetLimits(w.now, r.Endpoint, l) })
}

func (w *world) removeEndpoint() {
	now := w.current()
	if len(now) > 1 {
		r := now[w.rand.IntN(len(now))]
		w.do("RemoveEndpoint", func() { w.q.RemoveEndpoint(w.now, r.Endpoint) })
	}
}

// book notes what an attempt used, in place of an earlier figure.
func (w *world) book(s *story, t *try, u endpoint.Usage) {
	w.used = w.used.Minus(t.used).Plus(u)
	s.used = s.used.Minus(t.used).Plus(u)
	t.used = u
}

// mayStart looks by brute force whether an attempt was within all limits.
func (w *world) mayStart(r *road, t *try) {
	running := int64(0)
	for _, o := range w.attempts {
		if o.road == r {
			running++
		}
	}
	switch {
	case running > r.Slots():
		w.fail("%d attempts run in %d slots", running, r.Slots())
	case w.now < r.PausedUntil():
		w.fail("an attempt started during a pause of its endpoint")
	case r.breaker != nil && r.breaker.RemainingDelay() > 0:
		w.fail("an attempt started through an open breaker")
	case r.Removed():
		w.fail("an attempt started on an endpoint that was removed")
	}
	w.startsSlowly(r)
	for _, l := range r.Limits() {
		if l.Kind == endpoint.Concurrent {
			continue
		}
		sum := int64(0)
		for _, c := range r.charges {
			if w.now-c.at < int64(l.Hold(r.Margin())) && c.requests > 0 {
				sum += l.Takes(c.used)
			}
		}
		if sum > l.Amount {
			w.fail("%d are charged to %+v", sum, l)
		}
	}
	for _, m := range r.members {
		if n := m.set.used(w.now); n > m.set.limit.Amount {
			w.fail("%d are charged to the shared %+v", n, m.set.limit)
		}
	}
}

// startsSlowly looks whether no more calls are made after a pause than its answers and the time
// since then allow.
func (w *world) startsSlowly(r *road) {
	if r.resumed == 0 {
		return
	}
	unanswered := int64(0)
	for _, o := range w.attempts {
		if o.road == r && !o.answered && o.began >= r.resumed-1 {
			unanswered++
		}
	}
	doubled := (w.now - (r.resumed - 1)) / int64(500*time.Millisecond)
	if most := int64(1+r.answers) << min(doubled, 20); unanswered > max(most, 1) && w.now >= r.resumed {
		w.fail("%d calls of which nothing came are under way %v after a pause, with %d answers", unanswered, time.Duration(w.now-r.resumed+1), r.answers)
	}
}

// answer notes that the endpoint of an attempt knows of its answer.
func (w *world) answer(t *try, counts bool) {
	if !t.answered && counts {
		t.road.answers++
	}
	t.answered = true
}

// output is a part of an attempt's answer.
func (w *world) output(t *try, streamed bool) {
	if t.over {
		return
	}
	s, cut := t.of, t.cut
	t.output, t.begun, t.heard, t.streamed = true, true, w.now, t.streamed || streamed
	if !cut && s.hedge != nil {
		w.wins(t)
	}
	w.do("Output", func() { w.q.Output(w.now, t.number, streamed) })
}

// wins notes that an attempt has outrun the other one of its request, which is to be cut.
func (w *world) wins(t *try) {
	s := t.of
	loser := s.hedge
	if loser == t {
		loser = s.try
	}
	s.try, s.hedge = t, nil
	loser.outrun = true
}

func (w *world) observe(t *try) {
	if t.over {
		return
	}
	o := &endpoint.Observation{SentAt: t.began + w.rand.Int64N(int64(50*time.Millisecond)), Outcome: endpoint.Outcome(w.rand.IntN(int(endpoint.Fatal) + 1))}
	o.SentAt = min(o.SentAt, w.now)
	if w.oneIn(2) {
		o.Outcome = endpoint.Served
	}
	if w.oneIn(2) {
		o.Delay = w.upTo(5 * time.Second)
	}
	if w.oneIn(4) {
		l := endpoint.Limit{Kind: endpoint.RPM, Amount: 1 + w.rand.Int64N(20)}
		o.Limits = append(o.Limits, endpoint.Stated{Limit: l, Remaining: w.rand.Int64N(l.Amount+2) - 1, Reset: w.upTo(time.Minute)})
	}
	tooLong := w.cfg.MaxPause > 0 && o.Delay > w.cfg.MaxPause
	if t.said = o.Outcome; (o.Outcome == endpoint.RateLimited || o.Outcome == endpoint.SlowDown) && len(o.Limits) > 0 && !tooLong {
		t.charge.used, t.charge.requests = endpoint.Usage{}, 0 // the provider's own figures tell
	}
	t.stated = t.stated || len(o.Limits) > 0
	if o.Outcome != endpoint.Unknown {
		w.answer(t, o.Outcome == endpoint.Served)
	}
	if o.Outcome == endpoint.Served {
		t.begun, t.heard = true, w.now
	}
	w.do("Observe", func() { w.q.Observe(w.now, t.number, o) })
}

func (w *world) conclude(t *try) {
	if t.over {
		return
	}
	e := &Ending{Reported: !w.oneIn(4), Used: w.usage(10)}
	if w.oneIn(4) {
		e.Used = w.usage(40) // an overrun
	}
	switch {
	case t.said == endpoint.QuotaExhausted:
		e.Verdict = Exhausted
	case t.said.Refused():
		e.Verdict = Refused
	case t.said == endpoint.Retryable:
		e.Verdict = PassingFault
	case t.said == endpoint.Elsewhere:
		e.Verdict = EndpointFault
	case t.said == endpoint.Fatal:
		e.Verdict = RequestFault
	case w.oneIn(3):
		e.Verdict = []Verdict{RequestFault, EndpointFault, PassingFault, PassingFault, Refused, Refused}[w.rand.IntN(6)]
		e.Marked = true
		e.Unobserved = e.Verdict == Refused
		if e.Verdict == Refused && w.oneIn(2) {
			e.Delay = w.upTo(5 * time.Second)
		}
	case w.oneIn(12):
		e.Invalid = true
	}
	if e.Verdict != Served {
		e.CallerLeft, e.Answered = w.oneIn(12), w.oneIn(3)
		e.Ballot = []endpoint.Ballot{endpoint.Success, endpoint.Failure, endpoint.Failure, endpoint.Left}[w.rand.IntN(4)]
		if w.oneIn(12) && !t.cut {
			w.output(t, true)
		}
		e.Streamed = t.streamed && w.oneIn(2) // the engine knows it already
	}
	s := t.of
	cut, other, verdict := t.cut, s.hedge != nil, e.Verdict
	switch {
	case e.Reported:
		t.charge.settle(e.Used)
		w.book(s, t, e.Used)
	case !s.in.Sized && w.q.tokens && !w.q.sizes.known && !cut && verdict >= EndpointFault && !t.stated:
		t.charge.used = endpoint.Usage{} // it was a guess
	}
	if t.over = true; !cut {
		t.lasted = w.now - t.began
	}
	delete(w.attempts, t.number)
	ended, state := s.ended, s.state
	switch serves := verdict == Served; {
	case cut:
	case serves || e.CallerLeft:
		if w.answer(t, serves); other {
			w.wins(t)
		}
	case other && verdict == RequestFault:
		w.wins(t) // the other one ends with it
		s.since = w.now
	case other: // the other one goes on
		if s.try == t {
			s.try = s.hedge
		}
		s.hedge = nil
	default:
		s.since = w.now
		if verdict == PassingFault {
			s.fails(t)
		}
	}
	w.do(fmt.Sprintf("Conclude of %d with verdict %d", s.h, verdict), func() { w.q.Conclude(w.now, t.number, e) })
	if verdict == Refused && e.Marked && t.road.PausedUntil() < w.now+e.Delay {
		w.fail("endpoint %d is not paused, and request %d says that it refuses calls", t.road.ID, s.h)
	}
	switch {
	case cut || ended:
		if ended && s.state != state {
			w.fail("the end of an attempt that was cut off ends request %d again", s.h)
		}
	case verdict == Served && (!s.ended || s.state != Completed && !e.Invalid):
		w.fail("request %d was served and is %d", s.h, s.state)
	case e.CallerLeft && verdict != Served && s.state != CanceledState:
		w.fail("the caller of request %d left and it is %d", s.h, s.state)
	case verdict == Served || e.CallerLeft:
	case other && verdict != RequestFault:
		if s.ended || s.state != Running {
			w.fail("another attempt of request %d goes on, and it is %d", s.h, s.state)
		}
	case verdict == RequestFault && s.state != Failed:
		w.fail("request %d failed for good and is %d", s.h, s.state)
	case t.streamed && s.state != Failed:
		w.fail("request %d handed output on and goes on", s.h)
	case verdict == PassingFault && s.spent() >= w.cfg.MaxAttempts && !s.ended && s.state != HandedOff:
		w.fail("request %d goes on after %d attempts that failed", s.h, s.failures)
	}
}

func (w *world) checkRefusal(in *Request, no *Refusal, joins bool) {
	w.input = "Refuse"
	switch {
	case no.Code == Closed && w.closed, no.Code == TooLarge && in.Sized && no.Limit.Amount > 0 && no.Limit.Takes(no.Usage) > no.Limit.Amount:
	case no.Code == Full && !joins && w.cfg.MaxQueued > 0 && w.q.Waiting() >= w.cfg.MaxQueued:
	default:
		w.fail("refused: %+v", *no)
	}
}

func (w *world) checkUnserved(in *Request, no *Refusal) {
	w.input = "Unserved"
	switch {
	case no.Code == QuotaExhausted && !w.cfg.WaitForQuota && no.At > w.now:
	case (no.Code == BreakersOpen || no.Code == HeldOut || no.Code == PausedLong) && (w.cfg.Fallback || in.Guest) && !in.Stays:
	case no.Code == DeadlinePasses && !w.cfg.NoDeadlineCheck && no.Wait.At > no.Deadline && !no.Wait.Guessed:
	default:
		w.fail("unserved: %+v", *no)
	}
}

// run lets time go on until nothing happens any more.
func (w *world) run() {
	for step := 0; ; step++ {
		if step > 100_000 {
			w.fail("it never ends")
		}
		if len(w.soon) > 0 {
			do := w.soon[0]
			w.soon = w.soon[1:]
			do()
			continue
		}
		next, i := w.next, -1
		for j, e := range w.events {
			if i < 0 || e.at < w.events[i].at || e.at == w.events[i].at && e.order < w.events[i].order {
				i = j
			}
		}
		switch {
		case i < 0 && (next == 0 || next == math.MaxInt64):
			return
		case i < 0 || next != 0 && next <= w.events[i].at:
			if next < w.now {
				w.fail("the next instant is in the past")
			}
			w.now = next
			w.do("Wake", func() { w.q.Wake(w.now) })
		default:
			e := w.events[i]
			w.events = slices.Delete(w.events, i, i+1)
			w.now = e.at
			e.do()
		}
	}
}

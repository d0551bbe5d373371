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
	next     int64 // what Next gave after the last input
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
	paused  bool // Paused was told, Resumed not yet
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
	state     State
	ended     bool
	gone      bool
	retryAt   int64 // of the retry that was told
	backoff   bool  // by a passing fault, not a refusal
	try       *try  // the last
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
	lasted int64 // once it is over
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
	out := []endpoint.Limit{{Kind: endpoint.TPD, Amount: 1 << 40}}
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
		MaxAttempts: 1 + w.rand.IntN(4), BaseDelay: w.upTo(2 * time.Second), MaxDelay: int64(8 * time.Second),
		RetryBudget: []float64{-1, 0, 0.2}[w.rand.IntN(3)], Backfill: w.oneIn(3), WaitForQuota: w.oneIn(2),
		NoDeadlineCheck: w.oneIn(2), Fallback: w.oneIn(2), Seed: seed,
	}
	if w.oneIn(3) {
		w.cfg.Timeout = w.upTo(20 * time.Second)
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
	for range 1 + max(w.rand.IntN(5)-2, 0) {
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

func (w *world) submit(unknown bool) {
	in := Request{Estimate: w.usage(14), Sized: true, Priority: w.rand.IntN(3), Tenant: []string{"", "a", "b"}[w.rand.IntN(3)]}
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
		in.Stays = true
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
	s := &story{in: of, created: w.now}
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
}

func (w *world) know(s *story) {
	if o := w.requests[s.h]; o != nil && !o.gone {
		w.fail("the handle %d is in use", s.h)
	}
	w.requests[s.h] = s
}

func (w *world) join(call *story, in Request, first bool) {
	s := &story{in: in, created: w.now, call: call}
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
		w.in(w.upTo(20*time.Second), func() { w.cancel(s) })
	}
	if w.oneIn(5) {
		w.in(w.upTo(40*time.Second), func() { w.update(s) })
	}
}

func (w *world) cancel(s *story) {
	if s.gone {
		return
	}
	was := s.ended
	var did bool
	w.do("Cancel", func() { did = w.q.Cancel(w.now, s.h, CanceledState, Canceled) })
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
	w.do("SetLimits", func() { w.q.SetLimits(w.now, r.Endpoint, l) })
}

func (w *world) removeEndpoint() {
	now := w.current()
	if len(now) > 1 {
		r := now[w.rand.IntN(len(now))]
		w.do("RemoveEndpoint", func() { w.q.RemoveEndpoint(w.now, r.Endpoint) })
	}
}

// start is the effect Start: somebody runs the attempt.
func (w *world) start(e *Effect) {
	s := w.live(e.Handle)
	var j Job
	w.q.Job(e.Attempt, &j)
	s.count++
	switch {
	case s.ended || s.state == Running:
		w.fail("request %d started again", e.Handle)
	case j.Handle != e.Handle || j.Number != e.Attempt || j.Count != s.count || j.Started != w.now || j.Created != s.created:
		w.fail("the job of request %d is %+v", e.Handle, j)
	case s.count > w.cfg.MaxAttempts:
		w.fail("attempt %d of at most %d", s.count, w.cfg.MaxAttempts)
	case w.paused || w.cutOff:
		w.fail("request %d started while nothing may", e.Handle)
	case s.backoff && w.now < s.retryAt:
		w.fail("the retry of request %d came %v early", e.Handle, time.Duration(s.retryAt-w.now))
	case s.count == 1 && s.expires != 0 && w.now > s.expires:
		w.fail("request %d started after its MaxWait", e.Handle)
	case w.attempts[e.Attempt] != nil:
		w.fail("attempt %d is under way already", e.Attempt)
	}
	since := s.created
	if s.try != nil {
		since = s.try.began + s.try.lasted
	}
	if e.Waited != w.now-since || e.Waited != w.now-j.Since {
		w.fail("request %d waited %v, says %v", e.Handle, time.Duration(w.now-since), time.Duration(e.Waited))
	}
	r := w.ends[j.Endpoint.ID]
	t := &try{of: s, number: e.Attempt, road: r, began: w.now, charge: &charged{w.now, 1, j.Reserved}}
	if s.in.Sized && r.Settled(j.Reserved, s.in.Estimate) == s.in.Estimate && !r.Accounts() && j.Reserved != s.in.Estimate {
		w.fail("request %d of %v reserved %v", e.Handle, s.in.Estimate, j.Reserved)
	}
	r.charges = append(r.charges, t.charge)
	s.state, s.try, s.backoff = Running, t, false
	w.attempts[e.Attempt] = t
	w.mayStart(r, t)
	lasts := w.upTo(4 * time.Second)
	if w.oneIn(5) {
		lasts = w.upTo(40 * time.Second)
	}
	if w.oneIn(3) {
		w.in(w.rand.Int64N(lasts)+1, func() { w.observe(t) })
	}
	w.in(lasts, func() { w.conclude(t) })
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
	if t.said = o.Outcome; (o.Outcome == endpoint.RateLimited || o.Outcome == endpoint.SlowDown) && len(o.Limits) > 0 {
		t.charge.used, t.charge.requests = endpoint.Usage{}, 0 // the provider's own figures tell
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
	case t.said == endpoint.Fatal:
		e.Verdict = RequestFault
	case w.oneIn(3):
		e.Verdict = []Verdict{RequestFault, PassingFault, PassingFault, Refused, Refused}[w.rand.IntN(5)]
		e.Marked = true
		e.Unobserved = e.Verdict == Refused
		if e.Verdict == Refused && w.oneIn(2) {
			e.Delay = w.upTo(5 * time.Second)
		}
	case w.oneIn(12):
		e.Invalid = true
	}
	if e.Verdict != Served {
		e.Streamed, e.CallerLeft = w.oneIn(12), w.oneIn(12)
		e.Ballot = []endpoint.Ballot{endpoint.Success, endpoint.Failure, endpoint.Failure, endpoint.Left}[w.rand.IntN(4)]
	}
	if e.Reported {
		t.charge.settle(e.Used)
	}
	t.over = true
	t.lasted = w.now - t.began
	delete(w.attempts, t.number)
	s := t.of
	ended := s.ended
	w.do(fmt.Sprintf("Conclude of %d with verdict %d", s.h, e.Verdict), func() { w.q.Conclude(w.now, t.number, e) })
	if e.Verdict == Refused && e.Marked && t.road.PausedUntil() < w.now+e.Delay {
		w.fail("endpoint %d is not paused, and request %d says that it refuses calls", t.road.ID, s.h)
	}
	switch {
	case ended:
	case e.Verdict == Served && (!s.ended || s.state != Completed && !e.Invalid):
		w.fail("request %d was served and is %d", s.h, s.state)
	case e.Verdict == RequestFault && s.state != Failed && !e.CallerLeft:
		w.fail("request %d failed for good and is %d", s.h, s.state)
	case e.Streamed && !s.ended:
		w.fail("request %d handed output on and goes on", s.h)
	case e.CallerLeft && e.Verdict != Served && s.state != CanceledState:
		w.fail("the caller of request %d left and it is %d", s.h, s.state)
	}
}

// do gives the engine an input and looks what it does.
func (w *world) do(name string, input func()) {
	w.t.Helper()
	w.input = name
	if w.q.WallClock() {
		w.q.Adjust(w.now, w.now, 0)
	}
	input()
	w.after()
}

func (w *world) live(h uint32) *story {
	s := w.requests[h]
	if s == nil || s.gone {
		w.fail("an effect names the handle %d, which is not in use", h)
	}
	return s
}

// after carries out what the engine decided, and looks whether it was right.
func (w *world) after() {
	w.t.Helper()
	for i := 0; i < len(w.q.Effects); i++ {
		e := w.q.Effects[i]
		event := ""
		if e.Event != nil {
			event = fmt.Sprintf(" %d/%d until %d %v", e.Event.Endpoint.ID, e.Event.Kind, e.Event.Until, e.Event.Limits)
			e.Event = nil
		}
		where := uint32(0)
		if e.Endpoint != nil {
			where, e.Endpoint = e.Endpoint.ID, nil
		}
		fmt.Fprintf(&w.trace, "%d %s: %+v at %d%s\n", w.now, w.input, e, where, event)
		e = w.q.Effects[i]
		switch e.Kind {
		case Start:
			w.start(&e)
		case Retry:
			w.retry(&e)
		case End:
			w.end(&e)
		case Cut:
			w.cut(&e)
		case Handoff:
			w.handOff(&e)
		case Gone:
			s := w.live(e.Handle)
			if !s.forgotten || s.try == nil || !s.try.over {
				w.fail("request %d is gone", e.Handle)
			}
			s.gone = true
			w.freed(s, e.PageFreed)
		case AskElsewhere:
			s := w.live(e.Handle)
			if s.call == nil || s.ended || s.call.state != HandedOff || w.now < s.expires {
				w.fail("nobody has to ask for request %d", e.Handle)
			}
			if w.oneIn(2) {
				w.soon = append(w.soon, func() {
					if !s.gone {
						w.do("ExpireElsewhere", func() { w.q.ExpireElsewhere(w.now, s.h) })
					}
				})
			} else {
				s.expires = 0 // it was started there
			}
		case EndpointEvent:
			w.event(e.Event)
		}
	}
	w.q.Effects = w.q.Effects[:0]
	w.next = w.q.Next()
	w.check()
	for _, s := range w.sets {
		if s.wakes {
			s.wakes = false
			w.in(int64(time.Millisecond), func() { w.do("Wake by a set", func() { w.q.Wake(w.now) }) })
		}
	}
	if w.q.Sweeping() {
		w.soon = append(w.soon, func() {
			if w.q.Sweeping() {
				w.do("Sweep", func() { w.q.Sweep(w.now) })
			}
		})
	}
}

func (w *world) event(e *endpoint.Event) {
	r := w.ends[e.Endpoint.ID]
	switch e.Kind {
	case endpoint.Paused:
		r.paused = true
		if e.Until <= w.now || e.Until != r.PausedUntil() && r.PausedUntil() > w.now && e.Until > r.PausedUntil() {
			w.fail("endpoint %d is said to be paused until %d", r.ID, e.Until)
		}
	case endpoint.Resumed:
		if !r.paused || w.now < r.PausedUntil() {
			w.fail("endpoint %d is said to be resumed", r.ID)
		}
		r.paused = false
	}
}

func (w *world) retry(e *Effect) {
	s := w.live(e.Handle)
	if s.state != Running || s.ended || e.Attempt != s.try.number || !s.try.over || e.At < w.now || e.Took != w.now-s.try.began {
		w.fail("request %d is said to be tried again: %+v", e.Handle, *e)
	}
	s.retryAt = e.At
	if s.backoff = w.q.State(s.h) == BackingOff; s.backoff {
		s.state = BackingOff
	} else {
		s.state = InLine
	}
}

func (w *world) end(e *Effect) {
	s := w.live(e.Handle)
	switch {
	case s.ended:
		w.fail("request %d ended twice", e.Handle)
	case !e.State.Final() || e.Code == OK != (e.State == Completed) && e.Code != Elsewhere:
		w.fail("request %d ended as %d with code %d", e.Handle, e.State, e.Code)
	case s.try != nil && s.try.of == s && !s.try.over && !s.try.cut:
		w.fail("request %d ended, and its attempt is not told", e.Handle)
	case e.Code == WaitedTooLong && (s.count > 0 || s.expires == 0 || w.now < s.expires):
		w.fail("MaxWait ended request %d too early", e.Handle)
	case e.Code == TimedOut && (w.cfg.Timeout == 0 || w.now < s.try.began+w.cfg.Timeout):
		w.fail("request %d timed out too early", e.Handle)
	case (e.Code == ShutDown || e.Code == ShutDownRunning) && !w.closed:
		w.fail("request %d was shut down", e.Handle)
	}
	s.ended, s.state = true, e.State
	if s.in.Call {
		w.soon = append(w.soon, func() { w.finishFollowers(s, e.Unserved) })
		return
	}
	if w.oneIn(2) {
		w.soon = append(w.soon, func() { w.forget(s) })
	} else {
		w.in(w.upTo(20*time.Second), func() { w.forget(s) })
	}
}

// finishFollowers ends who shares a call as that ended.
func (w *world) finishFollowers(call *story, unserved bool) {
	for _, s := range call.shares {
		if s.ended {
			continue
		}
		first := !call.taken
		call.taken = true
		v := w.q.View(call.h)
		w.do("FinishFollower", func() { w.q.FinishFollower(w.now, s.h, first, unserved, v.Usage) })
		if !s.ended || s.state != call.state {
			w.fail("request %d follows call %d, which has ended", s.h, call.h)
		}
		if got := w.q.View(s.h); !first && got.Usage != (endpoint.Usage{}) {
			w.fail("request %d took over %v, as another one did", s.h, got.Usage)
		}
		if first && !v.UnderWay {
			s.try, s.count = call.try, call.count
			if got := w.q.View(s.h); got.Usage != v.Usage {
				w.fail("request %d took over %v of %v", s.h, got.Usage, v.Usage)
			}
		}
	}
	if n := w.q.Followers(call.h); n != 0 {
		w.fail("%d follow call %d, which has ended", n, call.h)
	}
	call.forgotten = true
	gone, freed := w.q.Drop(call.h)
	w.forgot(call, gone, freed)
}

func (w *world) forget(s *story) {
	if s.forgotten {
		return
	}
	s.forgotten = true
	gone, freed := w.q.Forget(s.h)
	w.forgot(s, gone, freed)
}

func (w *world) forgot(s *story, gone, freed bool) {
	w.input = "Forget"
	if runs := s.try != nil && !s.try.over && s.try.of == s; gone == runs {
		w.fail("request %d is gone: %v, an attempt is under way: %v", s.h, gone, runs)
	}
	if w.q.Seq(s.h) != 0 {
		w.fail("request %d was forgotten and is there", s.h)
	}
	if s.gone = gone; gone {
		w.freed(s, freed)
	}
}

// freed looks whether a page that was given back is empty.
func (w *world) freed(s *story, freed bool) {
	if !freed {
		return
	}
	for h, o := range w.requests {
		if !o.gone && h/PageSize == s.h/PageSize {
			w.fail("the page of %d was given back, and %d is in it", s.h, h)
		}
	}
}

func (w *world) cut(e *Effect) {
	t := w.attempts[e.Attempt]
	if t == nil || t.of.h != e.Handle || t.cut {
		w.fail("attempt %d of request %d is cut off, which is not under way", e.Attempt, e.Handle)
	}
	t.cut = true
	if w.oneIn(2) {
		w.soon = append(w.soon, func() { w.conclude(t) })
	}
}

func (w *world) handOff(e *Effect) {
	s := w.live(e.Handle)
	if !w.cfg.Fallback || s.in.Stays || s.ended {
		w.fail("request %d is handed off", e.Handle)
	}
	s.state = HandedOff
	w.in(w.upTo(20*time.Second), func() {
		if s.ended {
			return
		}
		state := []State{Completed, Failed, CanceledState}[w.rand.IntN(3)]
		w.do("Finish", func() { w.q.Finish(w.now, s.h, state, w.oneIn(2)) })
	})
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
	case no.Code == BreakersOpen && w.cfg.Fallback && !in.Stays:
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

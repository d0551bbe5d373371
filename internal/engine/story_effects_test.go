package engine

import (
	"fmt"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// What the owner of the stories does with effects, and what each of them has to be.

// do gives the engine an input and looks what it does.
func (w *world) do(name string, input func()) {
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
	w.longest = max(w.longest, w.q.duration.value)
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
			if !s.forgotten || s.try == nil || w.busy(s) {
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
		case CheckStall:
			w.checkStall(&e)
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

// start is the effect Start: somebody runs the attempt.
func (w *world) start(e *Effect) {
	s := w.live(e.Handle)
	var j Job
	w.q.Job(e.Attempt, &j)
	s.count++
	switch {
	case s.ended || (s.state == Running) != e.Hedge:
		w.fail("request %d started again", e.Handle)
	case j.Handle != e.Handle || j.Number != e.Attempt || j.Count != s.count || e.Count != s.count || j.Started != w.now || j.Created != s.created || j.Hedge != e.Hedge:
		w.fail("the job of request %d is %+v", e.Handle, j)
	case s.spent() >= w.cfg.MaxAttempts:
		w.fail("request %d starts again after %d attempts that failed", e.Handle, s.failures)
	case w.paused || w.cutOff:
		w.fail("request %d started while nothing may", e.Handle)
	case s.backoff && w.now < s.retryAt:
		w.fail("the retry of request %d came %v early", e.Handle, time.Duration(s.retryAt-w.now))
	case s.count == 1 && s.expires != 0 && w.now > s.expires:
		w.fail("request %d started after its MaxWait", e.Handle)
	case w.attempts[e.Attempt] != nil:
		w.fail("attempt %d is under way already", e.Attempt)
	}
	r := w.ends[j.Endpoint.ID]
	t := &try{of: s, number: e.Attempt, road: r, began: w.now, charge: &charged{w.now, 1, j.Reserved}}
	t.probe = w.q.attempts[e.Attempt].lease.Probe()
	if s.in.Sized && r.Settled(j.Reserved, s.in.Estimate) == s.in.Estimate && !r.Accounts() && j.Reserved != s.in.Estimate {
		w.fail("request %d of %v reserved %v", e.Handle, s.in.Estimate, j.Reserved)
	}
	r.charges = append(r.charges, t.charge)
	if w.attempts[e.Attempt] = t; e.Hedge {
		w.startHedge(s, t)
	} else {
		if e.Waited != w.now-s.since || e.Waited != w.now-j.Since {
			w.fail("request %d waited %v, says %v", e.Handle, time.Duration(w.now-s.since), time.Duration(e.Waited))
		}
		s.state, s.try, s.backoff, s.kept = Running, t, false, false
		if w.cfg.Hedge.Share > 0 && !s.in.Held {
			w.calls++
		}
	}
	w.mayStart(r, t)
	lasts := w.upTo(4 * time.Second)
	if w.oneIn(5) {
		lasts = w.upTo(40 * time.Second)
	}
	if w.oneIn(3) {
		w.in(w.rand.Int64N(lasts)+1, func() { w.observe(t) })
	}
	for range w.rand.IntN(3) {
		streamed := w.oneIn(3)
		w.in(w.rand.Int64N(lasts)+1, func() { w.output(t, streamed) })
	}
	w.in(lasts, func() { w.conclude(t) })
}

// startHedge looks whether a second attempt may start beside the first one of a request.
func (w *world) startHedge(s *story, t *try) {
	first := s.try
	w.hedges++
	switch {
	case s.in.Held || s.hedge != nil || first.over || first.cut || first.output:
		w.fail("request %d is hedged, and needs it not", s.h)
	case w.q.Waiting() > 0:
		w.fail("request %d is hedged while %d wait", s.h, w.q.Waiting())
	case w.now < first.began+w.cfg.Hedge.After:
		w.fail("request %d is hedged after %v", s.h, time.Duration(w.now-first.began))
	case float64(w.hedges) > 1+w.calls*w.cfg.Hedge.Share+1e-6:
		w.fail("%d hedges of %v calls are more than %v", w.hedges, w.calls, w.cfg.Hedge.Share)
	}
	s.hedge = t
}

// busy reports whether an attempt of a request is under way.
func (w *world) busy(s *story) bool {
	for _, t := range w.attempts {
		if t.of == s {
			return true
		}
	}
	return false
}

// checkStall tells when output came last.
func (w *world) checkStall(e *Effect) {
	t := w.attempts[e.Attempt]
	if t == nil || t.of.h != e.Handle || t.cut || !t.begun || w.cfg.Stall == 0 || w.now < t.heard+w.cfg.Stall {
		w.fail("attempt %d is said to stall", e.Attempt)
	}
	if w.oneIn(2) { // more came than the engine was told of
		t.heard += w.rand.Int64N(w.now-t.heard) + 1
	}
	w.q.Stalled(w.now, e.Attempt, t.heard)
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
		r.paused, r.answers = false, 0
		if r.resumed = r.PausedUntil() + 1; r.resumed == 1 {
			r.resumed = w.now + 1 // by Resume
		}
	case endpoint.LetIn:
		r.resumed = 0 // it may begin anew
	case endpoint.HeldOut:
		if !r.HeldOut() || e.Until <= w.now {
			w.fail("endpoint %d is said to be held out until %v", r.ID, time.Duration(e.Until))
		}
	}
}

func (w *world) retry(e *Effect) {
	s := w.live(e.Handle)
	t := s.try
	if s.state != Running || s.ended || s.hedge != nil || e.Attempt != t.number || !t.over && !t.cut || e.At < w.now || e.Took != w.now-t.began || t.streamed {
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
	case s.hedge != nil && !s.hedge.cut || s.try != nil && s.try.of == s && !s.try.over && !s.try.cut:
		w.fail("request %d ended, and its attempt is not told", e.Handle)
	case e.Code == WaitedTooLong && (s.count > 0 || s.expires == 0 || w.now < s.expires):
		w.fail("MaxWait ended request %d too early", e.Handle)
	case e.Code == DeadlinePasses && !w.tooLate(s):
		w.fail("request %d ended, and it may start in time", e.Handle)
	case w.q.View(e.Handle).Usage != s.used && s.call == nil:
		w.fail("request %d used %v, it says %v", e.Handle, s.used, w.q.View(e.Handle).Usage)
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
		if first && !w.busy(call) {
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
	if runs := w.busy(s); gone == runs {
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

// cut looks whether an attempt may be cut off. Of a permit only the context ends.
func (w *world) cut(e *Effect) {
	t := w.attempts[e.Attempt]
	if t == nil || t.of.h != e.Handle || t.cut {
		w.fail("attempt %d of request %d is cut off, which is not under way", e.Attempt, e.Handle)
	}
	s, late := t.of, false
	switch e.Code {
	case TimedOut:
		late = w.cfg.Timeout > 0 && w.now >= t.began+w.cfg.Timeout
	case FirstByteLate:
		late = !t.begun && w.cfg.FirstByte > 0 && w.now >= t.began+w.cfg.FirstByte
	case StalledCode:
		late = t.begun && w.cfg.Stall > 0 && w.now >= t.heard+w.cfg.Stall
	case Outrun:
		if !t.outrun {
			w.fail("attempt %d is said to be outrun", e.Attempt)
		}
		t.cut = true
		w.returns(t)
		return
	default:
		t.cut = true
		w.returns(t)
		return
	}
	if !late {
		w.fail("attempt %d is cut off for %d too early", e.Attempt, e.Code)
	}
	if w.returns(t); s.in.Held {
		return
	}
	t.cut, t.lasted = true, w.now-t.began
	switch t {
	case s.hedge:
		s.hedge = nil
	default:
		if s.hedge != nil {
			s.try, s.hedge = s.hedge, nil
			return
		}
		s.since = w.now
		s.fails(t)
	}
}

// fails counts an attempt that ended in a passing fault.
func (s *story) fails(t *try) {
	s.failures++
	s.probed = s.probed || t.probe
}

// spent is how many attempts that failed count at the least: a probe may be free.
func (s *story) spent() int {
	if s.probed {
		return s.failures - 1
	}
	return s.failures
}

// returns lets an attempt end as soon as its context has, at times.
func (w *world) returns(t *try) {
	if w.oneIn(2) {
		w.soon = append(w.soon, func() { w.conclude(t) })
	}
}

func (w *world) handOff(e *Effect) {
	s := w.live(e.Handle)
	if !w.cfg.Fallback || s.in.Stays || s.ended {
		w.fail("request %d is handed off", e.Handle)
	}
	back := false
	switch e.Code {
	case BreakersOpen, BreakersOpened, HeldOut, PausedLong, BudgetSpent:
		back = true
	case DeadlinePasses, RunsOut:
		if back = true; e.Code == DeadlinePasses && s.state == InLine && !w.tooLate(s) || e.Code == RunsOut && w.now < w.startBy(s) && !w.tooLate(s) {
			w.fail("request %d is handed off, and it may start in time", e.Handle)
		}
	case WaitedTooLong:
		if s.count > 0 || s.expires == 0 || w.now < s.expires {
			w.fail("MaxWait handed request %d off too early", e.Handle)
		}
	}
	if back && s.kept {
		w.fail("request %d is handed off again", e.Handle)
	}
	s.state, s.kept, s.backoff = HandedOff, false, false
	on := func() {
		switch {
		case s.ended || s.state != HandedOff:
		case back && w.oneIn(2):
			w.takeBack(s)
		default:
			state := []State{Completed, Failed, CanceledState}[w.rand.IntN(3)]
			w.do("Finish", func() { w.q.Finish(w.now, s.h, state, w.oneIn(2)) })
		}
	}
	if w.oneIn(2) {
		w.soon = append(w.soon, on)
	} else {
		w.in(w.upTo(20*time.Second), on)
	}
}

// takeBack lets a request wait here after all.
func (w *world) takeBack(s *story) {
	started := w.oneIn(3)
	s.elsewhere = s.elsewhere || started
	if s.state, s.kept, s.expires = InLine, true, 0; s.in.MaxWait > 0 && s.count == 0 && !s.elsewhere {
		s.expires = s.created + s.in.MaxWait
	}
	end := w.startBy(s)
	want := !w.cutOff && !(w.closed && w.paused) && end > w.now && (w.cfg.NoDeadlineCheck || end >= w.heldUntil(true))
	var took bool
	w.do("TakeBack", func() { took = w.q.TakeBack(w.now, s.h, started) })
	if took != want {
		w.fail("request %d is taken back: %v", s.h, took)
	}
	if !took {
		s.state, s.kept = HandedOff, false
		w.do("Finish", func() { w.q.Finish(w.now, s.h, Failed, true) })
	}
}

// tooLate reports whether no endpoint may start anything before a request's time is over.
func (w *world) tooLate(s *story) bool {
	if slices.ContainsFunc(s.shares, func(o *story) bool { return !o.ended && w.tooLate(o) }) {
		return true // a fallback may serve the call of all in time
	}
	return w.startBy(s) < w.heldUntil(!w.mayLeave(s))
}

// mayLeave reports whether another model may serve a request.
func (w *world) mayLeave(s *story) bool {
	return (w.cfg.Fallback || s.in.Guest) && !s.in.Stays && !s.kept
}

// startBy is by when a request has to start, at the least. Another model takes as long to serve it, so
// it has to leave before its deadline.
func (w *world) startBy(s *story) int64 {
	end := s.in.Deadline
	if end == 0 {
		end = endpoint.Never
	} else if w.mayLeave(s) {
		end = max(end-max(int64(1.5*w.longest), (end-s.created)/4), 1)
	}
	if s.expires > 0 && s.count == 0 {
		end = min(end, s.expires)
	}
	return end
}

// heldUntil is until when no endpoint may start anything. Those that are held out may, but not as
// long as a fallback serves what waits and another endpoint will.
func (w *world) heldUntil(certain bool) int64 {
	until, sound := int64(endpoint.Never), int64(endpoint.Never)
	for _, r := range w.current() {
		at := max(r.PausedUntil(), w.now)
		if r.breaker != nil {
			at = max(at, w.now+int64(r.breaker.RemainingDelay()))
		}
		if until = min(until, at); !r.HeldOut() {
			sound = min(sound, at)
		}
	}
	if !certain && sound != endpoint.Never {
		return sound
	}
	return until
}

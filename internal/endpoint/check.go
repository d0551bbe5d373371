package endpoint

import "github.com/llmqueue/llmqueue/internal/window"

// This file answers when a request may start, and what it waits for until then.

// Cause says what holds a request back.
type Cause uint8

// What a request may wait for.
const (
	Free         Cause = iota
	WindowLimit        // room in one of the endpoint's limits
	Slot               // an attempt that ends
	SharedLimits       // room in limits shared with others
	Pause              // the end of a pause by the provider
	OpenBreaker        // the breaker's probe
	ManualPause        // Resume
)

// Wait is when a request may start, and what holds it until then.
type Wait struct {
	At      int64 // Never: not known
	Cause   Cause
	Limit   Limit // of WindowLimit
	Guessed bool  // it rests on means of what was seen, not on limits and sizes alone
}

// Ends is what is known of when attempts end.
type Ends struct {
	Mean float64 // how long the attempts so far took, ns; 0 while none has ended
	Next int64   // when the next one ends, exactly; 0 when that is not known
}

// Check says when a request with this estimate may start behind the load ahead of it,
// and what holds it longest. It is the one answer for the timer, forecasts, plans and
// what is shown; mean is that of the attempts so far.
func (e *Endpoint) Check(now int64, ahead Load, estimate Usage, sized bool, mean Usage, ends Ends) Wait {
	w := e.checkLimits(now, ahead, e.Reservation(estimate, sized, mean), mean, false)
	if late := e.running + ahead.Requests - e.slots + 1; late > 0 {
		switch {
		case ends.Next != 0 && late == 1:
			if ends.Next >= w.At {
				return Wait{At: ends.Next, Cause: Slot, Guessed: w.Guessed}
			}
		case ends.Mean > 0:
			if at := now + int64(ends.Mean*float64(late)/float64(e.slots)); at > w.At {
				return Wait{At: at, Cause: Slot, Guessed: true}
			}
		case w.At <= now:
			return Wait{At: Never, Cause: Slot, Guessed: true} // and nothing ended yet
		}
	}
	return w
}

// Earliest is Check without anything that may turn out otherwise: a request behind so many
// others starts no earlier. They may use no tokens, the attempts under way may give back what
// they reserved, and all may end at once.
func (e *Endpoint) Earliest(now, ahead int64, estimate Usage, sized bool, mean Usage) Wait {
	u := e.Reservation(estimate, sized, mean)
	if !sized {
		u = Usage{} // the mean is a guess
	}
	back, all := e.unsettled, u.Total()
	u = Usage{Input: max(u.Input-back.Input, 0), Output: max(u.Output-back.Output, 0)}
	if over := u.Total() - max(all-back.Total(), 0); over > 0 { // input that comes back is room for output as well
		out := min(over, u.Output)
		u.Output -= out
		u.Input -= over - out
	}
	if e.pacing.halvings > 0 || back.Total() > 0 && e.overdrawn(now) { // how long bursts are is a guess, or what comes back is
		w := Wait{At: e.HeldUntil(now)}
		if w.At > now {
			w.Cause = Pause
		}
		return w
	}
	return e.checkLimits(now, Load{Requests: ahead}, u, Usage{}, true)
}

// overdrawn reports whether more was used than some limit allows.
func (e *Endpoint) overdrawn(now int64) bool {
	i := 0
	for _, l := range e.limits {
		if l.Kind == Concurrent {
			continue
		}
		if used, _, _ := e.WindowUsage(now, i); used > l.Amount {
			return true
		}
		i++
	}
	return false
}

// checkLimits is Check but for slots. What others give back to shared limits on tokens is not
// certain.
func (e *Endpoint) checkLimits(now int64, ahead Load, u, mean Usage, certain bool) Wait {
	w := Wait{At: now}
	load := Usage{Input: ahead.Input, Output: ahead.Output}
	if ahead.Unsized > 0 {
		m := e.unsized(mean)
		load.Input += ahead.Unsized * m.Input
		load.Output += ahead.Unsized * m.Output
		w.Guessed = true
	}
	if e.accounting != nil && load != (Usage{}) {
		load = e.accounting.Reserved(load, ahead.Requests, mean.Output)
		w.Guessed = true
	}
	all := window.Charge{Requests: ahead.Requests, Input: load.Input, Output: load.Output}
	at, limit := now, -1
	if ahead.Requests == 0 {
		at, limit = e.windows.NextAt(now, u.charge())
	} else {
		at, limit = e.windows.ForecastAt(now, all, u.charge())
	}
	if limit >= 0 {
		w.At, w.Cause, w.Limit = at, WindowLimit, WindowAt(e.limits, limit)
	}
	for _, s := range e.shared {
		if certain && countsTokens(s.Limits(now)) {
			continue
		}
		if at := s.Forecast(now, ahead.Requests, load, u); at > w.At {
			w.At, w.Cause = at, SharedLimits
		}
	}
	if e.pausedUntil > w.At {
		w.At, w.Cause = e.pausedUntil, Pause
	}
	if e.breaker != nil {
		if d := e.breaker.RemainingDelay(); d > 0 && now+int64(d) > w.At {
			w.At, w.Cause = now+int64(d), OpenBreaker
		}
	}
	return w
}

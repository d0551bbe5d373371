package engine

import (
	"slices"

	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// Request is a request as Submit takes it. Its figures have been checked.
type Request struct {
	Estimate endpoint.Usage
	Sized    bool // Estimate is known
	Priority int
	Tenant   string
	MaxWait  int64 // for the first start; 0: no bound
	Deadline int64 // of who waits for it; 0: none
	Held     bool  // its attempts end when its holder says so, whatever they take
	Call     bool  // no request, but what several share: see Join
	Stays    bool  // it is never handed off
	Guest    bool  // another model handed it off, and takes it back unserved
	Tag      uint8 // the owner's: see Tag
}

// Refuse says why the engine does not take r now, nil when it does. One that joins a call
// takes no room. What it gives holds until the next call.
func (q *Engine) Refuse(now int64, r *Request, joins bool) *Refusal {
	q.advance(now)
	switch {
	case q.closed:
		return q.refuse(Refusal{Code: Closed})
	case r.Sized:
		if no := q.tooLarge(r.Estimate); no != nil {
			return no
		}
	}
	if !joins && q.cfg.MaxQueued > 0 && q.Waiting() >= q.cfg.MaxQueued {
		return q.refuse(Refusal{Code: Full})
	}
	return nil
}

// Unserved says why the engine cannot serve r now, though another model may; nil when it
// can. What it gives holds until the next call.
func (q *Engine) Unserved(r *Request) *Refusal {
	if !q.cfg.WaitForQuota && q.exhausted() {
		return q.refuse(Refusal{Code: QuotaExhausted, At: q.QuotaRenewed()})
	}
	if (q.cfg.Fallback || r.Guest) && !r.Stays {
		if code := q.unable(r.Guest); code != OK {
			return q.refuse(Refusal{Code: code, At: q.PausesEnd()})
		}
	}
	if (r.MaxWait > 0 || r.Deadline > 0) && !q.cfg.NoDeadlineCheck {
		return q.tooLate(r)
	}
	return nil
}

func (q *Engine) refuse(no Refusal) *Refusal {
	q.refusal = no
	return &q.refusal
}

// tooLate refuses a request whose time is over before it can start, as far as that is
// certain.
func (q *Engine) tooLate(r *Request) *Refusal {
	deadline, context := int64(0), false
	if r.MaxWait > 0 {
		deadline = endpoint.After(q.now, r.MaxWait)
	}
	if r.Deadline > 0 && (deadline == 0 || r.Deadline < deadline) {
		deadline, context = r.Deadline, true
	}
	w := q.earliest(r)
	if w.At <= deadline || w.At == endpoint.Never {
		return nil
	}
	return q.refuse(Refusal{Code: DeadlinePasses, Deadline: deadline, Context: context, Wait: w})
}

// DeadlinePasses is the refusal of a request in line that cannot start in time.
func (q *Engine) DeadlinePasses(h uint32) *Refusal {
	r := q.records.at(h)
	no := Refusal{Code: DeadlinePasses, Deadline: r.deadline, Context: true}
	if at := endpoint.After(r.created, r.maxWait); r.maxWait > 0 && !r.started() && (no.Deadline == 0 || at <= no.Deadline) {
		no.Deadline, no.Context = at, false
	}
	no.Wait = endpoint.Wait{At: q.heldUntil(), Cause: endpoint.Pause}
	if q.unable(false) == BreakersOpen {
		no.Wait.Cause = endpoint.OpenBreaker
	}
	return q.refuse(no)
}

// earliest is when r starts at the earliest. What goes before it counts where nothing may pass:
// with several endpoints, or backfill, what waits need not be in its way. A pause by hand may end
// at any time.
func (q *Engine) earliest(r *Request) (w endpoint.Wait) {
	mean, ahead := q.mean(r.Sized), int64(0)
	if len(q.endpoints) == 1 && !q.cfg.Backfill {
		ahead = q.line.Before(r.Priority, r.Tenant)
	}
	w.At = endpoint.Never
	elsewhere := (q.cfg.Fallback || r.Guest) && !r.Stays && slices.ContainsFunc(q.endpoints, func(e *endpoint.Endpoint) bool { return !e.HeldOut() })
	for _, e := range q.endpoints {
		if elsewhere && e.HeldOut() {
			continue // as in heldUntil
		}
		if one := e.Earliest(q.now, ahead, r.Estimate, r.Sized, mean); one.At < w.At {
			w = one
		}
	}
	return w
}

// Submit takes a request in, which Refuse does not refuse, and starts it when nothing
// holds it. unserved is what Unserved said of it: such a request is handed off.
func (q *Engine) Submit(now int64, in *Request, unserved *Refusal) (h uint32) {
	q.advance(now)
	h, r := q.records.add()
	r.created, r.estimate, r.maxWait, r.priority = q.now, in.Estimate, in.MaxWait, in.Priority
	r.tag, r.deadline = in.Tag, in.Deadline
	if in.Sized {
		r.flags = flagSized
	}
	if in.Stays {
		r.flags |= flagStays
	}
	if in.Guest {
		r.flags |= flagGuest
		q.guests++
		q.hadGuests = true
	}
	if in.Held {
		r.flags |= flagHeld
	}
	if in.Call {
		r.flags |= flagCall
		if q.calls == nil {
			q.calls = make(map[uint32]*call)
		}
		q.calls[h] = new(call)
	} else {
		q.counts.Accepted++
	}
	if unserved == nil && q.startAtOnce(h, r) {
		return h
	}
	r.state = InLine
	q.count(h, r, 1)
	switch {
	case unserved != nil:
		q.handOff(h, r, unserved.Code, 0)
	default:
		q.join(h, r, in.Tenant)
		end, _ := q.expiry.At(h)
		if head, _ := q.line.Head(); head == h || q.cfg.Backfill || end != 0 && end <= q.now {
			q.pump()
		}
	}
	return h
}

// join puts r at the end of the line, and leave books that it is not there any more. They
// keep the line and the sums over it in step.
func (q *Engine) join(h uint32, r *record, tenant string) {
	q.note(r.estimate)
	q.line.Push(h, r.priority, tenant, q.share(r))
	q.line.Book(r.priority, r.size())
	q.watchExpiry(h, r)
}

// watchExpiry looks at a request in line again by when it has to start.
func (q *Engine) watchExpiry(h uint32, r *record) {
	switch at := q.startEnd(r); {
	case at == 0:
	case r.flags&flagKept != 0:
		q.patient.Set(h, at)
	default:
		q.expiry.Set(h, at)
	}
}

// startEnd is by when r has to start, 0 when it has time: before its deadline, or, where another
// model may serve it, as long before as attempts take. While that is unknown, a quarter of its
// time is left to the other one.
func (q *Engine) startEnd(r *record) (at int64) {
	if at = r.deadline; at > 0 && q.mayLeave(r) {
		needs := int64(1.5 * q.duration.value)
		if needs == 0 {
			needs = (at - r.created) / 4
		}
		at = max(at-needs, 1)
	}
	if r.maxWait > 0 && !r.started() {
		if end := endpoint.After(r.created, r.maxWait); at == 0 || end < at {
			at = end
		}
	}
	return at
}

func (q *Engine) leave(h uint32, r *record) {
	q.line.Book(r.priority, r.minusSize())
	if r.maxWait > 0 || r.deadline > 0 {
		q.expiry.Remove(h)
		q.patient.Remove(h)
	}
	q.roomMade = true
}

// rejoin puts a request that was started before back in its place in line.
func (q *Engine) rejoin(h uint32, r *record) {
	r.state = InLine
	q.note(r.estimate)
	q.line.Return(h, r.priority, r.seq)
	q.line.Book(r.priority, r.size())
	q.watchExpiry(h, r)
}

// note keeps largest in step with what waits.
func (q *Engine) note(u endpoint.Usage) {
	if q.Waiting() == 0 {
		q.largest = endpoint.Usage{}
	}
	q.largest = endpoint.Usage{Input: max(q.largest.Input, u.Input), Output: max(q.largest.Output, u.Output)}
}

// share is the fair-share cost of a request.
func (q *Engine) share(r *record) float64 {
	e := q.endpoints[0]
	return e.Share(e.Reservation(r.estimate, r.sized(), q.mean(r.sized())))
}

// mean is what attempts used so far, where a reservation may need it.
func (q *Engine) mean(sized bool) (u endpoint.Usage) {
	if !sized || q.accounts {
		u = q.sizes.mean()
	}
	return u
}

// tooLarge says which limit a request with this estimate can never fit under; nil when it
// fits some endpoint.
func (q *Engine) tooLarge(estimate endpoint.Usage) *Refusal {
	var u endpoint.Usage
	var limit endpoint.Limit
	for i := len(q.endpoints) - 1; i >= 0; i-- {
		e := q.endpoints[i]
		u = e.Reservation(estimate, true, q.mean(true))
		var never bool
		if limit, never = e.Exceeds(u); !never {
			return nil
		}
	}
	return q.refuse(Refusal{Code: TooLarge, Limit: limit, Usage: u})
}

// TooLarge is the refusal of a request in line that can never start.
func (q *Engine) TooLarge(h uint32) *Refusal {
	r := q.records.at(h)
	if !r.sized() {
		return nil
	}
	return q.tooLarge(r.estimate)
}

// exhausted reports whether the quota of every endpoint is used up.
func (q *Engine) exhausted() bool {
	for _, e := range q.endpoints {
		if e.ExhaustedUntil() <= q.now {
			return false
		}
	}
	return true
}

// QuotaRenewed is when the first endpoint's quota is renewed.
func (q *Engine) QuotaRenewed() int64 {
	at := q.endpoints[0].ExhaustedUntil()
	for _, e := range q.endpoints[1:] {
		at = min(at, e.ExhaustedUntil())
	}
	return at
}

// UpdateEstimate replaces what a waiting request reserves. One that can never start then
// fails.
func (q *Engine) UpdateEstimate(now int64, h uint32, u endpoint.Usage, sized bool) {
	q.advance(now)
	r := q.records.at(h)
	if r.state == InLine {
		q.line.Book(r.priority, r.minusSize())
	}
	if r.estimate, r.flags = u, r.flags&^flagSized; sized {
		r.flags |= flagSized
	}
	q.note(u)
	if r.state == InLine {
		q.line.Book(r.priority, r.size())
		q.line.SetCost(h, q.share(r))
		if order := q.asideOrder[h]; q.takeAside(h) {
			q.setAside(h, r, q.reach(r), order)
		}
	}
	if sized && q.tooLarge(u) != nil {
		q.end(h, r, Failed, TooLarge)
	}
	q.pump()
}

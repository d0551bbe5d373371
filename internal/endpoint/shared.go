package endpoint

import "slices"

// Shared is an endpoint's part in a set of limits that several owners draw from. Its
// methods are called under the owner's lock and must not block.
type Shared interface {
	// Reserve takes one request and u from every limit of the set, or from none. Refused,
	// it gives nil and the instant from which asking again is of use, 0 when only a wake
	// will tell; the endpoint then has a place in the set's line, ordered by ticket, until
	// it reserves or withdraws.
	Reserve(now int64, u Usage, ticket uint64) (Grant, int64)
	Withdraw(now int64)
	// Exceeds gives a limit that u can never fit under, if there is one.
	Exceeds(u Usage) (Limit, bool)
	// Share is the largest fraction of any limit that u takes.
	Share(u Usage) float64
	// Forecast guesses when a request using own starts behind others.
	Forecast(now, requests int64, ahead, own Usage) int64
	Limits(now int64) []Limit
	// Learn corrects the limit that is like the stated one: has says that there is one.
	Learn(now, sent int64, s Stated) (has, changed bool)
}

// Grant is what an attempt holds of a shared set.
type Grant interface {
	Settle(now int64, u Usage) // any number of times, also after Release
	Undo(now int64)
	Release(now int64)
}

// reserveShared takes u from all shared sets or from none. Refused, it says when to ask
// again, if a set knows, and the endpoint then has its place in that set's line. It keeps
// its ticket until it reserves or withdraws, so it comes back to where it was.
//
// What it waits for in one set must not idle the others: it leaves their lines, unless it
// knows to be back within their shortest period. Were it always to leave, two busy sets
// could starve it, each full whenever the other has room.
//
// The set that refused last is asked first. What another one gives and gets back wakes who
// waits there next, and where that is an endpoint of the same owner, it would wake itself
// again and again until there is room.
func (e *Endpoint) reserveShared(now int64, u Usage) (grants []Grant, at int64, ok bool) {
	if e.ticket == 0 {
		e.ticket = e.numbers()
	}
	grants = make([]Grant, 0, len(e.shared))
	for k := range e.shared {
		i := (e.refuser + k) % len(e.shared)
		g, at := e.shared[i].Reserve(now, u, e.ticket)
		if g == nil {
			e.refuser = i
			for _, g := range slices.Backward(grants) {
				g.Undo(now)
			}
			for j, other := range e.shared {
				if j != i && (at == 0 || at-now > e.patience[j]) {
					other.Withdraw(now)
				}
			}
			return nil, at, false
		}
		grants = append(grants, g)
	}
	return grants, 0, true
}

// Withdraw gives up the places in the lines of the shared sets.
func (e *Endpoint) Withdraw(now int64) {
	e.queued = false
	if e.ticket == 0 {
		return
	}
	e.ticket = 0
	for _, s := range e.shared {
		s.Withdraw(now)
	}
}

// Queued reports whether the head of the line waits here for a shared set.
func (e *Endpoint) Queued() bool { return e.queued }

// Reset begins a new look for the head of the line.
func (e *Endpoint) Reset() { e.roomAt, e.queued = 0, false }

package engine

import (
	"slices"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/line"
)

// State is where a request is in its life.
type State uint8

// Where a request may be.
const (
	free       State = iota
	InLine           // waits for its turn
	BackingOff       // waits for its next attempt, not in line
	Running          // an attempt is under way
	HandedOff        // a fallback has it
	Following        // shares a call, which says where it is
	Completed
	Failed
	CanceledState
)

// Final reports whether s never changes again.
func (s State) Final() bool { return s >= Completed }

const (
	flagSized     = 1 << iota // the estimate is known
	flagCall                  // no request, but what several share
	flagForgotten             // by the owner; its attempt is still under way
	flagStarted               // an attempt was started
	flagStays                 // it is never handed off
	flagHeld                  // its attempts end when its holder says so
	flagGuest                 // another model may serve it instead: it came from there
	flagKept                  // no other model takes it: it waits here until it starts
)

// record is a request as the engine knows it: no pointers, so that the garbage collector
// does not look at what waits.
type record struct {
	seq      uint64 // counts all requests; 0 while the slot is free
	created  int64
	estimate endpoint.Usage
	maxWait  int64
	deadline int64 // of who waits for it; 0: none
	priority int
	attempt  uint32 // number of its latest attempt, plus 1; of a follower the handle of its call
	state    State
	flags    uint8
	tag      uint8 // the owner's
}

func (r *record) sized() bool   { return r.flags&flagSized != 0 }
func (r *record) isCall() bool  { return r.flags&flagCall != 0 }
func (r *record) started() bool { return r.flags&flagStarted != 0 }

// size is what r adds to the sums over the line.
func (r *record) size() line.Size {
	if r.sized() {
		return line.Size{Requests: 1, Input: r.estimate.Input, Output: r.estimate.Output}
	}
	return line.Size{Requests: 1, Unsized: 1}
}

func (r *record) minusSize() line.Size {
	s := r.size()
	return line.Size{Requests: -s.Requests, Input: -s.Input, Output: -s.Output, Unsized: -s.Unsized}
}

// attempt is the engine's half of an attempt. The latest one of a request carries the
// request's progress, and is kept until the request is forgotten.
type attempt struct {
	lease    endpoint.Lease
	handle   uint32
	number   int32  // of the request's attempts, 1 is the first
	index    uint32 // in underWay, while it runs
	running  bool
	hedge    bool           // it started beside another one
	cut      bool           // nobody waits for it any more
	begun    bool           // its answer has begun
	output   bool           // some of it has come
	streamed bool           // and was handed on
	told     bool           // to who holds it that it is late
	heard    int64          // when something of it came last, as far as is known
	reported bool           // used is what was reported, not nothing
	used     endpoint.Usage // once settled
	progress
}

// progress is what is known of a request that was started.
type progress struct {
	count     int32          // attempts so far
	spent     int32          // of them those that MaxAttempts counts
	over      bool           // it may not be tried here again
	underWay  int32          // those that have not ended
	pair      uint32         // number of the hedge that is under way beside this attempt, plus 1
	borrowed  bool           // another request has what the call used: see call
	budgeted  bool           // its latest attempt was taken from the budget for retries
	probed    bool           // a probe of its failed that used up no attempt
	owes      bool           // the budget has not allowed its next one yet
	notBefore int64          // when its backoff is over
	prior     endpoint.Usage // of the attempts before
	since     int64          // when the request began to wait for the attempt after it
	ended     int64          // the request
	avoid     uint64         // the endpoints that failed it of late
	faulty    uint64         // those that were at fault themselves

	refusals      int // in a row while nothing was served
	alone         int // in a row while nothing else was refused
	refusedAt     int64
	refusedBefore int64 // calls that were refused in all, up to then
}

// PageSize is how many handles a page has. A page whose handles are all free may be given
// back: see Forget.
//
// Its size makes pages of the records of engine and owner fit the allocator's classes.
const PageSize = 256

type page struct {
	records *[PageSize]record // apart, so that they fill a size class of the allocator
	free    []uint8
}

// records keeps the records in pages that never move.
type records struct {
	pages     []*page
	available []uint32 // pages with a free slot; the last is used next
	released  []uint32 // pages that were given back
	seq       uint64
	live      int
}

func (s *records) at(h uint32) *record { return &s.pages[h/PageSize].records[h%PageSize] }

// get is the record with this handle, nil when there is none.
func (s *records) get(h uint32) *record {
	if i := h / PageSize; int(i) >= len(s.pages) || s.pages[i] == nil {
		return nil
	}
	if r := s.at(h); r.seq != 0 {
		return r
	}
	return nil
}

// add takes a free slot.
func (s *records) add() (h uint32, r *record) {
	if len(s.available) == 0 {
		s.addPage()
	}
	i := s.available[len(s.available)-1]
	p := s.pages[i]
	n := len(p.free) - 1
	slot := p.free[n]
	if p.free = p.free[:n]; n == 0 {
		s.available = s.available[:len(s.available)-1]
	}
	s.seq++
	s.live++
	r = &p.records[slot]
	r.seq = s.seq
	return i*PageSize + uint32(slot), r
}

func (s *records) addPage() {
	p := &page{records: new([PageSize]record), free: make([]uint8, PageSize)}
	for i := range p.free {
		p.free[i] = uint8(PageSize - 1 - i)
	}
	if n := len(s.released); n > 0 {
		i := s.released[n-1]
		s.released = s.released[:n-1]
		s.pages[i] = p
		s.available = append(s.available, i)
		return
	}
	s.available = append(s.available, uint32(len(s.pages)))
	s.pages = append(s.pages, p)
}

// remove frees a slot, and its page when nothing else is in it and another page has room,
// which it reports.
func (s *records) remove(h uint32) (pageFreed bool) {
	i := h / PageSize
	p := s.pages[i]
	p.records[h%PageSize] = record{}
	s.live--
	p.free = append(p.free, uint8(h%PageSize))
	switch len(p.free) {
	case 1:
		s.available = append(s.available, i)
	case PageSize:
		if at := len(s.available) - 1; at > 0 {
			for s.available[at] != i {
				at-- // near the end: it opened not long ago
			}
			s.available = slices.Delete(s.available, at, at+1)
			s.pages[i] = nil
			s.released = append(s.released, i)
			return true
		}
	}
	return false
}

// maxPool bounds how many attempts wait for reuse.
const maxPool = 1024

// unused is an attempt that belongs to no request.
func (q *Engine) unused() *attempt {
	if n := len(q.pool); n > 0 {
		a := q.pool[n-1]
		q.pool = q.pool[:n-1]
		return a
	}
	return new(attempt)
}

// attach gives r an attempt of its own.
func (q *Engine) attach(h uint32, r *record, a *attempt) { r.attempt = q.number(h, a) + 1 }

// number gives an attempt of a request its number.
func (q *Engine) number(h uint32, a *attempt) uint32 {
	a.handle = h
	if n := len(q.free); n > 0 {
		number := q.free[n-1]
		q.free = q.free[:n-1]
		q.attempts[number] = a
		return number
	}
	q.attempts = append(q.attempts, a)
	return uint32(len(q.attempts) - 1)
}

// attemptOf is r's attempt, nil when there was none.
func (q *Engine) attemptOf(r *record) *attempt {
	if r.attempt == 0 || r.state == Following {
		return nil
	}
	return q.attempts[r.attempt-1]
}

// ownAttempt is r's attempt, a new one while it had none.
func (q *Engine) ownAttempt(h uint32, r *record) *attempt {
	if a := q.attemptOf(r); a != nil {
		return a
	}
	a := q.unused()
	q.attach(h, r, a)
	return a
}

// Forget lets go of a request that has ended, as soon as no attempt of it is under way. It
// reports whether that is so now, and whether the page of the handle holds nothing else
// and was given back. Otherwise the effect Gone tells.
func (q *Engine) Forget(h uint32) (gone, pageFreed bool) {
	r := q.records.at(h)
	a := q.attemptOf(r)
	if a != nil && a.underWay > 0 {
		r.flags |= flagForgotten
		return false, false
	}
	if a != nil {
		q.detach(r.attempt-1, a)
	}
	return true, q.records.remove(h)
}

// detach takes an attempt that is not under way from its request.
func (q *Engine) detach(number uint32, a *attempt) {
	q.attempts[number] = nil
	q.free = append(q.free, number)
	if len(q.pool) < maxPool {
		a.reset()
		q.pool = append(q.pool, a)
	}
}

// reset makes a like a new one, but keeps the memory that it has.
func (a *attempt) reset() {
	a.lease.Reuse()
	a.hedge, a.cut, a.begun, a.output, a.streamed, a.told, a.reported = false, false, false, false, false, false, false
	a.used, a.progress = endpoint.Usage{}, progress{}
}

// supersede makes another attempt the latest of a request.
func (q *Engine) supersede(r *record, number uint32) {
	old, a := q.attemptOf(r), q.attempts[number]
	a.progress, old.progress = old.progress, progress{}
	a.pair = 0
	r.attempt = number + 1
}

// Seq is the number of a request in the order of Submit, 0 when the handle names none
// or one that was forgotten.
func (q *Engine) Seq(h uint32) uint64 {
	if r := q.records.get(h); r != nil && r.flags&flagForgotten == 0 {
		return r.seq
	}
	return 0
}

// IsCut reports whether nobody waits for an attempt any more.
func (q *Engine) IsCut(number uint32) bool { return q.attempts[number].cut }

// State is where a request is.
func (q *Engine) State(h uint32) State { return q.records.at(h).state }

// Tag is what Request.Tag was.
func (q *Engine) Tag(h uint32) uint8 { return q.records.at(h).tag }

// Live is how many requests are not forgotten.
func (q *Engine) Live() int { return q.records.live }

// View is what is known of a request.
type View struct {
	State    State
	Priority int
	Created  int64
	MaxWait  int64
	Estimate endpoint.Usage // zero when the size is unknown
	Attempts int
	Started  int64 // the last attempt
	Since    int64 // when it began to wait for its next attempt
	Ended    int64
	Usage    endpoint.Usage // of the attempts that ended
	Prior    endpoint.Usage // of those before the last
	Endpoint *endpoint.Endpoint
	Attempt  uint32 // the number of the last one
	UnderWay bool   // it is
	Busy     bool   // some attempt is
	Call     uint32 // of a follower
}

// View tells where a request is.
func (q *Engine) View(h uint32) (v View) {
	r := q.records.at(h)
	v = View{State: r.state, Priority: r.priority, Created: r.created, MaxWait: r.maxWait, Estimate: r.estimate, Since: r.created}
	if r.state == Following {
		v.Call = r.attempt
		return v
	}
	if a := q.attemptOf(r); a != nil {
		v.Attempts, v.Started, v.Ended, v.Endpoint = int(a.count), a.lease.Started, a.ended, a.lease.Endpoint
		v.Usage, v.Prior, v.Attempt, v.UnderWay = a.prior.Plus(a.used), a.prior, r.attempt-1, a.running
		v.Busy = a.underWay > 0
		if a.since != 0 {
			v.Since = a.since
		}
	}
	return v
}

// Job is what who runs an attempt needs to know of it.
type Job struct {
	Handle   uint32
	Number   uint32
	Count    int // of the request's attempts, 1 is the first
	Priority int
	Created  int64
	MaxWait  int64
	Since    int64 // when the request began to wait for this attempt
	Started  int64
	Reserved endpoint.Usage
	Endpoint *endpoint.Endpoint
	Hedge    bool // it started beside another attempt
}

// Job describes an attempt that was started.
func (q *Engine) Job(number uint32, j *Job) {
	a := q.attempts[number]
	r := q.records.at(a.handle)
	*j = Job{
		Handle: a.handle, Number: number, Count: int(a.number), Priority: r.priority, Created: r.created, MaxWait: r.maxWait,
		Since: q.attemptOf(r).since, Started: a.lease.Started, Reserved: a.lease.Reserved, Endpoint: a.lease.Endpoint, Hedge: a.hedge,
	}
}

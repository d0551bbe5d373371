package llmqueue

import (
	"container/heap"
	"context"
	"fmt"
	"iter"
	"math"
	"math/bits"
	"reflect"
	"slices"
	"time"
)

// PlannedRequest is one request of a load that Plan plays.
type PlannedRequest struct {
	// At is when it arrives, counted from when the plan begins; not before the one
	// ahead of it.
	At       time.Duration
	Tenant   string
	Priority int
	Estimate Usage         // what it reserves; zero means unknown
	Used     Usage         // what it is found to have used; zero means as estimated
	Duration time.Duration // of its processing
}

// PlanResult says how a load fared.
type PlanResult struct {
	Requests  int64
	Makespan  time.Duration // from the first arrival to the last end
	LastStart time.Duration // counted from the first arrival
	Wait      PlanWait
	Used      Usage
	// Limits are the limits, concurrency among them, the one first that held the line
	// for longest: it binds.
	Limits []PlanLimit
}

// PlanWait sums up how long requests waited for their start. P50 and P95, which that
// share of the requests did not exceed, are up to 0.4% too high; the others are exact.
type PlanWait struct{ Mean, P50, P95, Max time.Duration }

// PlanLimit says what one limit did in a plan.
type PlanLimit struct {
	// Limit is named as in Forecast.WaitsFor: "500 rpm", "concurrent". While nothing
	// is known of sizes, requests without an estimate wait for "unknown size".
	Limit string
	// Held is how long the head of the line waited for it, and for no other limit
	// longer.
	Held time.Duration
	// Quota is the share that was charged of what the limit allows in all the periods,
	// margin included, that began up to the last start; for concurrent the share of
	// the slots' time. What WithPriorUsage charged is left out.
	Quota float64
}

// waitsForSize is what a request waits for whose size is unknown and will be guessed as
// soon as another has told.
const waitsForSize = "unknown size"

// Plan answers how long a load will take under limits, and which limit binds. It plays
// the load to the scheduler of a Queue in virtual time: nothing runs, nothing sleeps,
// 50,000 requests take a fraction of a second, and the memory is that of what waits at
// once. The same load and options give the same result, except that daily limits and
// WithPriorUsage count from the present time. All attempts succeed; what is due at an
// instant happens before what arrives at it.
//
// It takes WithLimits, WithUnlimited, WithMargin, WithPriorUsage, WithAccounting and
// WithBackfill; other options are ErrInvalidConfiguration. A request
// that can never start is ErrRequestTooLarge. Arrivals out of order and negative numbers
// are ErrInvalidParams. Such errors name the request by its index, from 0.
func Plan(load iter.Seq[PlannedRequest], opts ...Option) (PlanResult, error) {
	p, err := newPlan(opts)
	if err != nil {
		return PlanResult{}, err
	}
	for r := range load {
		if err := p.check(&r); err != nil {
			return PlanResult{}, fmt.Errorf("request %d of the load: %w", p.arrived, err)
		}
		for p.step(int64(r.At)) {
		}
		p.arrive(&r)
		if err := p.grown(); err != nil {
			return PlanResult{}, err
		}
	}
	for p.step(math.MaxInt64) {
	}
	return p.result(), p.grown()
}

// plan is a queue whose time somebody else keeps: no goroutine, no timer and no lock.
type plan struct {
	q       *Queue[planned, struct{}]
	now     int64 // ns since the queue's epoch
	running endings
	begun   int

	arrived int
	first   int64 // arrival
	last    int64 // start
	ended   int64
	waited  spread
	busy    float64 // ns of all slots
	used    Usage
	held    map[string]int64
	charged []float64 // by limit
}

// planned is what a request of a plan carries as its params.
type planned struct {
	index    int
	used     Usage
	duration time.Duration
}

func newPlan(opts []Option) (*plan, error) {
	s, plain := newSettings(opts), newSettings(nil)
	plain.backfill = s.backfill
	if len(s.shared) > 0 || s.learn || s.breaker != nil || !reflect.DeepEqual(s.queueSettings, plain.queueSettings) {
		return nil, invalid("a plan takes WithLimits, WithUnlimited, WithMargin, WithPriorUsage, WithAccounting and WithBackfill, leave other options out")
	}
	idle := func(context.Context, Request[planned]) (none struct{}, err error) { return }
	q, err := NewQueue("plan", idle, append(slices.Clip(opts), WithHistory(0, 0))...)
	if err != nil {
		return nil, err
	}
	q.timer = nil
	p := &plan{q: q, held: map[string]int64{}, charged: make([]float64, len(s.limits))}
	p.waited.counts = map[int64]int64{}
	return p, nil
}

// check refuses what cannot be played.
func (p *plan) check(r *PlannedRequest) error {
	if err := r.Estimate.validate("Estimate"); err != nil {
		return err
	}
	if err := r.Used.validate("Used"); err != nil {
		return err
	}
	switch {
	case r.Duration < 0:
		return fmt.Errorf("%w: Duration is %v, give 0 or more", ErrInvalidParams, r.Duration)
	case r.At < 0:
		return fmt.Errorf("%w: At is %v, give 0 or more", ErrInvalidParams, r.At)
	case int64(r.At) < p.now:
		return fmt.Errorf("%w: At is %v, after a request that arrives at %v: sort the load by At", ErrInvalidParams, r.At, time.Duration(p.now))
	}
	return p.q.impossible(r.Estimate)
}

// grown is an error when a request has failed after all: what others used made it too
// large for the limits.
func (p *plan) grown() error {
	if p.q.count.failed == 0 {
		return nil
	}
	return fmt.Errorf("%w: what others used made a request of the load, %d of which had arrived, larger than a limit: estimate its output, or raise the limit",
		ErrRequestTooLarge, p.arrived)
}

func (p *plan) time() time.Time { return p.q.epoch.Add(time.Duration(p.now)) }

// step moves on to the next instant at which anything happens and lets one thing happen,
// unless it lies beyond until: then it moves there and returns false.
func (p *plan) step(until int64) bool {
	next, ends := p.q.armed, false
	if len(p.running) > 0 && (next == 0 || p.running[0].at <= next) {
		next, ends = p.running[0].at, true
	}
	if next > until || next == 0 && !ends {
		if until < math.MaxInt64 {
			p.moveTo(until)
		}
		return false
	}
	p.moveTo(next)
	if ends {
		p.end(heap.Pop(&p.running).(ending).w)
	} else {
		p.q.fireAt(p.time())
	}
	p.begin()
	return true
}

// moveTo moves time, and books what the head of the line waits for meanwhile.
func (p *plan) moveTo(at int64) {
	if at <= p.now {
		return
	}
	if holds := p.holds(); holds != "" {
		p.held[holds] += at - p.now
	}
	p.now = at
}

// holds is what the head of the line waits for longest; empty when there is none.
func (p *plan) holds() string {
	q, e := p.q, p.q.endpoints[0]
	handle, waits := q.line.Head()
	if !waits {
		return ""
	}
	rec := q.records.at(handle)
	if q.gated(rec) {
		return waitsForSize
	}
	now := p.time()
	at, limit := e.own.Next(now, charge(q.reservation(e, rec.estimate)))
	if !e.mayStart(p.now) && (limit < 0 || q.since(at) <= p.running[0].at) {
		return waitsForSlot
	}
	if limit < 0 {
		return ""
	}
	return e.names[limit]
}

// arrive submits r now.
func (p *plan) arrive(r *PlannedRequest) {
	if p.arrived == 0 {
		p.first, p.last, p.ended = p.now, p.now, p.now
	}
	used := r.Used
	if used.isZero() {
		used = r.Estimate
	}
	now := p.time()
	req := Request[planned]{
		Params: planned{p.arrived, used, r.Duration},
		Tenant: r.Tenant, Priority: r.Priority, Estimate: r.Estimate,
	}
	p.arrived++
	p.q.enter(now, p.q.newRecord(context.Background(), now, &req, nil), "", nil)
	p.begin()
}

// begin takes over the workers that the queue gave a job, as unlock would wake them.
func (p *plan) begin() {
	for w := p.q.wake; w != nil; {
		next := w.next
		w.next, w.fresh = nil, false
		p.run(w)
		w = next
	}
	p.q.wake = nil
}

// run lets w end its job in time.
func (p *plan) run(w *worker[planned, struct{}]) {
	p.begun++
	p.last = p.now
	p.waited.add(int64(w.started.Sub(w.created)))
	heap.Push(&p.running, ending{after(p.now, int64(w.req.Params.duration)), p.begun, w})
}

// end is the return of w's processor.
func (p *plan) end(w *worker[planned, struct{}]) {
	q, a, e := p.q, w.attempt, w.endpoint
	job := w.req.Params
	charged := a.account.reserved
	if !job.used.isZero() {
		a.reportResult(job.used)
		charged = settled(e.accounting, charged, job.used)
	}
	for i, l := range e.limits {
		if l.Kind != KindConcurrent {
			p.charged[i] += float64(amountOf(charge(charged), l.Kind))
		}
	}
	p.used = p.used.plus(job.used)
	p.busy += float64(job.duration)
	p.ended = p.now
	q.concludeAt(p.time(), w, nil, nil)
	if w.attempt != nil {
		p.run(w)
	}
}

func (p *plan) result() PlanResult {
	r := PlanResult{
		Requests: int64(p.arrived), Makespan: time.Duration(p.ended - p.first), LastStart: time.Duration(p.last - p.first),
		Wait: p.waited.summary(), Used: p.used,
	}
	e := p.q.endpoints[0]
	name := 0
	for i, l := range e.limits {
		if l.Kind == KindConcurrent {
			continue
		}
		quota := p.charged[i] / float64(l.Amount) / float64(p.periods(l))
		r.Limits = append(r.Limits, PlanLimit{e.names[name], time.Duration(p.held[e.names[name]]), quota})
		name++
	}
	slots := PlanLimit{Limit: waitsForSlot, Held: time.Duration(p.held[waitsForSlot])}
	if r.Makespan > 0 {
		slots.Quota = p.busy / float64(e.slots) / float64(r.Makespan)
	}
	r.Limits = append(r.Limits, slots)
	if d := p.held[waitsForSize]; d > 0 {
		r.Limits = append(r.Limits, PlanLimit{Limit: waitsForSize, Held: time.Duration(d)})
	}
	slices.SortStableFunc(r.Limits, func(a, b PlanLimit) int { return int(min(max(b.Held-a.Held, -1), 1)) })
	return r
}

// periods is how many periods of l began from the first arrival to the last start.
func (p *plan) periods(l Limit) int64 {
	if l.Resets != nil {
		day := func(ns int64) int64 {
			y, m, d := p.q.epoch.Add(time.Duration(ns)).In(l.Resets).Date()
			return time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400
		}
		return day(p.last) - day(p.first) + 1
	}
	return (p.last-p.first)/int64(windowLimits([]Limit{l}, p.q.endpoints[0].margin)[0].Margin+l.period()) + 1
}

// ending is when a worker's processor returns.
type ending struct {
	at    int64
	order int // of starting, which decides at one instant
	w     *worker[planned, struct{}]
}

// endings is a heap, the next one first.
type endings []ending

func (e endings) Len() int { return len(e) }
func (e endings) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e endings) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *endings) Push(x any)   { *e = append(*e, x.(ending)) }
func (e *endings) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = ending{}
	*e = (*e)[:last]
	return x
}

// spread sums up durations, in memory that does not grow with their number.
type spread struct {
	counts map[int64]int64 // by bucket, 256 to each doubling
	n      int64
	sum    float64
	most   int64
}

func (s *spread) add(d int64) {
	shift := max(bits.Len64(uint64(d))-9, 0)
	s.counts[int64(shift)<<9|d>>shift]++
	s.n++
	s.sum += float64(d)
	s.most = max(s.most, d)
}

func (s *spread) summary() (w PlanWait) {
	if s.n == 0 {
		return w
	}
	buckets := make([]int64, 0, len(s.counts))
	for b := range s.counts {
		buckets = append(buckets, b)
	}
	slices.Sort(buckets)
	quantile := func(share float64) time.Duration {
		rank := int64(math.Ceil(share * float64(s.n)))
		for _, b := range buckets {
			if rank -= s.counts[b]; rank <= 0 {
				return time.Duration(min((b&511+1)<<(b>>9)-1, s.most))
			}
		}
		return time.Duration(s.most)
	}
	return PlanWait{time.Duration(s.sum / float64(s.n)), quantile(0.5), quantile(0.95), time.Duration(s.most)}
}

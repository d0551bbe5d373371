package llmqueue

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/accounting"
	"github.com/llmqueue/llmqueue/internal/window"
)

// endpoint is one way to the model's provider (a key, a region, a deployment) with
// what limits it. Guarded by the queue's lock, the fields of the first group excepted,
// which never change.
type endpoint struct {
	name       string
	process    any // a Processor[P, T]
	margin     time.Duration
	learn      bool
	unlimited  bool
	breaker    Breaker // nil: none
	accounting accounting.Policy

	configured     []Limit // by WithLimits and SetLimits
	limits         []Limit // in force: see inForce
	names          []string
	own            *window.Set
	learned        learned
	pacing         pacing
	bound          bound
	ramp           ramp
	lateness       lateness
	unanswered     int64 // processors that run and were not observed to be answered yet
	slots          int64 // how many processors may run
	running        int64
	shared         []SharedMember
	patience       []time.Duration // by shared set, see reserveShared
	turn           uint64          // the place in the lines of the shared sets, 0: none
	waits          bool            // the head waits there for a shared set
	tokens         bool            // some limit counts tokens
	pausedUntil    int64           // ns, by the provider
	pausedBy       error           // what it said
	tells          bool            // observers are to know when that pause ends
	exhaustedUntil int64           // ns, until when a quota is used up
	roomAt         int64           // ns, when the head fits the limits; 0 when something else holds it
	spare          window.Spare    // what may start here without putting the head off; see passSome
	opened         bool            // its breaker was seen to open, and not yet to close
	drained        chan struct{}   // of a removed one: closed when nothing runs any more
}

// newEndpoint makes an endpoint with validated settings. wake is for its shared
// limits.
func newEndpoint(now time.Time, name, modelID string, process any, s *endpointSettings, wake func()) (*endpoint, error) {
	e := &endpoint{
		name: name, process: process, margin: s.margin, learn: s.learn, unlimited: s.unlimited, accounting: s.accounting,
		configured: s.limits, own: window.NewSet(now, windowLimits(s.limits, s.margin)),
	}
	if s.learn {
		e.learned.watched, e.ramp.at = true, rampFirst
	}
	if s.breaker != nil {
		if e.breaker = s.breaker(name); e.breaker == nil {
			return nil, invalid("WithBreaker gave a nil breaker for endpoint %q", name)
		}
	}
	if s.prior != nil {
		e.chargePrior(now, s.prior)
	}
	for _, limiter := range s.shared {
		m, err := limiter.Join(modelID, wake)
		if err != nil {
			e.leave()
			return nil, err
		}
		e.shared = append(e.shared, m)
		var limits []Limit
		for _, l := range m.Limits(now) {
			limits = append(limits, l.Limit)
		}
		e.patience = append(e.patience, shortest(limits))
	}
	e.setLimits(now, s.limits)
	return e, nil
}

// chargePrior books the attempts that started before this process. Those of the same
// instant are one charge: a day's can be given to the second, in little memory.
func (e *endpoint) chargePrior(now time.Time, prior func(func(time.Time, Usage) bool)) {
	type start struct {
		at time.Time
		c  window.Charge
	}
	var starts []start
	for at, u := range prior {
		if at.After(now) {
			at = now
		}
		c := charge(settled(e.accounting, Usage{}, u.clamped()))
		if last := len(starts) - 1; last >= 0 && starts[last].at.Equal(at) {
			sum := &starts[last].c
			sum.Requests += c.Requests
			sum.Input += c.Input
			sum.Output += c.Output
			continue
		}
		starts = append(starts, start{at, c})
	}
	slices.SortStableFunc(starts, func(a, b start) int { return a.at.Compare(b.at) })
	for _, s := range starts {
		e.own.Add(s.at, s.c)
	}
}

// setLimits takes over validated limits, the windows excepted.
func (e *endpoint) setLimits(now time.Time, limits []Limit) {
	e.limits = slices.Clone(limits)
	e.names = e.names[:0]
	for _, l := range limits {
		if l.Kind != KindConcurrent {
			e.names = append(e.names, l.String())
		}
	}
	e.slots = concurrency(limits, defaultConcurrency)
	e.tokens = tokenLimited(limits)
	for _, m := range e.shared {
		for _, l := range m.Limits(now) {
			e.tokens = e.tokens || tokenLimited([]Limit{l.Limit})
		}
	}
}

// leave ends the membership in shared limits.
func (e *endpoint) leave() {
	for _, m := range e.shared {
		m.Leave()
	}
}

// exceeds gives a limit that u can never fit under here, if there is one.
func (e *endpoint) exceeds(u Usage) (limit Limit, never bool) {
	limit, never = exceeded(e.limits, e.own, u)
	for i := 0; i < len(e.shared) && !never; i++ {
		limit, never = e.shared[i].Exceeds(u)
	}
	return limit, never
}

// capped brings u under every limit's amount.
func (e *endpoint) capped(u Usage) Usage {
	u = capTo(e.limits, u)
	for _, m := range e.shared {
		for range len(kinds) { // a set may bound input, output and both
			if limit, never := m.Exceeds(u); never {
				u = capTo([]Limit{limit}, u)
			}
		}
	}
	return u
}

// share is the largest fraction that u takes of any limit here.
func (e *endpoint) share(u Usage) float64 {
	cost := e.own.Share(charge(u))
	for _, m := range e.shared {
		cost = max(cost, m.Share(u))
	}
	return cost
}

// mayStart reports whether a slot is free and nothing holds the endpoint back.
func (e *endpoint) mayStart(ns int64) bool {
	return e.running < e.slotsNow() && ns >= e.pausedUntil && !e.open()
}

// perSecond is how many requests that take c the windows admit in a second, for
// comparison between endpoints.
func (e *endpoint) perSecond(c window.Charge) float64 {
	rate := float64(e.slots)
	for _, l := range e.limits {
		if l.Kind != KindConcurrent {
			rate = min(rate, float64(l.Amount)/l.period().Seconds()/float64(max(amountOf(c, l.Kind), 1)))
		}
	}
	return rate
}

// amountOf is what c takes of a limit of the kind.
func amountOf(c window.Charge, k LimitKind) int64 {
	switch kinds[k].counts {
	case window.Requests:
		return c.Requests
	case window.Input:
		return c.Input
	case window.Output:
		return c.Output
	}
	return c.Tokens()
}

// AddEndpoint adds another way to this model's provider: another key, region or
// deployment, with a processor and limits of its own. The line stays one: its head
// goes to whichever endpoint has room first, and of those that have room now to the one
// with the fewest calls for its slots. An endpoint that its provider paused, whose quota
// is used up or whose breaker is open is passed over. What NewQueue made is the
// queue's first endpoint and is called like the model.
//
// opts are WithLimits, WithUnlimited, WithSharedLimits, WithLearnedLimits, WithMargin,
// WithPriorUsage, WithAccounting and WithBreaker; nothing is taken over from the queue.
// Other options, an empty name and one that is in use are ErrInvalidConfiguration; after
// Shutdown it is ErrQueueClosed.
func (q *Queue[P, T]) AddEndpoint(name string, process Processor[P, T], opts ...Option) error {
	s := newSettings(opts)
	err := s.endpointSettings.validate()
	switch {
	case name == "":
		err = invalid("empty name, name the endpoint")
	case process == nil:
		err = invalid("nil processor")
	case !reflect.DeepEqual(s.queueSettings, newSettings(nil).queueSettings):
		err = invalid("an endpoint takes WithLimits, WithUnlimited, WithSharedLimits, WithLearnedLimits, WithMargin, WithPriorUsage, WithAccounting and WithBreaker; give other options to the queue")
	}
	var e *endpoint
	if err == nil {
		e, err = newEndpoint(time.Now(), name, q.modelID, process, &s.endpointSettings, q.wakeUp)
	}
	if err != nil {
		return fmt.Errorf("model %q, endpoint %q: %w", q.modelID, name, err)
	}
	q.mu.Lock()
	defer q.unlock()
	switch {
	case q.closed:
		err = fmt.Errorf("%w: model %q was shut down", ErrQueueClosed, q.modelID)
	case q.endpoint(name) != nil:
		err = invalid("model %q has an endpoint %q already, RemoveEndpoint it first", q.modelID, name)
	default:
		q.endpoints = append(slices.Clip(q.endpoints), e)
		q.sumUp()
		q.pump(time.Now(), nil)
		return nil
	}
	e.leave()
	return err
}

// RemoveEndpoint starts nothing more on an endpoint and returns when what runs there
// has ended, or with the cause of ctx when that ends first; what runs goes on then. A
// waiting request that fits no other endpoint fails with ErrRequestTooLarge. An
// unknown name and the last endpoint are ErrInvalidConfiguration.
func (q *Queue[P, T]) RemoveEndpoint(ctx context.Context, name string) error {
	drained, err := q.takeOut(name)
	if err != nil {
		return err
	}
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (q *Queue[P, T]) takeOut(name string) (drained <-chan struct{}, err error) {
	q.mu.Lock()
	defer q.unlock()
	e := q.endpoint(name)
	switch {
	case e == nil:
		return nil, invalid("model %q has no endpoint %q", q.modelID, name)
	case len(q.endpoints) == 1:
		return nil, invalid("%q is the last endpoint of model %q, shut the queue down instead", name, q.modelID)
	}
	now := time.Now()
	e.withdraw(now)
	e.leave()
	e.drained = make(chan struct{})
	e.rest()
	q.endpoints = slices.DeleteFunc(slices.Clone(q.endpoints), func(o *endpoint) bool { return o == e })
	q.sumUp()
	q.failImpossible(now)
	q.pump(now, nil)
	return e.drained, nil
}

// rest tells who removed the endpoint when nothing runs there any more.
func (e *endpoint) rest() {
	if e.drained != nil && e.running == 0 {
		close(e.drained)
	}
}

// endpoint finds one by name, nil when there is none.
func (q *Queue[P, T]) endpoint(name string) *endpoint {
	for _, e := range q.endpoints {
		if e.name == name {
			return e
		}
	}
	return nil
}

// sumUp brings up to date what the queue knows of all its endpoints.
func (q *Queue[P, T]) sumUp() {
	q.slots, q.tokens = 0, false
	for _, e := range q.endpoints {
		q.slots += e.slots
		q.tokens = q.tokens || e.tokens
	}
}

// failImpossible ends the waiting requests that fit no endpoint.
func (q *Queue[P, T]) failImpossible(now time.Time) {
	var impossible []*record[P, T]
	for rec := range q.waiting() {
		if q.impossible(rec.estimate) != nil {
			impossible = append(impossible, rec)
		}
	}
	for _, rec := range impossible {
		q.end(now, rec, stateFailed, q.impossible(rec.estimate))
	}
}

package llmqueue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llmqueue/llmqueue/accounting"
	"github.com/llmqueue/llmqueue/internal/line"
)

// Queue is the queue of one model: requests wait in it until the model's limits
// let them start, run in the processor, and come back typed. Make one with
// NewQueue or Manager.Register and end it with Shutdown. Safe for concurrent use.
type Queue[P, T any] struct {
	modelID     string
	settings    settings
	route       func(modelID string) (*Queue[P, T], error) // to its fallbacks
	checkParams func(P) error                              // nil: nothing to check
	checkResult func(T) error                              // nil: nothing to check
	estimate    func(Request[P]) Usage                     // nil: no estimator
	coalesce    func(Request[P]) string                    // nil: no request shares its call
	usageOf     func(result *T) Usage                      // nil: T is no UsageReporter
	epoch       time.Time                                  // what ns count from
	observers   []*observer
	detach      []func() // of WithMonitor, until Shutdown is done
	dropped     atomic.Int64
	unmet       []string              // fallbacks that were never registered; guarded by the manager's lock
	unready     atomic.Pointer[error] // what Submit says because of such; nil while all were
	waiters     sync.Pool             // of *waiter[T]
	timer       *time.Timer           // the only one; see arm
	woken       atomic.Bool           // a shared limiter says: try again
	crew        sync.WaitGroup        // worker goroutines

	// mu guards everything below, and is held for one decision at a time: no user
	// code, no I/O and no channel operation that can block happens under it. What
	// a decision causes (waking a worker, answering a waiter) is collected and
	// done by unlock.
	mu             sync.Mutex
	records        store[P, T]
	calls          calls[P, T] // that several requests may share
	line           line.Line
	demand         demand      // what waits in line, for forecasts
	endpoints      []*endpoint // at least one; never changed in place
	order          []*endpoint // for byLoad
	slots          int64       // how many processors may run on all of them
	tokens         bool        // some limit of theirs counts tokens
	budget         budget
	retryNotBefore int64 // ns, when the budget allows the next retry; 0 when it does
	sizes          sizes
	duration       mean  // of processing, ns
	running        int64 // processors
	blind          int   // attempts of unknown size that run
	workers        []*worker[P, T]
	idle           []*worker[P, T]
	retries        timeline        // requests between two attempts
	deadlines      timeline        // MaxWait
	room           []chan struct{} // SubmitAll callers that wait for ErrQueueFull to pass
	history        history
	paused         bool
	passAt         int64    // ns, when a request may pass the head; 0 when none is known to
	behind         []uint32 // for passSome
	armed          int64    // ns, when the timer fires; 0 when it does not
	glance         glance
	closed         bool
	cut            bool // Shutdown ran out of time
	drained        chan struct{}
	count          counters
	forwarded      map[ref]struct{} // requests that a fallback has
	leaving        []ref            // those on their way there, for unlock
	recalls        []place[P, T]    // what is to be canceled there, for unlock
	wake           *worker[P, T]    // for unlock
	answer         *waiter[T]       // for unlock
}

type counters struct {
	accepted, completed, failed, canceled, retries, fallbacks, coalesced int64
	attempts, refused                                                    int64
	waited, worked                                                       int64 // ns
	processing, abandoned                                                int
	usage                                                                Usage
}

// NewQueue makes a queue for one model. It needs at least one limit, or
// WithUnlimited. What is wrong with the options, or with a validate tag of P or T,
// is ErrInvalidConfiguration.
func NewQueue[P, T any](modelID string, process Processor[P, T], opts ...Option) (*Queue[P, T], error) {
	return newQueueOf(modelID, process, nil, opts)
}

// newQueueOf is NewQueue for a queue that finds its fallbacks by route, with several lists
// of options, where the later win.
func newQueueOf[P, T any](modelID string, process Processor[P, T], route func(string) (*Queue[P, T], error), opts ...[]Option) (*Queue[P, T], error) {
	q := &Queue[P, T]{modelID: modelID, route: route, settings: newSettings(opts...), drained: make(chan struct{})}
	s := &q.settings
	switch {
	case modelID == "":
		return nil, fmt.Errorf("%w: empty model id, name the model", ErrInvalidConfiguration)
	case process == nil:
		return nil, fmt.Errorf("%w: model %q: nil processor", ErrInvalidConfiguration, modelID)
	case len(s.fallback) > 0 && route == nil:
		return nil, invalid("model %q: WithFallback needs a Manager, Register the models there", modelID)
	}
	err := s.endpointSettings.validate()
	if err == nil {
		err = s.queueSettings.validate()
	}
	if err == nil {
		q.checkParams, err = newValidation[P](s, ErrInvalidParams)
	}
	if err == nil {
		q.checkResult, err = newValidation[T](s, ErrInvalidResult)
	}
	if err == nil {
		q.estimate, err = estimatorFor[P](s.estimator)
	}
	if err == nil {
		q.coalesce, err = coalescerFor[P](s.coalesce)
	}
	if err != nil {
		return nil, fmt.Errorf("model %q: %w", modelID, err)
	}
	q.unmet = slices.Clone(s.fallback)
	s.retry = s.retry.withDefaults()
	q.usageOf = usageReaderFor[T]()
	q.waiters.New = func() any { return &waiter[T]{done: make(chan struct{}, 1)} }

	now := time.Now()
	q.epoch, q.glance = now, glance{wall: now.UnixNano()}
	q.records.prefix = strings.ToLower(rand.Text()[:8]) + "-"
	q.history.size, q.history.ttl = s.historySize, int64(s.historyTTL)
	q.timer = time.AfterFunc(time.Hour, q.fire)
	q.timer.Stop()
	e, err := newEndpoint(now, modelID, modelID, process, &s.endpointSettings, q.wakeUp)
	if err != nil {
		return nil, fmt.Errorf("model %q: %w", modelID, err)
	}
	q.endpoints = []*endpoint{e}
	q.sumUp()
	q.budget.left = budgetAllowance
	for _, attach := range s.monitors {
		var detach func()
		if err := recovered(func() { detach = attach(q.Info) }); err != nil {
			q.leaveMonitors()
			e.leave()
			return nil, fmt.Errorf("%w: model %q: WithMonitor's function panicked: %w", ErrInvalidConfiguration, modelID, err)
		}
		if detach != nil {
			q.detach = append(q.detach, detach)
		}
	}
	handlers := s.observers
	if s.logger != nil {
		handlers = append(slices.Clip(handlers), logEvents(s.logger))
	}
	for _, handle := range handlers {
		q.observers = append(q.observers, newObserver(handle, &q.dropped))
	}
	return q, nil
}

// wakeUp is called by shared limits, under any lock.
func (q *Queue[P, T]) wakeUp() {
	q.woken.Store(true)
	q.timer.Reset(0)
}

// estimatorFor finds how requests of P are sized: the option's function, else P's
// own method, else nothing.
func estimatorFor[P any](option any) (func(Request[P]) Usage, error) {
	if option != nil {
		f, ok := option.(func(Request[P]) Usage)
		if !ok || f == nil {
			return nil, fmt.Errorf("%w: WithEstimator got %T, this queue needs %T", ErrInvalidConfiguration, option, f)
		}
		return f, nil
	}
	typ, estimator := reflect.TypeFor[P](), reflect.TypeFor[UsageEstimator]()
	switch {
	case typ.Kind() == reflect.Interface || typ.Implements(estimator):
		return func(r Request[P]) Usage {
			if e, ok := any(r.Params).(UsageEstimator); ok {
				return e.EstimateUsage()
			}
			return Usage{}
		}, nil
	case reflect.PointerTo(typ).Implements(estimator):
		return func(r Request[P]) Usage { return any(&r.Params).(UsageEstimator).EstimateUsage() }, nil
	}
	return nil, nil
}

// usageReaderFor finds how results of T report usage, nil when they do not.
func usageReaderFor[T any]() func(*T) Usage {
	typ, reporter := reflect.TypeFor[T](), reflect.TypeFor[UsageReporter]()
	switch {
	case typ.Kind() == reflect.Interface || typ.Implements(reporter):
		return func(result *T) Usage {
			if r, ok := any(*result).(UsageReporter); ok {
				return r.TokenUsage()
			}
			return Usage{}
		}
	case reflect.PointerTo(typ).Implements(reporter):
		return func(result *T) Usage { return any(result).(UsageReporter).TokenUsage() }
	}
	return nil
}

// ModelID is the model this queue serves.
func (q *Queue[P, T]) ModelID() string { return q.modelID }

// Len is how many requests wait, those between two attempts included.
func (q *Queue[P, T]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	pending, _, _ := q.alike()
	return q.pending() + pending
}

func (q *Queue[P, T]) pending() int { return q.line.Len() + q.retries.live }

// Pause stops starting requests until Resume; what runs goes on. Idempotent, not
// counted.
func (q *Queue[P, T]) Pause() {
	q.mu.Lock()
	defer q.unlock()
	if q.paused {
		return
	}
	q.paused = true
	now := time.Now()
	q.emit(Event{Type: EventPaused, Time: now})
	if q.closed {
		q.failWaiting(now)
	}
	q.pump(now, nil)
}

// Resume ends a manual pause, and one for an exhausted quota. Any other pause by the
// provider ends by itself.
func (q *Queue[P, T]) Resume() {
	q.mu.Lock()
	defer q.unlock()
	now := time.Now()
	ns := q.since(now)
	resumed := q.paused
	if q.paused {
		q.paused = false
		q.emit(Event{Type: EventResumed, Time: now})
	}
	for _, e := range q.endpoints {
		if e.exhaustedUntil > ns {
			e.pausedUntil, e.exhaustedUntil = 0, 0
			q.tellEnd(now, e)
			resumed = true
		}
	}
	if resumed {
		q.pump(now, nil)
	}
}

// SetLimits replaces the limits of the queue's first endpoint, which is the only one
// unless AddEndpoint was called: see SetEndpointLimits. A limit is the same one when kind and
// period are: its charges carry over. A new period of a kind starts from what that
// kind's longest window knows, a new kind starts empty, and reservations in flight
// stand. A waiting request that can no longer ever start fails with
// ErrRequestTooLarge. Leaving out Concurrent restores its default of 256.
func (q *Queue[P, T]) SetLimits(limits ...Limit) error { return q.SetEndpointLimits("", limits...) }

// SetEndpointLimits is SetLimits for the endpoint of that name; an unknown one is
// ErrInvalidConfiguration.
func (q *Queue[P, T]) SetEndpointLimits(name string, limits ...Limit) error {
	if err := validateLimits(limits); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.unlock()
	e := q.endpoints[0]
	if name != "" {
		e = q.endpoint(name)
	}
	switch {
	case e == nil:
		return invalid("model %q has no endpoint %q", q.modelID, name)
	case len(limits) == 0 && len(e.shared) == 0 && !e.unlimited && !e.learn:
		return invalid("SetLimits without a limit, give at least one")
	}
	now := time.Now()
	e.configured = slices.Clone(limits)
	q.adopt(now, e)
	q.emit(Event{Type: EventLimitsChanged, Time: now, Endpoint: e.name, Limits: slices.Clone(e.limits)})
	q.pump(now, nil)
	return nil
}

// waiting gives the requests in line, in order, and then those between two attempts.
// Nothing may be changed meanwhile.
func (q *Queue[P, T]) waiting() iter.Seq[*record[P, T]] {
	return func(yield func(*record[P, T]) bool) {
		for handle := range q.line.All() {
			if !yield(q.records.at(handle)) {
				return
			}
		}
		for _, e := range q.retries.heap {
			if !q.doesNotRetry(e.ref) && !yield(q.records.get(e.ref)) {
				return
			}
		}
	}
}

// impossible says which limit a request with this estimate can never fit under, or
// nil: it fits some endpoint. The zero estimate, which is none, always fits.
func (q *Queue[P, T]) impossible(estimate Usage) error {
	if estimate.isZero() {
		return nil
	}
	var u Usage
	var limit Limit
	for _, e := range slices.Backward(q.endpoints) {
		u = q.reservation(e, estimate)
		var never bool
		if limit, never = e.exceeds(u); !never {
			return nil
		}
	}
	return fmt.Errorf("%w: model %q allows %s, the request reserves %d input and %d output tokens: make it smaller or raise the limit",
		ErrRequestTooLarge, q.modelID, limit, u.InputTokens, u.OutputTokens)
}

// share is the fair-share cost of a request with this estimate.
func (q *Queue[P, T]) share(estimate Usage) float64 {
	e := q.endpoints[0]
	return e.share(q.reservation(e, estimate))
}

// reservation is what a request with this estimate, zero when its size is unknown, takes
// from the limits of e if it starts now.
func (q *Queue[P, T]) reservation(e *endpoint, estimate Usage) Usage {
	if estimate.isZero() {
		estimate = e.capped(q.sizes.mean())
	} else if e.accounting == (accounting.Policy{}) {
		return estimate
	}
	return reserved(e.accounting, estimate, 1, q.sizes.mean())
}

// emit hands an event to the observers, in order.
func (q *Queue[P, T]) emit(e Event) {
	if len(q.observers) == 0 {
		return
	}
	e.ModelID = q.modelID
	for _, o := range q.observers {
		o.offer(e)
	}
}

func (q *Queue[P, T]) emitFor(rec *record[P, T], e Event) {
	if len(q.observers) == 0 {
		return
	}
	who := rec
	if rec.call {
		who = q.firstSharing(rec)
	}
	e.RequestID, e.Tenant, e.Priority, e.NoWait, e.Context = who.id, who.tenant, who.priority, who.noWait, who.ctx
	if a := rec.account; a != nil {
		if a.number > 0 {
			e.Attempt, e.Endpoint = a.number, a.endpoint.name
		}
		e.Waited, e.Took, e.Outcome = time.Duration(a.untold.waited), time.Duration(a.untold.took), a.untold.outcome
		a.untold = untold{}
	}
	q.emit(e)
}

// since is now as the queue counts it.
func (q *Queue[P, T]) since(now time.Time) int64 { return int64(now.Sub(q.epoch)) }

// after is at + d, for d of any size.
func after(at, d int64) int64 {
	if at > math.MaxInt64-d {
		return math.MaxInt64
	}
	return at + d
}

// date is the reverse of since; 0 stays the zero time.
func (q *Queue[P, T]) date(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return q.epoch.Add(time.Duration(ns))
}

// lookup finds a request that the queue still knows. Callers hold mu.
func (q *Queue[P, T]) lookup(now time.Time, requestID string) (*record[P, T], error) {
	q.expireHistory(q.since(now))
	if rec := q.records.find(requestID); rec != nil {
		return rec, nil
	}
	return nil, fmt.Errorf("%w: model %q knows no request %q: never accepted, or ended and forgotten (see WithHistory)",
		ErrRequestNotFound, q.modelID, requestID)
}

var errNotCalled = errors.New("a middleware returned nil without calling next")

// Do submits params, waits and returns the result: the shortest way.
func (q *Queue[P, T]) Do(ctx context.Context, params P) (T, error) {
	resp, err := q.Submit(ctx, Request[P]{Params: params})
	return resp.Result, err
}

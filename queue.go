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

	"github.com/llmqueue/llmqueue/internal/line"
	"github.com/llmqueue/llmqueue/internal/window"
)

// Queue is the queue of one model: requests wait in it until the model's limits
// let them start, run in the processor, and come back typed. Make one with
// NewQueue or Manager.Register and end it with Shutdown. Safe for concurrent use.
type Queue[P, T any] struct {
	modelID     string
	process     Processor[P, T]
	settings    settings
	checkParams func(P) error          // nil: nothing to check
	checkResult func(T) error          // nil: nothing to check
	estimate    func(Request[P]) Usage // nil: no estimator
	usageOf     func(result *T) Usage  // nil: T is no UsageReporter
	epoch       time.Time              // what ns count from
	observers   []*observer
	dropped     atomic.Int64
	waiters     sync.Pool      // of *waiter[T]
	timer       *time.Timer    // the only one; see arm
	woken       atomic.Bool    // a shared limiter says: try again
	crew        sync.WaitGroup // worker goroutines

	// mu guards everything below, and is held for one decision at a time: no user
	// code, no I/O and no channel operation that can block happens under it. What
	// a decision causes (waking a worker, answering a waiter) is collected and
	// done by unlock.
	mu             sync.Mutex
	records        store[P, T]
	line           line.Line
	demand         demand   // what waits in line, for forecasts
	configured     []Limit  // by WithLimits and SetLimits
	limits         []Limit  // in force: see inForce
	names          []string // of the windows, for forecasts
	own            *window.Set
	learned        learned
	pacing         pacing
	bound          bound
	budget         budget
	retryNotBefore int64 // ns, when the budget allows the next retry; 0 when it does
	slots          int64 // how many processors may run
	shared         []SharedMember
	patience       []time.Duration // by shared set, see reserveShared
	turn           uint64          // the place in the lines of the shared sets, 0: none
	tokens         bool            // some limit counts tokens
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
	pausedUntil    int64 // ns, by a provider
	pausedBy       error // what it said
	exhaustedUntil int64 // ns, until when a quota is used up and nothing is accepted
	roomAt         int64 // ns, when the head fits its limits; 0 when something else holds it
	armed          int64 // ns, when the timer fires; 0 when it does not
	closed         bool
	cut            bool // Shutdown ran out of time
	drained        chan struct{}
	count          counters
	wake           *worker[P, T] // for unlock
	answer         *waiter[T]    // for unlock
}

type counters struct {
	accepted, completed, failed, canceled, retries int64
	processing, abandoned                          int
	usage                                          Usage
}

// NewQueue makes a queue for one model. It needs at least one limit, or
// WithUnlimited. What is wrong with the options, or with a validate tag of P or T,
// is ErrInvalidConfiguration.
func NewQueue[P, T any](modelID string, process Processor[P, T], opts ...Option) (*Queue[P, T], error) {
	q := &Queue[P, T]{modelID: modelID, process: process, settings: newSettings(opts), drained: make(chan struct{})}
	s := &q.settings
	switch {
	case modelID == "":
		return nil, fmt.Errorf("%w: empty model id, name the model", ErrInvalidConfiguration)
	case process == nil:
		return nil, fmt.Errorf("%w: model %q: nil processor", ErrInvalidConfiguration, modelID)
	}
	err := s.validate()
	if err == nil {
		q.checkParams, err = newValidation[P](s, ErrInvalidParams)
	}
	if err == nil {
		q.checkResult, err = newValidation[T](s, ErrInvalidResult)
	}
	if err == nil {
		q.estimate, err = estimatorFor[P](s.estimator)
	}
	if err != nil {
		return nil, fmt.Errorf("model %q: %w", modelID, err)
	}
	s.retry = s.retry.withDefaults()
	q.usageOf = usageReaderFor[T]()
	q.waiters.New = func() any { return &waiter[T]{done: make(chan struct{}, 1)} }

	now := time.Now()
	q.epoch = now
	q.records.prefix = strings.ToLower(rand.Text()[:8]) + "-"
	q.history.size, q.history.ttl = s.historySize, int64(s.historyTTL)
	q.own = window.NewSet(now, windowLimits(s.limits, s.margin))
	if s.prior != nil {
		q.chargePrior(now)
	}
	q.timer = time.AfterFunc(time.Hour, q.fire)
	q.timer.Stop()
	if err := q.join(); err != nil {
		return nil, fmt.Errorf("model %q: %w", modelID, err)
	}
	q.configured = s.limits
	q.setLimits(s.limits)
	q.budget.left = budgetAllowance
	q.learned.watched = s.learn
	handlers := s.observers
	if s.logger != nil {
		handlers = append(slices.Clip(handlers), logEvents(s.logger))
	}
	for _, handle := range handlers {
		q.observers = append(q.observers, newObserver(handle, &q.dropped))
	}
	return q, nil
}

// join makes the queue a member of its shared limits.
func (q *Queue[P, T]) join() error {
	wake := func() {
		q.woken.Store(true)
		q.timer.Reset(0)
	}
	for _, s := range q.settings.shared {
		m, err := s.Join(q.modelID, wake)
		if err != nil {
			for _, joined := range q.shared {
				joined.Leave()
			}
			return err
		}
		q.shared = append(q.shared, m)
		q.patience = append(q.patience, shortestPeriod(m.Limits(q.epoch)))
	}
	return nil
}

// shortestPeriod is that of any of the limits, 0 when none has one.
func shortestPeriod(limits []LimitInfo) (shortest time.Duration) {
	for _, l := range limits {
		if p := l.Limit.period(); p > 0 && (shortest == 0 || p < shortest) {
			shortest = p
		}
	}
	return shortest
}

// setLimits takes over validated limits, the windows excepted.
func (q *Queue[P, T]) setLimits(limits []Limit) {
	q.limits = slices.Clone(limits)
	q.names = q.names[:0]
	for _, l := range limits {
		if l.Kind != KindConcurrent {
			q.names = append(q.names, l.String())
		}
	}
	q.slots = concurrency(limits, defaultConcurrency)
	q.tokens = tokenLimited(limits)
	for _, m := range q.shared {
		for _, l := range m.Limits(time.Now()) {
			q.tokens = q.tokens || tokenLimited([]Limit{l.Limit})
		}
	}
}

// chargePrior books the attempts that started before this process.
func (q *Queue[P, T]) chargePrior(now time.Time) {
	type start struct {
		at time.Time
		u  Usage
	}
	var starts []start
	for at, u := range q.settings.prior {
		if at.After(now) {
			at = now
		}
		starts = append(starts, start{at, u.clamped()})
	}
	slices.SortStableFunc(starts, func(a, b start) int { return a.at.Compare(b.at) })
	for _, s := range starts {
		q.own.Add(s.at, charge(s.u))
	}
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
	return q.pending()
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
	exhausted := q.exhaustedUntil > ns
	if !q.paused && !exhausted {
		return
	}
	q.paused = false
	if exhausted {
		q.pausedUntil, q.exhaustedUntil = 0, 0
	}
	q.emit(Event{Type: EventResumed, Time: now})
	q.pump(now, nil)
}

// SetLimits replaces the queue's own limits. A limit is the same one when kind and
// period are: its charges carry over. A new period of a kind starts from what that
// kind's longest window knows, a new kind starts empty, and reservations in flight
// stand. A waiting request that can no longer ever start fails with
// ErrRateLimitExceeded. Leaving out Concurrent restores its default of 256.
func (q *Queue[P, T]) SetLimits(limits ...Limit) error {
	if err := validateLimits(limits); err != nil {
		return err
	}
	if len(limits) == 0 && len(q.settings.shared) == 0 && !q.settings.unlimited && !q.settings.learn {
		return fmt.Errorf("%w: SetLimits without a limit, give at least one", ErrInvalidConfiguration)
	}
	q.mu.Lock()
	defer q.unlock()
	now := time.Now()
	q.configured = slices.Clone(limits)
	q.adopt(now)
	q.emit(Event{Type: EventLimitsChanged, Time: now, Limits: slices.Clone(q.limits)})
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

// impossible says which limit u can never fit under, or nil.
func (q *Queue[P, T]) impossible(u Usage) error {
	limit, never := exceeded(q.limits, q.own, u)
	for i := 0; i < len(q.shared) && !never; i++ {
		limit, never = q.shared[i].Exceeds(u)
	}
	if !never {
		return nil
	}
	return fmt.Errorf("%w: model %q allows %s, the request reserves %d input and %d output tokens: make it smaller or raise the limit",
		ErrRateLimitExceeded, q.modelID, limit, u.InputTokens, u.OutputTokens)
}

// share is the fair-share cost of a request that reserves u.
func (q *Queue[P, T]) share(u Usage) float64 {
	cost := q.own.Share(charge(u))
	for _, m := range q.shared {
		cost = max(cost, m.Share(u))
	}
	return cost
}

// reservation is what rec takes from the limits if it starts now.
func (q *Queue[P, T]) reservation(rec *record[P, T]) Usage {
	if rec.sized {
		return rec.estimate
	}
	return q.meanReservation()
}

// meanReservation is what a request of unknown size takes.
func (q *Queue[P, T]) meanReservation() Usage {
	u := capTo(q.limits, q.sizes.mean())
	for _, m := range q.shared {
		for range len(kinds) { // a set may bound input, output and both
			if limit, never := m.Exceeds(u); never {
				u = capTo([]Limit{limit}, u)
			}
		}
	}
	return u
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
	e.RequestID, e.Tenant, e.Priority = rec.id, rec.tenant, rec.priority
	if rec.account != nil {
		e.Attempt = rec.account.number
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

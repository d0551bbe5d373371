package llmqueue

import "time"

// Breaker is a circuit breaker: what keeps an endpoint out after repeated failure, lets
// a few probes through after a while, and lets it in again. The queue brings none of
// its own; it is the part that it needs of failsafe-go's circuitbreaker.CircuitBreaker,
// which fits as it is. Implementations must be safe for concurrent use. Their methods are
// called under the queue's lock, listeners with them: they must not call the queue.
type Breaker interface {
	// TryAcquirePermit reports whether a call may be made. Every permit is followed
	// by one RecordSuccess or RecordFailure.
	TryAcquirePermit() bool
	RecordSuccess()
	RecordFailure()
	// IsClosed reports whether calls pass freely.
	IsClosed() bool
	// RemainingDelay is how long no call passes; 0 unless it is open.
	RemainingDelay() time.Duration
}

// WithBreaker gives each endpoint a circuit breaker, made by the function, which gets
// the endpoint's name. While it is open nothing starts there: waiting requests go to
// another endpoint, to a fallback (WithFallback), or wait for the probe. Every error
// of a processor counts as a failure, and so do a timeout and a panic, except what is
// known to be no fault of the endpoint: an error marked Permanent or RateLimited, and what
// the provider was observed to refuse for the request itself, for a limit or for a quota.
// Defaults to none.
func WithBreaker(make func(endpoint string) Breaker) Option {
	return Option{func(s *settings) { s.breaker = make }}
}

// open reports whether the endpoint's breaker lets no call through.
func (e *endpoint) open() bool { return e.breaker != nil && e.breaker.RemainingDelay() > 0 }

// permit asks the breaker for one call.
func (e *endpoint) permit() bool { return e.breaker == nil || e.breaker.TryAcquirePermit() }

// record tells the breaker of e how a call ended, and the observers when that opened or
// closed it.
func (q *Queue[P, T]) record(now time.Time, e *endpoint, failed bool, err error) {
	if e.breaker == nil {
		return
	}
	if failed {
		e.breaker.RecordFailure()
	} else {
		e.breaker.RecordSuccess()
	}
	switch d := e.breaker.RemainingDelay(); {
	case d > 0 && (failed || !e.opened):
		e.opened = true
		q.emit(Event{Type: EventOpened, Time: now, Endpoint: e.name, Until: now.Add(d), Err: err})
		if q.allOpen() {
			q.sendWaitingOn(now, q.openError())
		}
	case e.opened && e.breaker.IsClosed():
		e.opened = false
		q.emit(Event{Type: EventClosed, Time: now, Endpoint: e.name})
	}
}

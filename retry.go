package llmqueue

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/engine"
	"github.com/llmqueue/llmqueue/internal/lazyctx"
)

// RetryPolicy says how often and how long apart a request is tried. The zero
// value means the defaults. What is tried again is an error that is marked with
// RateLimited, Retryable or Elsewhere, one that the provider's answer explains so, an attempt
// that took too long, and a connection that broke.
type RetryPolicy struct {
	// MaxAttempts bounds the attempts of one request, the first included. What a provider
	// refuses for now, and what goes elsewhere because an endpoint is at fault, does not
	// count, nor does the first probe of an endpoint that is held out, when another one can
	// take the request. Defaults to 5; 1 means no retry.
	MaxAttempts int
	// BaseDelay and MaxDelay shape the backoff: before attempt n+1 a request waits
	// a random time between 0 and BaseDelay·2ⁿ⁻¹, at most MaxDelay. They default
	// to 500 ms and 60 s.
	BaseDelay, MaxDelay time.Duration
	// Budget bounds retries after passing faults, over all requests of the queue, so that
	// they are no storm against a provider that is down: 20 at once, one a second, and this
	// share of the calls that are served. A retry that is served gives back two, so that
	// they double when the provider is back. Retries beyond it wait, or go to a fallback.
	// What another endpoint can take at once needs none. Defaults to 0.2; negative means no
	// bound.
	Budget float64
}

func (p RetryPolicy) withDefaults() RetryPolicy {
	p.MaxAttempts = cmp.Or(p.MaxAttempts, 5)
	p.BaseDelay = cmp.Or(p.BaseDelay, 500*time.Millisecond)
	p.MaxDelay = cmp.Or(p.MaxDelay, max(time.Minute, p.BaseDelay))
	p.Budget = cmp.Or(p.Budget, 0.2)
	return p
}

func (p RetryPolicy) validate() error {
	switch {
	case p.MaxAttempts < 0:
		return fmt.Errorf("%w: RetryPolicy.MaxAttempts is %d, give 1 or more (0 means 5)", ErrInvalidConfiguration, p.MaxAttempts)
	case p.BaseDelay < 0 || p.MaxDelay < 0:
		return fmt.Errorf("%w: RetryPolicy delays are %v and %v, give positive ones (0 means the default)", ErrInvalidConfiguration, p.BaseDelay, p.MaxDelay)
	case p.Budget != p.Budget || p.Budget > 1:
		return fmt.Errorf("%w: RetryPolicy.Budget is %v, give a share of at most 1 (0 means 0.2, negative no bound)", ErrInvalidConfiguration, p.Budget)
	case p.MaxDelay != 0 && p.MaxDelay < p.BaseDelay:
		return fmt.Errorf("%w: RetryPolicy.MaxDelay %v is below BaseDelay %v, raise it", ErrInvalidConfiguration, p.MaxDelay, p.BaseDelay)
	}
	return nil
}

type markKind uint8

const (
	unmarked markKind = iota
	markPermanent
	markRetryable
	markRateLimited
	markElsewhere
	markQuota // by observation only
)

// markedError carries what a processor said about its error.
type markedError struct {
	mark  markKind
	after time.Duration
	err   error
}

func (e *markedError) Error() string { return e.err.Error() }
func (e *markedError) Unwrap() error { return e.err }

// markOf finds the outermost mark.
func markOf(err error) (markKind, time.Duration) {
	if m := (*markedError)(nil); errors.As(err, &m) {
		return m.mark, m.after
	}
	return unmarked, 0
}

var errRateLimited = errors.New("rate limited by the provider")

// HedgePolicy says when a second attempt starts beside one of which nothing has come yet. See
// WithHedge.
type HedgePolicy struct {
	// After is how long nothing may have come.
	After time.Duration
	// Quantile, such as 0.95, takes that from the recent times to first output of the queue,
	// once 20 are known: the time within which that share of them came. With After it is
	// at least that. Above 0 and below 1; 0 means that After alone counts.
	Quantile float64
	// Share bounds hedges to this share of all calls. Defaults to 0.05; at most 1.
	Share float64
}

// config is what the policy, nil for none, comes to for the engine.
func (p *HedgePolicy) config() engine.Hedge {
	if p == nil {
		return engine.Hedge{}
	}
	return engine.Hedge{After: int64(p.After), Quantile: p.Quantile, Share: cmp.Or(p.Share, 0.05)}
}

func (p HedgePolicy) validate() error {
	switch {
	case p.After < 0:
		return invalid("HedgePolicy.After is %v, give a positive duration", p.After)
	case !(p.Quantile >= 0 && p.Quantile < 1):
		return invalid("HedgePolicy.Quantile is %v, give a share below 1 such as 0.95 (0 means none)", p.Quantile)
	case !(p.Share >= 0 && p.Share <= 1):
		return invalid("HedgePolicy.Share is %v, give a share of at most 1 (0 means 0.05)", p.Share)
	case p.After == 0 && p.Quantile == 0:
		return invalid("HedgePolicy has neither After nor Quantile, give one")
	}
	return nil
}

// RateLimited marks err, from a processor, as the provider's "slow down": the
// endpoint pauses for after (a backoff of the retry policy when after ≤ 0), and
// the request keeps its place and is tried again, which uses up no attempt. After the
// pause calls start slowly. A pause only ever lengthens another; one beyond WithMaxPause
// is an exhausted quota. A request that alone is refused again and again fails in the end.
// A nil err is replaced by a plain one.
func RateLimited(err error, after time.Duration) error {
	if err == nil {
		err = errRateLimited
	}
	return &markedError{mark: markRateLimited, after: after, err: err}
}

// Retryable marks err, from a processor, as a passing fault: the request is tried
// again after an exponential backoff with full jitter. nil stays nil.
func Retryable(err error) error {
	if err == nil {
		return nil
	}
	return &markedError{mark: markRetryable, err: err}
}

// Elsewhere marks err, from a processor, as a fault of the endpoint and not of the request: a
// wrong key, an unknown model or deployment, a context too long for this one. The request goes
// to another endpoint or a fallback at once, which uses up no attempt; with nowhere to go it
// fails. An endpoint that does nothing else is held out and probed now and then. nil stays nil.
func Elsewhere(err error) error {
	if err == nil {
		return nil
	}
	return &markedError{mark: markElsewhere, err: err}
}

// Permanent marks err, from a processor, as one never to try again, whatever it
// wraps: the outermost mark wins. nil stays nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &markedError{mark: markPermanent, err: err}
}

// passes reports whether an error that nobody explained is of a kind that passes: the connection
// failed, or something of the processor's own took too long.
func passes(err error) bool {
	var of net.Error
	return errors.As(err, &of) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// judge says whose fault the end of an attempt is, before the lock: it asks the errors of
// users.
func (a *attempt) judge(err error, how lazyctx.End, invalid bool) (e engine.Ending) {
	used, reported := a.used()
	e.Used, e.Reported, e.Invalid = toEngineUsage(used), reported, invalid
	failed := false
	if err != nil {
		e.Verdict = engine.RequestFault
		mark, delay := unmarked, time.Duration(0)
		if _, panicked := err.(*PanicError); !panicked { // nor when it panicked with a marked error
			mark, delay = markOf(err)
		} else {
			failed = true
		}
		seen := a.observed()
		said, streamed := seen.latest, seen.streamed
		e.Streamed, e.Answered = streamed, said.Outcome == OutcomeFatal
		e.Unobserved = mark == markRateLimited && !said.Outcome.refused()
		if e.Marked = mark != unmarked; !e.Marked && !failed {
			mark, delay = said.meaning(), said.Delay
			if mark == unmarked && (how == lazyctx.TimedOut || passes(err)) {
				mark = markRetryable
			}
		}
		switch mark {
		case markElsewhere:
			e.Verdict = engine.EndpointFault
		case markRetryable:
			if e.Verdict = engine.PassingFault; !e.Marked {
				e.Delay = int64(delay)
			}
		case markRateLimited:
			e.Verdict, e.Delay = engine.Refused, int64(delay)
		case markQuota:
			e.Verdict = engine.Exhausted
		}
		// Also when streamed output forbids another attempt.
		passing := said.Outcome == OutcomeRetryable || said.Outcome == OutcomeOverloaded
		failed = !invalid && (failed || passing || mark == unmarked || mark == markElsewhere || mark == markRetryable && !streamed)
	}
	switch {
	case failed && how == lazyctx.Canceled:
		e.Ballot = endpoint.Left
	case failed || how == lazyctx.TimedOut:
		e.Ballot = endpoint.Failure
	}
	return e
}

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

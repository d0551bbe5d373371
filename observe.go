package llmqueue

import (
	"context"
	"fmt"
	"time"
)

// Outcome is what a provider's answer means for the request and for the queue.
type Outcome string

// The outcomes. What they have in common is what to do next, not a status code.
const (
	OutcomeServed         Outcome = "served"          // the provider took the call
	OutcomeRateLimited    Outcome = "rate_limited"    // a limit is used up for now: wait, then try again
	OutcomeSlowDown       Outcome = "slow_down"       // calls come too fast, whatever the limits say: wait, then pace them
	OutcomeOverloaded     Outcome = "overloaded"      // the provider lacks capacity: back off, with fewer at once
	OutcomeQuotaExhausted Outcome = "quota_exhausted" // credit or a spend limit is used up: no call helps before it is renewed
	OutcomeRetryable      Outcome = "retryable"       // a passing fault: try this request again
	OutcomeFatal          Outcome = "fatal"           // this request will never be served
)

// Observation is what a provider said about one call, besides the answer: the
// package llmhttp reads it from HTTP responses. Fields that are zero say nothing.
type Observation struct {
	// SentAt is when the call went out. What else this process sent after it, the
	// provider may not have counted yet in Limits. Zero means when the attempt
	// started.
	SentAt time.Time
	// Outcome is what the answer means.
	Outcome Outcome
	// Delay is how long the provider asks to wait before the next call; for
	// OutcomeQuotaExhausted, until the quota is renewed. Zero: it did not say.
	Delay time.Duration
	// Code is the provider's own word for a failure, such as "insufficient_quota".
	// It appears in events and logs.
	Code string
	// Limits are the provider's limits, as far as the answer names them.
	Limits []ObservedLimit
	// Usage is what this one call used. Those of an attempt add up, and count when
	// neither ReportUsage nor the result reports any.
	Usage Usage
}

// ObservedLimit is one limit as a provider's answer states it.
type ObservedLimit struct {
	Kind      LimitKind
	Period    time.Duration // zero: the kind's own, as far as the answer tells
	Amount    int64         // zero: it did not say
	Remaining int64         // what is left of Amount; negative: it did not say
	Reset     time.Duration // from the answer until Remaining is Amount again; zero: it did not say
}

// Observe tells the queue, from inside a processor, what the provider said. It may
// be called several times in an attempt and takes effect at once. Outside an
// attempt, or after it ended, it does nothing. Safe for concurrent use.
func Observe(ctx context.Context, o Observation) {
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok && a.observe(o) {
		a.core.observe(a, o)
	}
}

// observe takes in what the provider said while an attempt is under way.
func (c *core) observe(a *attempt, o Observation) {
	in, ignored := c.toEngineObservation(o)
	ns := c.lock()
	defer c.unlock(ns)
	if c.running[a.number] != a {
		return
	}
	c.input.err, c.input.ignored = o.err(), ignored
	c.engine.Observe(ns, a.number, &in)
}

// Streamed says, from inside a processor, that it has handed on part of the answer:
// when the attempt fails, the request fails with it and is not tried again, because
// whoever read the first part cannot take it back. Safe for concurrent use.
func Streamed(ctx context.Context) {
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		a.stream()
	}
}

// InAttempt reports whether ctx belongs to a queue's attempt, so that Observe has
// someone to tell.
func InAttempt(ctx context.Context) bool {
	_, ok := ctx.Value(attemptKey{}).(*attempt)
	return ok
}

// refused reports whether the provider did not take the call, for its limits or its capacity.
func (o Outcome) refused() bool {
	switch o {
	case OutcomeRateLimited, OutcomeSlowDown, OutcomeOverloaded, OutcomeQuotaExhausted:
		return true
	}
	return false
}

// meaning is what an unmarked error means, by what the provider said last.
func (o Observation) meaning() markKind {
	switch o.Outcome {
	case OutcomeRateLimited, OutcomeSlowDown:
		return markRateLimited
	case OutcomeOverloaded, OutcomeRetryable:
		return markRetryable
	case OutcomeQuotaExhausted:
		return markQuota
	case OutcomeFatal:
		return markPermanent
	}
	return unmarked
}

// outcome is what an attempt came to that returned err. It asks the errors of users.
func (a *attempt) outcome(err error) Outcome {
	if err == nil {
		return OutcomeServed
	}
	if _, panicked := err.(*PanicError); panicked {
		return ""
	}
	said, _ := a.heard()
	mark, _ := markOf(err)
	switch meaning := said.meaning(); {
	case mark == markPermanent:
		return OutcomeFatal
	case mark == markRetryable && meaning != markRetryable:
		return OutcomeRetryable
	case mark == markRateLimited && !said.Outcome.refused():
		return OutcomeRateLimited
	case meaning == unmarked:
		return "" // it was served, and something else failed
	}
	return said.Outcome
}

// OutcomeOf says, to a middleware, what the queue takes err for, with which next or the
// middleware itself returns: OutcomeServed for nil; else what its mark says (Permanent,
// Retryable, RateLimited), more exactly where the provider was observed to say the same; else
// what the provider was observed to say; else "", an error that nobody explained. ctx is the
// attempt's.
func OutcomeOf(ctx context.Context, err error) Outcome {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		a = new(attempt)
	}
	return a.outcome(err)
}

// attachMonitors hands the queue's Info to those that WithMonitor names.
func (c *core) attachMonitors() error {
	for _, attach := range c.settings.monitors {
		var detach func()
		if err := recovered(func() { detach = attach(c.Info) }); err != nil {
			c.leaveMonitors()
			return fmt.Errorf("%w: WithMonitor's function panicked: %w", ErrInvalidConfiguration, err)
		}
		if detach != nil {
			c.detach = append(c.detach, detach)
		}
	}
	return nil
}

package llmqueue

import (
	"context"
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
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		if heeds := a.observe(o); heeds != nil {
			heeds.heedObservation(a, o)
		}
	}
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

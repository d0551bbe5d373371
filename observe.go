package llmqueue

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/llmqueue/llmqueue/internal/engine"
	"github.com/llmqueue/llmqueue/internal/lazyctx"
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
	OutcomeElsewhere      Outcome = "elsewhere"       // not here: the key, the account or the model is refused, another endpoint may serve it
	OutcomeFatal          Outcome = "fatal"           // this request will never be served
)

// Observation is what a provider said about one call, besides the answer: the
// package llmhttp reads it from HTTP responses. Fields that are zero say nothing.
type Observation struct {
	// SentAt is when the call went out. What else this process sent after it, the
	// provider may not have counted yet in Limits. Zero means when the attempt
	// started.
	SentAt time.Time
	// Outcome is what the answer means. What is observed last counts, also for an attempt
	// whose processor returns nil, where nothing was served: when the answer broke or carried
	// an error (it was served, and a later observation with the same SentAt says otherwise), or
	// when no call was served and the last one was refused, for a limit, the pace, capacity or
	// quota. A processor that has an answer all the same observes OutcomeServed at its end. Nil
	// after any other failure is the processor's decision.
	Outcome Outcome
	// Output says that a part of the answer has come: see WithFirstByteTimeout,
	// WithStallTimeout and WithHedge. After the first of an attempt, an observation of
	// nothing else takes no lock, so that it can be made for each part.
	Output bool
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

// attempt is one run of a processor, as the processor sees it: its context, and what it
// reports. It is one allocation. A processor may keep it after it returned, so it is never
// reused. The context's Mu guards all but core, number and nested; it is taken after the queue's lock,
// never before.
type attempt struct {
	lazyctx.Context[observations]
	core     *core         // that Observe tells
	heard    atomic.Int64  // ns, when output came last
	told     atomic.Uint32 // what of it the core was told
	emitting atomic.Int32  // how many Emits wait for the consumer
	usage    Usage
	number   uint32 // the engine's
	nested   uint16 // guarded by the queue's lock: see core.nest
	reported bool
	byResult bool // usage is what a result says: a report replaces it, not the other way
}

// observations is what was observed in an attempt.
type observations struct {
	usage    Usage       // of all calls, for want of a report
	latest   Observation // that had an outcome
	sent     time.Time   // when the call went out whose answer began well
	served   bool        // an answer began well
	broke    bool        // the latest that did broke, or carried an error
	streamed bool        // output was handed on
}

// attemptKey finds the attempt in a processor's context.
type attemptKey struct{}

// Value gives the attempt itself to this package.
func (a *attempt) Value(key any) any {
	if _, ok := key.(attemptKey); ok {
		return a
	}
	return a.Context.Value(key)
}

func (a *attempt) report(u Usage) {
	a.Mu.Lock()
	defer a.Mu.Unlock()
	if !a.HasFinished() {
		a.usage, a.reported, a.byResult = u, true, false
	}
}

// reportResult is the report of a result that is a UsageReporter: ReportUsage wins.
func (a *attempt) reportResult(u Usage) {
	a.Mu.Lock()
	defer a.Mu.Unlock()
	if !a.HasFinished() && (!a.reported || a.byResult) {
		a.usage, a.reported, a.byResult = u, true, true
	}
}

// revise is report for UpdateUsage, which also counts after the end.
func (a *attempt) revise(u Usage) {
	a.Mu.Lock()
	defer a.Mu.Unlock()
	a.usage, a.reported = u, true
}

// used is what this attempt reported, or what was observed, and whether there is any.
func (a *attempt) used() (Usage, bool) {
	a.Mu.Lock()
	defer a.Mu.Unlock()
	if seen := a.HasExtra(); !a.reported && seen != nil && !seen.usage.isZero() {
		return seen.usage, true
	}
	return a.usage, a.reported
}

// observe notes what the provider said, and reports whether that comes in time.
func (a *attempt) observe(o Observation) bool {
	return a.note(func(seen *observations) {
		seen.usage = seen.usage.plus(o.Usage.clamped())
		if o.Outcome == "" {
			return
		}
		seen.latest = o
		if o.Outcome == OutcomeServed {
			seen.sent, seen.served, seen.broke = o.SentAt, true, false
		} else if !o.SentAt.IsZero() && o.SentAt.Equal(seen.sent) {
			seen.broke = true
		}
	})
}

// What a core was told of an attempt's output.
const (
	toldOutput   = 1 << iota // some came
	toldStreamed             // some was handed on
)

// output notes that a part of the answer came, and tells the core of the first one.
func (a *attempt) output(what uint32) {
	a.heard.Store(a.core.clock.Now())
	if a.told.Load()&what != what {
		a.core.output(a, what&toldStreamed != 0)
		a.told.Or(what) // now: others go on only when it is decided which attempt counts
	}
}

// output tells the engine that output of an attempt came.
func (c *core) output(a *attempt, streamed bool) {
	ns := c.lock()
	defer c.unlock(ns)
	if c.running[a.number] == a {
		c.engine.Output(ns, a.number, streamed)
	}
}

// stream notes that output was handed on.
func (a *attempt) stream() { a.note(func(seen *observations) { seen.streamed = true }) }

// note keeps something, unless the processor has returned.
func (a *attempt) note(keep func(*observations)) bool {
	a.Mu.Lock()
	defer a.Mu.Unlock()
	if a.HasFinished() {
		return false
	}
	keep(a.Extra())
	return true
}

// observed is what was observed, the latest outcome above all.
func (a *attempt) observed() (seen observations) {
	a.Mu.Lock()
	defer a.Mu.Unlock()
	if extra := a.HasExtra(); extra != nil {
		seen = *extra
	}
	return seen
}

// unserved is the error of an attempt whose processor returned nil although nothing was served,
// nil if something was or the processor decides: see Observation.Outcome.
func (a *attempt) unserved() error {
	switch seen := a.observed(); {
	case seen.broke:
		return fmt.Errorf("the answer broke off or carried an error: %w", seen.latest.err())
	case !seen.served && seen.latest.Outcome.refused():
		return fmt.Errorf("the call was refused: %w", seen.latest.err())
	}
	return nil
}

// Observe tells the queue, from inside a processor, what the provider said. It may
// be called several times in an attempt and takes effect at once. Outside an
// attempt, or after it ended, it does nothing. Safe for concurrent use.
func Observe(ctx context.Context, o Observation) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return
	}
	if o.Output {
		a.output(toldOutput)
		if o.Outcome == "" && len(o.Limits) == 0 && o.Usage.isZero() {
			return
		}
	}
	if a.observe(o) {
		a.core.observe(a, o)
	}
}

// Observed is what was observed in this attempt so far: the latest Outcome with its SentAt,
// Code, Delay and Limits, whether Output came, and as Usage the sum of all calls. It is for a
// processor whose SDK returned no error, which may have half an answer, and for a middleware
// after next returned. It is zero outside an attempt and where nothing was said. Safe for
// concurrent use.
func Observed(ctx context.Context) Observation {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return Observation{}
	}
	seen := a.observed()
	o := seen.latest
	o.Output, o.Usage, o.Limits = a.told.Load() != 0, seen.usage, slices.Clone(o.Limits)
	return o
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

// Streamed says, from inside a processor, that it has handed on part of the answer by other
// means than Emit, which says so itself: when the attempt fails, the request fails with it and is not tried again, because
// whoever read the first part cannot take it back. Safe for concurrent use.
func Streamed(ctx context.Context) {
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		a.stream()
		a.output(toldOutput | toldStreamed)
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
	case OutcomeRateLimited, OutcomeSlowDown, OutcomeOverloaded:
		return markRateLimited
	case OutcomeRetryable:
		return markRetryable
	case OutcomeElsewhere:
		return markElsewhere
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
		err = a.unserved()
	}
	if err == nil {
		return OutcomeServed
	}
	if _, panicked := err.(*PanicError); panicked {
		return ""
	}
	said := a.observed().latest
	mark, _ := markOf(err)
	switch meaning := said.meaning(); {
	case mark == markPermanent:
		return OutcomeFatal
	case mark == markElsewhere:
		return OutcomeElsewhere
	case mark == markRetryable && meaning != markRetryable && said.Outcome != OutcomeOverloaded:
		return OutcomeRetryable
	case mark == markRateLimited && !said.Outcome.refused():
		return OutcomeRateLimited
	case meaning == unmarked:
		return "" // it was served, and something else failed
	}
	return said.Outcome
}

// OutcomeOf says, to a middleware, what the queue takes err for, with which next or the
// middleware itself returns: OutcomeServed for nil, unless nothing was served (see
// Observation.Outcome); else what its mark says (Permanent, Retryable, RateLimited, Elsewhere),
// more exactly where the provider was observed to say the same; else what the provider was
// observed to say; else "", an error that nobody explained. ctx is the attempt's.
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

// UpdateUsage says what a request uses. While it waits, u replaces its estimate, and the
// request fails with ErrRequestTooLarge when that can never start; while it runs, it equals
// ReportUsage; when it has ended, u replaces the last attempt's share, however often it is
// called. Negative numbers are ErrInvalidParams, an unknown or forgotten id is
// ErrRequestNotFound.
func (c *core) UpdateUsage(requestID string, u Usage) error {
	if !c.made {
		return errNotMade
	}
	if err := u.validate("Usage"); err != nil {
		return err
	}
	ns := c.lock()
	defer c.unlock(ns)
	h, err := c.lookup(ns, requestID)
	if err != nil {
		return err
	}
	v := c.engine.View(h)
	if v.State == engine.Following {
		h = v.Call
		v = c.engine.View(h)
	}
	switch hand := c.forwardings[h]; {
	case v.State == engine.InLine || v.State == engine.BackingOff:
		c.engine.UpdateEstimate(ns, h, toEngineUsage(u), !u.isZero())
	case hand != nil && (hand.modelID != "" || v.State == engine.HandedOff):
		return inModel(c.modelID, errorf(ErrRequestNotFound, "it is at model %q, update it there", hand.modelID), "request", requestID)
	case v.UnderWay:
		c.running[v.Attempt].revise(u)
	case !c.engine.UpdateUsage(ns, h, toEngineUsage(u)):
		return inModel(c.modelID, errorf(ErrRequestNotFound, "it shared another one's call, which has the usage"), "request", requestID)
	}
	return nil
}

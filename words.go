package llmqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/engine"
)

// This file crosses between the words of this package and those of the engine. Errors are
// made without asking a user's error for its text: that is done when somebody reads them.

// sentenceError is an error with the place that it is about and a sentence that says what to
// do. Its text is the prefix of this package, the place, the error and the sentence.
type sentenceError struct {
	place string // with its colon, empty when no model has it
	is    error
	text  string    // with its colon
	at    time.Time // when it may be over, zero when that is not known
}

func (e *sentenceError) Error() string {
	return "llmqueue: " + e.place + strings.Replace(strings.TrimPrefix(e.is.Error(), "llmqueue: "), e.place, "", 1) + e.text // the place once
}
func (e *sentenceError) Unwrap() error { return e.is }

// RetryAt is for package llmhttp, which tells clients when to come again.
func (e *sentenceError) RetryAt() time.Time { return e.at }

func errorf(is error, format string, args ...any) error {
	return &sentenceError{is: is, text: ": " + fmt.Sprintf(format, args...)}
}

// inModel says in an error which model it is about, and which part of it: its kind and name.
func inModel(model string, err error, part ...any) error {
	place := fmt.Sprintf("model %q", model)
	if len(part) > 0 {
		place += fmt.Sprintf(", %s %q", part...)
	}
	return &sentenceError{place: place + ": ", is: err}
}

// several is one of these, or more than one with their number.
func several[N int | int64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// joinedError is two errors in one line.
type joinedError struct {
	first   error
	between string
	second  error
}

func (e *joinedError) Error() string {
	return e.first.Error() + e.between + strings.TrimPrefix(e.second.Error(), "llmqueue: ")
}

func (e *joinedError) Unwrap() []error { return []error{e.first, e.second} }

// callerLeft is the error of a request whose caller's context ended.
type callerLeft struct{ err, cause error }

func (e *callerLeft) Error() string   { return ErrCanceled.Error() + ": " + e.cause.Error() }
func (e *callerLeft) Unwrap() []error { return []error{ErrCanceled, e.cause} }

// canceledBy is that error. It runs the context's methods.
func canceledBy(ctx context.Context) error { return &callerLeft{ctx.Err(), context.Cause(ctx)} }

// noFallback is the error of a request that no model took.
type noFallback struct {
	err   error
	tried []string
}

func (e *noFallback) Error() string {
	if len(e.tried) < 2 {
		return e.err.Error() + " (no fallback took it)"
	}
	return e.err.Error() + " (no fallback took it, asked: " + strings.Join(e.tried[1:], ", ") + ")"
}
func (e *noFallback) Unwrap() error { return e.err }

// reclaimed is the error of a request that was taken out of the queue.
func reclaimed(cause error) error {
	if cause == nil {
		return fmt.Errorf("%w: reclaimed", ErrCanceled)
	}
	return &joinedError{ErrCanceled, ": reclaimed: ", cause}
}

// refusal says why the engine does not take or serve a request.
func (c *core) refusal(no *engine.Refusal) error {
	switch no.Code {
	case engine.Closed:
		return inModel(c.modelID, errorf(ErrQueueClosed, "it was shut down, submit elsewhere"))
	case engine.Full:
		return inModel(c.modelID, errorf(ErrQueueFull, "%s waiting, try later or raise WithMaxQueued", several(c.settings.maxQueued, "request")))
	case engine.TooLarge:
		return inModel(c.modelID, errorf(ErrRequestTooLarge, "the limit is %s, the request reserves %s and %s: make it smaller or raise the limit", fromEngineLimit(no.Limit), several(no.Usage.Input, "input token"), several(no.Usage.Output, "output token")))
	case engine.QuotaExhausted:
		return c.quotaExhausted(no.At)
	case engine.BreakersOpen:
		return c.breakersOpen()
	case engine.HeldOut:
		return c.heldOut()
	case engine.PausedLong:
		return c.pausedLong(no.At)
	}
	err := &DeadlineError{
		ModelID: c.modelID, Deadline: c.clock.At(no.Deadline), EstimatedStart: c.clock.At(no.Wait.At), WaitsFor: waitsFor(no.Wait),
	}
	if no.Context {
		err.cause = context.DeadlineExceeded
	}
	return err
}

func (c *core) quotaExhausted(at int64) error {
	renewed := c.clock.Date(at)
	return &sentenceError{fmt.Sprintf("model %q: ", c.modelID), ErrQuotaExhausted, fmt.Sprintf(": nothing starts before %s: raise the quota and call Resume, or wait for its renewal (WithWaitForQuota keeps requests)", renewed.Format(time.RFC3339)), renewed}
}

var errOpen = errors.New("its circuit breaker is open")

func (c *core) breakersOpen() error {
	return fmt.Errorf("llmqueue: model %q: nothing is served at present: %w", c.modelID, errOpen)
}

// heldOut is the error of a request that goes elsewhere because calls fail here.
func (c *core) heldOut() error {
	return fmt.Errorf("llmqueue: model %q: nothing is served at present: calls fail at all its endpoints (Info says why)", c.modelID)
}

func (c *core) pausedLong(at int64) error {
	return fmt.Errorf("llmqueue: model %q: nothing starts before %s: its provider asked for a pause, call Resume if that is over", c.modelID, c.clock.Date(at).Format(time.RFC3339))
}

func (c *core) runsOut() error {
	return inModel(c.modelID, errorf(ErrQueueTimeout, "no room for it in time before its deadline, allow more time or raise the limits"))
}

// after is err, with the error of the attempt that made it known, if there is one.
func (c *core) after(h uint32, err error) error {
	if c.input.err == nil || c.input.ended.handle != h || c.input.ended.seq == 0 {
		return err
	}
	return &joinedError{err, ", after: ", c.processingError(h, c.input.err)}
}

// late is the error of an attempt that took too long.
func (c *core) late(code engine.Code) error {
	switch code {
	case engine.TimedOut:
		return fmt.Errorf("the attempt took longer than %v: %w", c.settings.timeout, context.DeadlineExceeded)
	case engine.FirstByteLate:
		return fmt.Errorf("the answer did not begin within %v: %w", c.settings.firstByte, context.DeadlineExceeded)
	case engine.StalledCode:
		return fmt.Errorf("nothing more of the answer came for %v: %w", c.settings.stall, context.DeadlineExceeded)
	}
	return nil
}

// reason is the error of a request that ends, or is handed off, for the given code.
func (c *core) reason(h uint32, code engine.Code) error {
	if c.input.unserved != nil {
		return c.input.unserved // its limits count too, which only its submission knows
	}
	closed := func(why string) error {
		return inModel(c.modelID, errorf(ErrQueueClosed, "%s", why), "request", c.idOf(h))
	}
	switch code {
	case engine.OK:
		return nil
	case engine.AttemptFailed:
		return c.processingError(h, c.input.err)
	case engine.CallerLeft:
		if c.input.left != nil {
			return c.input.left
		}
	case engine.NobodyWaits:
		return errNobodyWaits
	case engine.TooLarge:
		if no := c.engine.TooLarge(h); no != nil {
			return c.refusal(no)
		}
		return inModel(c.modelID, errorf(ErrRequestTooLarge, "the limits allowed less than it reserves: make it smaller or raise the limit"))
	case engine.WaitedTooLong:
		if c.engine.Tag(h)&tagHop != 0 { // its MaxWait here is what was left of it
			return inModel(c.modelID, errorf(ErrQueueTimeout, "it could not start in the time that was left, allow more time or raise the limits"), "request", c.idOf(h))
		}
		return inModel(c.modelID, errorf(ErrQueueTimeout, "it could not start within its MaxWait of %v, allow more time or raise the limits", time.Duration(c.engine.View(h).MaxWait)), "request", c.idOf(h))
	case engine.QuotaExhausted:
		return c.quotaExhausted(c.engine.QuotaRenewed())
	case engine.QuotaRefused:
		return inModel(c.modelID, &joinedError{ErrQuotaExhausted, ": ", c.processingError(h, c.input.err)}, "request", c.idOf(h))
	case engine.BreakersOpen:
		return c.breakersOpen()
	case engine.BreakersOpened:
		return &joinedError{c.breakersOpen(), ", after: ", c.processingError(h, c.input.err)}
	case engine.TimedOut, engine.FirstByteLate, engine.StalledCode:
		return c.processingError(h, c.late(code))
	case engine.HeldOut:
		return c.after(h, c.heldOut())
	case engine.PausedLong:
		return c.after(h, c.pausedLong(c.engine.PausesEnd()))
	case engine.BudgetSpent:
		return c.after(h, fmt.Errorf("llmqueue: model %q: no retry is left at present (see RetryPolicy.Budget)", c.modelID))
	case engine.RunsOut:
		return c.after(h, c.runsOut())
	case engine.DeadlinePasses:
		if no := c.engine.DeadlinePasses(h); no.Wait.At > no.Deadline {
			return c.after(h, c.refusal(no))
		}
		return c.after(h, c.runsOut()) // what was in its way has ended at the same instant
	case engine.ShutDown:
		return closed("shut down before it could start")
	case engine.ShutDownRunning:
		return closed("shut down while it ran")
	case engine.ShutDownElsewhere:
		return closed("shut down while a fallback had it")
	case engine.ShutDownRetry:
		return inModel(c.modelID, &joinedError{ErrQueueClosed, ": shut down before another attempt: ", c.processingError(h, c.input.err)}, "request", c.idOf(h))
	}
	return c.input.err
}

var errNobodyWaits = errors.New("nobody waits for it")

func (c *core) processingError(h uint32, err error) error {
	return &ProcessingError{ModelID: c.modelID, RequestID: c.idOf(h), Attempts: c.engine.View(h).Attempts, Err: err}
}

// What a request may wait for, besides a limit.
const (
	waitsForResume  = "resume"
	waitsForPause   = "pause"
	waitsForShared  = "shared limits"
	waitsForBreaker = "breaker"
	waitsForSlot    = string(KindConcurrent)
)

// waitsFor names what holds a request longest.
func waitsFor(w endpoint.Wait) string {
	switch w.Cause {
	case endpoint.WindowLimit:
		return fromEngineLimit(w.Limit).String()
	case endpoint.Slot:
		return waitsForSlot
	case endpoint.SharedLimits:
		return waitsForShared
	case endpoint.Pause:
		return waitsForPause
	case endpoint.OpenBreaker:
		return waitsForBreaker
	case endpoint.ManualPause:
		return waitsForResume
	}
	return ""
}

// startOf is when a request is expected to start, zero when that is not known.
func (c *core) startOf(w endpoint.Wait) time.Time {
	if w.At == endpoint.Never {
		return time.Time{}
	}
	return c.clock.At(w.At)
}

func toEngineUsage(u Usage) endpoint.Usage {
	return endpoint.Usage{Input: u.InputTokens, Output: u.OutputTokens, Cached: u.CachedInputTokens}
}

func fromEngineUsage(u endpoint.Usage) Usage {
	return Usage{InputTokens: u.Input, OutputTokens: u.Output, CachedInputTokens: u.Cached}
}

// engineKinds are the kinds of limits in the order of the engine's.
var engineKinds = []LimitKind{KindRPM, KindRPD, KindTPM, KindTPD, KindITPM, KindOTPM, KindConcurrent}

func toEngineLimit(l Limit) endpoint.Limit {
	return endpoint.Limit{
		Kind: endpoint.Kind(slices.Index(engineKinds, l.Kind)), Amount: l.Amount, Period: l.Period, Burst: l.Burst, Resets: l.Resets,
	}
}

func fromEngineLimit(l endpoint.Limit) Limit {
	return Limit{Kind: engineKinds[l.Kind], Amount: l.Amount, Period: l.Period, Burst: l.Burst, Resets: l.Resets}
}

func toEngineLimits(limits []Limit) []endpoint.Limit   { return each(limits, toEngineLimit) }
func fromEngineLimits(limits []endpoint.Limit) []Limit { return each(limits, fromEngineLimit) }

func each[A, B any](all []A, f func(A) B) []B {
	out := make([]B, len(all))
	for i, a := range all {
		out[i] = f(a)
	}
	return out
}

// engineOutcomes are the outcomes in the order of the engine's.
var engineOutcomes = []Outcome{"", OutcomeServed, OutcomeRateLimited, OutcomeSlowDown, OutcomeOverloaded, OutcomeQuotaExhausted, OutcomeRetryable, OutcomeElsewhere, OutcomeFatal}

// toEngineObservation is o for the engine, and what is wrong with the limits that it states.
func (c *core) toEngineObservation(o Observation) (out endpoint.Observation, ignored []error) {
	out = endpoint.Observation{Outcome: endpoint.Outcome(max(slices.Index(engineOutcomes, o.Outcome), 0)), Delay: int64(o.Delay)}
	if !o.SentAt.IsZero() {
		out.SentAt = c.clock.Since(o.SentAt)
	}
	for _, seen := range o.Limits {
		l, err := seen.limit()
		if err != nil {
			ignored = append(ignored, fmt.Errorf("limit %s %d: %w", seen.Kind, seen.Amount, err))
			out.Limits = append(out.Limits, endpoint.Stated{Limit: endpoint.Limit{Amount: seen.Amount}, Remaining: seen.Remaining, Senseless: true})
			continue
		}
		out.Limits = append(out.Limits, endpoint.Stated{Limit: toEngineLimit(l), Remaining: seen.Remaining, Reset: int64(seen.Reset)})
	}
	return out, ignored
}

// limit is the limit that o speaks of, if it makes sense.
func (o ObservedLimit) limit() (Limit, error) {
	l := Limit{Kind: o.Kind, Amount: o.Amount, Period: o.Period}
	if o.Kind == KindConcurrent {
		return l, errors.New("answers do not state concurrency")
	}
	if o.Reset < 0 {
		return l, fmt.Errorf("reset %v is in the past", o.Reset)
	}
	return l, l.validate()
}

// err says in an error what o says.
func (o Observation) err() error {
	if o.Code == "" {
		return errors.New("the provider says: " + string(o.Outcome)) // an answer has several: no formatting
	}
	return fmt.Errorf("the provider says: %s (%s)", o.Outcome, o.Code)
}

// statusOf is the status of a request in that state of the engine.
func statusOf(s engine.State) Status {
	switch s {
	case engine.Running:
		return StatusProcessing
	case engine.Completed:
		return StatusCompleted
	case engine.Failed:
		return StatusFailed
	case engine.CanceledState:
		return StatusCanceled
	}
	return StatusPending
}

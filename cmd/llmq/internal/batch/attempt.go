package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
)

// errNotRecorded is of requests that ended with the run: they run again the next time.
var errNotRecorded = errors.New("not recorded")

// processor makes the attempts of a model at an endpoint.
func (r *run) processor(e *endpoint, model string) llmqueue.Processor[*item, caller.Reply] {
	return func(ctx context.Context, req llmqueue.Request[*item]) (caller.Reply, error) {
		return r.attempt(ctx, e, model, req)
	}
}

// attempt is one attempt.
func (r *run) attempt(ctx context.Context, e *endpoint, model string, req llmqueue.Request[*item]) (caller.Reply, error) {
	it := req.Params
	if r.stopping.Load() != nil {
		return caller.Reply{}, llmqueue.Permanent(errNotRecorded)
	}
	asks := it.asksOf(model)
	price, ok := r.money.reserveShare(asks, r.Via.share())
	if !ok {
		r.stop(OverBudget, fmt.Errorf("the budget of $%.2f is used up: $%.4f are spent, run again with a larger --budget-usd to go on", r.Budget, r.money.spent()))
		return caller.Reply{}, llmqueue.Permanent(errNotRecorded)
	}
	number, err := r.journal.Start(e.key(model), req.Estimate)
	if err != nil {
		r.money.settle(model, price, llmqueue.Usage{}, 1)
		r.stop(CannotWrite, err)
		return caller.Reply{}, llmqueue.Permanent(errNotRecorded)
	}
	r.attempts.Add(1)
	defer r.trial.start()()
	reply, err := e.Call(ctx, asks.Path, r.Via.body(asks))
	reply.Charged = r.charged(e.key(model), req.Estimate, reply.Usage, reply.Usage != (llmqueue.Usage{})).Total()
	r.money.settle(model, price, reply.Usage, r.Via.shareOf(&reply))
	r.input.Add(reply.Usage.InputTokens)
	r.output.Add(reply.Usage.OutputTokens)
	if reply.Usage != (llmqueue.Usage{}) {
		r.journal.End(number, reply.Usage)
	}
	if err != nil {
		return reply, r.failedAttempt(ctx, e, model, reply, err)
	}
	r.answered.Store(true)
	r.trial.pass()
	r.outage.over()
	e.down.Store(false)
	r.lastError.Store(nil)
	r.fits(&reply, asks.Path)
	r.toCache(it, model, reply)
	return reply, nil
}

// failedAttempt is the error of an attempt for its queue, which decides whether to try again.
func (r *run) failedAttempt(ctx context.Context, e *endpoint, model string, reply caller.Reply, err error) error {
	if ctx.Err() == nil {
		text := r.reason(err)
		r.lastError.Store(&text)
		if reason := r.untrusted(e, err); reason != nil {
			if r.refuses(e, model, reason) {
				return llmqueue.Elsewhere(err)
			}
			r.stop(Unusable, reason)
			return llmqueue.Permanent(errNotRecorded)
		}
		if caller.Unreachable(err) {
			return r.unreachable(ctx, e, err)
		}
	}
	status, none := (*caller.StatusError)(nil), (*caller.NoAnswerError)(nil)
	switch {
	case errors.As(err, &none):
		r.outage.over()
		switch {
		case none.Final:
			return llmqueue.Permanent(&attemptError{err, reply})
		case !none.Said:
			return llmqueue.Retryable(&attemptError{err, reply})
		}
	case errors.As(err, &status):
		r.outage.over()
		if status.Status == http.StatusTooManyRequests {
			r.refused.Add(1)
		}
		reason := r.hopeless(e, status)
		if reason != nil && (status.Status == http.StatusUnauthorized || !r.trial.hold(r.halting)) {
			if r.refuses(e, model, reason) {
				return llmqueue.Elsewhere(&attemptError{err, reply})
			}
			r.stop(Unusable, reason)
			return llmqueue.Permanent(errNotRecorded)
		}
	}
	return &attemptError{err, reply}
}

// attemptError carries what is known of a failed attempt.
type attemptError struct {
	error
	reply caller.Reply
}

func (e *attemptError) Unwrap() error { return e.error }

// hopeless says why an answer means that no request will be served, or nil.
func (r *run) hopeless(at *endpoint, e *caller.StatusError) error {
	c := &at.Endpoint.Caller
	flag := cmp.Or(c.Flag, "--base-url")
	switch first := !r.answered.Load(); {
	case e.Status == http.StatusUnauthorized && c.Key == "" && at.first:
		return fmt.Errorf("%w: the provider wants a key: set %s, or name another variable with --key-env, or a file with --key-file", e, c.KeyFrom)
	case e.Status == http.StatusUnauthorized && c.Key == "":
		return fmt.Errorf("%w: the provider wants a key: set %s, or name another variable behind the =", e, c.KeyFrom)
	case e.Status == http.StatusUnauthorized:
		return fmt.Errorf("%w: check the key in %s, and %s", e, c.KeyFrom, flag)
	case first && e.Status == http.StatusForbidden:
		return fmt.Errorf("%w: check what the key may do", e)
	case first && (e.Status == http.StatusNotFound || e.Status == http.StatusMethodNotAllowed):
		return fmt.Errorf("%w: check %s, and the model's name", e, flag)
	case first && e.Status >= 300 && e.Status < 400:
		return fmt.Errorf("%w: check %s, it leads elsewhere", e, flag)
	}
	return nil
}

// untrusted is the error that ends the run when a host's certificate is not trusted, or nil.
func (r *run) untrusted(e *endpoint, err error) error {
	if !caller.Untrusted(err) {
		return nil
	}
	return fmt.Errorf("the certificate of %s is not trusted: %s: check %s, or name the file of its authority with --ca-file",
		e.Host(), e.Reason(err), cmp.Or(e.Endpoint.Caller.Flag, "--base-url"))
}

// outage is a time in which the provider's host is not reached.
type outage struct {
	mu    sync.Mutex
	began time.Time
	back  chan struct{} // closed when the host answers again
}

// over notes that the host answers.
func (o *outage) over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.began = time.Time{}
}

// patience is how long a host is waited for that has not answered in this run yet: a name
// mistyped should be told soon.
const patience = 5 * time.Second

// unreachable waits until the provider's host answers again, so that a lost network costs
// no request its attempts. The error is for the request, which takes its turn again.
func (r *run) unreachable(ctx context.Context, e *endpoint, err error) error {
	if r.lost(e, err) {
		return llmqueue.Elsewhere(err)
	}
	o := &r.outage
	o.mu.Lock()
	if o.back == nil {
		o.back = make(chan struct{})
		if o.began.IsZero() {
			o.began = time.Now()
			if r.answered.Load() {
				r.Notice("%s cannot be reached (%s): waiting for it", r.caller.Host(), r.caller.Reason(err))
			}
		}
		go r.awaitHost(o.began, err)
	}
	back := o.back
	o.mu.Unlock()
	select {
	case <-back:
	case <-ctx.Done():
	}
	if r.stopping.Load() != nil {
		return llmqueue.Permanent(errNotRecorded)
	}
	return llmqueue.Retryable(err)
}

// awaitHost probes the host until it answers or the run stops.
func (r *run) awaitHost(began time.Time, cause error) {
	o := &r.outage
	defer func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		close(o.back)
		o.back = nil
	}()
	for wait := 500 * time.Millisecond; ; wait = min(2*wait, 15*time.Second) {
		select {
		case <-time.After(wait):
		case <-r.stopped:
			return
		case <-r.hard.Done():
			return
		}
		if r.stopping.Load() != nil || r.probe(r.hard) {
			return
		}
		if !r.answered.Load() && time.Since(began) > patience {
			r.stop(Unusable, fmt.Errorf("%s cannot be reached: %s: check --base-url and the network", r.caller.Host(), r.caller.Reason(cause)))
			return
		}
	}
}

// conclude records how a request ended, unless the run's end ended it.
func (r *run) conclude(res llmqueue.Response[caller.Reply], err error) error {
	r.recording.Lock()
	defer r.recording.Unlock()
	if err == nil && r.reask(r.flight.of(res.RequestID), res) {
		return nil
	}
	it := r.flight.land(res.RequestID)
	switch {
	case err == nil && res.Result.Lacks != "" && it.reasks < r.Reask:
		return nil // the run stops: the next one asks once more
	case err == nil:
	case r.hard.Err() != nil, errors.Is(err, errNotRecorded), errors.Is(err, llmqueue.ErrQueueClosed), errors.Is(err, llmqueue.ErrCanceled):
		return nil
	case errors.Is(err, llmqueue.ErrQuotaExhausted):
		r.stop(NoQuota, fmt.Errorf("the provider's quota is used up: %s: run again when it is renewed (--wait-for-quota waits for that)", r.reason(err)))
		return nil
	}
	it.sums(res)
	reply, problem := res.Result, r.mismatch(res.Result)
	if err != nil {
		reply, problem = r.failure(err)
	}
	model, instead := it.Model, ""
	if err == nil && res.ModelID != it.Model {
		model, instead = res.ModelID, it.Model
	}
	rec := &results.Record{
		CustomID: it.ID, Error: problem,
		Run: results.Run{
			Line: it.Line, Model: model, Instead: instead, StartedAt: reply.Sent.Round(0), LatencyMS: float64(reply.Latency.Microseconds()) / 1000,
			Attempts: it.attempts, Input: it.used.InputTokens, Output: it.used.OutputTokens, Cached: it.used.CachedInputTokens, Charged: reply.Charged,
			Hash: results.HashOf(it.Path, it.Body), Kept: it.Kept,
		},
	}
	rec.Run.Tier = r.Via.tierOf(&reply)
	if reply.Status != 0 {
		rec.Response = &results.Response{Status: reply.Status, RequestID: reply.RequestID, Body: reply.Body}
	}
	if err := r.record(rec); err != nil {
		return err
	}
	r.judge(it.Model, problem)
	return nil
}

// failure is what is recorded of an error.
func (r *run) failure(err error) (caller.Reply, *results.Error) {
	problem := &results.Error{Code: "not_sent", Message: r.reason(err)}
	failed := (*attemptError)(nil)
	if !errors.As(err, &failed) {
		switch {
		case errors.Is(err, llmqueue.ErrRequestTooLarge):
			problem.Code = "larger_than_limit"
		case caller.Unreachable(err):
			problem.Code = "unreachable"
		}
		return caller.Reply{}, problem
	}
	status, none := (*caller.StatusError)(nil), (*caller.NoAnswerError)(nil)
	switch {
	case errors.As(err, &none):
		problem.Code, problem.Message = "no_answer", none.Error()
	case errors.As(err, &status):
		problem.Code, problem.Message = fmt.Sprintf("http_%d", status.Status), status.Error()
	case errors.Is(err, context.DeadlineExceeded):
		problem.Code, problem.Message = "timeout", fmt.Sprintf("no answer within %v", r.Config.Caller.Timeout)
	default:
		problem.Code = "connection"
	}
	return failed.reply, problem
}

// reason is an error in one line, without this library's prefix.
func (r *run) reason(err error) string {
	if p := (*llmqueue.ProcessingError)(nil); errors.As(err, &p) {
		err = p.Err
	}
	return strings.TrimPrefix(r.caller.Reason(err), "llmqueue: ")
}

package batch

import (
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

// process is one attempt.
func (r *run) process(ctx context.Context, req llmqueue.Request[*item]) (caller.Reply, error) {
	it := req.Params
	if r.stopping.Load() != nil {
		return caller.Reply{}, llmqueue.Permanent(errNotRecorded)
	}
	price, ok := r.money.reserve(it.Request)
	if !ok {
		r.stop(OverBudget, fmt.Errorf("the budget of $%.2f is used up: $%.4f are spent, run again with a larger --budget-usd to go on", r.Budget, r.money.spent()))
		return caller.Reply{}, llmqueue.Permanent(errNotRecorded)
	}
	number, err := r.journal.Start(it.Model, req.Estimate)
	if err != nil {
		r.money.settle(it.Model, price, llmqueue.Usage{})
		r.stop(CannotWrite, err)
		return caller.Reply{}, llmqueue.Permanent(errNotRecorded)
	}
	r.attempts.Add(1)
	defer r.trial.start()()
	reply, err := r.caller.Call(ctx, it.Path, it.Body)
	reply.Charged = r.charged(it.Model, req.Estimate, reply.Usage, reply.Usage != (llmqueue.Usage{})).Total()
	r.money.settle(it.Model, price, reply.Usage)
	r.input.Add(reply.Usage.InputTokens)
	r.output.Add(reply.Usage.OutputTokens)
	if reply.Usage != (llmqueue.Usage{}) {
		if err := r.journal.End(number, reply.Usage); err != nil {
			r.stop(CannotWrite, err)
		}
	}
	if err != nil {
		return reply, r.failedAttempt(ctx, reply, err)
	}
	r.answered.Store(true)
	r.trial.pass()
	r.outage.over()
	r.lastError.Store(nil)
	return reply, nil
}

// failedAttempt is the error of an attempt for its queue, which decides whether to try again.
func (r *run) failedAttempt(ctx context.Context, reply caller.Reply, err error) error {
	if ctx.Err() == nil {
		text := r.reason(err)
		r.lastError.Store(&text)
		if caller.Unreachable(err) {
			return r.unreachable(ctx, err)
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
		reason := r.hopeless(status)
		if reason != nil && (status.Status == http.StatusUnauthorized || !r.trial.hold(r.halting)) {
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
func (r *run) hopeless(e *caller.StatusError) error {
	switch first := !r.answered.Load(); {
	case e.Status == http.StatusUnauthorized && r.Config.Caller.Key == "":
		return fmt.Errorf("%w: the provider wants a key: set %s, or name another variable with --key-env, or a file with --key-file", e, r.Config.Caller.KeyFrom)
	case e.Status == http.StatusUnauthorized:
		return fmt.Errorf("%w: check the key in %s, and --base-url", e, r.Config.Caller.KeyFrom)
	case first && e.Status == http.StatusForbidden:
		return fmt.Errorf("%w: check what the key may do", e)
	case first && (e.Status == http.StatusNotFound || e.Status == http.StatusMethodNotAllowed):
		return fmt.Errorf("%w: check --base-url, and the model's name", e)
	case first && e.Status >= 300 && e.Status < 400:
		return fmt.Errorf("%w: check --base-url, it leads elsewhere", e)
	}
	return nil
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
func (r *run) unreachable(ctx context.Context, err error) error {
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
		if r.stopping.Load() != nil || r.caller.Probe(r.hard) == nil {
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
	it := r.flight.land(res.RequestID)
	switch {
	case err == nil:
	case r.hard.Err() != nil, errors.Is(err, errNotRecorded), errors.Is(err, llmqueue.ErrQueueClosed), errors.Is(err, llmqueue.ErrCanceled):
		return nil
	case errors.Is(err, llmqueue.ErrQuotaExhausted):
		r.stop(NoQuota, fmt.Errorf("the provider's quota is used up: %s: run again when it is renewed (--wait-for-quota waits for that)", r.reason(err)))
		return nil
	}
	reply, problem := res.Result, (*results.Error)(nil)
	if err != nil {
		reply, problem = r.failure(err)
	}
	rec := &results.Record{
		CustomID: it.ID, Error: problem,
		Run: results.Run{
			Line: it.Line, Model: it.Model, StartedAt: reply.Sent.Round(0), LatencyMS: float64(reply.Latency.Microseconds()) / 1000,
			Attempts: res.Attempts, Input: res.Usage.InputTokens, Output: res.Usage.OutputTokens, Cached: res.Usage.CachedInputTokens, Charged: reply.Charged,
			Hash: results.HashOf(it.Path, it.Body),
		},
	}
	if reply.Status != 0 {
		rec.Response = &results.Response{Status: reply.Status, RequestID: reply.RequestID, Body: reply.Body}
	}
	if err := r.file.Append(rec); err != nil {
		return err
	}
	r.ran.Add(1)
	r.done.Store(r.file.Done)
	r.failed.Store(r.file.Failed)
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

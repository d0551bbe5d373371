package batch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/providerbatch"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/spool"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// poll asks how the batches stand until none is open, and takes the results of those that
// have ended.
func (r *run) poll() error {
	for wait := pollFirst; len(r.batches.open) > 0; wait = min(2*wait, pollLast) {
		before := len(r.batches.open)
		next, err := r.ask(wait)
		if err != nil {
			return err
		}
		if len(r.batches.open) < before {
			wait = pollFirst
		}
		if len(r.batches.open) > 0 && !r.wait(next) {
			return nil
		}
	}
	r.batches.standing.Store(nil)
	if r.batches.overBudget {
		return fail(OverBudget, fmt.Errorf("the budget of $%.2f is used up: $%.4f are spent, run again with a larger --budget-usd to go on", r.Budget, r.money.spent()))
	}
	return nil
}

// ask asks once how the batches stand, and takes the results of those that have ended. It
// returns how long to wait until the next time: wait, or less if a deadline comes before.
func (r *run) ask(wait time.Duration) (next time.Duration, err error) {
	var open []*spool.Batch
	next = wait
	for i, b := range r.batches.open {
		var at *providerbatch.Batch
		err := r.patiently(func(ctx context.Context) (err error) {
			if at, err = r.client(b.Path).Get(ctx, b.ID); err != nil || at.Ended {
				return err
			}
			return r.cancelBatch(ctx, b)
		})
		if err == nil && at.Ended {
			err = r.collect(b, at)
		}
		if err != nil {
			r.batches.open = append(open, r.batches.open[i:]...)
			return 0, err
		}
		if at.Ended {
			continue
		}
		open = append(open, b)
		text := fmt.Sprintf("%s: %s, %d of %d done", b.ID, at.Status, at.Done, b.Requests)
		r.batches.standing.Store(&text)
		if r.Via.Deadline > 0 && b.Canceled.IsZero() {
			next = min(next, max(time.Until(b.Sent.Add(r.Via.Deadline)), 10*time.Millisecond))
		}
	}
	r.batches.open = open
	return next, nil
}

// cancelBatch cancels a batch if that is asked for or its time is over.
func (r *run) cancelBatch(ctx context.Context, b *spool.Batch) error {
	late := r.Via.Deadline > 0 && time.Since(b.Sent) >= r.Via.Deadline
	if !b.Canceled.IsZero() || !r.Via.Cancel && !late {
		return nil
	}
	if err := r.client(b.Path).Cancel(ctx, b.ID); err != nil {
		return err
	}
	b.Canceled = time.Now()
	if err := b.Save(); err != nil {
		return fail(CannotWrite, err)
	}
	r.Notice("%s is being canceled: what it has done by now is kept", b.ID)
	return nil
}

// collect records the results of a batch that has ended, and forgets it.
func (r *run) collect(b *spool.Batch, at *providerbatch.Batch) error {
	if at.Refused != nil {
		return r.failedBatch(b, at)
	}
	members, err := b.Members()
	if err != nil {
		return fail(CannotWrite, err)
	}
	var recorded int64
	var again []misfit
	ends := &ends{}
	seen := make([]bool, len(members))
	err = r.patiently(func(ctx context.Context) error {
		return r.client(b.Path).Results(ctx, at, func(l *providerbatch.Line) error {
			i, ok := b.Index(l.CustomID)
			if !ok || i >= len(members) || seen[i] || r.givenBack(l) {
				return nil
			}
			seen[i] = true
			recorded++
			m := &members[i]
			if lacks := r.misfits(b.PathOf(m), l); lacks != "" && r.Reask > 0 {
				again = append(again, misfit{i, l.Response.Body, lacks})
				return nil
			}
			return r.recordLine(b, at, m, l, ends)
		})
	})
	if err != nil {
		return err
	}
	if at.Expired && r.Via.Deadline == 0 { // of some providers without a result for each
		for i := range members {
			if !seen[i] {
				recorded++
				if err := r.recordLine(b, at, &members[i], &providerbatch.Line{Error: providerbatch.NotInTime}, ends); err != nil {
					return err
				}
			}
		}
	}
	if err := r.reaskAll(b, members, again); err != nil {
		return err
	}
	if err := errors.Join(r.flush(), r.file.Sync()); err != nil { // before the batch is forgotten
		return fail(CannotWrite, err)
	}
	r.batches.unfinished += int64(len(members)) - recorded
	if err := r.forget(b); err != nil {
		return err
	}
	if len(again) > 0 {
		ends.differ = true
	}
	return r.judgeBatch(b, ends)
}

// forget ends a batch of which nothing is to come.
func (r *run) forget(b *spool.Batch) error {
	r.money.hold(-b.Reserved)
	if b.ID != "" {
		r.batches.flight.Add(-int64(b.Requests))
	}
	return fail(CannotWrite, b.Remove())
}

// givenBack reports whether a request was not run at all, and runs elsewhere: the batch was
// canceled, or it expired and there is a deadline after which calls go on.
func (r *run) givenBack(l *providerbatch.Line) bool {
	if l.Error == nil || l.Response != nil {
		return false
	}
	return l.Error.Code == providerbatch.Canceled || l.Error.Code == providerbatch.Expired && r.Via.Deadline > 0
}

// recorded reports whether an earlier run has recorded the answer to a request.
func (r *run) recorded(m *spool.Member) (bool, error) {
	state, err := r.file.Has(m.ID)
	if err == nil && state == results.Done {
		var same bool
		if same, err = r.file.Answers(m.ID, m.Hash); same && err == nil {
			return true, nil
		}
	}
	return false, fail(CannotWrite, err)
}

// recordLine records one result, unless an earlier run has.
func (r *run) recordLine(b *spool.Batch, at *providerbatch.Batch, m *spool.Member, l *providerbatch.Line, ends *ends) error {
	if recorded, err := r.recorded(m); recorded || err != nil {
		return err
	}
	rec := &results.Record{CustomID: m.ID, Run: results.Run{
		Line: m.Line, Model: b.Model, Attempts: 1, Hash: m.Hash, Batch: b.ID, Kept: m.Kept,
		StartedAt: b.Sent.Round(0), LatencyMS: float64(at.Took.Milliseconds()),
	}}
	if l.Response != nil {
		rec.Response = &results.Response{Status: l.Response.Status, RequestID: l.Response.RequestID, Body: l.Response.Body}
		u := llmhttp.ParseUsage(l.Response.Body)
		rec.Run.Input, rec.Run.Output, rec.Run.Cached = u.InputTokens, u.OutputTokens, u.CachedInputTokens
	}
	if rec.Error = problemOf(b.Path, l); rec.Error == nil {
		rec.Error = r.mismatch(caller.Reply{Lacks: r.misfits(b.PathOf(m), l)})
	}
	ends.note(rec.Error)
	if err := r.file.Append(rec); err != nil {
		if errors.Is(err, results.ErrChanged) {
			return fail(Taken, err)
		}
		return fail(CannotWrite, err)
	}
	r.count(rec)
	return nil
}

// problemOf is what is recorded of a result that is no answer, or nil.
func problemOf(path string, l *providerbatch.Line) *results.Error {
	switch {
	case l.Error != nil && l.Response == nil:
		return &results.Error{Code: l.Error.Code, Message: l.Error.Message}
	case l.Response == nil:
		return &results.Error{Code: "no_answer", Message: "the batch has neither an answer nor an error"}
	}
	reply := caller.Reply{Status: l.Response.Status, Body: l.Response.Body}
	if reply.Status < 200 || reply.Status > 299 {
		return &results.Error{Code: fmt.Sprintf("http_%d", reply.Status), Message: (&caller.StatusError{Reply: reply}).Error()}
	}
	if why := caller.Lacks(path, reply.Body); why != "" {
		return &results.Error{Code: "no_answer", Message: (&caller.NoAnswerError{Reply: reply, Why: why}).Error()}
	}
	return nil
}

// count takes a record of a batch into the run's sums.
func (r *run) count(rec *results.Record) {
	u := rec.Run.Usage()
	r.money.spend(rec.Run.Model, u, rec.Run.Share())
	r.input.Add(u.InputTokens)
	r.output.Add(u.OutputTokens)
	r.ran.Add(1)
	r.attempts.Add(1)
	r.done.Store(r.file.Done)
	r.failed.Store(r.file.Failed)
}

// failedBatch forgets a batch that the provider did not begin, and ends the run with its
// reason: nothing of the batch has run.
func (r *run) failedBatch(b *spool.Batch, at *providerbatch.Batch) error {
	code, message := at.Refused.Code, at.Refused.Message
	if err := r.forget(b); err != nil {
		return err
	}
	if code == "token_limit_exceeded" { // of all batches that wait
		return fail(NoQuota, fmt.Errorf("%s was refused: %s: run again when other batches are through", b.ID, message))
	}
	return fail(Unusable, fmt.Errorf("%s was refused: %s (%s): put the requests right, or run them without --via batch", b.ID, message, code))
}

// hold puts money aside for a batch, or gives it back.
func (m *money) hold(usd float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending += usd
}

package llmriver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/riverqueue/river/rivertype"

	"github.com/llmqueue/llmqueue"
)

// waitKey names a job before its number is known.
type waitKey struct {
	model, id string
	chosen    bool
}

// wait is someone who waits for a job's end.
type wait[T any] struct {
	jobID int64 // 0 while it is not known; guarded by Jobs.mu
	done  chan llmqueue.Response[T]
}

func (j *Jobs[P, T]) await(key waitKey) *wait[T] {
	w := &wait[T]{done: make(chan llmqueue.Response[T], 1)}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.waits[key] == nil {
		j.waits[key] = make(map[*wait[T]]struct{})
	}
	j.waits[key][w] = struct{}{}
	return w
}

func (j *Jobs[P, T]) forget(key waitKey, w *wait[T]) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if delete(j.waits[key], w); len(j.waits[key]) == 0 {
		delete(j.waits, key)
	}
}

// deliver answers all who wait for a job.
func (j *Jobs[P, T]) deliver(key waitKey, resp llmqueue.Response[T]) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for w := range j.waits[key] {
		w.done <- resp
	}
	delete(j.waits, key)
}

// waitFor waits for the end of a job, or of ctx.
func (j *Jobs[P, T]) waitFor(ctx context.Context, w *wait[T], jobID int64) (llmqueue.Response[T], error) {
	j.mu.Lock()
	w.jobID = jobID
	j.mu.Unlock()
	select {
	case j.polls <- struct{}{}:
	default:
	}
	select {
	case resp := <-w.done:
		return resp, resp.Err
	case <-ctx.Done():
		return llmqueue.Response[T]{}, context.Cause(ctx)
	case <-j.life.Done():
		select {
		case resp := <-w.done:
			return resp, resp.Err
		default:
		}
		return llmqueue.Response[T]{}, fmt.Errorf("%w: shut down before the job was through; it is stored and goes on with the next Open", llmqueue.ErrQueueClosed)
	}
}

// Wait waits for the end of a request that Submit or SubmitTx of any process accepted, and
// returns its final response, and its Err as error. It needs no memory of Submit: the job
// is looked up in the store. When ctx ends first, it returns where the job is and the
// context's cause; the job goes on. An id that the store does not know is
// ErrRequestNotFound.
//
// A job that ends in this process is known at once, any other within a second.
func (j *Jobs[P, T]) Wait(ctx context.Context, modelID, requestID string) (llmqueue.Response[T], error) {
	row, env, err := j.row(ctx, modelID, requestID)
	if err != nil {
		return llmqueue.Response[T]{}, err
	}
	key := waitKey{env.Model, env.ID, env.Chosen}
	w := j.await(key)
	defer j.forget(key, w)
	// Again, now that nothing can be missed.
	if row, env, err = j.rowOf(ctx, row.ID); err != nil {
		return llmqueue.Response[T]{}, err
	}
	if row == nil {
		return llmqueue.Response[T]{}, notFound(modelID, requestID)
	}
	if resp := j.response(row, env); resp.Status.Final() {
		return resp, resp.Err
	}
	resp, err := j.waitFor(ctx, w, row.ID)
	if err != nil && ctx.Err() != nil && !resp.Status.Final() {
		return j.response(row, env), context.Cause(ctx)
	}
	return resp, err
}

// Status says where a request is. What this process holds it knows exactly, with position
// and expected start. A job that another process holds is StatusProcessing, also while it
// waits in that process's line. Its error is ErrRequestNotFound or the database's: that the
// request failed stands in the response.
func (j *Jobs[P, T]) Status(ctx context.Context, modelID, requestID string) (llmqueue.Response[T], error) {
	row, env, err := j.row(ctx, modelID, requestID)
	if err != nil {
		return llmqueue.Response[T]{}, err
	}
	return j.response(row, env), nil
}

// Cancel ends a request as canceled, wherever it is: one that waits in the store or in a line
// at once; of one that runs the processor's context is canceled. Another process learns of it
// by a notification. Canceling a request that has ended does nothing. An id that the store does
// not know is ErrRequestNotFound.
func (j *Jobs[P, T]) Cancel(ctx context.Context, modelID, requestID string) error {
	row, _, err := j.row(ctx, modelID, requestID)
	if err != nil {
		return err
	}
	return j.cancel(ctx, row.ID)
}

func (j *Jobs[P, T]) cancel(ctx context.Context, jobID int64) error {
	row, err := j.client.JobCancel(ctx, jobID)
	if errors.Is(err, rivertype.ErrNotFound) {
		return nil // it ended, and was deleted
	}
	if err != nil {
		return fmt.Errorf("llmriver: canceling a job: %w", err)
	}
	if row.FinalizedAt != nil {
		env := new(envelope)
		_ = env.UnmarshalJSON(row.EncodedArgs)
		j.deliver(waitKey{env.Model, env.ID, env.Chosen}, j.response(row, env))
		return nil
	}
	j.mu.Lock()
	h := j.held[jobID]
	j.mu.Unlock()
	if h != nil {
		h.cancel(rivertype.ErrJobCancelledRemotely)
	}
	return nil
}

// response is what a row says, and what this process knows of it.
func (j *Jobs[P, T]) response(row *rivertype.JobRow, env *envelope) llmqueue.Response[T] {
	resp := pending[T](row, *env)
	id := resp.RequestID
	switch {
	case row.FinalizedAt != nil:
		resp = ended[T](row, env)
	case row.State == rivertype.JobStateRunning:
		resp.Status = llmqueue.StatusProcessing
		if j.manager == nil {
			return resp
		}
		j.mu.Lock()
		h := j.held[row.ID]
		j.mu.Unlock()
		if h == nil {
			return resp
		}
		resp.Status = llmqueue.StatusPending
		if now, err := j.manager.Status(env.Model, h.requestID()); err == nil && !now.Status.Final() {
			now.RequestID, now.Metadata, now.CreatedAt = id, resp.Metadata, resp.CreatedAt
			resp = now
		}
	}
	return resp
}

// ended is the response of a job that has ended.
func ended[T any](row *rivertype.JobRow, env *envelope) llmqueue.Response[T] {
	resp := pending[T](row, *env)
	fill := func(status llmqueue.Status, err error) llmqueue.Response[T] {
		resp.Status, resp.Err, resp.FinishedAt = status, err, *row.FinalizedAt
		return resp
	}
	var metadata struct {
		Output json.RawMessage `json:"output"`
	}
	if err := json.Unmarshal(row.Metadata, &metadata); err != nil || metadata.Output == nil {
		if row.State == rivertype.JobStateCancelled {
			return fill(llmqueue.StatusCanceled, errCanceled())
		}
		return fill(llmqueue.StatusFailed, fmt.Errorf("llmriver: River ended the job as %s, with no result of this package", row.State))
	}
	stored, err := unpack(metadata.Output)
	if err != nil {
		return fill(llmqueue.StatusFailed, fmt.Errorf("%w: the stored response cannot be read: %w", llmqueue.ErrInvalidResult, err))
	}
	var r llmqueue.Response[T]
	if err := json.Unmarshal(stored, &r); err != nil {
		return fill(llmqueue.StatusFailed, fmt.Errorf("%w: the stored result cannot be decoded into %T: %w", llmqueue.ErrInvalidResult, r.Result, err))
	}
	r.Metadata = env.Metadata
	return r
}

func errCanceled() error { return fmt.Errorf("%w: by Cancel", llmqueue.ErrCanceled) }

// pollWaits looks at the rows of jobs that are waited for and that may end elsewhere.
func (j *Jobs[P, T]) pollWaits() {
	const least, most = 25 * time.Millisecond, time.Second
	first := least
	if j.manager != nil {
		first = most // most end here
	}
	pause := first
	timer := time.NewTimer(pause)
	defer timer.Stop()
	armed := true
	for {
		select {
		case <-j.life.Done():
			return
		case <-j.polls: // someone begins to wait
			pause = first
			if !armed {
				timer.Reset(pause)
				armed = true
			}
			continue
		case <-timer.C:
		}
		found, left := j.pollOnce()
		if pause = min(2*pause, most); found {
			pause = first
		}
		if armed = left; armed {
			timer.Reset(pause)
		}
	}
}

// pollOnce answers who waits for a job that has ended elsewhere, or is gone.
func (j *Jobs[P, T]) pollOnce() (found, left bool) {
	keys := make(map[int64]waitKey)
	j.mu.Lock()
	for key, all := range j.waits {
		for w := range all {
			if w.jobID != 0 && j.held[w.jobID] == nil {
				keys[w.jobID] = key
			}
			left = true
		}
	}
	j.mu.Unlock()
	if len(keys) == 0 {
		return false, left
	}
	ids := make([]int64, 0, len(keys))
	for id := range keys {
		ids = append(ids, id)
	}
	ctx, cancel := context.WithTimeout(j.life, statementTime)
	defer cancel()
	ends, err := j.database.ended(ctx, j.database.db, ids)
	if err != nil {
		return false, true
	}
	for id, key := range keys {
		final, there := ends[id]
		if there && !final {
			continue
		}
		found = true
		row, env, err := j.rowOf(ctx, id)
		switch {
		case err != nil:
		case row == nil:
			err := notFound(key.model, key.id)
			j.deliver(key, llmqueue.Response[T]{ModelID: key.model, Status: llmqueue.StatusFailed, Err: err})
		case row.FinalizedAt != nil:
			j.deliver(key, j.response(row, env))
		}
	}
	return found, left
}

package llmriver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/llmqueue/llmqueue"
)

// SubmitOption changes one Submit.
type SubmitOption struct{ unique bool }

// Unique refuses a request when there is one with the same model, tenant and params already,
// waiting, running or ended and not deleted yet (see WithRetention): the error is
// llmqueue.ErrDuplicateRequest and names it. Such a request gets its id from its content; the
// ID must be empty.
func Unique() SubmitOption { return SubmitOption{unique: true} }

// Submit stores a request; it is durable from then on. With NoWait it returns with
// StatusPending, otherwise it waits for the end, like Manager.Submit, and returns its final
// response. An id that the caller chose is refused with ErrDuplicateRequest for as long as
// the store knows a job of the model with it.
//
// Before it stores, it refuses what the model's queue refuses for its params or size. Whether
// the deadline or an exhausted quota allow it is found out when its turn comes. MaxWait counts
// from Submit.
//
// When ctx ends while it waits, the job is canceled, like a request of Manager.Submit. When
// ctx ends, or the database fails, while the job is being stored, it may or may not have been
// stored; submit again with the same ID to be sure.
func (j *Jobs[P, T]) Submit(ctx context.Context, req llmqueue.Request[P], opts ...SubmitOption) (llmqueue.Response[T], error) {
	var none llmqueue.Response[T]
	env, err := j.prepare(ctx, &req, opts)
	if err != nil {
		return none, err
	}
	key := waitKey{req.ModelID, env.ID, env.Chosen}
	var w *wait[T]
	if !req.NoWait {
		w = j.await(key) // before it is stored: it may end at once
		defer j.forget(key, w)
	}
	in := &insert{env: env, opts: insertOpts(env), done: make(chan struct{})}
	j.inserts.add(in)
	select {
	case <-in.done:
	case <-ctx.Done():
		return none, fmt.Errorf("%w: %w: while the job was being stored", llmqueue.ErrCanceled, context.Cause(ctx))
	}
	if in.err != nil {
		return none, in.err
	}
	if w == nil {
		return pending[T](in.row, env), nil
	}
	resp, err := j.waitFor(ctx, w, in.row.ID)
	if err != nil && ctx.Err() != nil && !resp.Status.Final() {
		// Whoever asked has gone; the job goes too, as far as it can be reached.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementTime)
		defer cancel()
		err = fmt.Errorf("%w: %w", llmqueue.ErrCanceled, err)
		if cerr := j.cancel(ctx, in.row.ID); cerr != nil {
			err = errors.Join(err, cerr)
		}
		resp = pending[T](in.row, env)
		resp.Status, resp.Err, resp.FinishedAt = llmqueue.StatusCanceled, err, time.Now()
	}
	return resp, err
}

// SubmitTx stores a request in a transaction of the caller's on the same database: it is
// there when tx commits, and never was when tx does not. It returns StatusPending; Wait
// for it after the commit. The request's NoWait says nothing here. On SQLite the transaction
// must come from DB, and nothing else goes on until it ends.
func (j *Jobs[P, T]) SubmitTx(ctx context.Context, tx *sql.Tx, req llmqueue.Request[P], opts ...SubmitOption) (llmqueue.Response[T], error) {
	var none llmqueue.Response[T]
	env, err := j.prepare(ctx, &req, opts)
	if err != nil {
		return none, err
	}
	in := insert{env: env}
	res, err := j.client.InsertTx(ctx, tx, env, insertOpts(env))
	if in.take(j.database, res, err); in.err != nil {
		return none, in.err
	}
	return pending[T](in.row, env), nil
}

// prepare checks a request and makes its envelope.
func (j *Jobs[P, T]) prepare(ctx context.Context, req *llmqueue.Request[P], opts []SubmitOption) (envelope, error) {
	j.mu.Lock()
	closing := j.closing
	j.mu.Unlock()
	switch {
	case closing:
		return envelope{}, errClosed()
	case ctx.Err() != nil:
		return envelope{}, fmt.Errorf("%w: %w", llmqueue.ErrCanceled, context.Cause(ctx))
	case req.ModelID == "":
		return envelope{}, fmt.Errorf("%w: the request names no model, set ModelID", llmqueue.ErrModelNotRegistered)
	case req.MaxWait < 0:
		return envelope{}, fmt.Errorf("%w: Request.MaxWait is %v, give 0 (no bound) or more", llmqueue.ErrInvalidParams, req.MaxWait)
	}
	if j.manager != nil {
		q, ok := j.manager.Queue(req.ModelID)
		if !ok {
			return envelope{}, fmt.Errorf("%w: %q, Register it first", llmqueue.ErrModelNotRegistered, req.ModelID)
		}
		if err := j.Serve(req.ModelID); err != nil {
			return envelope{}, err
		}
		asked := *req
		asked.ID, asked.MaxWait, asked.NoWait = "", 0, true
		_, err := q.Forecast(ctx, asked)
		if errors.Is(err, llmqueue.ErrInvalidParams) || errors.Is(err, llmqueue.ErrRequestTooLarge) {
			return envelope{}, err
		}
	}
	env, err := newEnvelope(*req)
	if err != nil {
		return envelope{}, err
	}
	for _, o := range opts {
		if o.unique && req.ID != "" {
			return envelope{}, fmt.Errorf("%w: Unique makes the id, leave ID %q out", llmqueue.ErrInvalidParams, req.ID)
		}
		if o.unique {
			env.ID, env.Chosen = contentID(&env), true
		}
	}
	return env, nil
}

func insertOpts(env envelope) *river.InsertOpts {
	opts := &river.InsertOpts{Queue: queueName(env.Model), Priority: riverPriority(env.Priority)}
	if env.Chosen {
		opts.UniqueOpts = river.UniqueOpts{ByArgs: true, ByState: rivertype.JobStates()}
	}
	return opts
}

// insert is a job on its way into the store.
type insert struct {
	env  envelope
	opts *river.InsertOpts
	row  *rivertype.JobRow
	err  error
	done chan struct{} // closed when row or err is set
}

// take keeps the result of storing the job.
func (in *insert) take(d *database, res *rivertype.JobInsertResult, err error) {
	switch {
	case err != nil && d.refused(err):
		in.err = fmt.Errorf("%w: the database cannot store them: %w", llmqueue.ErrInvalidParams, err)
	case err != nil:
		in.err = fmt.Errorf("llmriver: storing the job: %w", err)
	case res.UniqueSkippedAsDuplicate:
		in.err = fmt.Errorf("%w: model %q already has a job %q, wait for that one, or use another id", llmqueue.ErrDuplicateRequest, in.env.Model, in.env.ID)
	default:
		in.row = res.Job
	}
}

// insertAll stores jobs in one transaction, or, when one of them is refused, each in its own.
func (j *Jobs[P, T]) insertAll(ins []*insert) {
	params := make([]river.InsertManyParams, len(ins))
	for i, in := range ins {
		params[i] = river.InsertManyParams{Args: in.env, InsertOpts: in.opts}
	}
	ctx, cancel := context.WithTimeout(j.life, 3*statementTime)
	defer cancel()
	res, err := j.client.InsertMany(ctx, params)
	switch {
	case err == nil:
		for i, in := range ins {
			in.take(j.database, res[i], nil)
			close(in.done)
		}
	case len(ins) == 1 || !j.database.refused(err):
		for _, in := range ins {
			in.take(j.database, nil, err)
			close(in.done)
		}
	default:
		for _, in := range ins {
			j.insertAll([]*insert{in})
		}
	}
}

// pending is the response for a job that was just stored.
func pending[T any](row *rivertype.JobRow, env envelope) llmqueue.Response[T] {
	return llmqueue.Response[T]{
		RequestID: env.requestID(row.ID), ModelID: env.Model, Status: llmqueue.StatusPending,
		Metadata: env.Metadata, CreatedAt: row.CreatedAt,
	}
}

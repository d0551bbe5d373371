package llmriver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/llmqueue/llmqueue"
)

// worker is River's side of Jobs.
type worker[P, T any] struct {
	river.WorkerDefaults[envelope]
	jobs *Jobs[P, T]
}

func (w *worker[P, T]) Work(ctx context.Context, job *river.Job[envelope]) error {
	return w.jobs.work(ctx, job)
}

// hold is a job that this process has fetched and not given up yet.
type hold struct {
	queue  string // the model
	cancel context.CancelCauseFunc
	id     atomic.Value // string, what the manager's queue calls the request
	done   chan struct{}
}

func (h *hold) requestID() string { id, _ := h.id.Load().(string); return id }

// errHandBack ends what this process does with a job that goes back to the store.
var errHandBack = errors.New("llmriver: handed back to the store")

// work runs a fetched job through the manager's queue. It returns stored when the job's
// end is in the table, and otherwise a snooze, which gives the job back and costs no attempt.
func (j *Jobs[P, T]) work(ctx context.Context, job *river.Job[envelope]) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	h := &hold{queue: job.Args.Model, cancel: cancel, done: make(chan struct{})}
	turn := j.order.take(job.ID)
	j.mu.Lock()
	other := j.held[job.ID]
	closing := j.closing
	if other == nil && !closing {
		j.held[job.ID] = h
	}
	j.mu.Unlock()
	switch {
	case closing:
		turn.entered()
		return j.handBack(job.ID)
	case other != nil:
		// This process lost its lease and got its own job again. The first run counts.
		turn.entered()
		<-other.done
		return river.JobSnooze(0)
	}
	defer func() {
		j.mu.Lock()
		delete(j.held, job.ID)
		j.mu.Unlock()
		close(h.done)
	}()
	resp, wait, back := j.run(ctx, h, turn, job)
	switch {
	case back && wait == 0:
		return j.handBack(job.ID)
	case back:
		return river.JobSnooze(wait)
	}
	if !j.finish(job, resp) {
		return j.handBack(job.ID)
	}
	return stored{}
}

// stored is what Work returns for a job whose end is in the table: River asks an error with
// these methods which jobs it has to write, and there are none. Returning nil would be right
// too, but then River writes each job once more, which on SQLite takes most of the time. A
// River that does not ask takes it for a failure and leaves a job that has ended as it is.
type stored struct{}

func (stored) Error() string               { return "llmriver: the job's end is stored" }
func (stored) ErrorsByID() map[int64]error { return nil }
func (stored) Jobs() []*rivertype.JobRow   { return nil }

func (j *Jobs[P, T]) handBack(jobID int64) error {
	j.mu.Lock()
	j.returned = append(j.returned, jobID)
	j.mu.Unlock()
	return river.JobSnooze(0)
}

// run gives the request to its queue and waits. back says that the job is to be handed
// back, for wait at least.
func (j *Jobs[P, T]) run(ctx context.Context, h *hold, turn *turn, job *river.Job[envelope]) (resp llmqueue.Response[T], wait time.Duration, back bool) {
	defer turn.leave()
	env := &job.Args
	id := env.requestID(job.ID)
	fail := func(err error) (llmqueue.Response[T], time.Duration, bool) {
		now := time.Now()
		return llmqueue.Response[T]{
			RequestID: id, ModelID: env.Model, Status: llmqueue.StatusFailed, Err: err, CreatedAt: job.CreatedAt, FinishedAt: now,
		}, 0, false
	}
	if env.bad != nil {
		return fail(fmt.Errorf("%w: the stored job cannot be decoded: %w", llmqueue.ErrInvalidParams, env.bad))
	}
	req, err := request[P](env, id)
	if err != nil {
		return fail(err)
	}
	if req.MaxWait > 0 {
		if req.MaxWait -= time.Since(job.CreatedAt); req.MaxWait <= 0 {
			return fail(fmt.Errorf("%w: %v passed before it reached the head of the store", llmqueue.ErrQueueTimeout, env.MaxWait))
		}
	}
	q, ok := j.manager.Queue(env.Model)
	if !ok {
		return resp, unservedWait, true
	}
	ctx = context.WithValue(ctx, keyOfJob{}, id)
	turn.wait(ctx)
	for n := 2; ; n++ {
		h.id.Store(req.ID)
		resp, err = q.Submit(entering{ctx, turn}, req)
		if !errors.Is(err, llmqueue.ErrDuplicateRequest) || resp.Status != "" {
			break
		}
		// The queue remembers an earlier run of this job in this process.
		req.ID = id + "#" + strconv.Itoa(n)
	}
	switch {
	case err == nil:
	case errors.Is(context.Cause(ctx), rivertype.ErrJobCancelledRemotely):
		if resp.Status == "" {
			resp, _, _ = fail(nil)
		}
		resp.Status, resp.Err = llmqueue.StatusCanceled, errCanceled()
	case ctx.Err() != nil || errors.Is(err, errHandBack):
		return resp, 0, true
	case errors.Is(err, llmqueue.ErrQueueClosed) && q.Info().Closed, errors.Is(err, llmqueue.ErrQueueFull) && resp.Status == "":
		return resp, unservedWait, true
	case resp.Status == "": // refused
		return fail(err)
	}
	resp.RequestID, resp.CreatedAt = id, job.CreatedAt
	return resp, 0, false
}

// unservedWait is how long a job stays away that its queue cannot take now.
const unservedWait = time.Second

// ending is the end of a job on its way into the store.
type ending struct {
	jobID   int64
	state   string
	output  []byte
	failure *string // River's record of an error, for its web interface
	written bool    // false: the job had ended already
	lost    bool    // it could not be stored
	done    chan struct{}
}

// finish stores the end of a job and then tells who waits. Nobody sees an end that a crash
// could undo. It reports false when the end could not be stored before this process ended.
func (j *Jobs[P, T]) finish(job *river.Job[envelope], resp llmqueue.Response[T]) bool {
	e := j.newEnding(job, &resp)
	j.ends.add(e)
	<-e.done
	if e.lost {
		return false
	}
	key := waitKey{job.Args.Model, job.Args.ID, job.Args.Chosen}
	if e.written {
		resp.Metadata = job.Args.Metadata
		j.deliver(key, resp)
		return true
	}
	// Another process had it too, and was first: what is stored counts. Who waits finds it
	// there.
	return true
}

func (j *Jobs[P, T]) newEnding(job *river.Job[envelope], resp *llmqueue.Response[T]) *ending {
	e := &ending{jobID: job.ID, done: make(chan struct{})}
	resp.Metadata = nil // it stands in the args
	output, err := json.Marshal(*resp)
	if err != nil {
		resp.Status = llmqueue.StatusFailed
		resp.Err = fmt.Errorf("%w: the result does not go into JSON: %w", llmqueue.ErrInvalidResult, err)
		var none T
		resp.Result = none
		output, _ = json.Marshal(*resp)
	}
	e.output = pack(output)
	switch resp.Status {
	case llmqueue.StatusCompleted:
		e.state = string(rivertype.JobStateCompleted)
	case llmqueue.StatusFailed:
		e.state = string(rivertype.JobStateDiscarded)
	default:
		e.state = string(rivertype.JobStateCancelled)
	}
	if resp.Err != nil {
		e.failure = attemptError(job, resp.Err.Error())
	}
	return e
}

func attemptError(job *river.Job[envelope], text string) *string {
	b, err := json.Marshal(rivertype.AttemptError{At: time.Now().UTC(), Attempt: job.Attempt, Error: text})
	if err != nil || unstorable.Match(b) {
		return nil // the response has it
	}
	s := string(b)
	return &s
}

// endAll stores ends in one transaction, and tries again for as long as the database is
// away: the answers are paid for. When the database refuses one of them for its content,
// each is stored alone.
func (j *Jobs[P, T]) endAll(ends []*ending) {
	pause := 10 * time.Millisecond
	for {
		ctx, cancel := context.WithTimeout(j.life, statementTime)
		written, err := j.database.finish(ctx, j.database.db, ends)
		cancel()
		switch {
		case err == nil:
			for _, e := range ends {
				e.written = written[e.jobID]
				close(e.done)
			}
			return
		case j.life.Err() != nil:
			for _, e := range ends {
				e.lost = true
				close(e.done)
			}
			return
		case j.database.refused(err) && len(ends) > 1:
			for _, e := range ends {
				j.endAll([]*ending{e})
			}
			return
		case j.database.refused(err):
			ends[0].refuse(err)
			continue
		}
		j.settings.logger.Warn("llmriver: the database does not take the ends of jobs, trying again",
			slog.Int("jobs", len(ends)), slog.String("error", err.Error()))
		select {
		case <-time.After(pause):
		case <-j.life.Done():
		}
		pause = min(2*pause, time.Second)
	}
}

// refuse replaces an output that cannot be stored by an error that can.
func (e *ending) refuse(err error) {
	var none llmqueue.Response[struct{}]
	_ = json.Unmarshal(e.output, &none)
	none.Status, none.Err = llmqueue.StatusFailed, fmt.Errorf("%w: the database cannot store it: %w", llmqueue.ErrInvalidResult, err)
	output, merr := json.Marshal(none)
	if merr != nil {
		output = []byte("{}")
	}
	e.state, e.output, e.failure = string(rivertype.JobStateDiscarded), output, nil
}

package llmriver

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"sync"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"
)

// order brings fetched jobs into their queue one after the other, as they stood in the store:
// River starts each on a goroutine of its own, so that they come in any order. It hears of
// every fetch from the driver, and each job then waits until the one before it has entered.
type order struct {
	// mu guards the rest.
	mu    sync.Mutex
	turns map[int64]*turn  // of jobs that were fetched and are not here yet
	last  map[string]*turn // by River queue
}

// turn is a fetched job's place on the way into the queue.
type turn struct {
	before *turn // nil: it is the first
	enter  sync.Once
	done   chan struct{} // closed when it has entered, or will not
}

// entered says that the next may go.
func (t *turn) entered() { t.enter.Do(func() { close(t.done) }) }

// leave is entered for a job that may not have waited for its turn.
func (t *turn) leave() {
	t.before = nil // else a row of such jobs would hold on to each other
	t.entered()
}

// missing is how long a job waits for one before it that River fetched and does not start.
const missing = time.Second

// wait returns when the job before has entered.
func (t *turn) wait(ctx context.Context) {
	before := t.before
	if t.before = nil; before == nil {
		return
	}
	select {
	case <-before.done:
		return
	default:
	}
	late := time.NewTimer(missing)
	defer late.Stop()
	select {
	case <-before.done:
	case <-late.C:
	case <-ctx.Done():
	}
}

// fetched lines up what a fetch brought, before River starts any of it.
func (o *order) fetched(queue string, jobs []*rivertype.JobRow) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, job := range jobs {
		t := &turn{before: o.last[queue], done: make(chan struct{})}
		o.turns[job.ID], o.last[queue] = t, t
	}
}

// take is the turn of a job that River has started.
func (o *order) take(jobID int64) *turn {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.turns[jobID]
	if t == nil {
		return &turn{done: make(chan struct{})}
	}
	delete(o.turns, jobID)
	return t
}

// listening is a driver that tells an order of each fetch.
type listening struct {
	riverdriver.Driver[*sql.Tx]
	order *order
}

func (d listening) GetExecutor() riverdriver.Executor {
	return listeningExecutor{d.Driver.GetExecutor(), d.order}
}

type listeningExecutor struct {
	riverdriver.Executor
	order *order
}

func (e listeningExecutor) JobGetAvailable(ctx context.Context, params *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	result, err := e.Executor.JobGetAvailable(ctx, params)
	if err != nil {
		return result, err
	}
	jobs := make([]*rivertype.JobRow, 0, len(result.Jobs))
	for _, job := range result.Jobs {
		if result.DecodeErrors[job.ID] == nil { // else River fails it and starts nothing
			jobs = append(jobs, job)
		}
	}
	slices.SortFunc(jobs, func(a, b *rivertype.JobRow) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), a.ScheduledAt.Compare(b.ScheduledAt), cmp.Compare(a.ID, b.ID))
	})
	e.order.fetched(params.Queue, jobs)
	return result, nil
}

// entering is a context that tells when a queue's Submit has taken the request: it listens
// for the end of the context from then on, and not before.
type entering struct {
	context.Context
	turn *turn
}

func (e entering) Done() <-chan struct{} {
	e.turn.entered()
	return e.Context.Done()
}

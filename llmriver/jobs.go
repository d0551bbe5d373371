package llmriver

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/llmqueue/llmqueue"
)

// Jobs are the durable requests of a manager: see Open. End it with Shutdown. Safe for
// concurrent use.
type Jobs[P, T any] struct {
	manager  *llmqueue.Manager[P, T] // nil: this process only submits
	settings settings
	name     string // of this process, among others on the database
	database *database
	client   *river.Client[*sql.Tx]
	inserts  group[*insert]
	ends     group[*ending]
	log      *slog.Logger // River's
	trouble  atomic.Int64 // ns since 1970, when River last met an error; 0 when it did not
	order    order
	life     context.Context // of goroutines, until Shutdown has ended
	die      context.CancelFunc
	crew     sync.WaitGroup
	ended    chan struct{} // Shutdown is through
	err      error         // its result, once ended is closed

	// mu guards the rest; nothing that blocks happens under it.
	mu       sync.Mutex
	closing  bool
	served   map[string]bool
	held     map[int64]*hold
	waits    map[waitKey]map[*wait[T]]struct{}
	returned []int64 // handed back by Shutdown
	polls    chan struct{}
}

// Open opens the store and works its jobs with the manager's queues, until Shutdown. The
// models must be registered before, or be added with Serve.
//
// Of each model this process holds at most slots + WithAhead jobs at a time: those that
// run, those in the manager's line, and those on their way there. slots is the queue's
// concurrent limit (256 when it has none), or twice its smallest limit on requests if that is
// less, summed over endpoints, as they are when the model is added. All other jobs stay in
// the store for whoever has room.
//
// The manager stays the caller's: shut it down after Jobs.
func Open[P, T any](ctx context.Context, store Store, manager *llmqueue.Manager[P, T], opts ...Option) (*Jobs[P, T], error) {
	if manager == nil {
		return nil, invalid("Open got no manager, use SubmitOnly for a process that works no jobs")
	}
	return open(ctx, store, manager, opts)
}

// SubmitOnly opens the store for a process that hands jobs in, waits for them, cancels and
// looks them up, but works none: a web server beside worker processes, on PostgreSQL. A
// model's limits are not known there, so that a request that can never fit is accepted and
// fails when a worker gets it.
func SubmitOnly[P, T any](ctx context.Context, store Store, opts ...Option) (*Jobs[P, T], error) {
	return open[P, T](ctx, store, nil, opts)
}

func open[P, T any](ctx context.Context, store Store, manager *llmqueue.Manager[P, T], opts []Option) (*Jobs[P, T], error) {
	s, err := newSettings(opts)
	if err != nil {
		return nil, err
	}
	if store.open == nil {
		return nil, invalid("the zero Store, use SQLite, Postgres or PostgresPool")
	}
	j := &Jobs[P, T]{
		manager: manager, settings: s, name: processName(), ended: make(chan struct{}),
		served: make(map[string]bool), held: make(map[int64]*hold), order: order{turns: make(map[int64]*turn), last: make(map[string]*turn)},
		waits: make(map[waitKey]map[*wait[T]]struct{}), polls: make(chan struct{}, 1),
	}
	j.inserts = group[*insert]{write: j.insertAll, most: 500}
	j.ends = group[*ending]{write: j.endAll, most: 500}
	j.log = slog.New(riverLog{s.logger.Handler(), &j.trouble})
	config := &river.Config{
		ID: j.name, Logger: j.log,
		MaxAttempts:                 math.MaxInt16, // retries are the queue's, and a crash is no failure
		JobTimeout:                  -1,            // a job may wait in line for long
		CompletedJobRetentionPeriod: s.retention,
		CancelledJobRetentionPeriod: s.retention,
		DiscardedJobRetentionPeriod: s.retention,
		FetchCooldown:               river.FetchCooldownMin, // also between two notifications of new jobs
		FetchPollInterval:           s.poll,
	}
	if manager != nil {
		config.Queues = make(map[string]river.QueueConfig)
		config.Workers = river.NewWorkers()
		river.AddWorker(config.Workers, &worker[P, T]{jobs: j})
		for _, model := range manager.Models() {
			if q, ok := manager.Queue(model); ok {
				config.Queues[queueName(model)] = j.queueConfig(q)
				j.served[model] = true
			}
		}
		if len(config.Queues) == 0 {
			return nil, fmt.Errorf("%w: the manager has no model, Register before Open", llmqueue.ErrModelNotRegistered)
		}
	}
	if j.database, err = store.open(ctx); err != nil {
		return nil, err
	}
	j.life, j.die = context.WithCancel(context.WithoutCancel(ctx))
	if err := j.start(ctx, config); err != nil {
		j.die()
		j.crew.Wait()
		j.database.close()
		return nil, err
	}
	return j, nil
}

// start does what needs the database.
func (j *Jobs[P, T]) start(ctx context.Context, config *river.Config) error {
	if err := j.database.migrate(ctx, j.log, j.settings.checkOnly); err != nil {
		return err
	}
	var err error
	if j.client, err = river.NewClient(listening{j.database.driver, &j.order}, config); err != nil {
		return fmt.Errorf("llmriver: %w", err)
	}
	j.crew.Go(j.pollWaits)
	if j.manager == nil {
		return nil
	}
	freed, err := j.database.adopt(ctx, j.database.db, j.name, j.settings.lease.Seconds())
	if err != nil {
		return fmt.Errorf("llmriver: taking over the jobs of processes that died: %w", err)
	}
	if freed > 0 {
		j.settings.logger.Warn("llmriver: jobs of a process that died start again", slog.Int64("jobs", freed))
	}
	if j.database.leases() {
		j.crew.Go(j.signalLife)
	}
	// Not ctx: River would stop when it ends.
	if err := j.client.Start(context.WithoutCancel(ctx)); err != nil {
		_ = j.database.leave(ctx, j.database.db, j.name)
		return fmt.Errorf("llmriver: %w", err)
	}
	return nil
}

// Serve adds a model that was registered with the manager after Open.
func (j *Jobs[P, T]) Serve(modelID string) error {
	if j.manager == nil {
		return invalid("Serve on a process that only submits")
	}
	q, ok := j.manager.Queue(modelID)
	if !ok {
		return fmt.Errorf("%w: %q, Register it first", llmqueue.ErrModelNotRegistered, modelID)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closing {
		return errClosed()
	}
	if j.served[modelID] {
		return nil
	}
	j.served[modelID] = true
	if err := j.client.Queues().Add(queueName(modelID), j.queueConfig(q)); err != nil {
		delete(j.served, modelID)
		return fmt.Errorf("llmriver: %w", err)
	}
	return nil
}

// fetchCooldown is the least time between two fetches of a model.
const fetchCooldown = 10 * time.Millisecond

func (j *Jobs[P, T]) queueConfig(q *llmqueue.Queue[P, T]) river.QueueConfig {
	return river.QueueConfig{FetchCooldown: fetchCooldown, MaxWorkers: min(slots(q.Info())+j.settings.ahead, river.QueueNumWorkersMax)}
}

// defaultSlots is how many processors a queue without a concurrent limit runs.
const defaultSlots = 256

// slots is how many requests of a queue its limits may let run at once. Those of a limit on
// requests may take as long as its period, so that two periods' worth can be under way.
func slots(info llmqueue.QueueInfo) int {
	total := int64(0)
	for _, e := range info.Endpoints {
		concurrent, requests := int64(defaultSlots), int64(math.MaxInt64)
		for _, l := range append(e.Limits, e.Shared...) {
			switch l.Limit.Kind {
			case llmqueue.KindConcurrent:
				concurrent = l.Limit.Amount
			case llmqueue.KindRPM, llmqueue.KindRPD:
				requests = min(requests, 2*l.Limit.Amount)
			}
		}
		total += min(concurrent, requests, river.QueueNumWorkersMax)
	}
	return int(min(max(total, 1), river.QueueNumWorkersMax))
}

// DB is the store's database, for transactions to give to SubmitTx. Shutdown closes it,
// except for a PostgresPool.
func (j *Jobs[P, T]) DB() *sql.DB { return j.database.db }

// River is the client behind the jobs, for River's own web interface and tools. Starting,
// stopping and changing its queues is the business of Jobs.
func (j *Jobs[P, T]) River() *river.Client[*sql.Tx] { return j.client }

func errClosed() error {
	return fmt.Errorf("%w: llmriver was shut down, Open again", llmqueue.ErrQueueClosed)
}

// processName is different for every Open.
func processName() string {
	host, _ := os.Hostname()
	host = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, host)
	if len(host) > 40 {
		host = host[:40]
	}
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), strings.ToLower(rand.Text()[:10]))
}

// notFound is the error for an id without a job.
func notFound(modelID, requestID string) error {
	return fmt.Errorf("%w: model %q has no job %q: never accepted, or ended and deleted (see WithRetention)",
		llmqueue.ErrRequestNotFound, modelID, requestID)
}

// row finds the job of a request.
func (j *Jobs[P, T]) row(ctx context.Context, modelID, requestID string) (*rivertype.JobRow, *envelope, error) {
	if modelID == "" {
		return nil, nil, fmt.Errorf("%w: name the model", llmqueue.ErrModelNotRegistered)
	}
	queue := queueName(modelID)
	if key, jobID, ok := assignedID(requestID); ok {
		row, env, err := j.rowOf(ctx, jobID)
		if err != nil || row != nil && row.Queue == queue && !env.Chosen && env.ID == key {
			return row, env, err
		}
	}
	jobID, err := j.database.find(ctx, j.database.db, queue, requestID)
	if err != nil {
		return nil, nil, j.lookupError(err)
	}
	if jobID != 0 {
		row, env, err := j.rowOf(ctx, jobID)
		if err != nil || row != nil {
			return row, env, err
		}
	}
	return nil, nil, notFound(modelID, requestID)
}

func (j *Jobs[P, T]) lookupError(err error) error {
	if j.life.Err() != nil {
		return errClosed()
	}
	return fmt.Errorf("llmriver: looking up a job: %w", err)
}

// rowOf is the job with that number, nil when there is none or its time is over.
func (j *Jobs[P, T]) rowOf(ctx context.Context, jobID int64) (*rivertype.JobRow, *envelope, error) {
	row, err := j.client.JobGet(ctx, jobID)
	switch {
	case errors.Is(err, rivertype.ErrNotFound):
		return nil, nil, nil
	case err != nil:
		return nil, nil, j.lookupError(err)
	case row.Kind != kind || row.FinalizedAt != nil && time.Since(*row.FinalizedAt) > j.settings.retention:
		return nil, nil, nil
	}
	env := new(envelope)
	_ = env.UnmarshalJSON(row.EncodedArgs)
	return row, env, nil
}

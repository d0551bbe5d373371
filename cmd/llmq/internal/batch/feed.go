package batch

import (
	"errors"
	"strconv"
	"sync"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/journal"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
)

// flight is the requests that were read and have no answer yet, by the ids that the
// queues know them by. It bounds their bytes.
type flight struct {
	mu      sync.Mutex
	room    sync.Cond
	items   map[string]*item
	bytes   int64
	stopped bool
}

// maxFlight is that bound. One request that is larger is read when there is no other.
const maxFlight = 16 << 20

func (f *flight) init() {
	f.room.L = &f.mu
	f.items = map[string]*item{}
}

// take waits for room and takes it up; false when the run stops.
func (f *flight) take(id string, it *item) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := it.Size()
	for f.bytes > 0 && f.bytes+n > maxFlight && !f.stopped {
		f.room.Wait()
	}
	f.bytes += n
	f.items[id] = it
	return !f.stopped
}

// of is what take took.
func (f *flight) of(id string) *item {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.items[id]
}

// land gives up what take took.
func (f *flight) land(id string) *item {
	f.mu.Lock()
	defer f.mu.Unlock()
	it := f.items[id]
	delete(f.items, id)
	f.bytes -= it.Size()
	f.room.Signal()
	return it
}

func (f *flight) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	f.room.Signal()
}

// feed gives the requests that are to run. It makes the queue of a model when it meets
// the first of its requests.
func (r *run) feed(yield func(llmqueue.Request[*item]) bool) {
	err := r.read(func(req *requests.Request) bool {
		state, err := r.look(req)
		if err != nil {
			r.stopWith(err)
			return false
		}
		switch runs, err := r.runs(req, state); {
		case err != nil:
			r.stopWith(err)
			return false
		case !runs:
			return true
		}
		if r.fromCache(req) {
			return r.stopping.Load() == nil
		}
		if err := r.register(req.Model); err != nil {
			r.stopWith(fail(BadInput, err))
			return false
		}
		id, it := strconv.FormatInt(req.Line, 10), &item{Request: req}
		if !r.flight.take(id, it) {
			return false
		}
		return yield(llmqueue.Request[*item]{ID: id, ModelID: req.Model, Params: it, Estimate: r.estimate(req)})
	})
	if err != nil {
		r.stopWith(err)
	}
}

func (r *run) stopWith(err error) {
	e := (*Error)(nil)
	if !errors.As(err, &e) {
		e = &Error{BadInput, err}
	}
	r.stop(e.Reason, e.Err)
}

// look says what the file holds of a request. What comes by standard input is met for
// the first time.
func (r *run) look(req *requests.Request) (results.State, error) {
	if r.known {
		state, err := r.file.Has(req.ID)
		return state, fail(CannotWrite, err)
	}
	state, again, err := r.file.See(req.ID)
	switch {
	case err != nil:
		return state, fail(CannotWrite, err)
	case again:
		return state, r.twice(req)
	}
	r.total.Add(1)
	if runs, _ := r.runs(req, state); !runs {
		r.before.Add(1)
	}
	return state, fail(BadInput, r.money.check(req))
}

// estimate is what a request reserves. One whose answer has no bound is of unknown size:
// the queue takes the mean of those before, unless the provider charges by the bound.
func (r *run) estimate(req *requests.Request) llmqueue.Usage {
	if req.Estimate.OutputTokens == 0 && req.Guess(1).OutputTokens > 0 && !r.Accounting(req.Model).NoRefund {
		return llmqueue.Usage{}
	}
	return req.Estimate
}

// register makes the queue of a model unless there is one.
func (r *run) register(model string) error {
	if _, ok := r.manager.Queue(model); ok {
		return nil
	}
	first := r.endpoints[0]
	opts, limits := r.options(first, model)
	if r.WaitForQuota {
		opts = append(opts, llmqueue.WithWaitForQuota())
	}
	if others := r.fallbacks(model); len(others) > 0 {
		for _, other := range others {
			if err := r.register(other); err != nil {
				return err
			}
		}
		opts = append(opts, llmqueue.WithFallback(others...))
	}
	q, err := r.manager.Register(model, r.processor(first, model), opts...)
	if err == nil {
		err = r.addEndpoints(q, model)
	}
	if err != nil {
		if errors.Is(err, llmqueue.ErrQueueClosed) {
			return nil // the run stops
		}
		return err
	}
	return fail(CannotWrite, r.journal.Limits(model, limits))
}

// observe notes limits that were learned.
func (r *run) observe(e llmqueue.Event) {
	switch e.Type {
	case llmqueue.EventLimitLearned, llmqueue.EventLimitsChanged:
		key := e.ModelID
		if e.Endpoint != "" && e.Endpoint != e.ModelID {
			key += journal.At + e.Endpoint
		}
		if err := r.journal.Limits(key, e.Limits); err != nil {
			r.stop(CannotWrite, err)
		}
	case llmqueue.EventNoLimits:
		r.Notice("%s: the provider states no limits in its answers: give --rpm and --tpm if it has any", e.ModelID)
	}
}

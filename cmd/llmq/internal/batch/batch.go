package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/journal"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
)

// Run runs a batch. A value on interrupts lets what is in flight finish and ends the run,
// a second one ends it at once. The summary is right beside an error, too, which is an *Error.
func Run(ctx context.Context, c Config, interrupts <-chan os.Signal) (Summary, error) {
	r := &run{Config: c, begin: time.Now()}
	r.hard, r.cancel = context.WithCancel(ctx)
	defer r.cancel()
	err := r.open()
	if err == nil {
		if err = r.prepare(interrupts); err == nil {
			byCalls := true
			if r.Via.On {
				byCalls, err = r.viaBatches(interrupts)
			}
			if byCalls && err == nil {
				err = r.work(interrupts)
			}
		}
		err = errors.Join(err, r.close())
	}
	s := r.summary()
	if e := (*Error)(nil); errors.As(err, &e) {
		s.Reason = e.Reason
	}
	return s, err
}

// run is one run.
type run struct {
	Config
	begin   time.Time
	hard    context.Context // ends at the second interrupt
	cancel  context.CancelFunc
	file    *results.File
	journal *journal.Journal
	past    *journal.Past
	caller  *caller.Caller // of the first endpoint
	source  *requests.Source
	manager *llmqueue.Manager[*item, caller.Reply]
	money   *money
	only    *only
	outage  outage

	endpoints []*endpoint
	refusals  refusals

	trial   trial
	flight  flight
	streaks streaks
	batches batches

	total, before atomic.Int64 // requests read, recorded before
	done, failed  atomic.Int64 // of the file
	ran, refused  atomic.Int64
	attempts      atomic.Int64
	reasked       atomic.Int64
	hits          atomic.Int64 // of the cache
	cacheFull     atomic.Bool  // or cannot be written for another reason
	mismatched    atomic.Int64
	input, output atomic.Int64           // tokens of this run
	load          workload               // what is to run of the input, if known
	answered      atomic.Bool            // the provider has served something in this run
	known         bool                   // total is that of the whole input
	lastError     atomic.Pointer[string] // of the latest attempts, while all fail
	stopping      atomic.Pointer[Error]
	stopOnce      sync.Once
	halting       context.Context // ends when the run stops
	halt          context.CancelFunc
	stopped       chan struct{}  // closed once everything is shut down after a stop
	asking        sync.WaitGroup // requests that are asked once more
	recording     sync.Mutex     // of how requests ended
	flushing      sync.Mutex     // while what was recorded is written
}

// item is what a queue carries.
type item struct {
	*requests.Request
	sent *requests.Request // what is asked instead, once more; nil: the request

	reasks   int
	attempts int            // before
	used     llmqueue.Usage // before
}

// asks is what is sent.
func (it *item) asks() *requests.Request {
	if it.sent != nil {
		return it.sent
	}
	return it.Request
}

// fail is an *Error unless err is nil.
func fail(reason Reason, err error) error {
	if err == nil {
		return nil
	}
	return &Error{reason, err}
}

// open opens the output and reads what earlier runs left.
func (r *run) open() (err error) {
	if err := r.openEndpoints(); err != nil {
		return err
	}
	r.money = newMoney(r.Prices, r.Budget, r.AssumedOutput)
	if err := r.checkFallbacks(); err != nil {
		return err
	}
	if sameFile(r.Input, r.Output) {
		return r.overInput()
	}
	r.only = newOnly(r.Only, results.Dir(r.Output))
	var noted error
	r.file, err = results.Open(r.Output, func(rec *results.Record) {
		r.money.spend(rec.Run.Model, rec.Run.Usage(), rec.Run.Share())
		noted = cmp.Or(noted, r.only.note(rec))
	})
	switch {
	case errors.Is(err, results.ErrForeign):
		return fail(BadInput, err)
	case err != nil:
		return fail(CannotWrite, err)
	case noted != nil:
		return errors.Join(fail(CannotWrite, noted), r.file.Close())
	}
	if r.file.Repaired > 0 {
		r.Notice("%s ended in the middle of a line: %d bytes are cut off, that request runs again", r.Output, r.file.Repaired)
	}
	if err := r.openBatches(); err != nil {
		return errors.Join(err, r.file.Close())
	}
	if r.Restart {
		aside, err := r.file.SetAside()
		if err != nil {
			return errors.Join(fail(CannotWrite, fmt.Errorf("cannot put %s aside: %w", r.Output, err)), r.file.Close())
		}
		if aside != "" {
			r.Notice("%s begins anew: what it had is in %s", r.Output, aside)
		}
		r.money = newMoney(r.Prices, r.Budget, r.AssumedOutput)
	}
	r.done.Store(r.file.Done)
	r.failed.Store(r.file.Failed)
	dir := results.Dir(r.Output)
	if r.past, err = journal.Read(dir, time.Now(), journal.Keep, r.charged); err == nil {
		r.journal, err = journal.Open(dir)
	}
	if err != nil {
		return errors.Join(fail(CannotWrite, err), r.file.Close())
	}
	if err := r.openCache(); err != nil {
		return errors.Join(err, r.journal.Close(), r.file.Close())
	}
	r.stopped = make(chan struct{})
	r.flight.init()
	r.streaks = streaks{}
	r.trial.passed = make(chan struct{})
	r.halting, r.halt = context.WithCancel(r.hard)
	r.manager = llmqueue.NewManager[*item, caller.Reply](
		llmqueue.WithHistory(0, 0),
		llmqueue.WithMaxOutstanding(outstanding),
		llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: r.Attempts}),
		llmqueue.WithObserver(r.observe),
	)
	return nil
}

// outstanding is how many requests are read ahead of their answers at most.
const outstanding = 4096

// charged is what an attempt takes of the limits, for WithPriorUsage: what it used, or
// what it reserved when that is not known or the provider gives nothing back.
func (r *run) charged(model string, reserved, used llmqueue.Usage, ended bool) llmqueue.Usage {
	if !ended || r.accountingOf(model).NoRefund && used.Total() <= reserved.Total() {
		return reserved
	}
	return used
}

// prepare reads the input once, if that is possible: everything that is wrong with it is
// known before anything is sent, and what it amounts to.
func (r *run) prepare(interrupts <-chan os.Signal) error {
	if err := r.openInput(interrupts); err != nil || r.Input == "-" {
		return err
	}
	var bad error
	w := newWorkload()
	err := r.read(func(req *requests.Request) bool {
		select {
		case <-interrupts:
			bad = fail(Interrupted, errNothingSent)
			return false
		default:
		}
		state, again, err := r.file.See(req.ID)
		switch {
		case err != nil:
			bad = fail(CannotWrite, err)
		case again:
			bad = r.twice(req)
		default:
			r.total.Add(1)
			var runs bool
			switch runs, bad = r.runs(req, state); {
			case bad != nil:
			case runs:
				bad = fail(BadInput, errors.Join(r.money.check(req), r.checkBatch(req)))
				if _, ok := r.cached(req); ok {
					w.hits++
				} else {
					w.add(req, r.AssumedOutput)
				}
			default:
				r.before.Add(1)
			}
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return err
	}
	r.known, r.load = true, *w
	if r.only != nil && w.requests+w.hits == 0 && r.file.Failed > 0 {
		r.Notice("no failure in %s is %s: there are %s", r.Output, strings.Join(r.Only, " or "), r.only.others())
	}
	if cost := r.money.of(w.usage) * r.Via.share(); r.MaxCost > 0 && cost > r.MaxCost {
		return fail(OverBudget, fmt.Errorf("%d requests may cost up to $%.2f, more than --max-cost %.2f: nothing was sent", w.requests, cost, r.MaxCost))
	}
	return nil
}

// work runs what is to run.
func (r *run) work(interrupts <-chan os.Signal) error {
	ended := make(chan struct{})
	defer close(ended)
	go r.heed(interrupts, ended, func() error {
		r.Notice("finishing what is in flight; once more ends at once (what is in flight then runs again)")
		return errInterrupted
	})
	go r.keepRecording(ended)
	go r.sync(ended)
	if r.Progress != nil {
		defer r.Progress(r.snapshot)()
	}
	for res, err := range r.manager.SubmitAll(r.hard, r.feed) {
		if err := r.conclude(res, err); err != nil {
			r.lose(err)
		}
	}
	r.asking.Wait()
	return r.finish()
}

// finish shuts the queues down and puts the file in order.
func (r *run) finish() error {
	if r.stopping.Load() != nil {
		<-r.stopped
	} else if err := r.manager.Shutdown(r.hard); err != nil {
		r.stop(Interrupted, err)
	}
	if err := r.flush(); err != nil {
		r.lose(err)
	}
	if err := r.file.Tidy(r.Ordered); err != nil {
		r.lose(err)
	}
	if s := r.stopping.Load(); s != nil {
		return s
	}
	return nil
}

// stop ends the run: what waits is dropped, what is in flight finishes.
func (r *run) stop(reason Reason, err error) {
	r.stopOnce.Do(func() {
		r.stopping.Store(&Error{reason, err})
		r.halt()
		r.flight.stop()
		go func() {
			defer close(r.stopped)
			for _, model := range r.manager.Models() {
				_ = r.manager.Pause(model) // a paused queue that is shut down fails what waits
			}
			_ = r.manager.Shutdown(r.hard)
		}()
	})
}

// lose stops the run because the output cannot be written. When it is another file by now, no
// answer that is still to come has a place: then the run ends at once.
func (r *run) lose(err error) {
	if !errors.Is(err, results.ErrChanged) {
		r.stop(CannotWrite, err)
		return
	}
	r.stop(Taken, err)
	r.cancel()
}

// errInterrupted ends a run that can go on where it was.
var errInterrupted = errors.New("interrupted: run the same command again to go on")

// heed obeys interrupts: the first ends the run with what left says, the second at once.
func (r *run) heed(interrupts <-chan os.Signal, ended <-chan struct{}, left func() error) {
	for n := 0; ; n++ {
		select {
		case <-ended:
			return
		case <-r.hard.Done():
			r.stop(Interrupted, errors.New("interrupted"))
			return
		case <-interrupts:
		}
		if n > 0 {
			r.cancel()
			return
		}
		r.stop(Interrupted, left())
	}
}

// syncEvery is how old what is written may be before it is on the disk.
const syncEvery = time.Second

// sync has a power cut cost little.
func (r *run) sync(ended <-chan struct{}) {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		if err := r.file.Check(); err != nil {
			r.lose(err)
			return
		}
		if err := errors.Join(r.file.Sync(), r.journal.Sync()); err != nil {
			r.stop(CannotWrite, fmt.Errorf("cannot write to the disk: %w", err))
			return
		}
	}
}

func (r *run) close() error {
	if r.source != nil {
		_ = r.source.Close() // it was only read
	}
	return fail(CannotWrite, errors.Join(r.batches.ids.Close(), r.journal.Close(), r.only.close(), r.file.Close()))
}

func (r *run) summary() Summary {
	s := Summary{
		Reason: Finished, Total: r.total.Load(), Before: r.before.Load(), Ran: r.ran.Load(),
		Done: r.done.Load(), Failed: r.failed.Load(), Refused: r.refused.Load(), Attempts: r.attempts.Load(),
		Input: r.input.Load(), Output: r.output.Load(), Hits: r.hits.Load(), Reasked: r.reasked.Load(), Mismatched: r.mismatched.Load(), Elapsed: time.Since(r.begin),
	}
	if r.money != nil {
		s.Cost = r.money.spent()
	}
	return s
}

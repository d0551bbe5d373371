package batch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/idset"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/spool"
)

// ViaBatch says how a run uses the provider's own batches.
type ViaBatch struct {
	On     bool
	Cancel bool // cancel those of earlier runs and take what they did, instead of submitting
	// Deadline is how long after its submission a batch is canceled; what it has not done by
	// then goes on by calls. 0: never.
	Deadline time.Duration
	// Flex has each call ask for the provider's tier of that name.
	Flex bool
}

// share is what a run's requests cost, of their price by calls.
func (v ViaBatch) share() float64 {
	switch {
	case v.On:
		return results.BatchShare
	case v.Flex:
		return results.FlexShare
	}
	return 1
}

// How often the provider is asked how its batches stand: more and more seldom, as they take up
// to a day.
const (
	pollFirst = time.Second
	pollLast  = time.Minute
)

// settle is how long after a submission without an answer the provider's list is taken to
// lack a batch that was made.
const settle = 3 * time.Second

// batches is what a run knows of its batches.
type batches struct {
	open []*spool.Batch
	ids  *idset.Set // of the requests in them

	flight     atomic.Int64           // requests in batches
	standing   atomic.Pointer[string] // how the batch stands that was asked about last
	overBudget bool                   // not all of the rest is submitted
	unfinished int64                  // requests that a batch gave back
}

func (r *run) spoolDir() string { return filepath.Join(results.Dir(r.Output), "batches") }

// openBatches reads which batches earlier runs left. Without --via batch there may be none:
// their requests would run twice.
func (r *run) openBatches() (err error) {
	left, err := spool.Open(r.spoolDir())
	if err != nil {
		return fail(CannotWrite, err)
	}
	r.batches.ids = idset.New(filepath.Join(results.Dir(r.Output), "batched"))
	n := 0
	for _, b := range left {
		if b.Sent.IsZero() { // never submitted: its requests are spooled anew, as they are now
			if err := b.Remove(); err != nil {
				return fail(CannotWrite, err)
			}
			continue
		}
		if b.Host != r.caller.Host() {
			return fail(BadInput, fmt.Errorf("%d requests are in a batch at %s: run with its --base-url", b.Requests, b.Host))
		}
		n += b.Requests
		r.batches.open = append(r.batches.open, b)
		if b.ID != "" {
			r.batches.flight.Add(int64(b.Requests))
		}
		r.money.hold(b.Reserved)
		members, err := b.Members()
		if err != nil {
			return fail(CannotWrite, err)
		}
		for _, m := range members {
			if err := r.batches.ids.Put(m.ID, 1); err != nil {
				return fail(CannotWrite, err)
			}
		}
	}
	switch {
	case n > 0 && (!r.Via.On || r.Restart):
		return fail(BadInput, fmt.Errorf("%d requests are in batches of an earlier run: --via batch takes their results, --via batch --cancel cancels them", n))
	case n == 0 && r.Via.Cancel:
		return fail(BadInput, errors.New("--cancel: no batch of this output is at the provider"))
	}
	return nil
}

// viaBatches runs what is to run in the provider's batches. It reports whether the rest goes
// on by calls.
func (r *run) viaBatches(interrupts <-chan os.Signal) (byCalls bool, err error) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { r.heed(interrupts, ended, r.interruptedBatches) })
	wg.Go(func() { r.keepRecording(ended) })
	wg.Go(func() { r.sync(ended) })
	var hide func()
	if r.Progress != nil {
		hide = r.Progress(r.snapshot)
	}
	err = r.batchWork()
	close(ended)
	wg.Wait()
	if hide != nil {
		hide()
	}
	if err != nil && r.halting.Err() == nil {
		r.stopWith(err)
	}
	if n := r.batches.unfinished; r.Via.Cancel && r.stopping.Load() == nil {
		r.stop(Interrupted, fmt.Errorf("the batches are canceled: %d requests were not done: run without --cancel to go on", n))
	} else if n > 0 && r.stopping.Load() == nil {
		if r.Via.Deadline > 0 {
			r.Notice("%d requests were not done in a batch: they go on by calls", n)
			return true, nil
		}
		r.stop(Interrupted, fmt.Errorf("%d requests were not done in a batch: run the same command again to submit them anew", n))
	}
	return false, r.finish()
}

// batchWork submits what is to run and takes results until no batch is open.
func (r *run) batchWork() error {
	if !r.Via.Cancel {
		if err := r.spoolRequests(); err != nil {
			return err
		}
	}
	var waiting, open []*spool.Batch
	for _, b := range r.batches.open {
		if b.ID == "" {
			waiting = append(waiting, b)
		} else {
			open = append(open, b)
		}
	}
	r.batches.open = open
	for _, b := range waiting {
		// What has ended by now may say that the next would fail, too.
		if _, err := r.ask(0); err != nil {
			return err
		}
		if err := r.submit(b); err != nil {
			return err
		}
		if b.ID != "" {
			r.batches.open = append(r.batches.open, b)
		}
	}
	if r.halting.Err() != nil {
		return nil
	}
	return r.poll()
}

// interruptedBatches says what an interrupt leaves: batches go on without the run.
func (r *run) interruptedBatches() error {
	if n := r.batches.flight.Load(); n > 0 {
		return fmt.Errorf("interrupted: the provider goes on with %d requests in batches: run the same command again to take the results, with --cancel to cancel them", n)
	}
	return errInterrupted
}

// wait waits; false when the run stops.
func (r *run) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.halting.Done():
		return false
	}
}

// patiently calls f again and again while it fails for reasons that may pass. An error is
// for good: that of the run's end, or one that ends the run.
func (r *run) patiently(f func(context.Context) error) error {
	began := time.Now()
	for wait := pollFirst; ; wait = min(2*wait, pollLast) {
		err := f(r.halting)
		if err == nil {
			r.answered.Store(true)
			r.lastError.Store(nil)
			return nil
		}
		if r.halting.Err() != nil {
			return r.halting.Err()
		}
		if e := r.forGood(err); e != nil {
			return e
		}
		if caller.Unreachable(err) && !r.answered.Load() && time.Since(began) > patience {
			return fail(Unusable, fmt.Errorf("%s cannot be reached: %s: check --base-url and the network", r.caller.Host(), r.caller.Reason(err)))
		}
		text := r.caller.Reason(err)
		r.lastError.Store(&text)
		if !r.wait(wait) {
			return r.halting.Err()
		}
	}
}

// passing are the statuses below 500 of failures that may pass.
var passing = []int{http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests}

// forGood is the error that ends the run if the provider's answer does not change when it is
// asked again, or nil.
func (r *run) forGood(err error) error {
	e, status := (*Error)(nil), (*caller.StatusError)(nil)
	switch {
	case errors.As(err, &e):
		return e
	case caller.Untrusted(err):
		return fail(Unusable, r.untrusted(r.endpoints[0], err))
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
		return fail(CannotWrite, err)
	case !errors.As(err, &status):
		return nil
	case status.Status == http.StatusTooManyRequests && strings.Contains(string(status.Body), "insufficient_quota"):
		return fail(NoQuota, fmt.Errorf("the provider's quota is used up: %w: run again when it is renewed", status))
	case status.Status >= 500, slices.Contains(passing, status.Status):
		return nil
	}
	if reason := r.hopeless(r.endpoints[0], status); reason != nil {
		return fail(Unusable, reason)
	}
	return fail(Unusable, fmt.Errorf("%w: check what the provider says of batches", status))
}

package llmqueue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Shutdown takes no new requests and returns when what waits and what runs has
// finished; a manually paused queue fails what waits at once. When ctx ends first,
// waiting requests fail with ErrQueueClosed, running ones have their context canceled
// and fail too, and after a moment (WithShutdownGrace) Shutdown returns the context's
// error, joined with how many processors still run. The goroutines of the queue end
// with it, those of abandoned processors when these return. Calling it again waits
// for the same end. Status, Wait and UpdateUsage work afterwards.
func (q *Queue[P, T]) Shutdown(ctx context.Context) error {
	q.close()
	var err error
	select {
	case <-q.drained:
	default:
		select {
		case <-q.drained:
		case <-ctx.Done():
			err = q.cutOff(ctx)
		}
	}
	select {
	case <-q.drained:
		q.crew.Wait()
	default:
	}
	q.stopObservers()
	q.leaveMonitors()
	return err
}

// leaveMonitors detaches them, once.
func (q *Queue[P, T]) leaveMonitors() {
	q.mu.Lock()
	detach := q.detach
	q.detach = nil
	q.mu.Unlock()
	for _, f := range detach {
		_ = recovered(f) // a panic of one must not keep the others, nor Shutdown's error
	}
}

// close refuses new requests from now on.
func (q *Queue[P, T]) close() {
	q.mu.Lock()
	defer q.unlock()
	now := time.Now()
	q.closed = true
	if q.paused {
		q.failWaiting(now)
	}
	q.announceRoom()
	q.pump(now, nil)
}

// cutOff ends everything that is left when a Shutdown's context ends.
func (q *Queue[P, T]) cutOff(ctx context.Context) error {
	q.failAll()
	grace := time.NewTimer(q.settings.grace)
	defer grace.Stop()
	select {
	case <-q.drained:
		return context.Cause(ctx)
	case <-grace.C:
	}
	q.mu.Lock()
	left := q.running
	q.mu.Unlock()
	if left == 0 {
		return context.Cause(ctx)
	}
	return errors.Join(context.Cause(ctx), fmt.Errorf("llmqueue: model %q: %d processors abandoned: they ignore their context", q.modelID, left))
}

func (q *Queue[P, T]) failAll() {
	q.mu.Lock()
	defer q.unlock()
	now := time.Now()
	q.cut = true
	q.failWaiting(now)
	for _, w := range q.workers {
		if w.attempt == nil {
			continue
		}
		if rec := q.records.get(w.ref); rec != nil && rec.state == stateRunning {
			q.end(now, rec, stateFailed, fmt.Errorf("%w: shut down while it ran", ErrQueueClosed))
		}
	}
	for _, rec := range q.awayNow() {
		q.end(now, rec, stateFailed, fmt.Errorf("%w: shut down while a fallback had it", ErrQueueClosed))
	}
	q.pump(now, nil)
}

// failWaiting fails everything in line and between two attempts.
func (q *Queue[P, T]) failWaiting(now time.Time) {
	for _, rec := range slices.Collect(q.waiting()) {
		q.end(now, rec, stateFailed, fmt.Errorf("%w: shut down before it could start", ErrQueueClosed))
	}
}

// done reports whether a closed queue has nothing left to do.
func (q *Queue[P, T]) done() bool {
	return q.closed && q.line.Len() == 0 && q.retries.live == 0 && q.running == 0 && len(q.forwarded) == 0
}

// drain ends the queue's goroutines, once it is done.
func (q *Queue[P, T]) drain() {
	select {
	case <-q.drained:
		return
	default:
	}
	close(q.drained)
	q.timer.Stop()
	for _, e := range q.endpoints {
		e.leave()
		e.tells = false
	}
	for _, w := range q.idle {
		w.retired = true
		w.next, q.wake = q.wake, w
	}
	q.idle, q.workers = nil, nil
}

// stopObservers lets the observers handle what they have and end. One that hangs is
// left behind after the grace.
func (q *Queue[P, T]) stopObservers() {
	q.mu.Lock()
	observers := q.observers
	q.observers = nil
	q.mu.Unlock()
	if len(observers) == 0 {
		return
	}
	grace := time.NewTimer(max(q.settings.grace, time.Second))
	defer grace.Stop()
	for _, o := range observers {
		o.stop()
	}
	for _, o := range observers {
		select {
		case <-o.done:
		case <-grace.C:
			return
		}
	}
}

// announceRoom tells every SubmitAll that waits for room to try again.
func (q *Queue[P, T]) announceRoom() {
	for _, r := range q.room {
		close(r)
	}
	q.room = nil
}

// awaitRoom gives a channel that is closed when there may be room, nil when there is.
func (q *Queue[P, T]) awaitRoom() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.pending() < q.settings.maxQueued {
		return nil
	}
	r := make(chan struct{})
	q.room = append(q.room, r)
	return r
}

package llmriver

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Shutdown takes no new jobs, gives those that wait back to the store, where they keep their
// place for the next Open or another process, and returns when what runs has ended and is
// stored. When ctx ends first, running processors have their context canceled, their jobs go
// back too, to be run again, and Shutdown returns the context's cause. Neither counts as a
// failed attempt; a job that waited for a retry begins again with its first.
//
// Who still waits in Submit or Wait gets ErrQueueClosed. The manager stays open. Calling
// Shutdown again waits for the same end.
func (j *Jobs[P, T]) Shutdown(ctx context.Context) error {
	j.mu.Lock()
	again := j.closing
	j.closing = true
	j.mu.Unlock()
	if again {
		select {
		case <-j.ended:
			return j.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer close(j.ended)
	if j.manager != nil {
		j.err = j.stopWork(ctx)
	}
	rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), statementTime)
	defer cancel()
	j.inserts.idle.Wait()
	if len(j.returned) > 0 {
		_ = j.database.restore(rest, j.database.db, j.returned) // else they stand at the end
	}
	if j.manager != nil {
		if err := j.database.leave(rest, j.database.db, j.name); err != nil && j.err == nil {
			j.err = fmt.Errorf("llmriver: leaving the list of processes: %w", err)
		}
	}
	j.die()
	j.crew.Wait()
	j.database.close()
	return j.err
}

// stopWork ends River's client, and with it everything that this process holds.
func (j *Jobs[P, T]) stopWork(ctx context.Context) error {
	stopped := make(chan error, 1)
	go func() { stopped <- j.client.Stop(context.WithoutCancel(ctx)) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	done := ctx.Done()
	var cut error
	var grace <-chan time.Time
	for {
		select {
		case err := <-stopped:
			return errors.Join(cut, err)
		case <-tick.C:
			// Again and again: what runs may fail and wait for a retry.
			j.giveBack()
		case <-done:
			done = nil
			n := j.cutOff()
			cut = fmt.Errorf("%w: llmriver: %d running jobs were cut off, they run again", context.Cause(ctx), n)
			grace = time.After(statementTime)
		case <-grace:
			if j.life.Err() != nil {
				return cut // River hangs
			}
			j.die() // the database does not answer: what is not stored runs again
			grace = time.After(statementTime)
		}
	}
}

// giveBack reclaims what waits in the manager's lines.
func (j *Jobs[P, T]) giveBack() {
	type waiting struct{ model, id string }
	var all []waiting
	j.mu.Lock()
	for _, h := range j.held {
		if id := h.requestID(); id != "" {
			all = append(all, waiting{h.queue, id})
		}
	}
	j.mu.Unlock()
	for _, w := range all {
		if q, ok := j.manager.Queue(w.model); ok {
			_, _ = q.Reclaim(w.id, errHandBack) // one that is not there yet is, the next time
		}
	}
}

// cutOff ends what runs.
func (j *Jobs[P, T]) cutOff() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, h := range j.held {
		h.cancel(errHandBack)
	}
	return len(j.held)
}

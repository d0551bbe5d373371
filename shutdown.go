package llmqueue

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Shutdown takes no new requests and returns when what waits and what runs has finished; a
// manually paused queue fails what waits at once. When ctx ends first, waiting requests fail
// with ErrQueueClosed, running ones have their context canceled and fail too, and after a
// moment (WithShutdownGrace) Shutdown returns the context's error, joined with how many
// processors still run. The goroutines of the queue end with it, those of abandoned
// processors when these return. Calling it again waits for the same end. Status, Wait and
// UpdateUsage work afterwards.
func (c *core) Shutdown(ctx context.Context) error {
	if !c.made {
		return errNotMade
	}
	ns := c.lock()
	c.closed = true
	c.engine.Close(ns)
	c.unlock(ns)
	var err error
	if !c.isDrained() { // else ctx does not matter
		select {
		case <-c.drained:
		case <-ctx.Done():
			err = c.cutOff(ctx)
		}
	}
	if c.isDrained() {
		c.crew.Wait()
	}
	c.stopObservers()
	c.leaveMonitors()
	return err
}

// cutOff ends everything that is left when a Shutdown's context ends.
func (c *core) cutOff(ctx context.Context) error {
	ns := c.lock()
	c.engine.CutOff(ns)
	c.unlock(ns)
	grace := time.NewTimer(c.settings.grace)
	defer grace.Stop()
	select {
	case <-c.drained:
		return context.Cause(ctx)
	case <-grace.C:
	}
	c.mu.Lock()
	left := c.engine.Running()
	c.mu.Unlock()
	if left == 0 {
		return context.Cause(ctx)
	}
	return errors.Join(context.Cause(ctx), fmt.Errorf("llmqueue: model %q: %d processors abandoned: they ignore their context", c.modelID, left))
}

// drain ends the queue's goroutines, once nothing is left to do.
func (c *core) drain() {
	if c.isDrained() {
		return
	}
	close(c.drained)
	c.timer.Stop()
	for _, w := range c.ways {
		w.leave()
		w.endpoint.Stop()
	}
	for _, w := range c.idle {
		w.retired = true
		w.next, c.todo.wake = c.todo.wake, w
	}
	c.idle = nil
}

// leaveMonitors detaches them, once.
func (c *core) leaveMonitors() {
	c.mu.Lock()
	detach := c.detach
	c.detach = nil
	c.mu.Unlock()
	for _, f := range detach {
		_ = recovered(f) // a panic of one must not keep the others, nor Shutdown's error
	}
}

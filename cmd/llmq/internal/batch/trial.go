package batch

import (
	"context"
	"sync"
	"time"
)

// trial finds out whether the provider can be used at all, until it has answered something:
// then a refusal such as 404 is the request's own. Before, it may be the address or the key,
// which of several answers happens to come first must not decide: requests that are refused
// are held until another one is answered, or all that is under way is held.
type trial struct {
	mu      sync.Mutex
	running int // attempts
	held    int
	passed  chan struct{} // closed once the provider has answered something
	over    bool          // passed is closed
}

// settling is how long all attempts have to be held before that decides: another model's
// first one may be about to start.
const settling = 500 * time.Millisecond

// start notes that an attempt starts, the function that it returns that it is over.
func (t *trial) start() (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.running--
	}
}

// pass notes an answer.
func (t *trial) pass() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.over = true
		close(t.passed)
	}
}

// hold holds an attempt that was refused. It reports whether the provider has answered
// another one; false when none that is under way was, or when ctx ends.
func (t *trial) hold(ctx context.Context) (answered bool) {
	t.mu.Lock()
	t.held++
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.held--
	}()
	tick := time.NewTicker(settling / 5)
	defer tick.Stop()
	for all := 0; all < 5; {
		select {
		case <-t.passed:
			return true
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		t.mu.Lock()
		if all++; t.held < t.running {
			all = 0
		}
		t.mu.Unlock()
	}
	return false
}

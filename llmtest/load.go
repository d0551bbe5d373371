package llmtest

import (
	"context"
	"fmt"
	"time"
)

// Load is how a server bears many requests at once. The zero Load answers any
// number of them as fast as one.
type Load struct {
	// Parallel requests are worked on at once. Further ones wait their turn,
	// first come, first served, and their answer's latency counts from then.
	// Zero works on all at once.
	Parallel int64

	// Knee requests in progress are answered as fast as one. With more of them
	// everything takes longer in proportion: twice as many, twice as long. Zero
	// never slows down.
	Knee int64

	// Capacity requests may be in progress, those that wait for their turn
	// included. One more is answered as an overloaded provider does it: 529
	// overloaded_error at Anthropic, 498 capacity_exceeded at Groq, 503 at others.
	// Zero never is overloaded.
	Capacity int64

	// Status of that answer, 400 to 599. Zero is the provider's, see Capacity. With
	// 429 Bedrock says ModelNotReadyException instead of
	// ServiceUnavailableException, and with 429 and 503 Gemini says
	// MODEL_CAPACITY_EXHAUSTED, as both have been seen to do.
	Status int
}

func (l Load) check() error {
	if l.Parallel < 0 || l.Knee < 0 || l.Capacity < 0 || l.Parallel > maxParallel {
		return fmt.Errorf("llmtest: load %+v: want nothing below zero, and at most %d in parallel", l, maxParallel)
	}
	if l.Status != 0 && (l.Status < 400 || l.Status > 599) {
		return fmt.Errorf("llmtest: load has status %d: want 400 to 599", l.Status)
	}
	return nil
}

const maxParallel = 1 << 20

// slowed returns the timing of an answer that begins while so many requests are
// in progress.
func (l Load) slowed(t timing, running int64) timing {
	if l.Knee > 0 && running > l.Knee {
		by := float64(running) / float64(l.Knee)
		t.first = time.Duration(float64(t.first) * by)
		t.perToken = time.Duration(float64(t.perToken) * by)
	}
	return t
}

// slots are taken by the requests that are worked on. A nil slots has room for
// all.
type slots chan struct{}

func newSlots(l Load) slots {
	if l.Parallel == 0 {
		return nil
	}
	return make(slots, l.Parallel)
}

// take waits for a slot: a channel serves its senders in order. It returns
// false if ctx ended first.
func (s slots) take(ctx context.Context) bool {
	if s == nil {
		return true
	}
	select {
	case s <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s slots) leave() {
	if s != nil {
		<-s
	}
}

// Package contender sets up llmqueue and its neighbours so that all of them do the
// same jobs: each the way its own documentation suggests, a file per neighbour.
package contender

import (
	"context"
	"time"
)

// Work is one job. It must be safe for concurrent use.
type Work func(n int) int

// Pool is one construction at work. All its methods but Drain are safe for concurrent use.
type Pool interface {
	// Caller returns what one calling goroutine uses to have a job done and to wait
	// for its result.
	Caller() func(ctx context.Context, n int) (int, error)
	// Enqueue has a job done without waiting for it.
	Enqueue(ctx context.Context, n int) error
	// Drain waits for every job that was enqueued, then stops the pool.
	Drain() error
}

// Contender is one construction that can be measured.
type Contender struct {
	Name string
	// Lacks says what it does not do of what llmqueue does, and so does not pay for.
	Lacks string
	// New starts a pool that runs at most workers jobs at once. Room for backlog jobs
	// is made where a construction has to be told.
	New func(workers, backlog int, work Work) (Pool, error)
}

// All are the contenders; the first is what the others are compared with.
var All = []Contender{handoff, llmqueueQueue, pondResults, pondPlain, antsPool, failsafePolicies, rateLimiters}

// Ants are those that fire and forget is measured with when ants, the first, is what
// they are compared with.
var Ants = []Contender{antsPool, handoff, llmqueueQueue}

// Permits give leave to do a job in the caller's own goroutine; the bare hand-off, the
// first, is what they are compared with. The semaphore and two buckets stand for
// what a caller builds by hand.
var Permits = []Contender{handoff, rateLimiters, llmqueuePermits}

// Gate starts jobs as a rate limit allows.
type Gate interface {
	// Do calls job, in any goroutine, once the limit allows it, and returns after
	// that; or it returns an error, when ctx ends first.
	Do(ctx context.Context, job func()) error
	// Close is called when no Do runs any more.
	Close() error
}

// Limiter is one way to hold a limit of requests per period.
type Limiter struct {
	Name string
	New  func(limit int, period time.Duration) (Gate, error)
}

// Limiters are the ways to hold a limit.
var Limiters = []Limiter{rateBurstN, rateBurst1, failsafeSmooth, failsafeBursty, llmqueueLimit}

// No measurement of cost lets a limit bind: plenty is a limit that never does, and
// tokens is what each job is said to use.
const (
	plenty = 1 << 40
	tokens = 15
)

// waiter is a gate that waits in the caller's goroutine.
type waiter func(ctx context.Context) error

func (w waiter) Do(ctx context.Context, job func()) error {
	if err := w(ctx); err != nil {
		return err
	}
	job()
	return nil
}

func (w waiter) Close() error { return nil }

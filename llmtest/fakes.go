package llmtest

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llmqueue/llmqueue"
)

// The fakes are for tests that need no server. They compose: a slow call that
// uses tokens and fails once is
//
//	FakeDelay(time.Second, FakeUsage(usage, FakeSequence(
//		FakeError[Chat, Answer](llmqueue.Retryable(err)),
//		FakeReply[Chat](Answer{}))))
//
// Anything else is a function literal. All are safe for concurrent use. Their
// type parameters have P first, so that a result tells T.

// FakeReply returns a processor that returns result for every request.
func FakeReply[P, T any](result T) llmqueue.Processor[P, T] {
	return func(context.Context, llmqueue.Request[P]) (T, error) { return result, nil }
}

// FakeError returns a processor that fails every request with err, marked or
// not: see [llmqueue.Retryable], [llmqueue.RateLimited] and
// [llmqueue.Permanent].
func FakeError[P, T any](err error) llmqueue.Processor[P, T] {
	return func(context.Context, llmqueue.Request[P]) (T, error) {
		var zero T
		return zero, err
	}
}

// FakeSequence returns a processor whose first call runs the first step, the
// second call the second, and so on; when there are no more, the last step runs
// again and again. Calls are counted across all requests and their attempts. It
// panics without a step.
func FakeSequence[P, T any](steps ...llmqueue.Processor[P, T]) llmqueue.Processor[P, T] {
	if len(steps) == 0 {
		panic("llmtest: FakeSequence needs a step")
	}
	steps = slices.Clone(steps)
	var calls atomic.Int64
	return func(ctx context.Context, req llmqueue.Request[P]) (T, error) {
		n := min(calls.Add(1), int64(len(steps)))
		return steps[n-1](ctx, req)
	}
}

// FakeDelay returns a processor that waits for d and then runs next. If the
// context ends first, it returns the context's cause and next does not run.
func FakeDelay[P, T any](d time.Duration, next llmqueue.Processor[P, T]) llmqueue.Processor[P, T] {
	return func(ctx context.Context, req llmqueue.Request[P]) (T, error) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return next(ctx, req)
		case <-ctx.Done():
			var zero T
			return zero, context.Cause(ctx)
		}
	}
}

// FakeUsage returns a processor that reports usage with
// [llmqueue.ReportUsage], as a provider's answer would have it, and then runs
// next.
func FakeUsage[P, T any](usage llmqueue.Usage, next llmqueue.Processor[P, T]) llmqueue.Processor[P, T] {
	return func(ctx context.Context, req llmqueue.Request[P]) (T, error) {
		llmqueue.ReportUsage(ctx, usage)
		return next(ctx, req)
	}
}

// A Recorder passes requests on to a processor and remembers them. It is safe
// for concurrent use.
type Recorder[P, T any] struct {
	next llmqueue.Processor[P, T]

	mu       sync.Mutex // guards the fields below; never held while next runs
	requests []llmqueue.Request[P]
	running  int
	peak     int
}

// Record returns a recorder in front of next. Its [Recorder.Process] is the
// processor to give to a queue.
func Record[P, T any](next llmqueue.Processor[P, T]) *Recorder[P, T] {
	return &Recorder[P, T]{next: next}
}

// Process records the request and runs the processor behind the recorder.
func (r *Recorder[P, T]) Process(ctx context.Context, req llmqueue.Request[P]) (T, error) {
	r.mu.Lock()
	r.requests = append(r.requests, req)
	r.running++
	r.peak = max(r.peak, r.running)
	r.mu.Unlock()
	defer func() { // also when next panics
		r.mu.Lock()
		r.running--
		r.mu.Unlock()
	}()
	return r.next(ctx, req)
}

// Calls returns how many calls have begun, each attempt of a request counted.
func (r *Recorder[P, T]) Calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.requests)
}

// Requests returns the request of each call, in the order in which they began.
// The slice is the caller's own.
func (r *Recorder[P, T]) Requests() []llmqueue.Request[P] {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// PeakConcurrent returns the most calls that were in progress at once.
func (r *Recorder[P, T]) PeakConcurrent() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.peak
}

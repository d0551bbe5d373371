package llmqueue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"sync"

	"github.com/llmqueue/llmqueue/internal/engine"
)

// SubmitAll submits every request of reqs and yields each one's final response and error in
// order of completion. It pulls from reqs, on a goroutine of its own, only as fast as the
// queue takes requests in: at most WithMaxOutstanding of them are taken and not yet yielded,
// and when the queue is full it waits for room. NoWait is ignored. A refused request is
// yielded with its id and error, and the loop goes on.
//
// Leaving the loop early cancels what is left and does not wait for reqs. When ctx ends,
// everything taken is yielded as canceled. A panic in reqs is raised in the caller.
func (q *Queue[P, T]) SubmitAll(ctx context.Context, reqs iter.Seq[Request[P]]) iter.Seq2[Response[T], error] {
	return submitAll(ctx, reqs, max(q.settings.outstanding, 1), func(string) (*Queue[P, T], error) {
		if !q.made {
			return nil, errNotMade
		}
		return q, nil
	})
}

// sink collects the answers of a SubmitAll.
type sink struct {
	mu     sync.Mutex
	ready  []*waiter
	signal chan struct{} // one token when there is something new
}

func (s *sink) put(w *waiter) {
	s.mu.Lock()
	s.ready = append(s.ready, w)
	s.mu.Unlock()
	s.notify()
}

func (s *sink) notify() {
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

// take gives what is ready; spent is an earlier one, for reuse.
func (s *sink) take(spent []*waiter) (ready []*waiter) {
	clear(spent)
	s.mu.Lock()
	defer s.mu.Unlock()
	ready, s.ready = s.ready, spent[:0]
	return ready
}

// batch is one SubmitAll, without its types.
type batch struct {
	ctx  context.Context
	sink *sink
	room chan struct{} // a token for each request taken and not yet yielded, and for the next
	stop chan struct{} // closed when the feeder must not go on

	// mu guards the rest. It is taken before a queue's lock, never after.
	mu          sync.Mutex
	outstanding map[*waiter]location
	stopped     bool
	fed         bool // the input has ended
	failure     any  // the input's panic
	goexit      bool // the input called runtime.Goexit
}

func submitAll[P, T any](ctx context.Context, reqs iter.Seq[Request[P]], outstanding int, route func(string) (*Queue[P, T], error)) iter.Seq2[Response[T], error] {
	return func(yield func(Response[T], error) bool) {
		b := &batch{
			ctx: ctx, sink: &sink{signal: make(chan struct{}, 1)}, outstanding: make(map[*waiter]location),
			room: make(chan struct{}, outstanding), stop: make(chan struct{}),
		}
		defer context.AfterFunc(ctx, b.cancel)()
		defer b.cancel()
		go b.feed(func(yield func() bool) {
			for req := range reqs {
				if !takeInto(b, &req, route) || !yield() {
					break
				}
			}
		})
		var ready []*waiter
		for range b.sink.signal {
			ready = b.sink.take(ready)
			for _, w := range ready {
				b.yielding(w)
				var resp Response[T]
				w.typed.(*allWaiter[P, T]).respond(&resp)
				if !yield(resp, resp.Err) {
					return
				}
			}
			if b.finished() {
				return
			}
		}
	}
}

// allWaiter is a waiter of a SubmitAll, with where its request is and, when it was refused, the
// response.
type allWaiter[P, T any] struct {
	typedWaiter[T]
	queue   *Queue[P, T]
	refused Response[T]
}

func (w *allWaiter[P, T]) respond(resp *Response[T]) {
	if w.refused.Err != nil {
		*resp = w.refused
		return
	}
	w.queue.fill(&w.typedWaiter, resp)
}

// takeInto submits one request; false when the batch was stopped.
func takeInto[P, T any](b *batch, req *Request[P], route func(string) (*Queue[P, T], error)) bool {
	w := new(allWaiter[P, T])
	w.sink, w.typed, w.answer = b.sink, w, &w.reply
	if !b.opening(&w.waiter) {
		return false
	}
	q, err := route(req.ModelID)
	if err == nil {
		w.queue = q
		err = q.submitInto(b, req, &w.waiter)
	}
	if err != nil {
		status := StatusFailed
		if errors.Is(err, ErrCanceled) {
			status = StatusCanceled
		}
		w.refused = Response[T]{RequestID: req.ID, ModelID: req.ModelID, Status: status, Err: err, Metadata: req.Metadata}
		b.sink.put(&w.waiter)
	}
	return true
}

// submitInto puts req in line, waiting for room there.
func (q *Queue[P, T]) submitInto(b *batch, req *Request[P], w *waiter) error {
	req.NoWait = false
	var in intake
	if err := q.prepare(b.ctx, req, &in); err != nil {
		return err
	}
	for {
		r := q.accept(&in, &req.Params, w)
		if in.err == nil {
			b.opened(w, location{&q.core, r})
			return nil
		}
		if !errors.Is(in.err, ErrQueueFull) {
			return in.err
		}
		if room := q.awaitRoom(); room != nil {
			select {
			case <-room:
			case <-b.stop:
				return b.reason()
			}
		}
	}
}

// opening notes that a request is about to be submitted, unless the batch was stopped.
func (b *batch) opening(w *waiter) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopped {
		b.outstanding[w] = location{}
	}
	return !b.stopped
}

// opened notes where an accepted request is, so that it can be canceled.
func (b *batch) opened(w *waiter, p location) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, waits := b.outstanding[w]; !waits {
		return // it has already been yielded
	}
	b.outstanding[w] = p
	if b.stopped {
		b.abandon(p)
	}
}

// yielding notes that an answer is about to be yielded.
func (b *batch) yielding(w *waiter) {
	b.mu.Lock()
	delete(b.outstanding, w)
	b.mu.Unlock()
	<-b.room
}

// finished reports whether the input has ended and everything is answered. It raises what the
// input panicked with.
func (b *batch) finished() bool {
	b.mu.Lock()
	finished := len(b.outstanding) == 0 && (b.fed || b.stopped)
	failure, goexit := b.failure, b.goexit
	b.mu.Unlock()
	switch {
	case failure != nil:
		panic(failure)
	case goexit:
		runtime.Goexit()
	}
	return finished
}

// cancel stops the feeder and cancels what is open. Canceled requests are still answered.
func (b *batch) cancel() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return
	}
	b.stopped = true
	close(b.stop)
	for _, p := range b.outstanding {
		if p.ref.seq != 0 {
			b.abandon(p)
		}
	}
	b.sink.notify()
}

func (b *batch) abandon(p location) {
	p.core.end(p.ref, engine.CanceledState, engine.CallerLeft, b.reason())
}

var errLoopLeft = fmt.Errorf("the SubmitAll loop was left: %w", context.Canceled)

// reason says why what is open ends.
func (b *batch) reason() error {
	if b.ctx.Err() != nil {
		return canceledBy(b.ctx)
	}
	return &callerLeft{context.Canceled, errLoopLeft}
}

// feed submits the input. It runs on its own goroutine because an input may block.
func (b *batch) feed(input func(yield func() bool)) {
	returned := false
	defer func() {
		failure := recover()
		b.mu.Lock()
		b.fed, b.failure, b.goexit = true, failure, !returned && failure == nil
		b.mu.Unlock()
		b.sink.notify()
	}()
	if b.mayTake() {
		input(b.mayTake)
	}
	returned = true
}

// mayTake waits until another request may be taken; false when none may.
func (b *batch) mayTake() bool {
	select {
	case b.room <- struct{}{}:
		return true
	case <-b.stop:
		return false
	}
}

// awaitRoom gives a channel that is closed when there may be room, nil when there is.
func (c *core) awaitRoom() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.engine.Waiting() < c.settings.maxQueued {
		return nil
	}
	r := make(chan struct{})
	c.room = append(c.room, r)
	return r
}

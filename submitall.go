package llmqueue

import (
	"context"
	"errors"
	"iter"
	"runtime"
	"sync"
)

// SubmitAll submits every request of reqs and yields each one's final response and
// error in order of completion. It pulls from reqs, on a goroutine of its own, only as
// fast as the queue takes requests in: at most WithMaxOutstanding of them are taken
// and not yet yielded, and when the queue is full it waits for room. NoWait is
// ignored. A refused request is yielded with its id and error, and the loop goes on.
//
// Leaving the loop early cancels what is left and does not wait for reqs. When ctx
// ends, everything taken is yielded as canceled. A panic in reqs is raised in the
// caller.
func (q *Queue[P, T]) SubmitAll(ctx context.Context, reqs iter.Seq[Request[P]]) iter.Seq2[Response[T], error] {
	return submitAll(ctx, reqs, q.settings.outstanding, func(string) (*Queue[P, T], error) { return q, nil })
}

// sink collects the answers of a SubmitAll.
type sink[T any] struct {
	mu     sync.Mutex
	ready  []*waiter[T]
	signal chan struct{} // one token when there is something new
}

func (s *sink[T]) put(w *waiter[T]) {
	s.mu.Lock()
	s.ready = append(s.ready, w)
	s.mu.Unlock()
	s.notify()
}

func (s *sink[T]) notify() {
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

// batch is one SubmitAll.
type batch[P, T any] struct {
	ctx   context.Context
	route func(modelID string) (*Queue[P, T], error)
	sink  *sink[T]
	room  chan struct{} // a token for each request taken and not yet yielded, and for the next
	stop  chan struct{} // closed when the feeder must not go on

	// mu guards the rest. It is taken before a queue's lock, never after.
	mu      sync.Mutex
	open    map[*waiter[T]]place[P, T]
	stopped bool
	fed     bool // the input has ended
	failure any  // the input's panic
	goexit  bool // the input called runtime.Goexit
}

type place[P, T any] struct {
	q *Queue[P, T]
	r ref
}

func submitAll[P, T any](ctx context.Context, reqs iter.Seq[Request[P]], outstanding int, route func(string) (*Queue[P, T], error)) iter.Seq2[Response[T], error] {
	return func(yield func(Response[T], error) bool) {
		b := &batch[P, T]{
			ctx: ctx, route: route,
			sink: &sink[T]{signal: make(chan struct{}, 1)},
			room: make(chan struct{}, outstanding), stop: make(chan struct{}),
			open: make(map[*waiter[T]]place[P, T]),
		}
		defer context.AfterFunc(ctx, b.cancel)()
		defer b.cancel()
		go b.feed(reqs)
		b.drain(yield)
	}
}

// drain yields answers until the input has ended and everything is answered.
func (b *batch[P, T]) drain(yield func(Response[T], error) bool) {
	var ready []*waiter[T]
	for range b.sink.signal {
		b.sink.mu.Lock()
		ready, b.sink.ready = b.sink.ready, ready[:0]
		b.sink.mu.Unlock()
		for i, w := range ready {
			ready[i] = nil
			b.mu.Lock()
			delete(b.open, w)
			b.mu.Unlock()
			<-b.room
			if !yield(w.resp, w.resp.Err) {
				return
			}
		}
		b.mu.Lock()
		finished := len(b.open) == 0 && (b.fed || b.stopped)
		failure, goexit := b.failure, b.goexit
		b.mu.Unlock()
		switch {
		case failure != nil:
			panic(failure)
		case goexit:
			runtime.Goexit()
		case finished:
			return
		}
	}
}

// cancel stops the feeder and cancels what is open. Canceled requests are still
// answered.
func (b *batch[P, T]) cancel() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return
	}
	b.stopped = true
	close(b.stop)
	for _, p := range b.open {
		if p.r.seq != 0 {
			p.q.abandon(b.reason(), p.r)
		}
	}
	b.sink.notify()
}

// reason is a context whose cause says why what is open ends.
func (b *batch[P, T]) reason() context.Context {
	if b.ctx.Err() != nil {
		return b.ctx
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errLoopLeft)
	return ctx
}

var errLoopLeft = errors.New("the SubmitAll loop was left")

// feed submits the input. It runs on its own goroutine because an input may block.
func (b *batch[P, T]) feed(reqs iter.Seq[Request[P]]) {
	returned := false
	defer func() {
		failure := recover()
		b.mu.Lock()
		b.fed, b.failure, b.goexit = true, failure, !returned && failure == nil
		b.mu.Unlock()
		b.sink.notify()
	}()
	if b.mayTake() {
		for req := range reqs {
			if !b.take(req) || !b.mayTake() {
				break
			}
		}
	}
	returned = true
}

// mayTake waits until another request may be taken; false when none may.
func (b *batch[P, T]) mayTake() bool {
	select {
	case b.room <- struct{}{}:
		return true
	case <-b.stop:
		return false
	}
}

// take submits one request; false when the batch was stopped.
func (b *batch[P, T]) take(req Request[P]) bool {
	w := &waiter[T]{sink: b.sink}
	b.mu.Lock()
	if b.stopped {
		b.mu.Unlock()
		return false
	}
	b.open[w] = place[P, T]{}
	b.mu.Unlock()
	if err := b.submit(req, w); err != nil {
		status := StatusFailed
		if errors.Is(err, ErrCanceled) {
			status = StatusCanceled
		}
		w.resp = Response[T]{RequestID: req.ID, ModelID: req.ModelID, Status: status, Err: err, Metadata: req.Metadata}
		b.sink.put(w)
	}
	return true
}

// submit puts req in its queue, waiting for room there.
func (b *batch[P, T]) submit(req Request[P], w *waiter[T]) error {
	q, err := b.route(req.ModelID)
	if err != nil {
		return err
	}
	req.NoWait = false
	key, err := q.prepare(b.ctx, &req)
	if err != nil {
		return err
	}
	for {
		_, r, err := q.accept(b.ctx, &req, key, w)
		if err == nil {
			b.opened(w, place[P, T]{q, r})
			return nil
		}
		if !errors.Is(err, ErrQueueFull) {
			return err
		}
		if room := q.awaitRoom(); room != nil {
			select {
			case <-room:
			case <-b.stop:
				return canceledBy(b.reason())
			}
		}
	}
}

// opened notes where an accepted request is, so that it can be canceled.
func (b *batch[P, T]) opened(w *waiter[T], p place[P, T]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, waits := b.open[w]; !waits {
		return // it has already been yielded
	}
	b.open[w] = p
	if b.stopped {
		p.q.abandon(b.reason(), p.r)
	}
}

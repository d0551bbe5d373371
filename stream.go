package llmqueue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"

	"github.com/llmqueue/llmqueue/internal/engine"
)

// Emit hands a chunk of the answer, from inside a processor, to whoever called Stream. It blocks
// until the chunk is taken, so that a slow consumer slows the provider down; WithStallTimeout
// does not count that time, WithTimeout does. An error means that nobody takes chunks any more,
// because the consumer left, the request ended, or another attempt was faster (WithHedge):
// return then. The consumer's code runs in its own loop only, so that nothing is written to an
// HTTP client whose handler has returned.
//
// The first chunk decides between two attempts of a request. It marks its attempt as Streamed
// does: a failure after it is not tried again, here or at a fallback.
//
// ctx is the processor's, or derived from it. In a request or a Call that a processor makes of
// another queue, the chunk goes to the stream around it, unless that request is fire and forget
// or may share its call (WithCoalescing). Where no Stream is around, as under Do, Submit,
// SubmitAll and Acquire, or where Stream takes another type of chunk, Emit returns an error that
// says so, and the request is not tried again for it. Safe for concurrent use; chunks of several
// goroutines come in any order.
func Emit[C any](ctx context.Context, chunk C) error {
	attempts, to := emitters(ctx)
	if to == nil {
		return errNoStream
	}
	chunks, ok := to.chunks.(chan C)
	if !ok {
		return Permanent(fmt.Errorf("llmqueue: Emit got a chunk of type %v, but the consumer called Stream[%v]: give both the same type",
			reflect.TypeFor[C](), reflect.TypeOf(to.chunks).Elem()))
	}
	if to.Err() != nil {
		return notTaken(context.Cause(to))
	}
	for _, a := range attempts {
		if err := a.handOn(); err != nil {
			return notTaken(err)
		}
		a.emitting.Add(1)
		defer a.emitted()
	}
	inner, outer := attempts[0], attempts[len(attempts)-1]
	select {
	case chunks <- chunk:
		return nil
	case <-to.Done():
		return notTaken(context.Cause(to))
	case <-inner.Done():
		return notTaken(context.Cause(inner))
	case <-outer.Done():
		return notTaken(context.Cause(outer))
	case <-ctx.Done(): // a context of the processor's own
		return Permanent(notTaken(context.Cause(ctx)))
	}
}

var errNoStream = Permanent(errors.New("llmqueue: Emit without a consumer: call Stream instead of Do, Submit or SubmitAll (its Response alone drops the chunks), and give Emit the processor's context"))

func notTaken(why error) error {
	return fmt.Errorf("llmqueue: chunk not taken, return from the processor: %w", why)
}

// emitters are the attempts that ctx is in, the innermost first, up to that of a Stream; to is
// nil when there is none.
func emitters(ctx context.Context) (attempts []*attempt, to *stream) {
	for a := range enclosing(ctx) {
		attempts = append(attempts, a)
		if to, ok := a.Parent.(*stream); ok && !a.Detached {
			return attempts, to
		}
	}
	return nil, nil
}

// handOn notes that the attempt hands output on, unless it has ended or loses against another
// one that did so first.
func (a *attempt) handOn() error {
	if a.Err() == nil {
		a.stream()
		a.output(toldOutput | toldStreamed)
	}
	if a.Err() == nil {
		return nil
	}
	return context.Cause(a)
}

// emitted notes that an Emit is over.
func (a *attempt) emitted() {
	a.heard.Store(a.core.clock.Now())
	a.emitting.Add(-1)
}

// stream is the context of a request whose chunks somebody takes: the parent of its attempts.
type stream struct {
	context.Context
	chunks any // a chan C
}

// Streaming is a request whose answer comes in chunks. It is for one goroutine.
type Streaming[C, T any] struct {
	ctx    *stream
	core   *core
	submit func() (ref, error)
	done   <-chan struct{}
	fill   func(*Response[T])
	begun  bool // it was submitted
	over   bool // it has ended, as the next two say
	resp   Response[T]
	err    error
}

// Stream makes a request whose processor hands out its answer in chunks of type C, with Emit.
// It is submitted when the loop over Chunks begins: as by Submit, with the same errors, and
// NoWait ignored.
//
//	s := llmqueue.Stream[string](ctx, queue, req)
//	for chunk, err := range s.Chunks() {
//		…
//	}
//	resp, err := s.Response()
//
// Leaving the loop cancels the request, and so does the end of ctx. A fallback's chunks come
// here too; once a chunk was emitted the request stays where it is. It shares no call
// (WithCoalescing): an answer that others had begun could not be read from its start. In a
// Manager, Manager.Queue has the queue.
func Stream[C, P, T any](ctx context.Context, q *Queue[P, T], req Request[P]) *Streaming[C, T] {
	req.NoWait = false
	if q == nil { // a model that a Manager does not have, perhaps
		q = new(Queue[P, T])
	}
	w := &typedWaiter[T]{waiter: waiter{done: make(chan struct{}, 1)}}
	w.typed, w.answer = w, &w.reply
	s := &Streaming[C, T]{ctx: &stream{ctx, make(chan C)}, core: &q.core, done: w.done}
	s.submit = func() (ref, error) {
		var in intake
		if err := q.prepare(s.ctx, &req, &in); err != nil {
			return ref{}, err
		}
		return q.accept(&in, &req.Params, &w.waiter), in.err
	}
	s.fill = func(resp *Response[T]) { q.fill(w, resp) }
	return s
}

// Chunks submits the request and yields its chunks as they are emitted. The last pair has the
// error, if there is one, of a request that was refused, failed or was canceled. The request
// goes on while the loop's body runs; its next Emit waits for the body. It is ranged over once:
// another loop yields the error only.
func (s *Streaming[C, T]) Chunks() iter.Seq2[C, error] {
	return func(yield func(C, error) bool) {
		left := false
		if !s.begun {
			s.run(func(chunk C) bool {
				left = !yield(chunk, nil)
				return !left
			})
		}
		if _, err := s.Response(); err != nil && !left {
			var none C
			yield(none, err)
		}
	}
}

// Response is what Submit would have returned, after the loop over Chunks: the final response,
// and its Err as error. Without such a loop it submits the request, drops its chunks and waits
// for the end: for callers who do not stream. Within the loop it is an error.
func (s *Streaming[C, T]) Response() (Response[T], error) {
	if !s.begun {
		s.run(func(C) bool { return true })
	}
	if !s.over {
		return Response[T]{}, errStreamGoesOn
	}
	return s.resp, s.err
}

var (
	errStreamGoesOn = errors.New("llmqueue: the loop over Chunks goes on, ask for the Response after it")
	errStreamLeft   = fmt.Errorf("the loop over Chunks was left: %w", context.Canceled)
)

// run submits the request and gives its chunks to yield until it ends or yield returns false.
func (s *Streaming[C, T]) run(yield func(C) bool) {
	s.begun = true
	r, err := s.submit()
	if err != nil {
		s.over, s.err = true, err
		return
	}
	unwatch := context.AfterFunc(s.ctx, func() { s.core.abandon(s.ctx, r) })
	ended := false
	defer func() { // also when yield panics
		unwatch()
		if !ended {
			s.core.end(r, engine.CanceledState, engine.CallerLeft, &callerLeft{context.Canceled, errStreamLeft})
			<-s.done
		}
		s.fill(&s.resp)
		s.over, s.err = true, s.resp.Err
	}()
	chunks := s.ctx.chunks.(chan C)
	for {
		select {
		case chunk := <-chunks:
			if !yield(chunk) {
				return
			}
		case <-s.done:
			ended = true
			return
		}
	}
}

// Package fanout hands events to functions, each on a goroutine of its own, so that a slow or
// panicking one costs its events and never who makes them.
package fanout

import (
	"sync"
	"sync/atomic"
	"time"
)

// Observer hands events to one function, in order. Make one with New and end it with Stop.
// Safe for concurrent use.
type Observer[E any] struct {
	handle  func(E)
	most    int
	dropped *atomic.Int64
	done    chan struct{}

	mu      sync.Mutex // no user code runs under it
	more    sync.Cond  // there is an event, or the end
	ring    []E        // a power of two, as many as were ever needed at once
	first   int        // index of the next
	count   int        // that wait
	offered uint64     // how many came in
	flushes []flush    // in order
	idle    bool       // the function does not run
	stopped bool
}

// flush is someone who waits until so many events are handled.
type flush struct {
	offered uint64
	handled chan struct{}
}

// New starts an observer with room for most events that wait, a power of two from 16. Those
// that come beyond it count in dropped.
func New[E any](handle func(E), most int, dropped *atomic.Int64) *Observer[E] {
	o := &Observer[E]{handle: handle, most: most, dropped: dropped, done: make(chan struct{})}
	o.more.L = &o.mu
	go o.run()
	return o
}

// Offer puts an event in line, or drops it; it never waits for the function. It may be called
// under a lock, which then keeps the order.
func (o *Observer[E]) Offer(e *E) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count == len(o.ring) {
		if o.count == o.most {
			o.dropped.Add(1)
			return
		}
		bigger := make([]E, max(16, 2*o.count))
		n := copy(bigger, o.ring[o.first:])
		copy(bigger[n:], o.ring[:o.first])
		o.ring, o.first = bigger, 0
	}
	o.offered++
	o.ring[(o.first+o.count)&(len(o.ring)-1)] = *e
	if o.count++; o.count == 1 {
		o.more.Signal()
	}
}

// take waits for the next event; false when the observer has ended.
func (o *Observer[E]) take() (e E, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.flushes) > 0 && o.flushes[0].offered <= o.offered-uint64(o.count) {
		close(o.flushes[0].handled)
		o.flushes = o.flushes[1:]
	}
	o.idle = true
	defer func() { o.idle = false }()
	for o.count == 0 {
		if o.stopped {
			return e, false
		}
		o.more.Wait()
	}
	e, o.ring[o.first] = o.ring[o.first], e
	o.first = (o.first + 1) & (len(o.ring) - 1)
	o.count--
	return e, true
}

// run survives a panic and a Goexit of the function: the next goroutine goes on with the next
// event.
func (o *Observer[E]) run() {
	ended := false
	defer func() {
		if ended {
			close(o.done)
			return
		}
		_ = recover()
		go o.run()
	}()
	for e, ok := o.take(); ok; e, ok = o.take() {
		o.handle(e)
	}
	ended = true
}

// Flush waits until the function has handled what was offered, at most for so long.
func (o *Observer[E]) Flush(most time.Duration) {
	o.mu.Lock()
	if o.idle && o.count == 0 {
		o.mu.Unlock()
		return
	}
	handled := make(chan struct{})
	o.flushes = append(o.flushes, flush{o.offered, handled})
	o.mu.Unlock()
	over := time.NewTimer(most)
	defer over.Stop()
	select {
	case <-handled:
	case <-o.done:
	case <-over.C:
	}
}

// Stop lets the observer handle what waits and end. Nothing may be offered after it.
func (o *Observer[E]) Stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopped = true
	o.more.Signal()
}

// StopAll stops observers and waits until they have ended, at most for the grace.
func StopAll[E any](observers []*Observer[E], grace time.Duration) {
	if len(observers) == 0 {
		return
	}
	over := time.NewTimer(grace)
	defer over.Stop()
	for _, o := range observers {
		o.Stop()
	}
	for _, o := range observers {
		select {
		case <-o.Done():
		case <-over.C:
			return
		}
	}
}

// Done is closed when the observer has ended.
func (o *Observer[E]) Done() <-chan struct{} { return o.done }

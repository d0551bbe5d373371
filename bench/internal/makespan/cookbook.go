package makespan

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/openai/openai-go/v3/option"
)

// cookbook is the algorithm of a script that OpenAI publishes in its cookbook,
// examples/api_request_parallel_processor.py of github.com/openai/openai-cookbook: one
// loop, which wakes every millisecond, keeps two capacities that refill evenly, starts
// the next call when both suffice for it, and stands still for 15 s after the provider
// refused one. Failed calls come again before new ones, five attempts in all. As here a
// minute lasts a period, it stands still for that part of it.
var cookbook = Contestant{
	Name:  "OpenAI's cookbook script",
	Setup: "its algorithm in Go: capacities that refill evenly, looked at every millisecond; a pause of 15 s, scaled like the minute, after a refusal; five attempts",
	New: func(p Provider) (Ask, func() error, error) {
		client := p.Client(option.WithMaxRetries(0)) // the loop retries
		l := &loop{
			requests: level{capacity: float64(p.Requests), per: p.Period},
			tokens:   level{capacity: float64(p.Tokens), per: p.Period},
			pause:    p.Scaled(15 * time.Second),
			call: func(ctx context.Context, q Question) error {
				_, err := chat(ctx, client, q)
				return err
			},
			quit: make(chan struct{}),
		}
		l.running.Go(l.run)
		return l.ask, l.stop, nil
	},
}

// loop starts calls.
type loop struct {
	requests, tokens level
	pause            time.Duration
	call             func(context.Context, Question) error
	quit             chan struct{}
	running          sync.WaitGroup

	mu      sync.Mutex // guards what follows
	fresh   []*task    // in order of arrival
	again   []*task    // failed, to be tried again
	refused time.Time  // when the provider last refused a call
}

type task struct {
	ctx      context.Context
	question Question
	left     int // attempts
	done     chan error
}

// level is a capacity that refills evenly.
type level struct {
	capacity float64
	per      time.Duration // in which it refills from nothing
	left     float64
}

func (l *level) refill(d time.Duration) {
	l.left = min(l.left+l.capacity*d.Seconds()/l.per.Seconds(), l.capacity)
}

func (l *loop) ask(ctx context.Context, q Question) error {
	t := &task{ctx: ctx, question: q, left: 5, done: make(chan error, 1)}
	l.mu.Lock()
	l.fresh = append(l.fresh, t)
	l.mu.Unlock()
	select {
	case err := <-t.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *loop) run() {
	const nap = time.Millisecond
	l.requests.left, l.tokens.left = l.requests.capacity, l.tokens.capacity
	last := time.Now()
	var next *task
	for {
		if next == nil {
			next = l.take()
		}
		now := time.Now()
		l.requests.refill(now.Sub(last))
		l.tokens.refill(now.Sub(last))
		last = now
		if next != nil {
			if n := float64(next.question.tokens()); l.requests.left >= 1 && l.tokens.left >= n {
				l.requests.left--
				l.tokens.left -= n
				t := next
				next = nil
				t.left--
				l.running.Go(func() { l.attempt(t) })
			}
		}
		if !l.sleep(nap) || !l.sleep(l.standstill()) {
			return
		}
	}
}

// take returns the next call to make, one that failed before a new one; nil if there
// is none.
func (l *loop) take() (t *task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.again) > 0:
		t, l.again = l.again[0], l.again[1:]
	case len(l.fresh) > 0:
		t, l.fresh = l.fresh[0], l.fresh[1:]
	}
	return t
}

// standstill is how long nothing is started because of a refusal.
func (l *loop) standstill() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.refused.Add(l.pause))
}

func (l *loop) attempt(t *task) {
	err := l.call(t.ctx, t.question)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && status(err) == http.StatusTooManyRequests {
		l.refused = time.Now()
	}
	if err != nil && t.left > 0 {
		l.again = append(l.again, t)
		return
	}
	t.done <- err
}

// sleep returns false when the loop is to end.
func (l *loop) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	select {
	case <-time.After(d):
		return true
	case <-l.quit:
		return false
	}
}

func (l *loop) stop() error {
	close(l.quit)
	l.running.Wait()
	return nil
}

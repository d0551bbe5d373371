package contender

import (
	"context"
	"sync"
)

// handoff is the least that hands a job to another goroutine and a result back: a
// channel of jobs, workers, one reused result channel per caller, and a select on
// ctx.Done when the job goes out and when the result comes back.
var handoff = Contender{
	Name:  "bare hand-off",
	Lacks: "Limits, an order of its own, errors, panics, a view inside: everything but the hand-off.",
	New: func(workers, backlog int, work Work) (Pool, error) {
		p := &handoffPool{jobs: make(chan handoffJob, backlog)}
		for range workers {
			p.workers.Go(func() {
				for j := range p.jobs {
					if result := work(j.n); j.result != nil {
						j.result <- result
					}
				}
			})
		}
		return p, nil
	},
}

type handoffPool struct {
	jobs    chan handoffJob
	workers sync.WaitGroup
}

type handoffJob struct {
	n      int
	result chan int // nil when nobody waits
}

func (p *handoffPool) Caller() func(context.Context, int) (int, error) {
	result := make(chan int, 1)
	return func(ctx context.Context, n int) (int, error) {
		select {
		case p.jobs <- handoffJob{n, result}:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		select {
		case r := <-result:
			return r, nil
		case <-ctx.Done():
			result = make(chan int, 1) // the old one gets a result that is not the next call's
			return 0, ctx.Err()
		}
	}
}

func (p *handoffPool) Enqueue(ctx context.Context, n int) error {
	select {
	case p.jobs <- handoffJob{n: n}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *handoffPool) Drain() error {
	close(p.jobs)
	p.workers.Wait()
	return nil
}

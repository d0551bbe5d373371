package contender

import (
	"context"
	"sync"

	"github.com/panjf2000/ants/v2"
)

// antsPool is the pool for one function, which ants advises when all jobs are of
// one kind: it saves a closure per job. ants returns no results, so that each caller
// brings a channel, and says nothing when it is idle, so that a WaitGroup does.
var antsPool = Contender{
	Name: "ants",
	Lacks: "Limits of requests or tokens per period, retries, priorities, fair shares. Bounds concurrency only. " +
		"It has no line: submitting blocks while all workers are busy, and no context ends that. No results, no errors.",
	New: func(workers, _ int, work Work) (Pool, error) {
		p := &antsJobs{}
		pool, err := ants.NewPoolWithFuncGeneric(workers, func(j antsJob) {
			result := work(j.n)
			if j.result == nil {
				p.enqueued.Done()
				return
			}
			j.result <- result
		})
		p.pool = pool
		return p, err
	},
}

type antsJobs struct {
	pool     *ants.PoolWithFuncGeneric[antsJob]
	enqueued sync.WaitGroup
}

type antsJob struct {
	n      int
	result chan int // nil when nobody waits
}

func (p *antsJobs) Caller() func(context.Context, int) (int, error) {
	result := make(chan int, 1)
	return func(ctx context.Context, n int) (int, error) {
		if err := p.pool.Invoke(antsJob{n, result}); err != nil {
			return 0, err
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

func (p *antsJobs) Enqueue(_ context.Context, n int) error {
	p.enqueued.Add(1)
	err := p.pool.Invoke(antsJob{n: n})
	if err != nil {
		p.enqueued.Done()
	}
	return err
}

func (p *antsJobs) Drain() error {
	p.enqueued.Wait()
	// Its own goroutines look for the end twice a second, which is not the jobs' cost.
	p.pool.Release()
	return nil
}

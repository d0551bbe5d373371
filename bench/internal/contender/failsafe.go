package contender

import (
	"context"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/ratelimiter"
)

// failsafePolicies is a bulkhead with a rate limiter inside, so that a permit is
// taken when there is a slot to use it at once. Both are told to wait; they refuse
// otherwise. Waiting for the result needs no second goroutine, so that none is used.
var failsafePolicies = Contender{
	Name: "failsafe-go, bulkhead and rate limiter",
	Lacks: "Limits of tokens, refunds, priorities, fair shares. Slot and permit are taken one after the other. " +
		"It has no line: who waits is a goroutine. The job runs in the caller's goroutine, so that nothing is handed over.",
	New: func(workers, _ int, work Work) (Pool, error) {
		const patience = 24 * time.Hour
		return &failsafePool{
			executor: failsafe.With(
				bulkhead.NewBuilder[int](uint(workers)).WithMaxWaitTime(patience).Build(),
				ratelimiter.NewBurstyBuilder[int](plenty, time.Minute).WithMaxWaitTime(patience).Build(),
			),
			work: work,
		}, nil
	},
}

type failsafePool struct {
	executor failsafe.Executor[int]
	work     Work
	enqueued sync.WaitGroup
}

func (p *failsafePool) Caller() func(context.Context, int) (int, error) {
	return func(ctx context.Context, n int) (int, error) {
		return p.executor.WithContext(ctx).Get(func() (int, error) { return p.work(n), nil })
	}
}

func (p *failsafePool) Enqueue(ctx context.Context, n int) error {
	p.enqueued.Add(1)
	p.executor.WithContext(ctx).GetAsync(func() (int, error) {
		defer p.enqueued.Done()
		return p.work(n), nil
	})
	return nil
}

func (p *failsafePool) Drain() error {
	p.enqueued.Wait()
	return nil
}

// failsafeSmooth lets one request through every period/limit.
var failsafeSmooth = Limiter{
	Name: "failsafe-go, smooth",
	New: func(limit int, period time.Duration) (Gate, error) {
		return waiter(ratelimiter.NewSmooth[any](uint(limit), period).AcquirePermit), nil
	},
}

// failsafeBursty counts anew in each period since it was made.
var failsafeBursty = Limiter{
	Name: "failsafe-go, bursty",
	New: func(limit int, period time.Duration) (Gate, error) {
		return waiter(ratelimiter.NewBursty[any](uint(limit), period).AcquirePermit), nil
	},
}

package contender

import (
	"context"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// rateLimiters is what one builds from the Go project's own parts: a semaphore for
// the slots, a token bucket for the requests and one for the tokens. The slot comes
// first, so that what the buckets let through starts at once. Where nobody waits,
// it is the worker pool of the semaphore's documentation: a goroutine per job once
// there is a slot.
var rateLimiters = Contender{
	Name: "x/time/rate twice and a semaphore",
	Lacks: "Refunds, priorities, fair shares, results. A slot and two allowances are taken one after the other, and each is held while " +
		"the next is awaited. It has no line: who waits is a goroutine, and submitting blocks while all slots are taken. " +
		"The job runs in the caller's goroutine, so that nothing is handed over.",
	New: func(workers, _ int, work Work) (Pool, error) {
		perSecond := rate.Limit(plenty) / 60
		return &ratePool{
			slots:    semaphore.NewWeighted(int64(workers)),
			workers:  int64(workers),
			requests: rate.NewLimiter(perSecond, plenty),
			tokens:   rate.NewLimiter(perSecond, plenty),
			work:     work,
		}, nil
	},
}

type ratePool struct {
	slots            *semaphore.Weighted
	workers          int64
	requests, tokens *rate.Limiter
	work             Work
}

func (p *ratePool) Caller() func(context.Context, int) (int, error) {
	return func(ctx context.Context, n int) (int, error) {
		if err := p.slots.Acquire(ctx, 1); err != nil {
			return 0, err
		}
		defer p.slots.Release(1)
		if err := p.admit(ctx); err != nil {
			return 0, err
		}
		return p.work(n), nil
	}
}

func (p *ratePool) admit(ctx context.Context) error {
	if err := p.requests.Wait(ctx); err != nil {
		return err
	}
	return p.tokens.WaitN(ctx, tokens)
}

func (p *ratePool) Enqueue(ctx context.Context, n int) error {
	if err := p.slots.Acquire(ctx, 1); err != nil {
		return err
	}
	if err := p.admit(ctx); err != nil {
		p.slots.Release(1)
		return err
	}
	go func() {
		defer p.slots.Release(1)
		p.work(n)
	}()
	return nil
}

func (p *ratePool) Drain() error { return p.slots.Acquire(context.Background(), p.workers) }

// rateBurstN has a bucket that holds a whole limit, as most write it.
var rateBurstN = Limiter{
	Name: "x/time/rate, burst N",
	New: func(limit int, period time.Duration) (Gate, error) {
		return rateGate(limit, period, limit), nil
	},
}

// rateBurst1 lets one request through every period/limit.
var rateBurst1 = Limiter{
	Name: "x/time/rate, burst 1",
	New: func(limit int, period time.Duration) (Gate, error) {
		return rateGate(limit, period, 1), nil
	},
}

func rateGate(limit int, period time.Duration, burst int) Gate {
	perSecond := rate.Limit(float64(limit) / period.Seconds())
	return waiter(rate.NewLimiter(perSecond, burst).Wait)
}

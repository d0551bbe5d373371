package contender

import (
	"context"
	"errors"
	"sync"

	"github.com/llmqueue/llmqueue"
)

// llmqueuePermits runs the job in the caller's own goroutine, under a permit of a queue with
// the same limits as llmqueueQueue.
var llmqueuePermits = Contender{
	Name: "llmqueue, permits",
	New: func(workers, _ int, work Work) (Pool, error) {
		q, err := llmqueue.NewQueue("bench", func(context.Context, llmqueue.Request[int]) (int, error) {
			return 0, errors.New("nothing is submitted")
		}, llmqueue.WithLimits(llmqueue.RPM(plenty), llmqueue.TPM(plenty), llmqueue.Concurrent(int64(workers))))
		return &permitPool{queue: q, work: work}, err
	},
}

type permitPool struct {
	queue    *llmqueue.Queue[int, int]
	work     Work
	enqueued sync.WaitGroup
}

func (p *permitPool) Caller() func(context.Context, int) (int, error) { return p.call }

func (p *permitPool) call(ctx context.Context, n int) (int, error) {
	permit, err := p.queue.Acquire(ctx, llmqueue.Claim{Estimate: estimate})
	if err != nil {
		return 0, err
	}
	llmqueue.ReportUsage(permit.Context(), llmqueue.Usage{InputTokens: 10, OutputTokens: tokens - 10})
	result := p.work(n)
	return result, permit.Done(nil)
}

// Enqueue starts a goroutine once there is a permit: permits have no line of jobs.
func (p *permitPool) Enqueue(ctx context.Context, n int) error {
	permit, err := p.queue.Acquire(ctx, llmqueue.Claim{Estimate: estimate})
	if err != nil {
		return err
	}
	p.enqueued.Go(func() {
		p.work(n)
		_ = permit.Done(nil) // an error would say that it was done before
	})
	return nil
}

func (p *permitPool) Drain() error {
	p.enqueued.Wait()
	return p.queue.Shutdown(context.Background())
}

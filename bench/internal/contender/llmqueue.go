package contender

import (
	"context"
	"time"

	"github.com/llmqueue/llmqueue"
)

// llmqueueQueue checks requests, tokens and concurrency in one step for every
// request and settles what the processor reports. Everything else is as it comes:
// history, validation, cancellation.
var llmqueueQueue = Contender{
	Name: "llmqueue",
	New: func(workers, _ int, work Work) (Pool, error) {
		q, err := llmqueue.NewQueue("bench", func(ctx context.Context, r llmqueue.Request[int]) (int, error) {
			llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 10, OutputTokens: tokens - 10})
			return work(r.Params), nil
		}, llmqueue.WithLimits(llmqueue.RPM(plenty), llmqueue.TPM(plenty), llmqueue.Concurrent(int64(workers))))
		return queuePool{q}, err
	},
}

type queuePool struct {
	queue *llmqueue.Queue[int, int]
}

var estimate = llmqueue.Usage{InputTokens: 10, OutputTokens: 10}

func (p queuePool) Caller() func(context.Context, int) (int, error) {
	return func(ctx context.Context, n int) (int, error) {
		resp, err := p.queue.Submit(ctx, llmqueue.Request[int]{Params: n, Estimate: estimate})
		return resp.Result, err
	}
}

func (p queuePool) Enqueue(ctx context.Context, n int) error {
	_, err := p.queue.Submit(ctx, llmqueue.Request[int]{Params: n, Estimate: estimate, NoWait: true})
	return err
}

func (p queuePool) Drain() error { return p.queue.Shutdown(context.Background()) }

// llmqueueLimit is an exact sliding window, held a margin longer than its period.
var llmqueueLimit = Limiter{
	Name: "llmqueue",
	New: func(limit int, period time.Duration) (Gate, error) {
		q, err := llmqueue.NewQueue("bench", func(_ context.Context, r llmqueue.Request[func()]) (struct{}, error) {
			r.Params()
			return struct{}{}, nil
		}, llmqueue.WithLimits(llmqueue.RPM(int64(limit)).Per(period)))
		return queueGate{q}, err
	},
}

type queueGate struct {
	queue *llmqueue.Queue[func(), struct{}]
}

func (g queueGate) Do(ctx context.Context, job func()) error {
	_, err := g.queue.Do(ctx, job)
	return err
}

func (g queueGate) Close() error { return g.queue.Shutdown(context.Background()) }

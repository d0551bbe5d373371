package contender

import (
	"context"

	"github.com/alitto/pond/v2"
)

const pondLacks = "Limits of requests or tokens per period, retries, priorities, fair shares. Bounds concurrency only. " +
	"A caller can stop waiting, but its job keeps its place in line and runs."

// pondResults is pond's pool whose tasks return a result through a future.
var pondResults = Contender{
	Name:  "pond, with results",
	Lacks: pondLacks,
	New: func(workers, _ int, work Work) (Pool, error) {
		return pondResultPool{pond.NewResultPool[int](workers), work}, nil
	},
}

type pondResultPool struct {
	pool pond.ResultPool[int]
	work Work
}

func (p pondResultPool) Caller() func(context.Context, int) (int, error) {
	return func(ctx context.Context, n int) (int, error) {
		task := p.pool.Submit(func() int { return p.work(n) })
		select {
		case <-task.Done():
			return task.Wait()
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (p pondResultPool) Enqueue(_ context.Context, n int) error {
	p.pool.Submit(func() int { return p.work(n) })
	return nil
}

func (p pondResultPool) Drain() error {
	p.pool.StopAndWait()
	return nil
}

// pondPlain is pond's pool of tasks without a result: Go when nobody waits, and to
// wait, Submit with a variable that the task writes.
var pondPlain = Contender{
	Name:  "pond, plain",
	Lacks: pondLacks + " No results of its own.",
	New: func(workers, _ int, work Work) (Pool, error) {
		return pondPlainPool{pond.NewPool(workers), work}, nil
	},
}

type pondPlainPool struct {
	pool pond.Pool
	work Work
}

func (p pondPlainPool) Caller() func(context.Context, int) (int, error) {
	return func(ctx context.Context, n int) (int, error) {
		var result int
		task := p.pool.Submit(func() { result = p.work(n) })
		select {
		case <-task.Done():
			return result, task.Wait()
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (p pondPlainPool) Enqueue(_ context.Context, n int) error {
	return p.pool.Go(func() { p.work(n) })
}

func (p pondPlainPool) Drain() error {
	p.pool.StopAndWait()
	return nil
}

// Package cost measures what it costs to have a job done.
package cost

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/llmqueue/llmqueue/bench/internal/contender"
)

// Cost is what one job costs.
type Cost struct{ Nanoseconds, Bytes, Allocs float64 }

// Job does almost nothing, so that what is measured is the way to it and back. A
// Scenario takes only its results for right.
func Job(n int) int { return ^n }

// Scenario measures a contender that has work done, whose results must be Job's.
type Scenario struct {
	Name string
	Run  func(c contender.Contender, work contender.Work) (Cost, error)
}

// Scenarios are what is measured: calls that are waited for, jobs that are not.
func Scenarios(calls, jobs int) []Scenario {
	return []Scenario{
		{"Submit and wait, 1 caller, 16 workers", RoundTrip(1, 16, calls)},
		{"Submit and wait, 128 callers, 16 workers", RoundTrip(128, 16, calls)},
		{fmt.Sprintf("Fire and forget, %d jobs, then drain, 16 workers", jobs), FireAndForget(jobs, 16)},
	}
}

// RoundTrip shares calls between callers, each of which submits one job after the
// other and waits for the result, with a context that can be canceled.
func RoundTrip(callers, workers, calls int) func(contender.Contender, contender.Work) (Cost, error) {
	return func(c contender.Contender, work contender.Work) (Cost, error) {
		ctx, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		pool, err := c.New(workers, 0, work)
		if err != nil {
			return Cost{}, err
		}
		var (
			next atomic.Int64
			all  sync.WaitGroup
		)
		stop := start()
		for range callers {
			call := pool.Caller()
			all.Go(func() {
				for n := int(next.Add(1)) - 1; n < calls; n = int(next.Add(1)) - 1 {
					got, err := call(ctx, n)
					if err == nil && got != Job(n) {
						err = fmt.Errorf("job %d returned %d, not %d", n, got, Job(n))
					}
					if err != nil {
						cancel(err)
						return
					}
				}
			})
		}
		all.Wait()
		cost := stop(calls)
		return cost, errors.Join(context.Cause(ctx), pool.Drain())
	}
}

// FireAndForget makes a pool, enqueues jobs from one goroutine and waits until all
// are done.
func FireAndForget(jobs, workers int) func(contender.Contender, contender.Work) (Cost, error) {
	return func(c contender.Contender, work contender.Work) (Cost, error) {
		ctx := context.Background()
		stop := start()
		pool, err := c.New(workers, jobs, work)
		if err != nil {
			return Cost{}, err
		}
		for n := range jobs {
			if err := pool.Enqueue(ctx, n); err != nil {
				return Cost{}, errors.Join(err, pool.Drain())
			}
		}
		if err := pool.Drain(); err != nil {
			return Cost{}, err
		}
		return stop(jobs), nil
	}
}

// start begins a measurement; the function it returns ends it.
func start() (stop func(jobs int) Cost) {
	runtime.GC() // what came before is not this contender's garbage
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	from := time.Now()
	return func(jobs int) Cost {
		took := time.Since(from)
		runtime.ReadMemStats(&after)
		per := func(total uint64) float64 { return float64(total) / float64(jobs) }
		return Cost{per(uint64(took)), per(after.TotalAlloc - before.TotalAlloc), per(after.Mallocs - before.Mallocs)}
	}
}

// Summary is what one contender cost in several passes: medians, and its ratio to the
// first contender of the same pass.
type Summary struct {
	Name                   string
	Cost                   Cost
	Ratio, Lowest, Highest float64
}

// Compare measures every contender in every pass and one after the other, so that
// what the machine does meanwhile strikes all of them alike. A pass before the first warms up.
func Compare(s Scenario, contenders []contender.Contender, passes int) ([]Summary, error) {
	costs := make([][]Cost, len(contenders))
	for pass := range passes + 1 {
		for i := range contenders {
			i = (i + pass) % len(contenders) // nobody always comes after the same
			cost, err := s.Run(contenders[i], Job)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", s.Name, contenders[i].Name, err)
			}
			if pass > 0 {
				costs[i] = append(costs[i], cost)
			}
		}
	}
	return summarize(contenders, costs), nil
}

// summarize takes the costs by contender and pass.
func summarize(contenders []contender.Contender, costs [][]Cost) []Summary {
	summaries := make([]Summary, len(contenders))
	for i, c := range contenders {
		ratios := make([]float64, len(costs[i]))
		for pass, cost := range costs[i] {
			ratios[pass] = cost.Nanoseconds / costs[0][pass].Nanoseconds
		}
		summaries[i] = Summary{
			Name: c.Name,
			Cost: Cost{
				Nanoseconds: medianOf(costs[i], func(c Cost) float64 { return c.Nanoseconds }),
				Bytes:       medianOf(costs[i], func(c Cost) float64 { return c.Bytes }),
				Allocs:      medianOf(costs[i], func(c Cost) float64 { return c.Allocs }),
			},
			Ratio:   median(ratios),
			Lowest:  slices.Min(ratios),
			Highest: slices.Max(ratios),
		}
	}
	return summaries
}

func medianOf(costs []Cost, part func(Cost) float64) float64 {
	parts := make([]float64, len(costs))
	for i, c := range costs {
		parts[i] = part(c)
	}
	return median(parts)
}

// median wants at least one value.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// Package pacing measures how much of a limit is admitted, and how much too much.
package pacing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue/bench/internal/contender"
)

// Load is more work than a limit lets through, all of it at once.
type Load struct {
	Limit   int           // requests per period
	Period  time.Duration // of the limit
	Periods int           // how many of them are watched, from when the limiter is made
	Late    time.Duration // when the work comes; before, the limiter is idle
}

// length is how long a run is watched.
func (l Load) length() time.Duration { return time.Duration(l.Periods) * l.Period }

// quota is the most that any schedule can start while it is watched, with never more than the limit
// in a period: the whole limit as soon as the work comes, and again after each period.
func (l Load) quota() int {
	left := l.length() - l.Late
	return l.Limit * int((left+l.Period-1)/l.Period)
}

// Result is how a limiter dealt with a load.
type Result struct {
	// Most is the most that it started in any one period, as a multiple of the limit.
	Most float64
	// Used is what it started, as a part of what the limit allows.
	Used float64
}

// Measure runs a load in real time, or in the virtual time of a test.
func Measure(limiter contender.Limiter, load Load) (Result, error) {
	starts, err := run(limiter, load)
	return Result{
		Most: float64(most(starts, load.Period)) / float64(load.Limit),
		Used: float64(len(starts)) / float64(load.quota()),
	}, err
}

// run returns when each job started, from the beginning of the run.
func run(limiter contender.Limiter, load Load) ([]time.Duration, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	gate, err := limiter.New(load.Limit, load.Period)
	if err != nil {
		return nil, err
	}
	var (
		from   = time.Now()
		mu     sync.Mutex // guards starts and failed
		starts []time.Duration
		failed error
		all    sync.WaitGroup
	)
	started := func() {
		now := time.Since(from)
		mu.Lock()
		defer mu.Unlock()
		if now < load.length() {
			starts = append(starts, now)
		}
	}
	time.Sleep(load.Late)
	// A bucket that is full at first lets one limit more through than there are periods.
	for range load.Limit * (load.Periods + 2) {
		all.Go(func() {
			if err := gate.Do(ctx, started); err != nil && ctx.Err() == nil {
				mu.Lock()
				defer mu.Unlock()
				failed = err
			}
		})
	}
	time.Sleep(load.length() - time.Since(from))
	cancel()
	all.Wait()
	slices.Sort(starts)
	return starts, errors.Join(failed, gate.Close())
}

// most returns the most starts in any window [t, t+period). They are in order.
func most(starts []time.Duration, period time.Duration) int {
	found, first := 0, 0
	for last, t := range starts {
		for t-starts[first] >= period {
			first++
		}
		found = max(found, last-first+1)
	}
	return found
}

// MeasureAll measures all limiters at the same time, which is fair as long as they
// mostly wait.
func MeasureAll(limiters []contender.Limiter, load Load) ([]Result, error) {
	var (
		results = make([]Result, len(limiters))
		errs    = make([]error, len(limiters))
		all     sync.WaitGroup
	)
	for i, l := range limiters {
		all.Go(func() {
			if results[i], errs[i] = Measure(l, load); errs[i] != nil {
				errs[i] = fmt.Errorf("%s: %w", l.Name, errs[i])
			}
		})
	}
	all.Wait()
	return results, errors.Join(errs...)
}

// Package plan answers how long a load will take under limits, and which limit binds,
// before anything is sent.
//
//	r, err := plan.Run(load, llmqueue.WithLimits(llmqueue.RPM(1000), llmqueue.TPM(1_000_000)))
//	fmt.Println(r.Makespan, r.Wait.P95, r.Limits[0].Limit)
//
// It plays the load to the scheduler of a llmqueue.Queue in virtual time: nothing runs and
// nothing sleeps. Tenants, priorities, unknown sizes and refunds count as they do in a
// queue. All attempts succeed: failures and a provider that slows down are not played.
package plan

import (
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/internal/bridge"
	"github.com/llmqueue/llmqueue/internal/endpoint"
)

// Request is one request of a load that Run plays.
type Request struct {
	// At is when it arrives, counted from when the plan begins; not before the one
	// ahead of it.
	At       time.Duration
	Tenant   string
	Priority int
	Estimate llmqueue.Usage // what it reserves; zero means unknown
	Used     llmqueue.Usage // what it is found to have used; zero means as estimated
	Duration time.Duration  // of its processing
}

// Result says how a load fared.
type Result struct {
	Requests  int64
	Makespan  time.Duration // from the first arrival to the last end
	LastStart time.Duration // counted from the first arrival
	Wait      Wait
	Used      llmqueue.Usage
	// Limits are the limits, concurrency among them, the one first that held the line
	// for longest: it binds.
	Limits []Limit
}

// Wait sums up how long requests waited for their start. P50 and P95, which that share of
// the requests did not exceed, are up to 0.4% too high; the others are exact.
type Wait struct{ Mean, P50, P95, Max time.Duration }

// Limit says what one limit did in a plan.
type Limit struct {
	// Limit is named as in llmqueue.Forecast.WaitsFor: "500 rpm", "concurrent".
	Limit string
	// Held is how long the head of the line waited for it, and for no other limit
	// longer.
	Held time.Duration
	// Quota is the share that was charged of what the limit allows in all the periods,
	// margin included, that began up to the last start; for concurrent the share of
	// the slots' time. What llmqueue.WithPriorUsage charged is left out.
	Quota float64
}

// Run answers how long a load will take under limits, and which limit binds. 50,000
// requests take a fraction of a second, and the memory is that of what waits at once. The
// same load and options give the same result, except that daily limits and
// llmqueue.WithPriorUsage count from the present time. What is due at an instant happens
// before what arrives at it. Safe for concurrent use.
//
// It takes llmqueue.WithLimits, WithUnlimited, WithMargin, WithPriorUsage, WithAccounting
// and WithBackfill; other options are llmqueue.ErrInvalidConfiguration. A request that can
// never start is llmqueue.ErrRequestTooLarge. Arrivals out of order and negative numbers are
// llmqueue.ErrInvalidParams. Such errors name the request by its index, from 0. With an
// error the Result is zero, and nothing more of the load is pulled.
func Run(load iter.Seq[Request], opts ...llmqueue.Option) (Result, error) {
	p, err := newPlayer(opts)
	if err != nil {
		return Result{}, err
	}
	for r := range load {
		if err := p.check(&r); err != nil {
			return Result{}, fmt.Errorf("request %d of the load: %w", p.arrived, err)
		}
		for p.step(instant(r.At)) {
		}
		p.arrive(&r)
		if err := p.grown(); err != nil {
			return Result{}, err
		}
	}
	for p.step(math.MaxInt64) {
	}
	if err := p.grown(); err != nil {
		return Result{}, err
	}
	return p.result(), nil
}

// check refuses what cannot be played.
func (p *player) check(r *Request) error {
	estimate := fromUsage(r.Estimate)
	if err := bridge.CheckUsage(estimate, "Estimate"); err != nil {
		return err
	}
	if err := bridge.CheckUsage(fromUsage(r.Used), "Used"); err != nil {
		return err
	}
	switch {
	case r.Duration < 0:
		return fmt.Errorf("%w: Duration is %v, give 0 or more", llmqueue.ErrInvalidParams, r.Duration)
	case r.At < 0:
		return fmt.Errorf("%w: At is %v, give 0 or more", llmqueue.ErrInvalidParams, r.At)
	case instant(r.At) < p.now:
		return fmt.Errorf("%w: At is %v, after a request that arrives at %v: sort the load by At",
			llmqueue.ErrInvalidParams, r.At, time.Duration(p.now-begin))
	}
	if no := p.engine.Refuse(p.now, p.request(r), false); no != nil {
		return fmt.Errorf("%w: %s allows less than the %d input and %d output tokens that it reserves, make it smaller or raise the limit",
			llmqueue.ErrRequestTooLarge, p.name(no.Limit), no.Usage.Input, no.Usage.Output)
	}
	return nil
}

// grown is an error when a request has failed after all: what others used made it too
// large for the limits.
func (p *player) grown() error {
	if p.engine.Counts().Failed == 0 {
		return nil
	}
	return fmt.Errorf("%w: what others used made a request of the load, %d of which had arrived, larger than a limit: estimate its output, or raise the limit",
		llmqueue.ErrRequestTooLarge, p.arrived)
}

func fromUsage(u llmqueue.Usage) endpoint.Usage {
	return endpoint.Usage{Input: u.InputTokens, Output: u.OutputTokens, Cached: u.CachedInputTokens}
}

func toUsage(u endpoint.Usage) llmqueue.Usage {
	return llmqueue.Usage{InputTokens: u.Input, OutputTokens: u.Output, CachedInputTokens: u.Cached}
}

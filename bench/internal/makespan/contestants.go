package makespan

import (
	"context"
	"time"

	"github.com/openai/openai-go/v3/option"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// All are the contestants, the library first.
var All = []Contestant{
	queueGiven, queueLearned, queueBurst,
	sdkAlone, semaphoreRetries, rateBurst1, rateBurstN, failsafeBursty, cookbook,
}

// manyRetries are enough for whatever a limiter lets through too early.
const manyRetries = 10

func nothingToStop() error { return nil }

// sdkAlone is what a program does that knows of no limits.
var sdkAlone = Contestant{
	Name:  "SDK alone",
	Setup: "all calls at once; the SDK retries twice, as it does unless told otherwise",
	New: func(p Provider) (Ask, func() error, error) {
		client := p.Client()
		return func(ctx context.Context, q Question) error {
			_, err := chat(ctx, client, q)
			return err
		}, nothingToStop, nil
	},
}

// semaphoreRetries is the usual first remedy.
var semaphoreRetries = Contestant{
	Name:  "semaphore and retries",
	Setup: "16 calls at once; the SDK retries ten times",
	New: func(p Provider) (Ask, func() error, error) {
		client := p.Client(option.WithMaxRetries(manyRetries))
		slots := semaphore.NewWeighted(16)
		return func(ctx context.Context, q Question) error {
			if err := slots.Acquire(ctx, 1); err != nil {
				return err
			}
			defer slots.Release(1)
			_, err := chat(ctx, client, q)
			return err
		}, nothingToStop, nil
	},
}

var rateBurst1 = Contestant{
	Name:  "x/time/rate, burst 1",
	Setup: "a limiter for requests with a burst of 1 and one for tokens with a burst of the largest call, both at 98% of the limit; ten retries, each through the limiters after the time that the provider asks for",
	New: func(p Provider) (Ask, func() error, error) {
		return rateLimited(p, 0.98, 1, int(p.Largest))
	},
}

var rateBurstN = Contestant{
	Name:  "x/time/rate, burst N",
	Setup: "a limiter for requests and one for tokens, both with a burst of the whole limit; ten retries, each through the limiters after the time that the provider asks for",
	New: func(p Provider) (Ask, func() error, error) {
		return rateLimited(p, 1, int(p.Requests), int(p.Tokens))
	},
}

func rateLimited(p Provider, share float64, requestBurst, tokenBurst int) (Ask, func() error, error) {
	client := p.Client(option.WithMaxRetries(0)) // which would go past the limiters
	per := func(n int64) rate.Limit { return rate.Limit(share * float64(n) / p.Period.Seconds()) }
	requests := rate.NewLimiter(per(p.Requests), requestBurst)
	tokens := rate.NewLimiter(per(p.Tokens), tokenBurst)
	once := func(ctx context.Context, q Question) error {
		if err := requests.Wait(ctx); err != nil {
			return err
		}
		if err := tokens.WaitN(ctx, int(q.tokens())); err != nil {
			return err
		}
		_, err := chat(ctx, client, q)
		return err
	}
	return func(ctx context.Context, q Question) error {
		for retries := 0; ; retries++ {
			err := once(ctx, q)
			if err == nil || !retryable(err) || retries == manyRetries {
				return err
			}
			select {
			case <-time.After(retryAfter(err)):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}, nothingToStop, nil
}

package makespan

import (
	"context"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/ratelimiter"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// failsafeBursty composes what failsafe-go has: a retry policy around a rate limiter
// of requests. Its policies take one permit for each call, so that those for the tokens
// are acquired in the call.
var failsafeBursty = Contestant{
	Name:  "failsafe-go, bursty",
	Setup: "a bursty rate limiter for requests and one for tokens; a retry policy around them, ten retries after the time that the provider asks for",
	New: func(p Provider) (Ask, func() error, error) {
		client := p.Client(option.WithMaxRetries(0))
		tokens := ratelimiter.NewBursty[*openai.ChatCompletion](uint(p.Tokens), p.Period)
		policies := failsafe.With[*openai.ChatCompletion](
			retrypolicy.NewBuilder[*openai.ChatCompletion]().
				HandleIf(func(_ *openai.ChatCompletion, err error) bool { return err != nil && retryable(err) }).
				WithMaxRetries(manyRetries).
				WithDelayFunc(func(e failsafe.ExecutionAttempt[*openai.ChatCompletion]) time.Duration {
					return retryAfter(e.LastError())
				}).
				Build(),
			ratelimiter.NewBurstyBuilder[*openai.ChatCompletion](uint(p.Requests), p.Period).WithMaxWaitTime(patience).Build(),
		)
		return func(ctx context.Context, q Question) error {
			_, err := policies.WithContext(ctx).GetWithExecution(func(e failsafe.Execution[*openai.ChatCompletion]) (*openai.ChatCompletion, error) {
				if err := tokens.AcquirePermits(e.Context(), uint(q.tokens())); err != nil {
					return nil, err
				}
				return chat(e.Context(), client, q)
			})
			return err
		}, nothingToStop, nil
	},
}

// patience is longer than any run: without it the limiter refuses instead of waiting.
const patience = 24 * time.Hour

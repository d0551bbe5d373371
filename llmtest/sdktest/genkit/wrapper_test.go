package genkit

import (
	"context"

	"github.com/firebase/genkit/go/ai"

	"github.com/llmqueue/llmqueue"
)

// docs/guides/agents.md shows what stands between the marks: a test of sdktest sees to it.

// wrapper: genkit

// caller is a queue of one model. For several, let claims say their ModelID, and take a Manager.
type caller interface {
	Call(ctx context.Context, c llmqueue.Claim, f func(ctx context.Context) error) error
}

// Queued is a middleware in which each call of a model waits in a queue: give it to
// ai.WithMiddleware. A run with tools goes through it once for each turn.
func Queued(queue caller) ai.ModelMiddleware {
	return func(next ai.ModelFunc) ai.ModelFunc {
		return func(ctx context.Context, req *ai.ModelRequest, chunks ai.ModelStreamCallback) (res *ai.ModelResponse, err error) {
			err = queue.Call(ctx, claim(req), func(ctx context.Context) (err error) {
				handed := chunks
				if chunks != nil {
					handed = func(inner context.Context, chunk *ai.ModelResponseChunk) error {
						llmqueue.Streamed(ctx) // from here on, no second attempt
						return chunks(inner, chunk)
					}
				}
				res, err = next(ctx, req, handed)
				return err
			})
			return res, err
		}
	}
}

func claim(req *ai.ModelRequest) (c llmqueue.Claim) {
	for _, m := range req.Messages {
		c.Estimate.InputTokens += 4 + llmqueue.EstimateTokens(m.Text())
	}
	c.Estimate.OutputTokens = maxTokens // what the calls' configuration allows
	return c
}

// end of the wrapper

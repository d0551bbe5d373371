package sdktest

import (
	"context"

	"charm.land/fantasy"

	"github.com/llmqueue/llmqueue"
)

// wrapper: fantasy

// QueuedFantasy is a language model whose calls wait in a queue. GenerateObject and StreamObject
// want the same.
type QueuedFantasy struct {
	fantasy.LanguageModel
	queue caller
}

func (m QueuedFantasy) Generate(ctx context.Context, call fantasy.Call) (res *fantasy.Response, err error) {
	err = m.queue.Call(ctx, fantasyClaim(call), func(ctx context.Context) (err error) {
		res, err = m.LanguageModel.Generate(ctx, call)
		return err
	})
	return res, err
}

// Stream waits on the goroutine of who reads, and holds the call's slot until the reader is done.
func (m QueuedFantasy) Stream(ctx context.Context, call fantasy.Call) (fantasy.StreamResponse, error) {
	return func(yield func(fantasy.StreamPart) bool) {
		left := false
		err := m.queue.Call(ctx, fantasyClaim(call), func(ctx context.Context) error {
			parts, err := m.LanguageModel.Stream(ctx, call)
			if err != nil {
				return err
			}
			for part := range parts {
				if part.Type == fantasy.StreamPartTypeError {
					return part.Error
				}
				llmqueue.Streamed(ctx) // from here on, no second attempt
				if left = !yield(part); left {
					return nil
				}
			}
			return nil
		})
		if err != nil && !left {
			yield(fantasy.StreamPart{Type: fantasy.StreamPartTypeError, Error: err})
		}
	}, nil
}

func fantasyClaim(call fantasy.Call) (c llmqueue.Claim) {
	for _, m := range call.Prompt {
		c.Estimate.InputTokens += 4
		for _, part := range m.Content {
			if text, ok := part.(fantasy.TextPart); ok {
				c.Estimate.InputTokens += llmqueue.EstimateTokens(text.Text)
			}
		}
	}
	if call.MaxOutputTokens != nil {
		c.Estimate.OutputTokens = *call.MaxOutputTokens
	}
	return c
}

// end of the wrapper

package sdktest

import (
	"context"
	"errors"
	"io"

	"github.com/cloudwego/eino/components/model"
	"github.com/cloudwego/eino/schema"

	"github.com/llmqueue/llmqueue"
)

// docs/guides/agents.md shows what stands between the marks of the wrappers: TestGuideShowsTheWrappers.

// wrapper: eino

// caller is a queue of one model. For several, let claims say their ModelID, and take a Manager.
type caller interface {
	Call(ctx context.Context, c llmqueue.Claim, f func(ctx context.Context) error) error
}

// QueuedEino is a chat model whose calls wait in a queue.
type QueuedEino struct {
	model.ToolCallingChatModel
	queue caller
}

func (m QueuedEino) WithTools(tools []*schema.ToolInfo) (model.ToolCallingChatModel, error) {
	with, err := m.ToolCallingChatModel.WithTools(tools)
	return QueuedEino{with, m.queue}, err
}

func (m QueuedEino) Generate(ctx context.Context, messages []*schema.Message, opts ...model.Option) (answer *schema.Message, err error) {
	err = m.queue.Call(ctx, einoClaim(messages), func(ctx context.Context) (err error) {
		answer, err = m.ToolCallingChatModel.Generate(ctx, messages, opts...)
		return err
	})
	return answer, err
}

// Stream holds the call's slot until the stream ends or is closed.
func (m QueuedEino) Stream(ctx context.Context, messages []*schema.Message, opts ...model.Option) (*schema.StreamReader[*schema.Message], error) {
	out, in := schema.Pipe[*schema.Message](1)
	go func() {
		defer in.Close()
		err := m.queue.Call(ctx, einoClaim(messages), func(ctx context.Context) error {
			stream, err := m.ToolCallingChatModel.Stream(ctx, messages, opts...)
			if err != nil {
				return err
			}
			defer stream.Close()
			for {
				chunk, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				llmqueue.Streamed(ctx) // from here on, no second attempt
				if in.Send(chunk, nil) {
					return nil // the reader left
				}
			}
		})
		if err != nil {
			in.Send(nil, err)
		}
	}()
	return out, nil
}

func einoClaim(messages []*schema.Message) (c llmqueue.Claim) {
	for _, m := range messages {
		c.Estimate.InputTokens += 4 + llmqueue.EstimateTokens(m.Content)
	}
	c.Estimate.OutputTokens = maxTokens // what the model's configuration allows
	return c
}

// end of the wrapper

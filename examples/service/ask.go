package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/openai/openai-go/v3"

	"github.com/llmqueue/llmqueue"
)

// asker makes the calls.
type asker struct{ client openai.Client }

// ask is the processor of both models.
func (a asker) ask(ctx context.Context, req llmqueue.Request[Question]) (Answer, error) {
	params := openai.ChatCompletionNewParams{
		Model:               req.ModelID,
		Messages:            []openai.ChatCompletionMessageParamUnion{openai.UserMessage(req.Params.Prompt)},
		MaxCompletionTokens: openai.Int(maxOutput),
	}
	if req.Params.Stream {
		return a.stream(ctx, params)
	}
	completion, err := a.client.Chat.Completions.New(ctx, params)
	if err != nil {
		return Answer{}, err // the transport has told the queue what it means
	}
	return Answer{Text: completion.Choices[0].Message.Content, Model: req.ModelID}, nil
}

// stream emits the answer as it comes.
func (a asker) stream(ctx context.Context, params openai.ChatCompletionNewParams) (Answer, error) {
	params.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}
	chunks := a.client.Chat.Completions.NewStreaming(ctx, params)
	defer chunks.Close()
	var text strings.Builder
	for chunks.Next() {
		for _, choice := range chunks.Current().Choices {
			text.WriteString(choice.Delta.Content)
			if err := llmqueue.Emit(ctx, choice.Delta.Content); err != nil {
				return Answer{}, err // nobody listens any more
			}
		}
	}
	return Answer{Text: text.String(), Model: params.Model}, chunks.Err()
}

// ask asks the running service one question, as a client would.
func ask(out io.Writer, url string) error {
	res, err := http.Post(url+"/ask", "application/json", strings.NewReader(`{"prompt":"Why is the sky blue?"}`))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var answer Answer
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("asked the service: %s %w", res.Status, err)
	}
	fmt.Fprintf(out, "%s says: %s\n", answer.Model, answer.Text)
	return nil
}

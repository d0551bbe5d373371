// Command quickstart is the program that README.md begins with. It asks the real service, with
// OPENAI_API_KEY.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

func main() {
	ctx := context.Background()
	client := openai.NewClient( // reads OPENAI_API_KEY
		option.WithHTTPClient(&http.Client{Transport: llmhttp.NewTransport(nil)}),
		option.WithMaxRetries(0)) // the queue retries

	queue, err := llmqueue.NewQueue("gpt-4.1-mini", func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
		answer, err := client.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{
			Model:    req.ModelID,
			Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(req.Params)},
		})
		if err != nil {
			return "", err // the queue knows what to do about it
		}
		return answer.Choices[0].Message.Content, nil
	}, llmqueue.WithLearnedLimits()) // from the answers' headers
	if err != nil {
		log.Fatal(err)
	}
	defer queue.Shutdown(ctx)

	answer, err := queue.Do(ctx, "Why is the sky blue?") // from as many goroutines as you like
	fmt.Println(answer, err)
}

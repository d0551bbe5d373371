package sdktest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/ai/azopenai"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	cohere "github.com/cohere-ai/cohere-go/v2"
	cohereclient "github.com/cohere-ai/cohere-go/v2/client"
	cohereoption "github.com/cohere-ai/cohere-go/v2/option"
	goopenai "github.com/sashabaranov/go-openai"
)

// bedrockConverse has the SDK's own retries off: it does not know X-Should-Retry.
func bedrockConverse(_ *testing.T, client *http.Client, url string, stream bool) ask {
	c := bedrockruntime.New(bedrockruntime.Options{
		Region:       "us-east-1",
		Credentials:  credentials.NewStaticCredentialsProvider("any", "any", ""),
		BaseEndpoint: &url,
		HTTPClient:   client,
		Retryer:      aws.NopRetryer{},
	})
	return func(ctx context.Context, prompt string) (string, error) {
		messages := []types.Message{{Role: types.ConversationRoleUser, Content: []types.ContentBlock{&types.ContentBlockMemberText{Value: prompt}}}}
		limit := &types.InferenceConfiguration{MaxTokens: aws.Int32(maxTokens)}
		if !stream {
			res, err := c.Converse(ctx, &bedrockruntime.ConverseInput{ModelId: aws.String("m"), Messages: messages, InferenceConfig: limit})
			if err != nil {
				return "", err
			}
			message, ok := res.Output.(*types.ConverseOutputMemberMessage)
			if !ok {
				return "", nil // as an error after a 200 looks
			}
			return message.Value.Content[0].(*types.ContentBlockMemberText).Value, nil
		}
		res, err := c.ConverseStream(ctx, &bedrockruntime.ConverseStreamInput{ModelId: aws.String("m"), Messages: messages, InferenceConfig: limit})
		if err != nil {
			return "", err
		}
		events := res.GetStream()
		defer events.Close()
		var text strings.Builder
		for event := range events.Events() {
			switch e := event.(type) {
			case *types.ConverseStreamOutputMemberContentBlockDelta:
				text.WriteString(e.Value.Delta.(*types.ContentBlockDeltaMemberText).Value)
			}
		}
		if err := events.Err(); err != nil {
			return "", err
		}
		return text.String(), nil // also of a stream that was cut: the SDK gives no error
	}
}

// azureOpenAI has azcore's own retries off: it does not know X-Should-Retry.
func azureOpenAI(t *testing.T, client *http.Client, url string, stream bool) ask {
	t.Helper()
	options := &azopenai.ClientOptions{ClientOptions: azcore.ClientOptions{
		Transport:                       client,
		Retry:                           policy.RetryOptions{MaxRetries: -1}, // 0 would be the default of 3
		InsecureAllowCredentialWithHTTP: true,
	}}
	c, err := azopenai.NewClientWithKeyCredential(url, azcore.NewKeyCredential("any"), options)
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, prompt string) (string, error) {
		messages := []azopenai.ChatRequestMessageClassification{
			&azopenai.ChatRequestUserMessage{Content: azopenai.NewChatRequestUserMessageContent(prompt)},
		}
		limit, deployment := aws.Int32(maxTokens), "m"
		if !stream {
			res, err := c.GetChatCompletions(ctx, azopenai.ChatCompletionsOptions{DeploymentName: &deployment, Messages: messages, MaxTokens: limit}, nil)
			if err != nil {
				return "", err
			}
			if len(res.Choices) == 0 {
				return "", nil
			}
			return *res.Choices[0].Message.Content, nil
		}
		res, err := c.GetChatCompletionsStream(ctx, azopenai.ChatCompletionsStreamOptions{
			DeploymentName: &deployment, Messages: messages, MaxTokens: limit,
			StreamOptions: &azopenai.ChatCompletionStreamOptions{IncludeUsage: aws.Bool(true)},
		}, nil)
		if err != nil {
			return "", err
		}
		defer res.ChatCompletionsStream.Close()
		var text strings.Builder
		for {
			chunk, err := res.ChatCompletionsStream.Read()
			if errors.Is(err, io.EOF) {
				return text.String(), nil // it says so at [DONE] only
			}
			if err != nil {
				return "", err
			}
			for _, c := range chunk.Choices {
				if c.Delta.Content != nil {
					text.WriteString(*c.Delta.Content)
				}
			}
		}
	}
}

// dataLines hands on only the data of streams of events, a line with each read. The SDK's
// reader takes whatever a read brings for an event: a blank line, and half of a line.
type dataLines struct{ next http.RoundTripper }

func (d dataLines) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := d.next.RoundTrip(r)
	if err == nil && strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		res.Body = &dataLinesBody{Closer: res.Body, lines: bufio.NewReader(res.Body)}
	}
	return res, err
}

type dataLinesBody struct {
	io.Closer
	lines *bufio.Reader
	rest  []byte // of a line
}

func (b *dataLinesBody) Read(p []byte) (n int, err error) {
	for !bytes.HasPrefix(b.rest, []byte("data:")) {
		if b.rest, err = b.lines.ReadBytes('\n'); err != nil {
			return 0, err
		}
	}
	n = copy(p, b.rest)
	if b.rest = b.rest[n:]; len(b.rest) > 0 {
		err = errors.New("a line is longer than the SDK's buffer")
	}
	return n, err
}

// cohereChat has the SDK's own retries off: it does not know X-Should-Retry.
func cohereChat(_ *testing.T, client *http.Client, url string, stream bool) ask {
	c := cohereclient.NewClient(cohereoption.WithBaseURL(url), cohereoption.WithHTTPClient(&http.Client{Transport: dataLines{client.Transport}}), cohereoption.WithToken("any"), cohereoption.WithMaxAttempts(1))
	return func(ctx context.Context, prompt string) (string, error) {
		messages := cohere.ChatMessages{{Role: "user", User: &cohere.UserMessageV2{Content: &cohere.UserMessageV2Content{String: prompt}}}}
		if !stream {
			res, err := c.V2.Chat(ctx, &cohere.V2ChatRequest{Model: "m", Messages: messages, MaxTokens: aws.Int(maxTokens)})
			if err != nil {
				return "", err
			}
			if res.FinishReason == cohere.ChatFinishReasonError {
				return "", errCutShort
			}
			return res.Message.Content[0].Text.Text, nil
		}
		s, err := c.V2.ChatStream(ctx, &cohere.V2ChatStreamRequest{Model: "m", Messages: messages, MaxTokens: aws.Int(maxTokens)})
		if err != nil {
			return "", err
		}
		defer s.Close()
		var text strings.Builder
		end := errCutShort
		for {
			e, err := s.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return text.String(), end
			case err != nil:
				return "", err
			case e.ContentDelta != nil:
				text.WriteString(*e.ContentDelta.Delta.Message.Content.Text)
			case e.MessageEnd != nil && e.MessageEnd.Delta.Error != nil:
				return "", errors.New(*e.MessageEnd.Delta.Error)
			case e.MessageEnd != nil:
				end = nil
			}
		}
	}
}

func goOpenAI(_ *testing.T, client *http.Client, url string, stream bool) ask {
	config := goopenai.DefaultConfig("any")
	config.BaseURL, config.HTTPClient = url, client
	c := goopenai.NewClientWithConfig(config)
	return func(ctx context.Context, prompt string) (string, error) {
		req := goopenai.ChatCompletionRequest{
			Model:               "m",
			Messages:            []goopenai.ChatCompletionMessage{{Role: goopenai.ChatMessageRoleUser, Content: prompt}},
			MaxCompletionTokens: maxTokens,
		}
		if !stream {
			res, err := c.CreateChatCompletion(ctx, req)
			if err != nil {
				return "", err
			}
			return first(res.Choices).Message.Content, nil
		}
		req.StreamOptions = &goopenai.StreamOptions{IncludeUsage: true}
		s, err := c.CreateChatCompletionStream(ctx, req)
		if err != nil {
			return "", err
		}
		defer s.Close()
		var text strings.Builder
		done := errCutShort
		for {
			chunk, err := s.Recv()
			if errors.Is(err, io.EOF) {
				return text.String(), done // EOF also where the stream was cut
			}
			if err != nil {
				return "", err
			}
			for _, c := range chunk.Choices {
				text.WriteString(c.Delta.Content)
				if c.FinishReason != "" {
					done = nil
				}
			}
		}
	}
}

package sdktest

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/ollama/ollama/api"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/tmc/langchaingo/llms"
	langchain "github.com/tmc/langchaingo/llms/openai"
	"google.golang.org/genai"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmtest"
)

// ask asks for an answer to a prompt, of maxTokens at most.
type ask func(ctx context.Context, prompt string) (string, error)

// sdk is one SDK and the provider that it speaks with.
type sdk struct {
	name            string
	provider        func(...llmtest.Limit) llmtest.Provider
	chargesMax      bool             // max_tokens, for good
	limits, lowered []llmtest.Limit  // at first, and later
	configured      []llmqueue.Limit // nil: the answers state the limits
	told            []llmqueue.Limit // nil: the refusals tell that they were lowered
	client          func(t *testing.T, client *http.Client, url string, stream bool) ask
}

var (
	openAILimits  = []llmtest.Limit{llmtest.RPM(300), llmtest.TPM(30_000)}
	openAILowered = []llmtest.Limit{llmtest.RPM(120), llmtest.TPM(12_000)}
)

var sdks = []sdk{
	{
		name: "openai-go chat", provider: llmtest.OpenAI, chargesMax: true,
		limits: openAILimits, lowered: openAILowered, client: openAIChat,
	}, {
		name: "openai-go responses", provider: llmtest.OpenAI, chargesMax: true,
		limits: openAILimits, lowered: openAILowered, client: openAIResponses,
	}, {
		name: "langchaingo openai", provider: llmtest.OpenAI, chargesMax: true,
		limits: openAILimits, lowered: openAILowered, client: langchainOpenAI,
	}, {
		name: "anthropic-sdk-go", provider: llmtest.Anthropic,
		limits:  []llmtest.Limit{llmtest.RPM(300), llmtest.ITPM(20_000), llmtest.OTPM(50_000)},
		lowered: []llmtest.Limit{llmtest.RPM(120), llmtest.ITPM(8000), llmtest.OTPM(20_000)},
		client:  anthropicMessages,
	}, {
		name: "genai", provider: llmtest.Gemini,
		limits:     []llmtest.Limit{llmtest.RPM(300), llmtest.ITPM(20_000)},
		lowered:    []llmtest.Limit{llmtest.RPM(120), llmtest.ITPM(8000)},
		configured: []llmqueue.Limit{llmqueue.RPM(300), llmqueue.ITPM(20_000)},
		client:     geminiContent,
	}, {
		name: "ollama", provider: llmtest.Ollama,
		limits:     []llmtest.Limit{llmtest.RPM(300), llmtest.TPM(30_000)},
		lowered:    []llmtest.Limit{llmtest.RPM(120), llmtest.TPM(12_000)},
		configured: []llmqueue.Limit{llmqueue.RPM(300), llmqueue.TPM(30_000)},
		told:       []llmqueue.Limit{llmqueue.RPM(120), llmqueue.TPM(12_000)},
		client:     ollamaChat,
	}, {
		name: "go-openai", provider: llmtest.OpenAI, chargesMax: true,
		limits: openAILimits, lowered: openAILowered, client: goOpenAI,
	}, {
		name: "bedrockruntime", provider: llmtest.Bedrock,
		limits:     openAILimits,
		lowered:    openAILowered,
		configured: []llmqueue.Limit{llmqueue.RPM(300), llmqueue.TPM(30_000)},
		told:       []llmqueue.Limit{llmqueue.RPM(120), llmqueue.TPM(12_000)},
		client:     bedrockConverse,
	}, {
		// Requests in slices of 10 s are left out: Azure then states the slice's limit,
		// and not that it is one.
		name: "azopenai", provider: llmtest.AzureOpenAI, chargesMax: true,
		limits:  []llmtest.Limit{llmtest.RPM(300).By(llmtest.FixedWindow), llmtest.TPM(30_000)},
		lowered: []llmtest.Limit{llmtest.RPM(120).By(llmtest.FixedWindow), llmtest.TPM(12_000)},
		client:  azureOpenAI,
	}, {
		name: "cohere-go", provider: llmtest.Cohere,
		limits:     openAILimits,
		lowered:    openAILowered,
		configured: []llmqueue.Limit{llmqueue.RPM(300), llmqueue.TPM(30_000)},
		told:       []llmqueue.Limit{llmqueue.RPM(120), llmqueue.TPM(12_000)},
		client:     cohereChat,
	},
}

// first returns the first element, or the zero value where there is none: an answer that is
// an error has none, and its user does not look.
func first[T any](list []T) (x T) {
	if len(list) > 0 {
		x = list[0]
	}
	return x
}

var errCutShort = errors.New("the stream ended before the answer did")

func openAIDefault(client *http.Client, url string) openai.Client {
	return openai.NewClient(option.WithBaseURL(url), option.WithHTTPClient(client), option.WithAPIKey("any"))
}

func openAIChat(_ *testing.T, client *http.Client, url string, stream bool) ask {
	c := openAIDefault(client, url)
	return func(ctx context.Context, prompt string) (string, error) {
		params := openai.ChatCompletionNewParams{
			Model:               "m",
			Messages:            []openai.ChatCompletionMessageParamUnion{openai.UserMessage(prompt)},
			MaxCompletionTokens: openai.Int(maxTokens),
		}
		if !stream {
			res, err := c.Chat.Completions.New(ctx, params)
			if err != nil {
				return "", err
			}
			return first(res.Choices).Message.Content, nil
		}
		params.StreamOptions.IncludeUsage = openai.Bool(true)
		s := c.Chat.Completions.NewStreaming(ctx, params)
		defer s.Close()
		var acc openai.ChatCompletionAccumulator
		for s.Next() {
			if !acc.AddChunk(s.Current()) {
				return "", errors.New("a chunk does not fit")
			}
		}
		if err := s.Err(); err != nil {
			return "", err
		}
		return first(acc.Choices).Message.Content, nil
	}
}

func openAIResponses(_ *testing.T, client *http.Client, url string, stream bool) ask {
	c := openAIDefault(client, url)
	return func(ctx context.Context, prompt string) (string, error) {
		params := responses.ResponseNewParams{
			Model:           "m",
			Input:           responses.ResponseNewParamsInputUnion{OfString: openai.String(prompt)},
			MaxOutputTokens: openai.Int(maxTokens),
		}
		if !stream {
			res, err := c.Responses.New(ctx, params)
			if err != nil {
				return "", err
			}
			return res.OutputText(), nil
		}
		s := c.Responses.NewStreaming(ctx, params)
		defer s.Close()
		var text strings.Builder
		err := errCutShort
		for s.Next() {
			switch e := s.Current().AsAny().(type) {
			case responses.ResponseTextDeltaEvent:
				text.WriteString(e.Delta)
			case responses.ResponseCompletedEvent, responses.ResponseIncompleteEvent:
				err = nil
			case responses.ResponseErrorEvent:
				err = errors.New(e.Message)
			}
		}
		return text.String(), errors.Join(err, s.Err())
	}
}

func langchainOpenAI(t *testing.T, client *http.Client, url string, stream bool) ask {
	t.Helper()
	c, err := langchain.New(langchain.WithBaseURL(url), langchain.WithToken("any"), langchain.WithModel("m"), langchain.WithHTTPClient(client))
	if err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, prompt string) (string, error) {
		opts := []llms.CallOption{llms.WithMaxTokens(maxTokens)}
		if stream {
			opts = append(opts, llms.WithStreamingFunc(func(context.Context, []byte) error { return nil }))
		}
		res, err := c.GenerateContent(ctx, []llms.MessageContent{llms.TextParts(llms.ChatMessageTypeHuman, prompt)}, opts...)
		if err != nil {
			return "", err
		}
		// It skips an error event in a stream as if nothing had been said.
		if res.Choices[0].StopReason == "" {
			return "", errCutShort
		}
		return res.Choices[0].Content, nil
	}
}

func anthropicMessages(_ *testing.T, client *http.Client, url string, stream bool) ask {
	c := anthropic.NewClient(anthropicoption.WithBaseURL(url), anthropicoption.WithHTTPClient(client), anthropicoption.WithAPIKey("any"))
	return func(ctx context.Context, prompt string) (string, error) {
		params := anthropic.MessageNewParams{
			Model:     "m",
			MaxTokens: maxTokens,
			Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(prompt))},
		}
		if !stream {
			m, err := c.Messages.New(ctx, params)
			if err != nil {
				return "", err
			}
			return first(m.Content).AsText().Text, nil
		}
		s := c.Messages.NewStreaming(ctx, params)
		defer s.Close()
		var m anthropic.Message
		for s.Next() {
			if err := m.Accumulate(s.Current()); err != nil {
				return "", err
			}
		}
		if err := s.Err(); err != nil {
			return "", err
		}
		return first(m.Content).AsText().Text, nil
	}
}

func geminiContent(t *testing.T, client *http.Client, url string, stream bool) ask {
	t.Helper()
	c, err := genai.NewClient(t.Context(), &genai.ClientConfig{
		Backend: genai.BackendGeminiAPI, APIKey: "any", HTTPClient: client, HTTPOptions: genai.HTTPOptions{BaseURL: url},
	})
	if err != nil {
		t.Fatal(err)
	}
	config := &genai.GenerateContentConfig{MaxOutputTokens: maxTokens}
	return func(ctx context.Context, prompt string) (string, error) {
		if !stream {
			res, err := c.Models.GenerateContent(ctx, "m", genai.Text(prompt), config)
			if err != nil {
				return "", err
			}
			return res.Text(), nil
		}
		var text strings.Builder
		for res, err := range c.Models.GenerateContentStream(ctx, "m", genai.Text(prompt), config) {
			if err != nil {
				return "", err
			}
			text.WriteString(res.Text())
		}
		return text.String(), nil
	}
}

func ollamaChat(t *testing.T, client *http.Client, base string, stream bool) ask {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	c := api.NewClient(u, client)
	return func(ctx context.Context, prompt string) (string, error) {
		var text strings.Builder
		done := false
		err := c.Chat(ctx, &api.ChatRequest{
			Model: "m", Stream: &stream, Options: map[string]any{"num_predict": maxTokens},
			Messages: []api.Message{{Role: "user", Content: prompt}},
		}, func(res api.ChatResponse) error {
			text.WriteString(res.Message.Content)
			done = res.Done
			return nil
		})
		if err == nil && !done {
			err = errCutShort
		}
		return text.String(), err
	}
}

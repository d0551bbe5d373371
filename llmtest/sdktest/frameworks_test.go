package sdktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"charm.land/fantasy"
	fantasyopenai "charm.land/fantasy/providers/openai"
	einoopenai "github.com/cloudwego/eino-ext/components/model/openai"
	"github.com/cloudwego/eino/components/model"
	"github.com/cloudwego/eino/schema"
	anyllmconfig "github.com/mozilla-ai/any-llm-go/config"
	"github.com/mozilla-ai/any-llm-go/providers"
	anyllmanthropic "github.com/mozilla-ai/any-llm-go/providers/anthropic"
	anyllmopenai "github.com/mozilla-ai/any-llm-go/providers/openai"
	"github.com/tmc/langchaingo/llms"
	langchainclaude "github.com/tmc/langchaingo/llms/anthropic"

	"github.com/llmqueue/llmqueue/llmtest"
)

// frameworks are clients that stand on one of the SDKs or replace it. They are left at their
// defaults, as sdks are.
var frameworks = []sdk{
	{
		name: "eino openai", provider: llmtest.OpenAI, chargesMax: true, limits: openAILimits, client: einoChat,
	}, {
		name: "fantasy openai", provider: llmtest.OpenAI, chargesMax: true, limits: openAILimits, client: fantasyChat,
	}, {
		name: "any-llm-go openai", provider: llmtest.OpenAI, chargesMax: true, limits: openAILimits, client: anyLLMOpenAI,
	}, {
		name: "langchaingo anthropic", provider: llmtest.Anthropic,
		limits: []llmtest.Limit{llmtest.RPM(300), llmtest.ITPM(20_000), llmtest.OTPM(50_000)},
		client: langchainAnthropic,
	},
}

func einoModel(t *testing.T, client *http.Client, url string) model.ToolCallingChatModel {
	t.Helper()
	limit := maxTokens
	m, err := einoopenai.NewChatModel(t.Context(), &einoopenai.ChatModelConfig{
		APIKey: "any", BaseURL: url, Model: "m", HTTPClient: client, MaxCompletionTokens: &limit,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func einoChat(t *testing.T, client *http.Client, url string, stream bool) ask {
	t.Helper()
	m := einoModel(t, client, url)
	return func(ctx context.Context, prompt string) (string, error) { return askEino(ctx, m, prompt, stream) }
}

func askEino(ctx context.Context, m model.ToolCallingChatModel, prompt string, stream bool) (string, error) {
	messages := []*schema.Message{schema.UserMessage(prompt)}
	if !stream {
		res, err := m.Generate(ctx, messages)
		if err != nil {
			return "", err
		}
		return res.Content, nil
	}
	s, err := m.Stream(ctx, messages)
	if err != nil {
		return "", err
	}
	defer s.Close()
	var text strings.Builder
	for {
		chunk, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return text.String(), nil
		}
		if err != nil {
			return "", err
		}
		text.WriteString(chunk.Content)
	}
}

func fantasyModel(t *testing.T, client *http.Client, url string) fantasy.LanguageModel {
	t.Helper()
	p, err := fantasyopenai.New(fantasyopenai.WithAPIKey("any"), fantasyopenai.WithBaseURL(url), fantasyopenai.WithHTTPClient(client))
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.LanguageModel(t.Context(), "m")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// fantasyChat asks the model and no agent: fantasy's agent retries by itself.
func fantasyChat(t *testing.T, client *http.Client, url string, stream bool) ask {
	t.Helper()
	m := fantasyModel(t, client, url)
	return func(ctx context.Context, prompt string) (string, error) { return askFantasy(ctx, m, prompt, stream) }
}

func askFantasy(ctx context.Context, m fantasy.LanguageModel, prompt string, stream bool) (string, error) {
	limit := int64(maxTokens)
	call := fantasy.Call{Prompt: fantasy.Prompt{fantasy.NewUserMessage(prompt)}, MaxOutputTokens: &limit}
	if !stream {
		res, err := m.Generate(ctx, call)
		if err != nil {
			return "", err
		}
		return res.Content.Text(), nil
	}
	parts, err := m.Stream(ctx, call)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for part := range parts {
		switch part.Type {
		case fantasy.StreamPartTypeTextDelta:
			text.WriteString(part.Delta)
		case fantasy.StreamPartTypeError:
			return "", part.Error
		}
	}
	return text.String(), nil
}

func anyLLMOpenAI(t *testing.T, client *http.Client, url string, stream bool) ask {
	t.Helper()
	p, err := anyllmopenai.New(anyllmconfig.WithAPIKey("any"), anyllmconfig.WithBaseURL(url), anyllmconfig.WithHTTPClient(client))
	if err != nil {
		t.Fatal(err)
	}
	limit := maxTokens
	return func(ctx context.Context, prompt string) (string, error) {
		params := providers.CompletionParams{Model: "m", Messages: []providers.Message{{Role: "user", Content: prompt}}, MaxTokens: &limit}
		if !stream {
			res, err := p.Completion(ctx, params)
			if err != nil {
				return "", err
			}
			message := first(res.Choices).Message
			return message.ContentString(), nil
		}
		params.StreamOptions = &providers.StreamOptions{IncludeUsage: true}
		chunks, errs := p.CompletionStream(ctx, params)
		var text strings.Builder
		for chunk := range chunks {
			text.WriteString(first(chunk.Choices).Delta.Content)
		}
		return text.String(), <-errs
	}
}

// anyLLMAnthropic gives its client in vain.
func anyLLMAnthropic(t *testing.T, client *http.Client, url string, _ bool) ask {
	t.Helper()
	p, err := anyllmanthropic.New(anyllmconfig.WithAPIKey("any"), anyllmconfig.WithBaseURL(url), anyllmconfig.WithHTTPClient(client))
	if err != nil {
		t.Fatal(err)
	}
	limit := maxTokens
	return func(ctx context.Context, prompt string) (string, error) {
		res, err := p.Completion(ctx, providers.CompletionParams{Model: "m", Messages: []providers.Message{{Role: "user", Content: prompt}}, MaxTokens: &limit})
		if err != nil {
			return "", err
		}
		message := first(res.Choices).Message
		return message.ContentString(), nil
	}
}

func langchainAnthropic(t *testing.T, client *http.Client, url string, stream bool) ask {
	t.Helper()
	c, err := langchainclaude.New(langchainclaude.WithBaseURL(url+"/v1"), langchainclaude.WithToken("any"), langchainclaude.WithModel("m"), langchainclaude.WithHTTPClient(client))
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
		if len(res.Choices) == 0 {
			return "", fmt.Errorf("no choices")
		}
		return res.Choices[0].Content, nil
	}
}

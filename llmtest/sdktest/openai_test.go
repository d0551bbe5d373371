package sdktest

import (
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/azure"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/packages/ssestream"
	"github.com/openai/openai-go/v3/responses"

	"github.com/llmqueue/llmqueue/llmtest"
)

func openAIClient(srv *llmtest.Server, opts ...option.RequestOption) openai.Client {
	return openai.NewClient(append([]option.RequestOption{
		option.WithBaseURL(srv.URL()),
		option.WithHTTPClient(srv.Client()),
		option.WithAPIKey("secret"),
		option.WithMaxRetries(0),
	}, opts...)...)
}

func chatParams() openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:               "gpt-4o-mini",
		Messages:            []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)},
		MaxCompletionTokens: openai.Int(10),
	}
}

// TestOpenAIChat speaks with every provider that speaks as OpenAI does.
func TestOpenAIChat(t *testing.T) {
	for name, p := range map[string]llmtest.Provider{"OpenAI": llmtest.OpenAI(), "Groq": llmtest.Groq(), "Mistral": llmtest.Mistral()} {
		inBubble(t, name+" unary", func(t *testing.T) {
			client, start := openAIClient(serve(t, p)), time.Now()
			res, err := client.Chat.Completions.New(t.Context(), chatParams())
			if err != nil {
				t.Fatal(err)
			}
			took(t, start, answerTime-200*time.Millisecond)
			wantWords(t, res.Choices[0].Message.Content, 10)
			if res.Usage.PromptTokens != 4 || res.Usage.CompletionTokens != 10 || res.Usage.TotalTokens != 14 || res.Choices[0].FinishReason != "length" || res.Model != "gpt-4o-mini" {
				t.Errorf("answer %s", res.RawJSON())
			}
		})
		inBubble(t, name+" stream", func(t *testing.T) {
			client, start := openAIClient(serve(t, p)), time.Now()
			params := chatParams()
			params.StreamOptions.IncludeUsage = openai.Bool(true)
			stream := client.Chat.Completions.NewStreaming(t.Context(), params)
			var acc openai.ChatCompletionAccumulator
			for stream.Next() {
				if !acc.AddChunk(stream.Current()) {
					t.Fatalf("a chunk does not fit: %s", stream.Current().RawJSON())
				}
			}
			if err := stream.Err(); err != nil {
				t.Fatal(err)
			}
			took(t, start, answerTime-200*time.Millisecond)
			wantWords(t, acc.Choices[0].Message.Content, 10)
			if acc.Usage.TotalTokens != 14 || acc.Choices[0].FinishReason != "length" {
				t.Errorf("usage %+v, finish %q", acc.Usage, acc.Choices[0].FinishReason)
			}
		})
	}
}

func TestOpenAIErrors(t *testing.T) {
	inBubble(t, "limit", func(t *testing.T) {
		client := openAIClient(serve(t, llmtest.OpenAI(llmtest.RPM(1))))
		if _, err := client.Chat.Completions.New(t.Context(), chatParams()); err != nil {
			t.Fatal(err)
		}
		_, err := client.Chat.Completions.New(t.Context(), chatParams())
		api := (*openai.Error)(nil)
		if !errors.As(err, &api) || api.StatusCode != 429 || api.Code != "rate_limit_exceeded" || api.Type != "requests" || api.Response.Header.Get("Retry-After") == "" {
			t.Errorf("error %v", err)
		}
	})
	inBubble(t, "the SDK's own retry waits as told", func(t *testing.T) {
		srv := serve(t, llmtest.OpenAI(llmtest.RPM(6).By(llmtest.SlidingWindow)), llmtest.WithRefusedFree())
		client, start := openAIClient(srv, option.WithMaxRetries(2)), time.Now()
		for range 7 {
			if _, err := client.Chat.Completions.New(t.Context(), chatParams()); err != nil {
				t.Fatal(err)
			}
		}
		if st := srv.Stats(); st.Accepted != 7 || st.Refused != 1 || time.Since(start) < time.Minute {
			t.Errorf("after %v: %+v", time.Since(start), st)
		}
	})
	inBubble(t, "key and quota", func(t *testing.T) {
		srv := serve(t, llmtest.OpenAI(), llmtest.WithFaultScript(llmtest.Fault{Kind: llmtest.FaultQuota}))
		for code, client := range map[string]openai.Client{
			"insufficient_quota": openAIClient(srv),
			"invalid_api_key":    openAIClient(srv, option.WithAPIKey("wrong")),
		} {
			_, err := client.Chat.Completions.New(t.Context(), chatParams())
			api := (*openai.Error)(nil)
			if !errors.As(err, &api) || api.Code != code {
				t.Errorf("error %v, want %s", err, code)
			}
		}
	})
	inBubble(t, "in a stream", func(t *testing.T) {
		client := openAIClient(serve(t, llmtest.OpenAI(), llmtest.WithFaultScript(
			llmtest.Fault{Kind: llmtest.FaultStream}, llmtest.Fault{Kind: llmtest.FaultCut})))
		read := func() (chunks int, err error) {
			stream := client.Chat.Completions.NewStreaming(t.Context(), chatParams())
			for stream.Next() {
				chunks++
			}
			return chunks, stream.Err()
		}
		chunks, err := read()
		if event := (*ssestream.StreamError)(nil); chunks != 6 || !errors.As(err, &event) {
			t.Errorf("error event: %v after %d chunks", err, chunks)
		}
		if chunks, err := read(); chunks != 6 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut: %v after %d chunks", err, chunks)
		}
	})
}

func TestOpenAIResponses(t *testing.T) {
	params := responses.ResponseNewParams{
		Model:           "gpt-5",
		Input:           responses.ResponseNewParamsInputUnion{OfString: param.NewOpt(question)},
		MaxOutputTokens: openai.Int(100),
	}
	check := func(t *testing.T, res *responses.Response) {
		t.Helper()
		wantWords(t, res.OutputText(), 12)
		if res.Status != responses.ResponseStatusCompleted || res.Usage.InputTokens != 4 || res.Usage.OutputTokens != 12 || res.Usage.TotalTokens != 16 {
			t.Errorf("response %s", res.RawJSON())
		}
	}
	inBubble(t, "unary", func(t *testing.T) {
		client := openAIClient(serve(t, llmtest.OpenAI()))
		res, err := client.Responses.New(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		check(t, res)
	})
	inBubble(t, "stream", func(t *testing.T) {
		client, start := openAIClient(serve(t, llmtest.OpenAI())), time.Now()
		stream := client.Responses.NewStreaming(t.Context(), params)
		var text strings.Builder
		var done bool
		for stream.Next() {
			switch e := stream.Current().AsAny().(type) {
			case responses.ResponseTextDeltaEvent:
				text.WriteString(e.Delta)
			case responses.ResponseCompletedEvent:
				done = true
				check(t, &e.Response)
				if e.Response.OutputText() != text.String() {
					t.Errorf("streamed %q, and in the end it says %q", text.String(), e.Response.OutputText())
				}
			}
		}
		if err := stream.Err(); err != nil || !done {
			t.Errorf("done %v, error %v", done, err)
		}
		took(t, start, answerTime)
	})
	inBubble(t, "error event", func(t *testing.T) {
		client := openAIClient(serve(t, llmtest.OpenAI(), llmtest.WithFaultScript(llmtest.Fault{Kind: llmtest.FaultStream})))
		stream := client.Responses.NewStreaming(t.Context(), params)
		var code string
		for stream.Next() {
			if e, ok := stream.Current().AsAny().(responses.ResponseErrorEvent); ok {
				code = e.Code
			}
		}
		if code != "server_is_overloaded" {
			t.Errorf("code %q, error %v", code, stream.Err())
		}
	})
}

func TestOpenAIEmbeddings(t *testing.T) {
	inBubble(t, "numbers and base64", func(t *testing.T) {
		client := openAIClient(serve(t, llmtest.OpenAI()))
		res, err := client.Embeddings.New(t.Context(), openai.EmbeddingNewParams{
			Model:      "text-embedding-3-small",
			Input:      openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{question, "other"}},
			Dimensions: openai.Int(16),
		})
		if err != nil {
			t.Fatal(err)
		}
		length := 0.0
		for _, x := range res.Data[1].Embedding {
			length += x * x
		}
		if len(res.Data) != 2 || len(res.Data[0].Embedding) != 16 || math.Abs(length-1) > 1e-4 || res.Usage.PromptTokens != 6 {
			t.Errorf("answer %s", res.RawJSON())
		}
	})
}

// TestAzure goes over loopback: the SDK wants a connection of its own there.
func TestAzure(t *testing.T) {
	srv := llmtest.NewServer(t, llmtest.AzureOpenAI(llmtest.TPM(30).Per(time.Hour)), llmtest.WithKey("secret"), llmtest.WithOutputTokens(12, 0))
	client := openai.NewClient(
		azure.WithEndpoint(srv.URL(), "2024-10-21"),
		azure.WithAPIKey("secret"),
		azure.WithUnsafeAllowHTTP(),
		option.WithMaxRetries(0))
	params := chatParams()
	params.Model = "prod" // the deployment
	stream := client.Chat.Completions.NewStreaming(t.Context(), params)
	var text strings.Builder
	for stream.Next() {
		if chunk := stream.Current(); len(chunk.Choices) > 0 { // the first has none
			text.WriteString(chunk.Choices[0].Delta.Content)
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	wantWords(t, text.String(), 10)
	res, err := client.Chat.Completions.New(t.Context(), params)
	if err != nil || res.Model != "prod" || res.Usage.TotalTokens != 14 {
		t.Errorf("answer %+v, error %v", res, err)
	}
	_, err = client.Chat.Completions.New(t.Context(), params)
	api := (*openai.Error)(nil)
	if !errors.As(err, &api) || api.StatusCode != 429 || api.Code != "429" || api.Response.Header.Get("Retry-After-Ms") == "" {
		t.Errorf("error %v", err)
	}
}

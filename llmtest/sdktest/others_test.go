package sdktest

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/ollama/ollama/api"
	"google.golang.org/genai"

	"github.com/llmqueue/llmqueue/llmtest"
)

func anthropicClient(srv *llmtest.Server) anthropic.Client {
	return anthropic.NewClient(
		anthropicoption.WithBaseURL(srv.URL()),
		anthropicoption.WithHTTPClient(srv.Client()),
		anthropicoption.WithAPIKey("secret"),
		anthropicoption.WithMaxRetries(0))
}

func TestAnthropic(t *testing.T) {
	params := anthropic.MessageNewParams{
		Model:     "claude-sonnet-4-5",
		MaxTokens: 10,
		Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(question))},
	}
	check := func(t *testing.T, m *anthropic.Message) {
		t.Helper()
		if len(m.Content) != 1 || m.StopReason != anthropic.StopReasonMaxTokens || m.Usage.InputTokens != 4 || m.Usage.OutputTokens != 10 {
			t.Fatalf("message %+v", m)
		}
		wantWords(t, m.Content[0].AsText().Text, 10)
	}
	inBubble(t, "unary", func(t *testing.T) {
		client := anthropicClient(serve(t, llmtest.Anthropic()))
		m, err := client.Messages.New(t.Context(), params)
		if err != nil {
			t.Fatal(err)
		}
		check(t, m)
	})
	inBubble(t, "stream", func(t *testing.T) {
		client, start := anthropicClient(serve(t, llmtest.Anthropic())), time.Now()
		stream := client.Messages.NewStreaming(t.Context(), params)
		var m anthropic.Message
		for stream.Next() {
			if err := m.Accumulate(stream.Current()); err != nil {
				t.Fatal(err)
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		check(t, &m)
		took(t, start, answerTime-200*time.Millisecond)
	})
	inBubble(t, "errors", func(t *testing.T) {
		client := anthropicClient(serve(t, llmtest.Anthropic(llmtest.RPM(1).By(llmtest.SlidingWindow)), llmtest.WithFaultScript(
			llmtest.Fault{Kind: llmtest.FaultStream}, llmtest.Fault{Status: 529})))
		stream := client.Messages.NewStreaming(t.Context(), params)
		deltas := 0
		for stream.Next() {
			if _, ok := stream.Current().AsAny().(anthropic.ContentBlockDeltaEvent); ok {
				deltas++
			}
		}
		want := func(err error, kind anthropic.ErrorType) *anthropic.Error {
			t.Helper()
			api := (*anthropic.Error)(nil)
			if !errors.As(err, &api) || api.Type() != kind {
				t.Fatalf("error %v, want %s", err, kind)
			}
			return api
		}
		want(stream.Err(), "overloaded_error")
		if deltas != 5 {
			t.Errorf("%d deltas before the error, want 5", deltas)
		}
		_, err := client.Messages.New(t.Context(), params)
		api := want(err, "rate_limit_error")
		if api.StatusCode != 429 || api.Response.Header.Get("Retry-After") == "" || api.RequestID == "" {
			t.Errorf("error %v", err)
		}
		time.Sleep(time.Minute)
		_, err = client.Messages.New(t.Context(), params)
		if api := want(err, "overloaded_error"); api.StatusCode != 529 {
			t.Errorf("error %v", err)
		}
	})
}

func geminiClient(t *testing.T, srv *llmtest.Server) *genai.Client {
	t.Helper()
	client, err := genai.NewClient(t.Context(), &genai.ClientConfig{
		Backend:     genai.BackendGeminiAPI,
		APIKey:      "secret",
		HTTPClient:  srv.Client(),
		HTTPOptions: genai.HTTPOptions{BaseURL: srv.URL()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestGemini(t *testing.T) {
	const model = "gemini-2.5-flash"
	config := &genai.GenerateContentConfig{MaxOutputTokens: 10}
	inBubble(t, "unary", func(t *testing.T) {
		client := geminiClient(t, serve(t, llmtest.Gemini()))
		res, err := client.Models.GenerateContent(t.Context(), model, genai.Text(question), config)
		if err != nil {
			t.Fatal(err)
		}
		wantWords(t, res.Text(), 10)
		if u := res.UsageMetadata; u.PromptTokenCount != 4 || u.CandidatesTokenCount != 10 || u.TotalTokenCount != 14 || res.Candidates[0].FinishReason != genai.FinishReasonMaxTokens {
			t.Errorf("usage %+v, finish %v", u, res.Candidates[0].FinishReason)
		}
	})
	inBubble(t, "stream", func(t *testing.T) {
		client, start := geminiClient(t, serve(t, llmtest.Gemini())), time.Now()
		text, last := "", (*genai.GenerateContentResponse)(nil)
		for res, err := range client.Models.GenerateContentStream(t.Context(), model, genai.Text(question), config) {
			if err != nil {
				t.Fatal(err)
			}
			text += res.Text()
			last = res
		}
		wantWords(t, text, 10)
		if last == nil || last.UsageMetadata.TotalTokenCount != 14 || last.Candidates[0].FinishReason != genai.FinishReasonMaxTokens {
			t.Errorf("the last chunk: %+v", last)
		}
		took(t, start, answerTime-200*time.Millisecond)
	})
	inBubble(t, "errors", func(t *testing.T) {
		client := geminiClient(t, serve(t, llmtest.Gemini(llmtest.RPM(1)), llmtest.WithFaultScript(llmtest.Fault{Kind: llmtest.FaultStream})))
		chunks := 0
		var failed error
		for _, err := range client.Models.GenerateContentStream(t.Context(), model, genai.Text(question), config) {
			if err != nil {
				failed = err
			} else {
				chunks++
			}
		}
		api := genai.APIError{}
		if chunks != 5 || !errors.As(failed, &api) || api.Code != 503 || api.Status != "UNAVAILABLE" {
			t.Errorf("%v after %d chunks", failed, chunks)
		}
		_, err := client.Models.GenerateContent(t.Context(), model, genai.Text(question), config)
		if !errors.As(err, &api) || api.Code != 429 || api.Status != "RESOURCE_EXHAUSTED" || len(api.Details) != 2 || api.Details[1]["retryDelay"] == "" {
			t.Errorf("error %v, details %v", err, api.Details)
		}
	})
}

func TestOllama(t *testing.T) {
	client := func(t *testing.T, srv *llmtest.Server) *api.Client {
		base, err := url.Parse(srv.URL())
		if err != nil {
			t.Fatal(err)
		}
		return api.NewClient(base, srv.Client())
	}
	open := llmtest.WithKey("")
	for _, stream := range []bool{false, true} {
		name := map[bool]string{false: "unary", true: "stream"}[stream]
		request := &api.ChatRequest{Model: "llama3.2", Messages: []api.Message{{Role: "user", Content: question}}, Stream: &stream, Options: map[string]any{"num_predict": 10}}
		inBubble(t, name, func(t *testing.T) {
			var text strings.Builder
			var last api.ChatResponse
			pieces := 0
			err := client(t, serve(t, llmtest.Ollama(), open)).Chat(t.Context(), request, func(res api.ChatResponse) error {
				text.WriteString(res.Message.Content)
				last = res
				pieces++
				return nil
			})
			if want := map[bool]int{false: 1, true: 11}[stream]; err != nil || pieces != want {
				t.Fatalf("%d pieces, error %v", pieces, err)
			}
			wantWords(t, text.String(), 10)
			if !last.Done || last.DoneReason != "length" || last.PromptEvalCount != 4 || last.EvalCount != 10 || last.TotalDuration != answerTime-200*time.Millisecond {
				t.Errorf("the last piece: %+v", last)
			}
		})
		inBubble(t, name+" error", func(t *testing.T) {
			srv := serve(t, llmtest.Ollama(), open, llmtest.WithFaultScript(llmtest.Fault{Kind: llmtest.FaultStream}, llmtest.Fault{Status: 500}))
			chat := func() error {
				return client(t, srv).Chat(context.Background(), request, func(api.ChatResponse) error { return nil })
			}
			if err := chat(); err == nil || !strings.Contains(err.Error(), "server busy, please try again") {
				t.Errorf("error %v", err)
			}
			status := api.StatusError{}
			if err := chat(); !errors.As(err, &status) || status.StatusCode != 500 {
				t.Errorf("error %v", err)
			}
		})
	}
}

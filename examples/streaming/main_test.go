package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/exampletest"
)

// Three answers, one of which fails in the middle and is asked for again.
func TestRun(t *testing.T) {
	out := exampletest.Output(t, run)
	if n := strings.Count(out, "\n> Write "); n != 4 {
		t.Errorf("%d answers were begun, want 3 and one again:\n%s", n, out)
	}
	exampletest.Wants(t, out, "the stream failed: server_is_overloaded:", "cut short by max_output_tokens")
	for _, sum := range exampletest.Numbers(t, out, `\((\d+) chunks, the first after`) {
		if sum[0] < 10 {
			t.Errorf("an answer of %v chunks:\n%s", sum[0], out)
		}
	}
}

// Each way in which a stream of responses can end. The SDK has an error for none of them.
func TestEndings(t *testing.T) {
	const delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"rain \"}\n\n"
	event := func(data string) string { return "data: " + data + "\n\n" }
	for name, c := range map[string]struct {
		body  string
		want  Ending
		fails string
	}{
		"whole":       {delta + delta + event(`{"type":"response.completed","response":{}}`), Ending{Chunks: 2}, ""},
		"cut short":   {delta + event(`{"type":"response.incomplete","response":{"incomplete_details":{"reason":"content_filter"}}}`), Ending{Chunks: 1, CutBy: "content_filter"}, ""},
		"failed":      {delta + event(`{"type":"response.failed","response":{"error":{"code":"server_error","message":"sorry"}}}`), Ending{Chunks: 1}, "server_error: sorry"},
		"error event": {event(`{"type":"error","code":"rate_limit_exceeded","message":"too fast","param":null}`), Ending{}, "rate_limit_exceeded: too fast"},
		"broken off":  {delta, Ending{Chunks: 1}, errHalf.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			client := openai.NewClient(option.WithAPIKey("none"), option.WithHTTPClient(&http.Client{Transport: answers(c.body)}))
			queue, err := llmqueue.NewQueue("m", func(ctx context.Context, req llmqueue.Request[Chat]) (Ending, error) {
				end, err := stream(ctx, client, req)
				if end.FirstChunk = 0; end != c.want {
					t.Errorf("%+v, want %+v", end, c.want)
				}
				return end, err
			}, llmqueue.WithUnlimited())
			if err != nil {
				t.Fatal(err)
			}
			defer queue.Shutdown(t.Context())
			var text strings.Builder
			for chunk, e := range llmqueue.Stream[string](t.Context(), queue, llmqueue.NewRequest("m", Chat{Prompt: "Rain?", MaxTokens: 9})).Chunks() {
				text.WriteString(chunk)
				err = e
			}
			if want := strings.Repeat("rain ", c.want.Chunks); text.String() != want {
				t.Errorf("%q, want %q", text.String(), want)
			}
			if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
				t.Errorf("error %v, want %q", err, c.fails)
			}
		})
	}
}

// answers gives this event stream to every request.
type answers string

func (a answers) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: io.NopCloser(strings.NewReader(string(a))),
	}, nil
}

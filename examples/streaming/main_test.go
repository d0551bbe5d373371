package main

import (
	"errors"
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
	exampletest.Wants(t, out, "\n[the stream failed: server_is_overloaded:", "cut short by max_output_tokens")
	for _, sum := range exampletest.Numbers(t, out, `"Write [a-z ]+\.": (\d+) chunks, the first after`) {
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
			var text strings.Builder
			got, err := stream(t.Context(), client, llmqueue.Request[Chat]{Params: Chat{Prompt: "Rain?", MaxTokens: 9, OnChunk: func(s string) { text.WriteString(s) }}})
			got.FirstChunk = 0
			if got != c.want || text.String() != strings.Repeat("rain ", c.want.Chunks) {
				t.Errorf("%+v with %q, want %+v", got, text.String(), c.want)
			}
			if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
				t.Errorf("error %v, want %q", err, c.fails)
			}
		})
	}
	if !errors.Is(halfShown{errHalf}, io.ErrUnexpectedEOF) {
		t.Error("what was shown in part hides why it failed")
	}
}

// answers gives this event stream to every request.
type answers string

func (a answers) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: io.NopCloser(strings.NewReader(string(a))),
	}, nil
}

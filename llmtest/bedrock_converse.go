package llmtest

import (
	"encoding/json"
	"hash/fnv"
	"io"
	"net/http"
	"time"
)

// converseRequest is what the server reads of a request's body.
type converseRequest struct {
	System   []converseBlock `json:"system"`
	Messages []struct {
		Content []converseBlock `json:"content"`
	} `json:"messages"`
	InferenceConfig struct {
		MaxTokens *int64 `json:"maxTokens"`
	} `json:"inferenceConfig"`
}

type converseBlock struct {
	Text       string    `json:"text"`
	CachePoint *struct{} `json:"cachePoint"`
}

// measure counts the input of the request, and the part that is to be cached.
func (r *converseRequest) measure(c *call) {
	h := fnv.New64a()
	_, _ = io.WriteString(h, c.model)
	var bytes int
	add := func(list []converseBlock) {
		for _, b := range list {
			bytes += len(b.Text)
			_, _ = io.WriteString(h, b.Text)
			if n := bytesToTokens(bytes); b.CachePoint != nil && n >= minCached {
				c.prefix, c.prefixTokens = h.Sum64(), n
			}
		}
	}
	add(r.System)
	for _, m := range r.Messages {
		add(m.Content)
	}
	c.input = bytesToTokens(bytes)
}

func readConverse(model string, stream bool) operation {
	return func(_ *http.Request, body []byte) (c call, _ format, p *problem) {
		var req converseRequest
		if err := json.Unmarshal(body, &req); err != nil {
			return c, nil, &problem{reason: badRequest, message: "Malformed input request: " + err.Error()}
		}
		if len(req.Messages) == 0 {
			return c, nil, &problem{reason: badRequest, message: "A conversation must start with a user message. Try again with a conversation that starts with a user message."}
		}
		if p = c.bound("maxTokens", req.InferenceConfig.MaxTokens); p != nil {
			return c, nil, p
		}
		c.model, c.stream = model, stream
		req.measure(&c)
		return c, converseFormat{}, nil
	}
}

// converseFormat writes one answer, streamed in frames.
type converseFormat struct{}

type converseResponse struct {
	Metrics    converseMetrics `json:"metrics"`
	Output     converseOutput  `json:"output"`
	StopReason string          `json:"stopReason"`
	Usage      converseUsage   `json:"usage"`
}

type converseOutput struct {
	Message converseMessage `json:"message"`
}

type converseMessage struct {
	Role    string         `json:"role"`
	Content []converseText `json:"content,omitempty"`
}

type converseText struct {
	Text string `json:"text"`
}

type converseMetrics struct {
	LatencyMs int64 `json:"latencyMs"`
}

// converseUsage: the whole input is the sum of the input and both cached parts.
type converseUsage struct {
	InputTokens           int64 `json:"inputTokens"`
	OutputTokens          int64 `json:"outputTokens"`
	TotalTokens           int64 `json:"totalTokens"`
	CacheReadInputTokens  int64 `json:"cacheReadInputTokens"`
	CacheWriteInputTokens int64 `json:"cacheWriteInputTokens"`
}

func (converseFormat) usage(a *answer) converseUsage {
	return converseUsage{
		InputTokens:           a.call.input - a.cached - a.stored,
		OutputTokens:          a.tokens,
		TotalTokens:           a.call.input + a.tokens,
		CacheReadInputTokens:  a.cached,
		CacheWriteInputTokens: a.stored,
	}
}

func (converseFormat) metrics(a *answer) converseMetrics {
	return converseMetrics{int64(time.Since(a.began) / time.Millisecond)}
}

func (f converseFormat) whole(a *answer) any {
	return converseResponse{
		Metrics:    f.metrics(a),
		Output:     converseOutput{converseMessage{"assistant", []converseText{{a.text}}}},
		StopReason: *stopReason(a),
		Usage:      f.usage(a),
	}
}

func (converseFormat) contentType() string { return "application/vnd.amazon.eventstream" }

func (converseFormat) begin(_ *answer, out *events) {
	out.frame("event", "messageStart", converseMessage{Role: "assistant"})
}

// converseDelta is an event with a piece of text.
type converseDelta struct {
	Index int          `json:"contentBlockIndex"`
	Delta converseText `json:"delta"`
}

func (converseFormat) token(_ *answer, out *events, word string) {
	out.frame("event", "contentBlockDelta", converseDelta{Delta: converseText{word}})
}

func (f converseFormat) end(a *answer, out *events) {
	out.frame("event", "contentBlockStop", map[string]int{"contentBlockIndex": 0})
	out.frame("event", "messageStop", map[string]string{"stopReason": *stopReason(a)})
	out.frame("event", "metadata", map[string]any{"metrics": f.metrics(a), "usage": f.usage(a)})
}

func (converseFormat) fail(_ *answer, out *events, p *problem) {
	out.frame("exception", streamException(p), bedrockErrorOf(p))
}

func (converseFormat) failed(*answer, *problem) any { return nil }

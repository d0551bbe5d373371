package llmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
)

// messagesRequest is what the server reads of a request's body.
type messagesRequest struct {
	Model    string `json:"model"`
	System   blocks `json:"system"`
	Messages []struct {
		Content blocks `json:"content"`
	} `json:"messages"`
	MaxTokens *int64 `json:"max_tokens"`
	Stream    bool   `json:"stream"`
}

// blocks is a content: a string or an array of blocks.
type blocks []block

type block struct {
	Text         string          `json:"text"`
	Content      json.RawMessage `json:"content"` // of a tool's result
	CacheControl *struct{}       `json:"cache_control"`
}

func (b *blocks) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		*b = blocks{{Text: text}}
		return nil
	}
	var list []block
	if err := json.Unmarshal(data, &list); err != nil {
		return errors.New("content is neither a string nor an array of content blocks")
	}
	*b = list
	return nil
}

// minCached is the least that Anthropic caches of most models.
const minCached = 1024

// measure counts the input of the request, and the part that is to be cached.
func (r *messagesRequest) measure(c *call) {
	h := fnv.New64a()
	_, _ = io.WriteString(h, r.Model)
	var bytes int
	add := func(list blocks) {
		for _, b := range list {
			bytes += len(b.Text) + len(b.Content)
			_, _ = io.WriteString(h, b.Text)
			_, _ = h.Write(b.Content)
			if n := bytesToTokens(bytes); b.CacheControl != nil && n >= minCached {
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

// required is Anthropic's message about a field that is missing.
func required(field string) *problem {
	return &problem{reason: badRequest, message: field + ": Field required"}
}

func (r *messagesRequest) parse(body []byte) (c call, p *problem) {
	if err := json.Unmarshal(body, r); err != nil {
		return c, &problem{reason: badRequest, message: "The request body is not valid JSON: " + err.Error()}
	}
	switch {
	case r.Model == "":
		return c, required("model")
	case len(r.Messages) == 0:
		return c, required("messages")
	}
	c.model, c.stream = r.Model, r.Stream
	r.measure(&c)
	return c, nil
}

func readMessages(_ *http.Request, body []byte) (c call, _ format, p *problem) {
	var req messagesRequest
	if c, p = req.parse(body); p != nil {
		return c, nil, p
	}
	if req.MaxTokens == nil {
		return c, nil, required("max_tokens")
	}
	if p = c.bound("max_tokens", req.MaxTokens); p != nil {
		return c, nil, &problem{reason: badRequest, message: "max_tokens: Input should be greater than or equal to 1"}
	}
	return c, messageFormat{}, nil
}

// count serves the number of tokens of a message. Anthropic has limits of its own
// for it; here it has none.
func (d anthropic) count(w http.ResponseWriter, r *http.Request) {
	var req messagesRequest
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		d.reject(w, &problem{reason: badRequest, message: err.Error()})
		return
	}
	c, p := req.parse(body)
	if p != nil {
		d.reject(w, p)
		return
	}
	writeJSON(w, http.StatusOK, map[string]int64{"input_tokens": c.input})
}

// messageFormat writes one message.
type messageFormat struct{}

type anthropicMessage struct {
	ID           string          `json:"id"`
	Type         string          `json:"type"`
	Role         string          `json:"role"`
	Model        string          `json:"model"`
	Content      []textBlock     `json:"content"`
	StopReason   *string         `json:"stop_reason"`
	StopSequence *string         `json:"stop_sequence"`
	Usage        *anthropicUsage `json:"usage"`
}

type textBlock struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// anthropicUsage: the whole input is the sum of the first three.
type anthropicUsage struct {
	InputTokens              int64  `json:"input_tokens"`
	CacheCreationInputTokens int64  `json:"cache_creation_input_tokens"`
	CacheReadInputTokens     int64  `json:"cache_read_input_tokens"`
	OutputTokens             int64  `json:"output_tokens"`
	ServiceTier              string `json:"service_tier,omitempty"`
}

func usageOf(a *answer) *anthropicUsage {
	return &anthropicUsage{
		InputTokens:              a.call.input - a.cached - a.stored,
		CacheCreationInputTokens: a.stored,
		CacheReadInputTokens:     a.cached,
		OutputTokens:             a.tokens,
	}
}

func stopReason(a *answer) *string {
	reason := "end_turn"
	if a.cut {
		reason = "max_tokens"
	}
	return &reason
}

func newMessage(a *answer) *anthropicMessage {
	m := &anthropicMessage{
		ID:      fmt.Sprintf("msg_%024x", a.number),
		Type:    "message",
		Role:    "assistant",
		Model:   a.call.model,
		Content: []textBlock{},
		Usage:   usageOf(a),
	}
	m.Usage.ServiceTier = "standard"
	return m
}

func (messageFormat) whole(a *answer) any {
	m := newMessage(a)
	m.Content = append(m.Content, textBlock{"text", a.text})
	m.StopReason = stopReason(a)
	return m
}

func (messageFormat) contentType() string { return eventStream }

// begin announces the message with the input's usage, and one output token: the
// count in message_delta is the one to go by.
func (messageFormat) begin(a *answer, out *events) {
	m := newMessage(a)
	m.Usage.OutputTokens = 1
	out.event("message_start", map[string]any{"type": "message_start", "message": m})
	out.event("content_block_start", map[string]any{"type": "content_block_start", "index": 0, "content_block": textBlock{Type: "text"}})
	out.event("ping", map[string]any{"type": "ping"})
}

// blockDelta is an event with a piece of text.
type blockDelta struct {
	Type  string    `json:"type"`
	Index int       `json:"index"`
	Delta textBlock `json:"delta"`
}

func (messageFormat) token(_ *answer, out *events, word string) {
	out.event("content_block_delta", blockDelta{"content_block_delta", 0, textBlock{"text_delta", word}})
}

func (f messageFormat) end(a *answer, out *events) {
	f.stop(a, out)
	out.event("message_stop", map[string]any{"type": "message_stop"})
}

// stop sends the usage: it is cumulative, and overwrites that of the start.
func (messageFormat) stop(a *answer, out *events) {
	out.event("content_block_stop", map[string]any{"type": "content_block_stop", "index": 0})
	out.event("message_delta", map[string]any{
		"type":  "message_delta",
		"delta": map[string]*string{"stop_reason": stopReason(a), "stop_sequence": nil},
		"usage": usageOf(a),
	})
}

func (messageFormat) fail(_ *answer, out *events, p *problem) {
	out.event("error", anthropicErrorOf(p))
}

func (messageFormat) failed(_ *answer, p *problem) any { return anthropicErrorOf(p) }

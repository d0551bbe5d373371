package llmtest

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// OpenAI's responses.

// responsesRequest is what the server reads of a request's body.
type responsesRequest struct {
	Model           string        `json:"model"`
	Input           responseInput `json:"input"`
	Instructions    string        `json:"instructions"`
	MaxOutputTokens *int64        `json:"max_output_tokens"`
	Stream          bool          `json:"stream"`
}

// responseInput is the number of bytes of text in an input: a string, or an array
// of items of which some have content, a string or an array of parts.
type responseInput struct {
	bytes int
	given bool
}

func (in *responseInput) UnmarshalJSON(data []byte) error {
	in.given = string(data) != "null"
	var items []struct {
		Content content `json:"content"`
		Output  any     `json:"output"` // of a tool
	}
	if json.Unmarshal(data, &items) == nil {
		for _, item := range items {
			in.bytes += int(item.Content)
			if text, ok := item.Output.(string); ok {
				in.bytes += len(text)
			}
		}
		return nil
	}
	var c content
	if err := c.UnmarshalJSON(data); err != nil {
		return err
	}
	in.bytes = int(c)
	return nil
}

func readResponse(_ *http.Request, body []byte) (c call, _ format, p *problem) {
	var req responsesRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return c, nil, unreadable(err)
	}
	switch {
	case req.Model == "":
		return c, nil, missing("model")
	case !req.Input.given:
		return c, nil, missing("input")
	}
	if p = c.bound("max_output_tokens", req.MaxOutputTokens); p != nil {
		return c, nil, p
	}
	c.model = req.Model
	c.input = bytesToTokens(req.Input.bytes + len(req.Instructions))
	c.stream = req.Stream
	return c, &responseFormat{request: req}, nil
}

// responseFormat writes one response.
type responseFormat struct {
	request  responsesRequest
	sequence int // of the next event
}

// response is the body of an answer, and stands in some events of a stream.
type response struct {
	ID                string            `json:"id"`
	Object            string            `json:"object"`
	CreatedAt         int64             `json:"created_at"`
	Status            string            `json:"status"`
	Error             *responseError    `json:"error"`
	IncompleteDetails *incomplete       `json:"incomplete_details"`
	Instructions      *string           `json:"instructions"`
	MaxOutputTokens   *int64            `json:"max_output_tokens"`
	Model             string            `json:"model"`
	Output            []responseItem    `json:"output"`
	ParallelToolCalls bool              `json:"parallel_tool_calls"`
	Temperature       float64           `json:"temperature"`
	ToolChoice        string            `json:"tool_choice"`
	Tools             []any             `json:"tools"`
	TopP              float64           `json:"top_p"`
	Truncation        string            `json:"truncation"`
	Usage             *responseUsage    `json:"usage"`
	Metadata          map[string]string `json:"metadata"`
}

type responseError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type incomplete struct {
	Reason string `json:"reason"`
}

type responseItem struct {
	ID      string         `json:"id"`
	Type    string         `json:"type"`
	Status  string         `json:"status"`
	Role    string         `json:"role"`
	Content []responsePart `json:"content"`
}

type responsePart struct {
	Type        string `json:"type"`
	Text        string `json:"text"`
	Annotations []any  `json:"annotations"`
	Logprobs    []any  `json:"logprobs"`
}

type responseUsage struct {
	InputTokens         int64       `json:"input_tokens"`
	InputTokensDetails  promptUsage `json:"input_tokens_details"`
	OutputTokens        int64       `json:"output_tokens"`
	OutputTokensDetails outputUsage `json:"output_tokens_details"`
	TotalTokens         int64       `json:"total_tokens"`
}

// response returns the response as it stands: in progress, completed or cut
// short.
func (f *responseFormat) response(a *answer, status string) *response {
	r := &response{
		ID:                fmt.Sprintf("resp_%08x", a.number),
		Object:            "response",
		CreatedAt:         a.began.Unix(),
		Status:            status,
		MaxOutputTokens:   f.request.MaxOutputTokens,
		Model:             a.call.model,
		Output:            []responseItem{},
		ParallelToolCalls: true,
		Temperature:       1,
		ToolChoice:        "auto",
		Tools:             []any{},
		TopP:              1,
		Truncation:        "disabled",
		Metadata:          map[string]string{},
	}
	if f.request.Instructions != "" {
		r.Instructions = &f.request.Instructions
	}
	if status == "completed" || status == "incomplete" {
		r.Output = append(r.Output, f.item(a, status))
		r.Usage = &responseUsage{
			InputTokens:        a.call.input,
			InputTokensDetails: promptUsage{a.cached},
			OutputTokens:       a.tokens,
			TotalTokens:        a.call.input + a.tokens,
		}
	}
	if status == "incomplete" {
		r.IncompleteDetails = &incomplete{"max_output_tokens"}
	}
	return r
}

func (f *responseFormat) item(a *answer, status string) responseItem {
	item := responseItem{ID: itemID(a), Type: "message", Status: status, Role: "assistant", Content: []responsePart{}}
	if status != "in_progress" {
		item.Content = append(item.Content, part(a.text))
	}
	return item
}

func itemID(a *answer) string { return fmt.Sprintf("msg_%08x", a.number) }

func part(text string) responsePart {
	return responsePart{Type: "output_text", Text: text, Annotations: []any{}, Logprobs: []any{}}
}

// final is the status of a response that is answered.
func final(a *answer) string {
	if a.cut {
		return "incomplete"
	}
	return "completed"
}

func (f *responseFormat) whole(a *answer) any { return f.response(a, final(a)) }

func (f *responseFormat) contentType() string { return eventStream }

// responseEvent is any event of a stream; each has some of the fields.
type responseEvent struct {
	Type           string        `json:"type"`
	SequenceNumber int           `json:"sequence_number"`
	Response       *response     `json:"response,omitempty"`
	OutputIndex    *int          `json:"output_index,omitempty"`
	Item           *responseItem `json:"item,omitempty"`
	ItemID         string        `json:"item_id,omitempty"`
	ContentIndex   *int          `json:"content_index,omitempty"`
	Part           *responsePart `json:"part,omitempty"`
	Delta          *string       `json:"delta,omitempty"`
	Text           *string       `json:"text,omitempty"`
	Logprobs       []any         `json:"logprobs,omitzero"`
}

func (f *responseFormat) send(out *events, e responseEvent) {
	e.SequenceNumber = f.sequence
	f.sequence++
	out.event(e.Type, e)
}

var zero = new(int)

func (f *responseFormat) begin(a *answer, out *events) {
	f.send(out, responseEvent{Type: "response.created", Response: f.response(a, "in_progress")})
	f.send(out, responseEvent{Type: "response.in_progress", Response: f.response(a, "in_progress")})
	item, empty := f.item(a, "in_progress"), part("")
	f.send(out, responseEvent{Type: "response.output_item.added", OutputIndex: zero, Item: &item})
	f.send(out, responseEvent{Type: "response.content_part.added", ItemID: itemID(a), OutputIndex: zero, ContentIndex: zero, Part: &empty})
}

func (f *responseFormat) token(a *answer, out *events, word string) {
	f.send(out, responseEvent{
		Type: "response.output_text.delta", ItemID: itemID(a), OutputIndex: zero, ContentIndex: zero, Delta: &word, Logprobs: []any{},
	})
}

func (f *responseFormat) end(a *answer, out *events) {
	status := final(a)
	item, text := f.item(a, status), part(a.text)
	f.send(out, responseEvent{
		Type: "response.output_text.done", ItemID: itemID(a), OutputIndex: zero, ContentIndex: zero, Text: &a.text, Logprobs: []any{},
	})
	f.send(out, responseEvent{Type: "response.content_part.done", ItemID: itemID(a), OutputIndex: zero, ContentIndex: zero, Part: &text})
	f.send(out, responseEvent{Type: "response.output_item.done", OutputIndex: zero, Item: &item})
	f.send(out, responseEvent{Type: "response." + status, Response: f.response(a, status)})
}

// fail sends the documented error event, whose fields stand at its top, or
// response.failed.
func (f *responseFormat) fail(a *answer, out *events, p *problem) {
	if p.inside {
		f.send(out, responseEvent{Type: "response.failed", Response: f.failure(a, p)})
		return
	}
	e := responseErrorOf(p).Error
	out.event("error", map[string]any{
		"type": "error", "code": e.Code, "message": e.Message, "param": e.Param, "sequence_number": f.sequence,
	})
}

func (f *responseFormat) failed(a *answer, p *problem) any {
	if !p.inside {
		return openAIErrorOf(p)
	}
	return f.failure(a, p)
}

// failure is a response that failed.
func (f *responseFormat) failure(a *answer, p *problem) *response {
	e := responseErrorOf(p).Error
	r := f.response(a, "failed")
	r.Output = append(r.Output, f.item(a, "incomplete"))
	r.Error = &responseError{*e.Code, e.Message}
	return r
}

// responseErrorOf is an error that always has a code.
func responseErrorOf(p *problem) openAIError {
	e := openAIErrorOf(p)
	if e.Error.Code == nil {
		e.Error.Code = &e.Error.Type
	}
	return e
}

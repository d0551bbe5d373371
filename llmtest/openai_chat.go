package llmtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// chatStyle is OpenAI's chat completions, and how others differ from them.
type chatStyle struct {
	model   string // named by the path; empty means that the body does
	azure   bool   // content filter results, and a chunk with those of the prompt before all others
	mistral bool   // usage in the last chunk whether asked for or not, and no logprobs
	groq    bool   // times in usage, and x_groq in the first and the last chunk
}

// chatRequest is what the server reads of a request's body.
type chatRequest struct {
	Model    string `json:"model"`
	Messages []struct {
		Content content `json:"content"`
	} `json:"messages"`
	MaxTokens           *int64 `json:"max_tokens"`
	MaxCompletionTokens *int64 `json:"max_completion_tokens"`
	Stream              bool   `json:"stream"`
	StreamOptions       struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

// content is the number of bytes of text in a message's content, which is a
// string, null, or an array of parts of which some have a text.
type content int

func (c *content) UnmarshalJSON(data []byte) error {
	if data[0] == '"' && bytes.IndexByte(data, '\\') < 0 { // nearly always: no need to copy it
		*c = content(len(data) - 2)
		return nil
	}
	var text string
	if json.Unmarshal(data, &text) == nil {
		*c = content(len(text))
		return nil
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if err := json.Unmarshal(data, &parts); err != nil {
		return errors.New("message content is neither a string nor an array of content parts")
	}
	for _, p := range parts {
		*c += content(len(p.Text))
	}
	return nil
}

func unreadable(err error) *problem {
	return &problem{reason: badRequest, message: "We could not parse the JSON body of your request: " + err.Error()}
}

func missing(param string) *problem {
	return &problem{reason: badRequest, message: "Missing required parameter: '" + param + "'.", param: param}
}

// bound checks an upper bound on tokens and puts it into the call.
func (c *call) bound(param string, value *int64) *problem {
	if value == nil {
		return nil
	}
	if *value < 1 || *value > maxTokensBound {
		return &problem{reason: badRequest, message: fmt.Sprintf("Invalid '%s': %d is out of range.", param, *value), param: param}
	}
	c.maxTokens = *value
	return nil
}

func (f chatStyle) read(_ *http.Request, body []byte) (c call, _ format, p *problem) {
	var req chatRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return c, nil, unreadable(err)
	}
	if c.model = f.model; c.model == "" {
		c.model = req.Model
	}
	switch {
	case c.model == "":
		return c, nil, &problem{reason: badRequest, message: "you must provide a model parameter", param: "model"}
	case len(req.Messages) == 0:
		return c, nil, missing("messages")
	}
	if p = c.bound("max_tokens", req.MaxTokens); p != nil {
		return c, nil, p
	}
	if p = c.bound("max_completion_tokens", req.MaxCompletionTokens); p != nil { // the newer name wins
		return c, nil, p
	}
	var n int
	for _, m := range req.Messages {
		n += int(m.Content)
	}
	c.input = bytesToTokens(n)
	c.stream = req.Stream
	return c, &chatFormat{chatStyle: f, includeUsage: req.StreamOptions.IncludeUsage}, nil
}

// chatFormat writes the answer to one chat completion.
type chatFormat struct {
	chatStyle
	includeUsage bool
	chunk        completion
}

// completion is the body of an answer, and a chunk of a streamed one.
type completion struct {
	ID      string   `json:"id"`
	Object  string   `json:"object"`
	Created int64    `json:"created"`
	Model   string   `json:"model"`
	Choices []choice `json:"choices"`
	Usage   any      `json:"usage,omitempty"` // *usage, or json null in the chunks before the last
	Prompt  any      `json:"prompt_filter_results,omitempty"`
	Groq    any      `json:"x_groq,omitempty"`
}

type choice struct {
	Index        int             `json:"index"`
	Message      *message        `json:"message,omitempty"`
	Delta        *message        `json:"delta,omitempty"`
	Logprobs     json.RawMessage `json:"logprobs,omitempty"`
	FinishReason *string         `json:"finish_reason"`
	Error        any             `json:"error,omitempty"` // as OpenRouter has it
	Filter       any             `json:"content_filter_results,omitempty"`
}

// message is a whole message, or what a chunk adds to one: a nil Content is left
// out.
type message struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

type usage struct {
	PromptTokens     int64        `json:"prompt_tokens"`
	CompletionTokens int64        `json:"completion_tokens"`
	TotalTokens      int64        `json:"total_tokens"`
	Prompt           *promptUsage `json:"prompt_tokens_details,omitempty"`
	Completion       *outputUsage `json:"completion_tokens_details,omitempty"`
	*groqTimes
}

type promptUsage struct {
	CachedTokens int64 `json:"cached_tokens"`
}

type outputUsage struct {
	ReasoningTokens int64 `json:"reasoning_tokens"`
}

var null = json.RawMessage("null")

func (f *chatFormat) completion(a *answer, object string) completion {
	id := fmt.Sprintf("chatcmpl-%08x", a.number)
	if f.mistral {
		id = fmt.Sprintf("%032x", a.number)
	}
	return completion{ID: id, Object: object, Created: a.began.Unix(), Model: a.call.model, Choices: []choice{}}
}

func (f *chatFormat) choice() (c choice) {
	if !f.mistral {
		c.Logprobs = null
	}
	if f.azure {
		c.Filter = azureFilter()
	}
	return c
}

func (f *chatFormat) usage(a *answer) *usage {
	u := &usage{PromptTokens: a.call.input, CompletionTokens: a.tokens, TotalTokens: a.call.input + a.tokens}
	switch {
	case f.groq:
		u.groqTimes = newGroqTimes(a)
	case !f.mistral:
		u.Prompt, u.Completion = &promptUsage{a.cached}, &outputUsage{}
	}
	return u
}

func finishReason(a *answer) *string {
	reason := "stop"
	if a.cut {
		reason = "length"
	}
	return &reason
}

func (f *chatFormat) whole(a *answer) any {
	c := f.choice()
	c.Message, c.FinishReason = &message{"assistant", &a.text}, finishReason(a)
	body := f.completion(a, "chat.completion")
	body.Choices, body.Usage = []choice{c}, f.usage(a)
	if f.azure {
		body.Prompt = azurePrompt()
	}
	if f.groq {
		body.Groq = map[string]string{"id": groqID(a)}
	}
	return body
}

func (f *chatFormat) contentType() string { return eventStream }

func (f *chatFormat) begin(a *answer, out *events) {
	if f.azure {
		out.event("", completion{Choices: []choice{}, Prompt: azurePrompt()})
	}
	f.chunk = f.completion(a, "chat.completion.chunk")
	if f.includeUsage && !f.mistral {
		f.chunk.Usage = null // in every chunk but the last
	}
	if f.groq {
		f.chunk.Groq = map[string]string{"id": groqID(a)}
	}
	empty := ""
	f.delta(out, message{"assistant", &empty}, nil)
	f.chunk.Groq = nil
}

// delta sends a chunk with one choice.
func (f *chatFormat) delta(out *events, m message, finish *string) {
	c := f.choice()
	c.Delta, c.FinishReason = &m, finish
	f.chunk.Choices = []choice{c}
	out.event("", &f.chunk)
}

func (f *chatFormat) token(_ *answer, out *events, word string) {
	f.delta(out, message{Content: &word}, nil)
}

// end sends the finish reason, the usage if asked for, and [DONE].
func (f *chatFormat) end(a *answer, out *events) {
	if f.mistral {
		f.chunk.Usage = f.usage(a)
	}
	if f.groq {
		f.chunk.Groq = map[string]any{"id": groqID(a), "usage": f.usage(a)}
	}
	last := message{}
	if f.mistral {
		last.Content = new(string)
	}
	f.delta(out, last, finishReason(a))
	if f.includeUsage && !f.mistral {
		f.chunk.Choices, f.chunk.Usage, f.chunk.Groq = []choice{}, f.usage(a), nil
		out.event("", &f.chunk)
	}
	out.write([]byte("data: [DONE]\n\n"))
}

// fail sends an error in place of a chunk, which the official SDKs turn into an
// error, or in a last chunk.
func (f *chatFormat) fail(_ *answer, out *events, p *problem) {
	if !p.inside {
		out.event("", f.errorOf(p))
		return
	}
	c := f.choice()
	c.Delta, c.FinishReason, c.Error = &message{Content: new(string)}, pointer("error"), f.choiceError(p)
	f.chunk.Choices = []choice{c}
	out.event("", &f.chunk)
}

func (f *chatFormat) failed(a *answer, p *problem) any {
	if !p.inside {
		return f.errorOf(p)
	}
	c := f.choice()
	c.Message, c.FinishReason, c.Error = &message{"assistant", &a.text}, pointer("error"), f.choiceError(p)
	body := f.completion(a, "chat.completion")
	body.Choices = []choice{c}
	return body
}

func (f *chatFormat) errorOf(p *problem) any {
	switch {
	case f.azure:
		return azureErrorOf(p)
	case f.mistral:
		return mistralErrorOf(p)
	case f.groq:
		return groqErrorOf(p)
	}
	return openAIErrorOf(p)
}

// choiceError is the error of a choice: OpenRouter's code is a status.
func (f *chatFormat) choiceError(p *problem) any {
	return map[string]any{"code": p.status, "message": openAIErrorOf(p).Error.Message}
}

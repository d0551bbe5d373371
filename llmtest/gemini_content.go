package llmtest

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// contentRequest is what the server reads of a request's body.
type contentRequest struct {
	Contents          []geminiContent `json:"contents"`
	SystemInstruction *geminiContent  `json:"systemInstruction"`
	GenerationConfig  struct {
		MaxOutputTokens *int64 `json:"maxOutputTokens"`
	} `json:"generationConfig"`
}

type geminiContent struct {
	Parts []geminiPart `json:"parts"`
	Role  string       `json:"role,omitempty"`
}

type geminiPart struct {
	Text string `json:"text"`
}

func (c *geminiContent) bytes() (n int) {
	for _, p := range c.Parts {
		n += len(p.Text)
	}
	return n
}

func readContent(model string, stream bool) operation {
	return func(r *http.Request, body []byte) (c call, _ format, p *problem) {
		var req contentRequest
		if err := json.Unmarshal(body, &req); err != nil {
			return c, nil, &problem{reason: badRequest, message: "Invalid JSON payload received. " + err.Error()}
		}
		if len(req.Contents) == 0 {
			return c, nil, &problem{reason: badRequest, message: "* GenerateContentRequest.contents: contents is not specified\n"}
		}
		if p = c.bound("max_output_tokens", req.GenerationConfig.MaxOutputTokens); p != nil {
			return c, nil, p
		}
		var bytes int
		if req.SystemInstruction != nil {
			bytes = req.SystemInstruction.bytes()
		}
		for i := range req.Contents {
			bytes += req.Contents[i].bytes()
		}
		c.model, c.input, c.stream = model, bytesToTokens(bytes), stream
		return c, &contentFormat{sse: r.URL.Query().Get("alt") == "sse"}, nil
	}
}

// contentFormat writes one answer, in a stream of chunks that are whole answers
// themselves.
type contentFormat struct {
	sse  bool
	sent bool // something was sent: an array needs a comma
}

type contentResponse struct {
	Candidates    []candidate   `json:"candidates"`
	UsageMetadata usageMetadata `json:"usageMetadata"`
	ModelVersion  string        `json:"modelVersion"`
	ResponseID    string        `json:"responseId"`
}

type candidate struct {
	Content      geminiContent `json:"content"`
	FinishReason string        `json:"finishReason,omitempty"`
	Index        int           `json:"index"`
}

type usageMetadata struct {
	PromptTokenCount        int64 `json:"promptTokenCount"`
	CachedContentTokenCount int64 `json:"cachedContentTokenCount,omitempty"`
	CandidatesTokenCount    int64 `json:"candidatesTokenCount"`
	TotalTokenCount         int64 `json:"totalTokenCount"`
}

func (f *contentFormat) response(a *answer, text, finish string) contentResponse {
	return contentResponse{
		Candidates: []candidate{{Content: geminiContent{[]geminiPart{{text}}, "model"}, FinishReason: finish}},
		UsageMetadata: usageMetadata{
			PromptTokenCount:        a.call.input,
			CachedContentTokenCount: a.cached,
			CandidatesTokenCount:    a.tokens,
			TotalTokenCount:         a.call.input + a.tokens,
		},
		ModelVersion: a.call.model,
		ResponseID:   fmt.Sprintf("llmtest-%08x", a.number),
	}
}

func geminiFinish(a *answer) string {
	if a.cut {
		return "MAX_TOKENS"
	}
	return "STOP"
}

func (f *contentFormat) whole(a *answer) any { return f.response(a, a.text, geminiFinish(a)) }

func (f *contentFormat) contentType() string {
	if f.sse {
		return "text/event-stream"
	}
	return "application/json; charset=UTF-8"
}

// send sends a chunk, as an event or as an element of the array.
func (f *contentFormat) send(out *events, v any) {
	if f.sse {
		out.event("", v)
		return
	}
	if f.sent {
		out.write([]byte(",\n"))
	} else {
		out.write([]byte("["))
	}
	f.sent = true
	out.line(v)
}

func (f *contentFormat) begin(*answer, *events) {}

func (f *contentFormat) token(a *answer, out *events, word string) {
	f.send(out, f.response(a, word, ""))
}

// end sends a last chunk with the finish reason.
func (f *contentFormat) end(a *answer, out *events) {
	f.send(out, f.response(a, "", geminiFinish(a)))
	if !f.sse {
		out.write([]byte("]\n"))
	}
}

func (f *contentFormat) fail(_ *answer, out *events, p *problem) {
	f.send(out, geminiErrorOf(p))
	if !f.sse {
		out.write([]byte("]\n"))
	}
}

func (f *contentFormat) failed(_ *answer, p *problem) any { return geminiErrorOf(p) }

// list serves a list of models.
func (d gemini) list(w http.ResponseWriter, _ *http.Request) {
	type model struct {
		Name    string   `json:"name"`
		Display string   `json:"displayName"`
		Methods []string `json:"supportedGenerationMethods"`
	}
	list := struct {
		Models []model `json:"models"`
	}{}
	for _, name := range d.models("gemini-2.5-flash") {
		list.Models = append(list.Models, model{"models/" + name, name, []string{"generateContent"}})
	}
	writeJSON(w, http.StatusOK, list)
}

package llmtest

import (
	"encoding/json"
	"net/http"
	"time"
)

// Ollama is a provider that speaks Ollama's own protocol: POST /api/chat and
// /api/generate, as a stream of lines of JSON unless stream is false, GET
// /api/tags and /api/version; and OpenAI's chat completions at
// /v1/chat/completions. There are no headers and no limits but those given.
//
// By default one request is worked on at a time and 512 more wait for their
// turn; one more is answered 503: Ollama's defaults of OLLAMA_NUM_PARALLEL and
// OLLAMA_MAX_QUEUE. [WithLoad] sets others.
func Ollama(limits ...Limit) Provider {
	return Provider{
		name:    "Ollama",
		limits:  limits,
		options: []Option{WithActualUsage(), WithLoad(Load{Parallel: 1, Capacity: 1 + 512})},
		dialect: func(s *Server) dialect { return ollama{s} },
	}
}

type ollama struct{ *Server }

func (ollama) key(r *http.Request) string { return bearer(r) }

func (d ollama) route(r *http.Request) (route, *problem) {
	switch r.URL.Path {
	case "/api/chat":
		return route{generate: readOllama(false)}, method(r, http.MethodPost)
	case "/api/generate":
		return route{generate: readOllama(true)}, method(r, http.MethodPost)
	case "/api/tags":
		return route{page: d.list}, method(r, http.MethodGet)
	case "/api/version":
		return route{page: d.version}, method(r, http.MethodGet)
	case "/v1/chat/completions":
		return route{generate: chatStyle{}.read}, method(r, http.MethodPost)
	}
	return route{}, notServed(r)
}

func (ollama) status(r reason) int { return usualStatus(r) }

func (ollama) headers(http.Header, *ticket) {}

func (ollama) fail(w http.ResponseWriter, p *problem) {
	setRetryAfter(w.Header(), p.retryAfter)
	writeJSON(w, p.status, ollamaErrorOf(p))
}

type ollamaError struct {
	Error string `json:"error"`
}

func ollamaErrorOf(p *problem) ollamaError {
	switch p.reason {
	case wrongKey:
		return ollamaError{"unauthorized"}
	case unknownPath:
		return ollamaError{"404 page not found"}
	case rateLimited, tooLarge:
		return ollamaError{"rate limit exceeded: " + p.refusal.limit.String()}
	case overloaded:
		return ollamaError{"server busy, please try again.  maximum pending requests exceeded"}
	case outOfQuota, spendLimited:
		return ollamaError{"usage limit reached"}
	case injected:
		return ollamaError{injectedMessage}
	}
	return ollamaError{p.message}
}

// ollamaRequest is what the server reads of a request's body.
type ollamaRequest struct {
	Model    string `json:"model"`
	Messages []struct {
		Content string `json:"content"`
	} `json:"messages"`
	Prompt  string `json:"prompt"`
	System  string `json:"system"`
	Stream  *bool  `json:"stream"`
	Options struct {
		NumPredict *int64 `json:"num_predict"`
	} `json:"options"`
}

// readOllama reads a request to chat, or to generate.
func readOllama(generate bool) operation {
	return func(_ *http.Request, body []byte) (c call, _ format, p *problem) {
		var req ollamaRequest
		if err := json.Unmarshal(body, &req); err != nil {
			return c, nil, &problem{reason: badRequest, message: err.Error()}
		}
		if req.Model == "" {
			return c, nil, &problem{reason: badRequest, message: "model is required"}
		}
		if n := req.Options.NumPredict; n != nil && *n > 0 { // below, there is no bound
			if p = c.bound("num_predict", n); p != nil {
				return c, nil, p
			}
		}
		bytes := len(req.Prompt) + len(req.System)
		for _, m := range req.Messages {
			bytes += len(m.Content)
		}
		c.model, c.input, c.stream = req.Model, bytesToTokens(bytes), req.Stream == nil || *req.Stream
		return c, ollamaFormat{generate}, nil
	}
}

// ollamaFormat writes one answer.
type ollamaFormat struct{ generate bool }

// ollamaResponse is an answer, or a line of a streamed one. The last line has the
// counts and, in nanoseconds, the times.
type ollamaResponse struct {
	Model              string         `json:"model"`
	CreatedAt          time.Time      `json:"created_at"`
	Message            *ollamaMessage `json:"message,omitempty"`
	Response           *string        `json:"response,omitempty"` // of generate
	Done               bool           `json:"done"`
	DoneReason         string         `json:"done_reason,omitempty"`
	TotalDuration      time.Duration  `json:"total_duration,omitempty"`
	LoadDuration       time.Duration  `json:"load_duration,omitempty"`
	PromptEvalCount    int64          `json:"prompt_eval_count,omitempty"`
	PromptEvalDuration time.Duration  `json:"prompt_eval_duration,omitempty"`
	EvalCount          int64          `json:"eval_count,omitempty"`
	EvalDuration       time.Duration  `json:"eval_duration,omitempty"`
}

type ollamaMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

func (f ollamaFormat) piece(a *answer, text string) *ollamaResponse {
	r := &ollamaResponse{Model: a.call.model, CreatedAt: time.Now().UTC()}
	if f.generate {
		r.Response = &text
	} else {
		r.Message = &ollamaMessage{"assistant", text}
	}
	return r
}

func (f ollamaFormat) last(a *answer, text string) *ollamaResponse {
	r := f.piece(a, text)
	r.Done, r.DoneReason = true, *finishReason(a)
	r.PromptEvalCount, r.EvalCount = a.call.input, a.tokens
	r.TotalDuration = time.Since(a.began)
	r.PromptEvalDuration = a.timing.first
	r.EvalDuration = a.timing.due(a.tokens) - a.timing.first
	return r
}

func (f ollamaFormat) whole(a *answer) any { return f.last(a, a.text) }

func (ollamaFormat) contentType() string { return "application/x-ndjson" }

func (ollamaFormat) begin(*answer, *events) {}

func (f ollamaFormat) token(a *answer, out *events, word string) { out.line(f.piece(a, word)) }

func (f ollamaFormat) end(a *answer, out *events) { out.line(f.last(a, "")) }

func (ollamaFormat) fail(_ *answer, out *events, p *problem) { out.line(ollamaErrorOf(p)) }

func (ollamaFormat) failed(_ *answer, p *problem) any { return ollamaErrorOf(p) }

// list serves a list of models.
func (d ollama) list(w http.ResponseWriter, _ *http.Request) {
	type model struct {
		Name       string    `json:"name"`
		Model      string    `json:"model"`
		ModifiedAt time.Time `json:"modified_at"`
	}
	list := struct {
		Models []model `json:"models"`
	}{}
	for _, name := range d.models("llama3.2") {
		list.Models = append(list.Models, model{name, name, d.enforcer.start.UTC()})
	}
	writeJSON(w, http.StatusOK, list)
}

func (ollama) version(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"version": "0.17.4"})
}

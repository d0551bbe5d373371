package llmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"strings"
	"time"
)

// OpenAI is a provider that speaks OpenAI's chat completions protocol and
// enforces the limits given, for all models together unless a limit says
// otherwise ([Limit.For]). It serves
//
//   - POST /v1/chat/completions, unary and as a stream of server-sent events,
//     with a usage chunk when stream_options.include_usage asks for one;
//   - GET /v1/models: the models that limits name, or else gpt-4o-mini.
//
// Both also without the /v1. Any model name is accepted, and answers have one
// choice. Every answer to a completion carries x-ratelimit headers, whose resets
// are Go durations until the limit is whole again. Names and formats are those
// of OpenAI's public API reference and rate limit guide.
func OpenAI(limits ...Limit) Provider {
	return Provider{limits: limits, handler: func(s *Server) http.Handler { return openAI{s} }}
}

// openAI is the HTTP side of the provider.
type openAI struct{ *Server }

func (s openAI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	path := strings.TrimPrefix(r.URL.Path, "/v1")
	switch {
	case s.config.key != "" && r.Header.Get("Authorization") != "Bearer "+s.config.key:
		s.invalid(w, http.StatusUnauthorized, "Incorrect API key provided.", "", "invalid_api_key")
	case path == "/chat/completions" && r.Method == http.MethodPost:
		s.complete(w, r)
	case path == "/models" && r.Method == http.MethodGet:
		s.models(w)
	case path == "/chat/completions" || path == "/models":
		s.invalid(w, http.StatusMethodNotAllowed, "Not allowed to "+r.Method+" on "+r.URL.Path+".", "", "method_not_allowed")
	default:
		s.invalid(w, http.StatusNotFound, "Invalid URL ("+r.Method+" "+r.URL.Path+")", "", "")
	}
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
type content int64

func (c *content) UnmarshalJSON(data []byte) error {
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

// maxTokensBound is above any model's and far below an overflow.
const maxTokensBound = 1 << 40

// parse returns the request and what it asks of the limits. Its errors are
// *badRequest.
func parse(body []byte) (req chatRequest, c call, err error) {
	if err := json.Unmarshal(body, &req); err != nil {
		return req, c, &badRequest{"We could not parse the JSON body of your request: " + err.Error(), ""}
	}
	if req.Model == "" {
		return req, c, &badRequest{"you must provide a model parameter", "model"}
	}
	if len(req.Messages) == 0 {
		return req, c, &badRequest{"Missing required parameter: 'messages'.", "messages"}
	}
	c.model = req.Model
	for _, m := range []struct {
		name  string
		value *int64
	}{{"max_tokens", req.MaxTokens}, {"max_completion_tokens", req.MaxCompletionTokens}} {
		if m.value == nil {
			continue
		}
		if *m.value < 1 || *m.value > maxTokensBound {
			return req, c, &badRequest{fmt.Sprintf("Invalid '%s': %d is out of range.", m.name, *m.value), m.name}
		}
		c.maxTokens = *m.value // the newer name, checked last, wins
	}
	var bytes int64
	for _, m := range req.Messages {
		bytes += int64(m.Content)
	}
	c.input = (bytes + 3) / 4
	h := fnv.New64a()
	_, _ = h.Write(body)
	c.body = h.Sum64()
	return req, c, nil
}

type badRequest struct{ message, param string }

func (b *badRequest) Error() string { return b.message }

// complete answers a chat completion.
func (s openAI) complete(w http.ResponseWriter, r *http.Request) {
	// Reading to the end also lets net/http notice when the client goes away.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 32<<20))
	if err != nil {
		s.invalid(w, http.StatusBadRequest, "The request's body could not be read: "+err.Error(), "", "")
		return
	}
	req, call, err := parse(body)
	if bad := (*badRequest)(nil); errors.As(err, &bad) {
		s.invalid(w, http.StatusBadRequest, bad.message, bad.param, "")
		return
	}
	began := time.Now()
	t := s.enforcer.admit(call)
	writeQuota(w.Header(), t.quota)
	w.Header().Set("X-Request-Id", fmt.Sprintf("req_%08x", t.arrival))
	if t.refusal != nil {
		writeRefusal(w, call.model, t.refusal)
		return
	}
	a := answer{
		w:     w,
		req:   &req,
		call:  call,
		reply: s.config.plan(call, t),
		id:    fmt.Sprintf("chatcmpl-%08x", t.arrival),
		began: began,
	}
	verdict, output := a.write(r.Context())
	s.enforcer.finish(t, verdict, output)
	if verdict == Canceled {
		// Returning would end the answer properly: an empty 200, or a stream that
		// seems complete. This cuts the connection, as net/http documents it.
		panic(http.ErrAbortHandler)
	}
}

// models lists the models that the server knows of.
func (s openAI) models(w http.ResponseWriter) {
	type model struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
	}
	var list struct {
		Object string  `json:"object"`
		Data   []model `json:"data"`
	}
	list.Object = "list"
	seen := map[string]bool{"": true}
	for _, l := range s.config.limits {
		if !seen[l.Model] {
			seen[l.Model] = true
			list.Data = append(list.Data, model{l.Model, "model", s.enforcer.start.Unix(), "llmtest"})
		}
	}
	if list.Data == nil {
		list.Data = []model{{"gpt-4o-mini", "model", s.enforcer.start.Unix(), "llmtest"}}
	}
	writeJSON(w, http.StatusOK, list)
}

// invalid answers a request that never reaches the limits.
func (s openAI) invalid(w http.ResponseWriter, status int, message, param, code string) {
	s.enforcer.reject()
	writeError(w, status, message, "invalid_request_error", param, code)
}

package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/tidwall/sjson"
)

// dialect is a provider's way to speak. Nothing is translated from one to another.
type dialect struct {
	name       string
	baseURL    string // of its own provider, as its SDKs take it
	host       string // the same's
	prefix     string // what the paths of its SDKs begin with and baseURL ends with
	keyEnv     string
	auth       string
	accounting string
	env        string // what its SDKs take their base URL from
}

// dialects, in the order in which upstreams are made of them when none is named.
var dialects = []*dialect{
	{"openai", "https://api.openai.com/v1", "api.openai.com", "/v1", "OPENAI_API_KEY", "bearer", "openai", "OPENAI_BASE_URL"},
	{"anthropic", "https://api.anthropic.com", "api.anthropic.com", "", "ANTHROPIC_API_KEY", "x-api-key", "anthropic", "ANTHROPIC_BASE_URL"},
	{"gemini", "https://generativelanguage.googleapis.com", "generativelanguage.googleapis.com", "", "GEMINI_API_KEY", "x-goog-api-key", "gemini", "GOOGLE_GEMINI_BASE_URL"},
	{"ollama", "http://127.0.0.1:11434", "", "", "", "bearer", "", "OLLAMA_HOST"},
}

func dialectNamed(name string) *dialect {
	for _, d := range dialects {
		if d.name == name {
			return d
		}
	}
	return nil
}

func dialectNames() string {
	var names []string
	for _, d := range dialects {
		names = append(names, d.name)
	}
	return strings.Join(names, ", ")
}

// KeyEnv is the environment variable in which a dialect's SDKs look for a key; "" for none.
func KeyEnv(dialect string) string {
	if d := dialectNamed(dialect); d != nil {
		return d.keyEnv
	}
	return ""
}

// Environment is what clients set to call a gateway at an address, a line for each dialect that it
// has an upstream of.
func Environment(c *Config, address string) (lines []string) {
	for _, d := range dialects {
		if slices.ContainsFunc(c.Upstreams, func(u Upstream) bool { return u.Dialect == d.name }) {
			lines = append(lines, d.env+"=http://"+address+d.prefix)
		}
	}
	return lines
}

// dialectOf tells by its path, and where several have that, by its headers, what a request speaks.
func dialectOf(r *http.Request) *dialect {
	path := r.URL.Path
	switch {
	case strings.HasPrefix(path, "/api/"):
		return dialectNamed("ollama")
	case hasPrefix(path, "/v1beta", "/v1alpha", "/upload", "/download"), strings.HasPrefix(path, "/v1/models/") && strings.Contains(path, ":"),
		r.Header.Get("X-Goog-Api-Key") != "" && strings.HasPrefix(path, "/v1/"):
		return dialectNamed("gemini")
	case hasPrefix(path, "/v1/messages", "/v1/complete"), r.Header.Get("Anthropic-Version") != "":
		return dialectNamed("anthropic")
	case hasPrefix(path, "/v1"):
		return dialectNamed("openai")
	}
	return nil
}

// hasPrefix reports whether a path is one of the prefixes or lies under it.
func hasPrefix(path string, prefixes ...string) bool {
	for _, p := range prefixes {
		if rest, ok := strings.CutPrefix(path, p); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// sendsEvents reports whether a call's streams are server-sent events, in which a comment may stand.
func (d *dialect) sendsEvents(r *http.Request) bool {
	switch d.name {
	case "gemini":
		return strings.HasSuffix(r.URL.Path, ":streamGenerateContent") && r.URL.Query().Get("alt") == "sse"
	case "ollama":
		return false
	}
	return true
}

// rename puts another model into a request: into the body, or for Gemini into the path.
func (d *dialect) rename(path string, body []byte, model string) (string, []byte, error) {
	if d.name == "gemini" {
		if i := strings.Index(path, "/models/"); i >= 0 {
			i += len("/models/")
			if colon := strings.LastIndexByte(path, ':'); colon > i {
				return path[:i] + model + path[colon:], body, nil
			}
		}
		return path, body, nil
	}
	if body == nil {
		return path, nil, errNoJSON
	}
	body, err := sjson.SetBytes(body, "model", model)
	return path, body, err
}

var errNoJSON = errors.New("the request is no JSON, in which another model's name could be set")

// kinds are what the dialects call an error of a status.
var kinds = map[int]struct{ openai, anthropic, gemini string }{
	http.StatusBadRequest:            {"invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"},
	http.StatusUnauthorized:          {"invalid_request_error", "authentication_error", "UNAUTHENTICATED"},
	http.StatusForbidden:             {"invalid_request_error", "permission_error", "PERMISSION_DENIED"},
	http.StatusNotFound:              {"invalid_request_error", "not_found_error", "NOT_FOUND"},
	http.StatusRequestTimeout:        {"invalid_request_error", "invalid_request_error", "DEADLINE_EXCEEDED"},
	http.StatusRequestEntityTooLarge: {"invalid_request_error", "request_too_large", "INVALID_ARGUMENT"},
	http.StatusTooManyRequests:       {"rate_limit_error", "rate_limit_error", "RESOURCE_EXHAUSTED"},
	http.StatusServiceUnavailable:    {"server_error", "overloaded_error", "UNAVAILABLE"},
}

// errorBody is an error as the dialect's SDKs read it.
func (d *dialect) errorBody(status int, text string) []byte {
	kind, ok := kinds[status]
	if !ok {
		kind.openai, kind.anthropic, kind.gemini = "server_error", "api_error", "INTERNAL"
	}
	type object map[string]any
	var body any
	switch d.name {
	case "anthropic":
		body = object{"type": "error", "error": object{"type": kind.anthropic, "message": text}}
	case "gemini":
		body = object{"error": object{"code": status, "message": text, "status": kind.gemini}}
	case "ollama":
		body = object{"error": text}
	default:
		body = object{"error": object{"message": text, "type": kind.openai, "param": nil, "code": nil}}
	}
	data, _ := json.Marshal(body) // of strings and numbers alone
	return data
}

// refuse answers with an error of the gateway's own.
func (d *dialect) refuse(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Should-Retry", "false")
	w.WriteHeader(status)
	_, _ = w.Write(d.errorBody(status, "llmq: "+text))
}

// event is an error as an event of a stream that has begun.
func (d *dialect) event(status int, body []byte) []byte {
	var line bytes.Buffer
	if json.Compact(&line, body) != nil || line.Len() == 0 || line.Bytes()[0] != '{' {
		line.Reset()
		line.Write(d.errorBody(status, http.StatusText(status)))
	}
	var b bytes.Buffer
	if d.name == "anthropic" {
		b.WriteString("event: error\n")
	}
	b.WriteString("data: ")
	b.Write(line.Bytes())
	b.WriteString("\n\n")
	return b.Bytes()
}

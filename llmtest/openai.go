package llmtest

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// OpenAI is a provider that speaks OpenAI's protocols and enforces the limits
// given, for all models together unless a limit says otherwise ([Limit.For]). It
// serves
//
//   - POST /v1/chat/completions, unary and as a stream of server-sent events,
//     with a usage chunk when stream_options.include_usage asks for one;
//   - POST /v1/responses, unary and as a stream of typed events;
//   - POST /v1/embeddings, as numbers and as base64;
//   - GET /v1/models: the models that limits name, or else gpt-4o-mini;
//   - POST /v1/files for the purpose batch, GET /v1/files/{id} and its content, POST and
//     GET /v1/batches, GET /v1/batches/{id}, POST /v1/batches/{id}/cancel: see [Batches].
//
// All also without the /v1. Any model name is accepted, and answers have one
// choice of text. Every answer that the limits count carries x-ratelimit
// headers, whose resets are Go durations until the limit is whole again.
//
// Limits are token buckets unless they say otherwise (inferred from OpenAI's
// documented samples); tokens are charged with max_tokens up front, and refused
// requests count (both documented by OpenAI).
func OpenAI(limits ...Limit) Provider {
	return Provider{
		name:    "OpenAI",
		path:    "/v1",
		limits:  limits,
		options: []Option{WithMaxTokensCharged(), WithRefusedCounted()},
		dialect: func(s *Server) dialect { return openAI{s} },
	}
}

type openAI struct{ *Server }

func (openAI) key(r *http.Request) string { return bearer(r) }

// bearer returns the bearer token of a request.
func bearer(r *http.Request) string {
	key, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return key
}

func (d openAI) route(r *http.Request) (route, *problem) {
	switch strings.TrimPrefix(r.URL.Path, "/v1") {
	case "/chat/completions":
		return route{generate: chatStyle{}.read}, method(r, http.MethodPost)
	case "/responses":
		return route{generate: readResponse}, method(r, http.MethodPost)
	case "/embeddings":
		return route{generate: d.embeddings("")}, method(r, http.MethodPost)
	case "/models":
		return route{page: d.list("gpt-4o-mini")}, method(r, http.MethodGet)
	}
	return d.batchRoute(r)
}

func notServed(r *http.Request) *problem {
	return &problem{reason: unknownPath, message: "Invalid URL (" + r.Method + " " + r.URL.Path + ")"}
}

func (openAI) status(r reason) int { return usualStatus(r) }

func (openAI) headers(h http.Header, t *ticket) {
	h.Set("X-Request-Id", fmt.Sprintf("req_%08x", t.arrival))
	writeQuota(h, t.quota, func(d time.Duration) string { return wholeMillis(d).String() })
}

// writeQuota sets the rate limit headers of the kinds that have a limit. Which
// of several limits they describe is not documented; here it is the one with the
// smallest part left.
func writeQuota(h http.Header, q quota, reset func(time.Duration) string) {
	if s, ok := q.tightest(func(l Limit) bool { return l.Kind == KindRequests }); ok {
		setInt(h, "X-Ratelimit-Limit-Requests", s.total)
		setInt(h, "X-Ratelimit-Remaining-Requests", s.remaining)
		h.Set("X-Ratelimit-Reset-Requests", reset(s.reset))
	}
	if s, ok := q.tightest(func(l Limit) bool { return l.Kind == KindTokens }); ok {
		setInt(h, "X-Ratelimit-Limit-Tokens", s.total)
		setInt(h, "X-Ratelimit-Remaining-Tokens", s.remaining)
		h.Set("X-Ratelimit-Reset-Tokens", reset(s.reset))
	}
}

// fail writes an error. A request that is larger than a limit gets no
// Retry-After: waiting would not help it.
func (openAI) fail(w http.ResponseWriter, p *problem) {
	setRetryAfter(w.Header(), p.retryAfter)
	writeJSON(w, p.status, openAIErrorOf(p))
}

// openAIError is the body of an error, in which an absent param or code is null.
type openAIError struct {
	Error struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	} `json:"error"`
}

func newOpenAIError(message, kind, param, code string) (e openAIError) {
	e.Error.Message, e.Error.Type = message, kind
	if param != "" {
		e.Error.Param = &param
	}
	if code != "" {
		e.Error.Code = &code
	}
	return e
}

// openAIErrorOf puts a problem into OpenAI's words. rate_limit_exceeded,
// insufficient_quota, organization_spend_limit_exceeded and server_is_overloaded
// are documented codes; the type of server errors follows the same pattern. So is that the tier
// flex answers 429 Resource Unavailable when it lacks room
// (developers.openai.com/api/docs/guides/flex-processing); how its body says that is inferred.
func openAIErrorOf(p *problem) openAIError {
	switch p.reason {
	case wrongKey:
		return newOpenAIError("Incorrect API key provided.", "invalid_request_error", "", "invalid_api_key")
	case unknownMethod:
		return newOpenAIError(p.message, "invalid_request_error", "", "method_not_allowed")
	case rateLimited:
		return newOpenAIError(fmt.Sprintf("Rate limit reached for %s on %v: Limit %d, Used %d, Requested %d. Please try again in %v.",
			p.model, p.refusal.limit, p.refusal.limit.Amount, p.refusal.used, p.refusal.requested, wholeMillis(p.refusal.wait)),
			limitType(p.refusal.limit), "", "rate_limit_exceeded")
	case tooLarge:
		return newOpenAIError(fmt.Sprintf("Request too large for %s on %v: Limit %d, Requested %d. The input or output tokens must be reduced in order to run successfully.",
			p.model, p.refusal.limit, p.refusal.limit.Amount, p.refusal.requested),
			limitType(p.refusal.limit), "", "rate_limit_exceeded")
	case outOfQuota:
		return newOpenAIError("You exceeded your current quota, please check your plan and billing details.", "insufficient_quota", "", "insufficient_quota")
	case spendLimited:
		return newOpenAIError("Your organization has reached its spend limit.", "insufficient_quota", "", "organization_spend_limit_exceeded")
	case overloaded:
		if p.status == http.StatusTooManyRequests { // of the tier flex
			return newOpenAIError("Resource unavailable. Please try again later.", "resource_unavailable", "", "resource_unavailable")
		}
		return newOpenAIError("The server is overloaded. Please try again later.", "service_unavailable_error", "", "server_is_overloaded")
	case injected:
		kind, code := injectedCode(p.status)
		return newOpenAIError(injectedMessage, kind, "", code)
	}
	return newOpenAIError(p.message, "invalid_request_error", p.param, "")
}

func injectedCode(status int) (kind, code string) {
	switch {
	case status == http.StatusTooManyRequests:
		return "requests", "rate_limit_exceeded"
	case status == http.StatusServiceUnavailable:
		return "service_unavailable_error", "server_is_overloaded"
	case status >= 500:
		return "server_error", ""
	}
	return "invalid_request_error", ""
}

// limitType is the type of the error about a limit.
func limitType(l Limit) string {
	if l.Kind == KindRequests || l.Kind == KindConcurrent {
		return "requests"
	}
	return "tokens"
}

// list serves a list of models.
func (d openAI) list(otherwise string) http.HandlerFunc {
	type model struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		list := struct {
			Object string  `json:"object"`
			Data   []model `json:"data"`
		}{Object: "list"}
		for _, name := range d.models(otherwise) {
			list.Data = append(list.Data, model{name, "model", d.enforcer.start.Unix(), "llmtest"})
		}
		writeJSON(w, http.StatusOK, list)
	}
}

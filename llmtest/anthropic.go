package llmtest

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Anthropic is a provider that speaks Anthropic's messages, at POST
// /v1/messages, unary and as a stream of typed events; also
// /v1/messages/count_tokens, /v1/models, and /v1/messages/batches with their results and
// cancel (see [Batches]). [Server.URL] is without the /v1, as
// its SDK wants it. It differs from [OpenAI] in that
//
//   - its headers are anthropic-ratelimit-requests-limit, -remaining and -reset,
//     and the same for tokens, input-tokens and output-tokens: the resets are
//     times, in RFC 3339, at which the limit is whole again, remaining tokens
//     are rounded to thousands, and tokens is the most restrictive limit;
//   - a limit of a subscription ([Unified]) is told in headers of its own:
//     anthropic-ratelimit-unified-status (allowed or rejected), -reset (a Unix time),
//     -representative-claim (which window it is about), and the -status, -reset and
//     -utilization (0 to 1) of each window, such as -5h-utilization;
//   - an overloaded server answers 529;
//   - the part of a prompt up to its last cache_control is cached for five
//     minutes if it has 1,024 tokens at least; when it comes again it does not
//     count for limits.
//
// Limits are token buckets, input counts when a request arrives and output as it
// is produced, and max_tokens does not count: all documented by Anthropic. That
// refused requests charge nothing is not documented. Nothing is about subscriptions:
// their headers and errors are as seen in the wild
// (github.com/anthropics/claude-code/issues/12829), and their windows are fixed ones
// here, of which the first begins when the server starts.
func Anthropic(limits ...Limit) Provider {
	return Provider{
		name:   "Anthropic",
		limits: limits,
		strategy: func(l Limit) Limit {
			if l.Kind == KindUnified {
				return l.By(FixedWindow)
			}
			return l.By(TokenBucket)
		},
		options: []Option{WithActualUsage()},
		dialect: func(s *Server) dialect { return anthropic{s} },
	}
}

type anthropic struct{ *Server }

func (anthropic) key(r *http.Request) string {
	if key := r.Header.Get("X-Api-Key"); key != "" {
		return key
	}
	return bearer(r)
}

func (d anthropic) route(r *http.Request) (route, *problem) {
	switch r.URL.Path {
	case "/v1/messages":
		return route{generate: readMessages}, method(r, http.MethodPost)
	case "/v1/messages/count_tokens":
		return route{page: d.count}, method(r, http.MethodPost)
	case "/v1/models":
		return route{page: d.list}, method(r, http.MethodGet)
	}
	return d.batchRoute(r)
}

const statusOverloaded = 529 // Anthropic's own

// status: a limit that the account has set on itself is answered 400, as
// Anthropic documents it.
func (anthropic) status(r reason) int {
	switch r {
	case overloaded:
		return statusOverloaded
	case spendLimited:
		return http.StatusBadRequest
	}
	return usualStatus(r)
}

func (anthropic) headers(h http.Header, t *ticket) {
	h.Set("Request-Id", requestID(t.arrival))
	h.Set("Anthropic-Organization-Id", "00000000-0000-4000-8000-000000000000")
	writeUnified(h, t)
	isTokens := func(l Limit) bool { return l.Kind != KindRequests && l.Kind != KindUnified }
	is := func(k Kind) func(Limit) bool { return func(l Limit) bool { return l.Kind == k } }
	for _, k := range []struct {
		name   string
		accept func(Limit) bool
	}{
		{"Requests", is(KindRequests)},
		{"Tokens", isTokens},
		{"Input-Tokens", is(KindInput)},
		{"Output-Tokens", is(KindOutput)},
	} {
		s, ok := t.quota.tightest(k.accept)
		if !ok {
			continue
		}
		if s.Kind != KindRequests {
			s.remaining = (s.remaining + 500) / 1000 * 1000
		}
		name := "Anthropic-Ratelimit-" + k.name
		setInt(h, name+"-Limit", s.total)
		setInt(h, name+"-Remaining", s.remaining)
		h.Set(name+"-Reset", t.at.Add(s.reset).Add(time.Second-1).UTC().Format(time.RFC3339)) // rounded up
	}
}

func requestID(number int) string { return fmt.Sprintf("req_%024x", number) }

func (anthropic) fail(w http.ResponseWriter, p *problem) {
	setRetryAfter(w.Header(), p.retryAfter)
	writeJSON(w, p.status, anthropicErrorOf(p))
}

type anthropicError struct {
	Type  string `json:"type"`
	Error struct {
		Type    string            `json:"type"`
		Message string            `json:"message"`
		Details map[string]string `json:"details,omitempty"`
	} `json:"error"`
	RequestID string `json:"request_id,omitempty"`
}

// anthropicErrorOf puts a problem into Anthropic's words.
func anthropicErrorOf(p *problem) anthropicError {
	e := anthropicError{Type: "error", RequestID: requestID(p.number)}
	e.Error.Type, e.Error.Message = anthropicType(p.status), p.message
	switch p.reason {
	case wrongKey:
		e.Error.Message = "invalid x-api-key"
	case unknownPath:
		e.Error.Message = "Not found"
	case rateLimited, tooLarge:
		e.Error.Message = fmt.Sprintf("This request would exceed your organization's rate limit of %s.", anthropicName(p.refusal.limit))
		if p.refusal.limit.Kind == KindUnified {
			e.Error.Message = "This request would exceed your account's rate limit. Please try again later."
		}
	case overloaded:
		e.Error.Message = "Overloaded"
	case outOfQuota:
		e.Error.Message = "Your organization has reached its monthly spend limit."
		e.Error.Details = map[string]string{"error_code": "enforced_spend_limit_reached"}
	case spendLimited:
		y, m, _ := p.at.UTC().Date()
		e.Error.Message = fmt.Sprintf("You have reached your specified API usage limits. You will regain access on %s at 00:00 UTC.",
			time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC).Format(time.DateOnly))
	case injected:
		e.Error.Message = injectedMessage
		if p.status == statusOverloaded {
			e.Error.Message = "Overloaded"
		}
	}
	return e
}

// anthropicName names a limit as its error messages do: "50,000 input tokens per
// minute".
func anthropicName(l Limit) string {
	switch {
	case l.Kind == KindConcurrent:
		return fmt.Sprintf("%s concurrent requests", thousands(l.Amount))
	case l.Period == time.Minute:
		return fmt.Sprintf("%s %s per minute", thousands(l.Amount), l.Kind)
	case l.Period == day:
		return fmt.Sprintf("%s %s per day", thousands(l.Amount), l.Kind)
	}
	return fmt.Sprintf("%s %s per %v", thousands(l.Amount), l.Kind, l.Period)
}

// thousands writes a number with commas.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// anthropicType is the error type of a status: Anthropic documents these.
func anthropicType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusPaymentRequired:
		return "billing_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return "timeout_error"
	case statusOverloaded:
		return "overloaded_error"
	}
	if status >= 500 {
		return "api_error"
	}
	return "invalid_request_error"
}

// list serves a list of models.
func (d anthropic) list(w http.ResponseWriter, _ *http.Request) {
	type model struct {
		Type        string    `json:"type"`
		ID          string    `json:"id"`
		DisplayName string    `json:"display_name"`
		CreatedAt   time.Time `json:"created_at"`
	}
	names := d.models("claude-sonnet-4-5")
	list := struct {
		Data    []model `json:"data"`
		HasMore bool    `json:"has_more"`
		FirstID string  `json:"first_id"`
		LastID  string  `json:"last_id"`
	}{FirstID: names[0], LastID: names[len(names)-1]}
	for _, name := range names {
		list.Data = append(list.Data, model{"model", name, strings.ToTitle(name[:1]) + name[1:], d.enforcer.start.UTC()})
	}
	writeJSON(w, http.StatusOK, list)
}

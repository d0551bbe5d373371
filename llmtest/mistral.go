package llmtest

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Mistral is a provider that speaks Mistral's chat completions and embeddings,
// at /v1/chat/completions and /v1/embeddings. It differs from [OpenAI] in that
//
//   - its headers are x-ratelimit-limit-req-minute, …-tokens-minute and their
//     remaining, and x-ratelimit-tokens-query-cost, without any reset;
//   - errors have a shape of their own, with the code 1300 for a broken limit;
//   - the last chunk of every stream has the usage.
//
// Mistral limits requests per second, tokens per minute and tokens per month.
// How it enforces them is not published: here they are sliding windows, the
// strictest way, unless they say otherwise. Tokens are charged with max_tokens up
// front.
func Mistral(limits ...Limit) Provider {
	return Provider{
		name:     "Mistral",
		path:     "/v1",
		limits:   limits,
		strategy: func(l Limit) Limit { return l.By(SlidingWindow) },
		options:  []Option{WithMaxTokensCharged()},
		dialect:  func(s *Server) dialect { return mistral{openAI{s}} },
	}
}

type mistral struct{ openAI }

func (d mistral) route(r *http.Request) (route, *problem) {
	switch r.URL.Path {
	case "/v1/chat/completions":
		return route{generate: chatStyle{mistral: true}.read}, method(r, http.MethodPost)
	case "/v1/embeddings":
		return route{generate: d.embeddings("")}, method(r, http.MethodPost)
	case "/v1/models":
		return route{page: d.list("mistral-small-latest")}, method(r, http.MethodGet)
	}
	return route{}, notServed(r)
}

func (mistral) status(r reason) int {
	if r == badRequest {
		return http.StatusUnprocessableEntity
	}
	return usualStatus(r)
}

func (mistral) headers(h http.Header, t *ticket) {
	h.Set("X-Kong-Request-Id", fmt.Sprintf("%032x", t.arrival))
	for kind, name := range map[Kind]string{KindRequests: "Req", KindTokens: "Tokens"} {
		if s, ok := t.quota.tightest(func(l Limit) bool { return l.Kind == kind && l.Period == time.Minute }); ok {
			setInt(h, "X-Ratelimit-Limit-"+name+"-Minute", s.total)
			setInt(h, "X-Ratelimit-Remaining-"+name+"-Minute", s.remaining)
		}
	}
	if t.refusal == nil && !t.full {
		setInt(h, "X-Ratelimit-Tokens-Query-Cost", t.tokens)
	}
}

func (mistral) fail(w http.ResponseWriter, p *problem) {
	setRetryAfter(w.Header(), p.retryAfter)
	writeJSON(w, p.status, mistralErrorOf(p))
}

type mistralError struct {
	Object  string  `json:"object"`
	Message any     `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

// mistralErrorOf puts a problem into Mistral's words: rate_limited and its code
// are documented, the other types follow OpenAI's.
func mistralErrorOf(p *problem) mistralError {
	e := mistralError{Object: "error", Message: p.message, Type: "invalid_request_error"}
	if p.param != "" {
		e.Param = &p.param
	}
	switch p.reason {
	case wrongKey:
		e.Message = "Unauthorized"
	case rateLimited, tooLarge:
		e.Message, e.Type, e.Code = "Rate limit exceeded", "rate_limited", pointer("1300")
	case outOfQuota, spendLimited:
		e.Message, e.Type, e.Code = "You have reached your usage limit.", "usage_limit_reached", pointer(strconv.Itoa(p.status))
	case overloaded:
		e.Message, e.Type = "Service unavailable.", "service_unavailable"
	case injected:
		e.Message = injectedMessage
		switch {
		case p.status == http.StatusTooManyRequests:
			e.Type, e.Code = "rate_limited", pointer("1300")
		case p.status >= 500:
			e.Type = "internal_server_error"
		}
	}
	return e
}

func pointer(s string) *string { return &s }

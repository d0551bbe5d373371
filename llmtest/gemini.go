package llmtest

import (
	"fmt"
	"net/http"
	"strings"
	"time"
	_ "time/tzdata" // so that the Pacific midnight is known on any machine
)

// Gemini is a provider that speaks the Gemini API's generateContent and
// streamGenerateContent, at POST /v1beta/models/MODEL:generateContent,
// /v1beta/models, files and batches ([WithBatches]). A stream is of server-sent events with ?alt=sse, and otherwise
// one JSON array, as Gemini's is. It differs from [OpenAI] in that there are no
// rate limit headers; a refusal names the quota and the delay in the error's
// details.
//
// Gemini limits requests and input tokens per minute ([ITPM]) and requests per
// day, each for every project and model ([Limit.For]). Requests per day reset at
// midnight Pacific time, as documented. How it enforces a minute is not
// published: here it is a sliding window, the strictest way. Output is charged as
// it is produced (inferred).
func Gemini(limits ...Limit) Provider {
	return Provider{
		name:   "Gemini",
		limits: limits,
		strategy: func(l Limit) Limit {
			if l.Period == day {
				return l.Daily(pacific())
			}
			return l.By(SlidingWindow)
		},
		options: []Option{WithActualUsage()},
		dialect: func(s *Server) dialect { return gemini{s} },
	}
}

func pacific() *time.Location {
	zone, err := time.LoadLocation("America/Los_Angeles")
	if err != nil {
		panic("llmtest: the time zone database is linked in: " + err.Error())
	}
	return zone
}

type gemini struct{ *Server }

func (gemini) key(r *http.Request) string {
	if key := r.Header.Get("X-Goog-Api-Key"); key != "" {
		return key
	}
	return r.URL.Query().Get("key")
}

func (d gemini) route(r *http.Request) (route, *problem) {
	path := r.URL.Path
	if found, ok := d.batchRoute(r); ok {
		return found, nil
	}
	for _, version := range []string{"/v1beta/", "/v1/"} {
		path = strings.TrimPrefix(path, version)
	}
	if path == "models" {
		return route{page: d.list}, method(r, http.MethodGet)
	}
	name, ok := strings.CutPrefix(path, "models/")
	model, op, _ := strings.Cut(name, ":")
	if !ok || model == "" {
		return route{}, notServed(r)
	}
	switch op {
	case "generateContent", "streamGenerateContent":
		return route{generate: readContent(model, op == "streamGenerateContent")}, method(r, http.MethodPost)
	}
	return route{}, notServed(r)
}

// status: Gemini answers a wrong key with 400.
func (gemini) status(r reason) int {
	if r == wrongKey {
		return http.StatusBadRequest
	}
	return usualStatus(r)
}

func (gemini) headers(http.Header, *ticket) {}

// fail has no Retry-After: what Gemini says about waiting stands in the body.
func (gemini) fail(w http.ResponseWriter, p *problem) {
	writeJSON(w, p.status, geminiErrorOf(p))
}

type geminiError struct {
	Error struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Status  string `json:"status"`
		Details []any  `json:"details,omitempty"`
	} `json:"error"`
}

// The details of an error, with the names of google.rpc.
type (
	quotaFailure struct {
		Type       string           `json:"@type"`
		Violations []quotaViolation `json:"violations"`
	}
	quotaViolation struct {
		Metric     string            `json:"quotaMetric"`
		ID         string            `json:"quotaId"`
		Dimensions map[string]string `json:"quotaDimensions"`
		Value      string            `json:"quotaValue"`
	}
	retryInfo struct {
		Type  string `json:"@type"`
		Delay string `json:"retryDelay"`
	}
	errorInfo struct {
		Type     string            `json:"@type"`
		Reason   string            `json:"reason"`
		Domain   string            `json:"domain"`
		Metadata map[string]string `json:"metadata"`
	}
)

const (
	rpc         = "type.googleapis.com/google.rpc."
	geminiQuota = "You exceeded your current quota, please check your plan and billing details."
)

// geminiErrorOf puts a problem into Gemini's words. The details of a refusal are
// documented by Google; the names of the quotas are those seen in the wild. A
// retryDelay is exact to the millisecond; the real service's may mislead.
func geminiErrorOf(p *problem) (e geminiError) {
	e.Error.Code, e.Error.Message, e.Error.Status = p.status, p.message, geminiStatus(p.status)
	switch p.reason {
	case wrongKey:
		e.Error.Message = "API key not valid. Please pass a valid API key."
		e.Error.Details = []any{errorInfo{rpc + "ErrorInfo", "API_KEY_INVALID", "googleapis.com", map[string]string{"service": "generativelanguage.googleapis.com"}}}
	case rateLimited, tooLarge:
		v := violation(p.refusal.limit, p.model)
		e.Error.Message = fmt.Sprintf("%s\n* Quota exceeded for metric: %s, limit: %d, model: %s", geminiQuota, v.Metric, p.refusal.limit.Amount, p.model)
		e.Error.Details = []any{quotaFailure{rpc + "QuotaFailure", []quotaViolation{v}}}
	case outOfQuota:
		e.Error.Message = geminiQuota
	case spendLimited:
		e.Error.Message = "Your project has exceeded its spending cap."
	case overloaded:
		e.Error.Message = "The model is overloaded. Please try again later."
		if p.chosen {
			e.Error.Message = fmt.Sprintf("No capacity available for model %s on the server", p.model)
			e.Error.Details = []any{errorInfo{rpc + "ErrorInfo", "MODEL_CAPACITY_EXHAUSTED", "cloudcode-pa.googleapis.com", map[string]string{"model": p.model}}}
		}
	case injected:
		e.Error.Message = injectedMessage
	}
	if p.retryAfter > 0 {
		delay := wholeMillis(p.retryAfter).Seconds()
		if p.reason == rateLimited {
			e.Error.Message += fmt.Sprintf("\nPlease retry in %gs.", delay)
		}
		e.Error.Details = append(e.Error.Details, retryInfo{rpc + "RetryInfo", fmt.Sprintf("%gs", delay)})
	}
	return e
}

func violation(l Limit, model string) quotaViolation {
	metric, id := "generate_requests_per_model", "GenerateRequests"
	if limitType(l) == "tokens" {
		metric, id = "generate_content_paid_tier_input_token_count", "GenerateContentPaidTierInputTokens"
	}
	switch {
	case l.Period == day:
		id += "PerDay"
	case l.Period == time.Minute:
		id += "PerMinute"
	}
	return quotaViolation{
		Metric:     "generativelanguage.googleapis.com/" + metric,
		ID:         id + "PerProjectPerModel",
		Dimensions: map[string]string{"location": "global", "model": model},
		Value:      fmt.Sprint(l.Amount),
	}
}

// geminiStatus names a status as google.rpc does.
func geminiStatus(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return "NOT_FOUND"
	case http.StatusTooManyRequests:
		return "RESOURCE_EXHAUSTED"
	case http.StatusServiceUnavailable, http.StatusBadGateway:
		return "UNAVAILABLE"
	case http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return "DEADLINE_EXCEEDED"
	}
	if status >= 500 {
		return "INTERNAL"
	}
	return "INVALID_ARGUMENT"
}

package llmtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Cohere is a provider that speaks Cohere's chat of version 2, at POST /v2/chat,
// unary and as a stream of typed events, and lists models at /v1/models. It
// answers as to a trial key:
//
//   - a refusal names the limit, per minute or per month, and no time to wait;
//   - its headers are x-trial-endpoint-call-limit and -remaining, of the limit of
//     requests per minute, and x-endpoint-monthly-call-limit (seen in the wild);
//   - an error within a stream is a message-end with an error and the finish
//     reason ERROR.
//
// Cohere limits requests: 20 per minute and model ([Limit.For]) and 1,000 per
// month of 30 days, RPD(1000).Per(30 * 24 * time.Hour), which slide: documented
// (docs.cohere.com/docs/rate-limits). How it enforces a minute is not published:
// here it is a sliding window too. Refused requests charge nothing and output is
// charged as it is produced (not documented). The usage's billed units and tokens
// are the same here; those of the real service have its own preamble too.
func Cohere(limits ...Limit) Provider {
	return Provider{
		name:     "Cohere",
		limits:   limits,
		strategy: func(l Limit) Limit { return l.By(SlidingWindow) },
		options:  []Option{WithActualUsage()},
		dialect:  func(s *Server) dialect { return cohere{s} },
	}
}

type cohere struct{ *Server }

func (cohere) key(r *http.Request) string { return bearer(r) }

func (d cohere) route(r *http.Request) (route, *problem) {
	switch r.URL.Path {
	case "/v2/chat":
		return route{generate: readCohere}, method(r, http.MethodPost)
	case "/v1/models":
		return route{page: d.list}, method(r, http.MethodGet)
	}
	return route{}, notServed(r)
}

// status: Cohere answers an account without money with 402, as it documents
// (docs.cohere.com/reference/errors).
func (cohere) status(r reason) int {
	switch r {
	case outOfQuota, spendLimited:
		return http.StatusPaymentRequired
	}
	return usualStatus(r)
}

func (cohere) headers(h http.Header, t *ticket) {
	h.Set("X-Debug-Trace-Id", fmt.Sprintf("%032x", t.arrival))
	requests := func(month bool) func(Limit) bool {
		return func(l Limit) bool { return l.Kind == KindRequests && l.Period > day == month }
	}
	if s, ok := t.quota.tightest(requests(false)); ok {
		setInt(h, "X-Trial-Endpoint-Call-Limit", s.total)
		setInt(h, "X-Trial-Endpoint-Call-Remaining", s.remaining)
	}
	if s, ok := t.quota.tightest(requests(true)); ok {
		setInt(h, "X-Endpoint-Monthly-Call-Limit", s.total)
	}
}

func (cohere) fail(w http.ResponseWriter, p *problem) {
	writeJSON(w, p.status, cohereError{cohereID(p.number), cohereMessage(p)})
}

type cohereError struct {
	ID      string `json:"id"`
	Message string `json:"message"`
}

func cohereID(number int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", number) }

// cohereMessage puts a problem into Cohere's words, as seen in the wild.
func cohereMessage(p *problem) string {
	switch p.reason {
	case wrongKey:
		return "invalid api token"
	case rateLimited, tooLarge:
		return fmt.Sprintf("You are using a Trial key, which is limited to %s. You can continue to use the Trial key for free or upgrade to a Production key with higher rate limits at 'https://dashboard.cohere.com/api-keys'.",
			cohereName(p.refusal.limit))
	case overloaded:
		return "The service is temporarily unavailable, please try again later."
	case outOfQuota:
		return "Please add or update your payment method at https://dashboard.cohere.com/billing?tab=payment to continue"
	case spendLimited:
		return "You have reached the maximum billing amount of this API key. Increase it at https://dashboard.cohere.com/billing?tab=payment to continue"
	case injected:
		return injectedMessage
	}
	return p.message
}

// cohereName names a limit as its error messages do: "20 API calls / minute".
func cohereName(l Limit) string {
	what := "API calls"
	if limitType(l) == "tokens" {
		what = "tokens"
	}
	switch {
	case l.Kind == KindConcurrent:
		return fmt.Sprintf("%d concurrent %s", l.Amount, what)
	case l.Period == time.Minute:
		return fmt.Sprintf("%d %s / minute", l.Amount, what)
	case l.Period == day:
		return fmt.Sprintf("%d %s / day", l.Amount, what)
	case l.Period == 30*day, l.Period == 31*day:
		return fmt.Sprintf("%d %s / month", l.Amount, what)
	}
	return fmt.Sprintf("%d %s / %v", l.Amount, what, l.Period)
}

func readCohere(_ *http.Request, body []byte) (c call, _ format, p *problem) {
	var req struct {
		Model    string `json:"model"`
		Messages []struct {
			Content content `json:"content"`
		} `json:"messages"`
		MaxTokens *int64 `json:"max_tokens"`
		Stream    bool   `json:"stream"`
	}
	if err := json.Unmarshal(body, &req); err != nil {
		return c, nil, &problem{reason: badRequest, message: "invalid request: " + err.Error()}
	}
	switch {
	case req.Model == "":
		return c, nil, &problem{reason: badRequest, message: "invalid request: model is required"}
	case len(req.Messages) == 0:
		return c, nil, &problem{reason: badRequest, message: "invalid request: messages must be at least 1 item long"}
	}
	if p = c.bound("max_tokens", req.MaxTokens); p != nil {
		return c, nil, p
	}
	var n int
	for _, m := range req.Messages {
		n += int(m.Content)
	}
	c.model, c.input, c.stream = req.Model, bytesToTokens(n), req.Stream
	return c, cohereFormat{}, nil
}

// cohereFormat writes one answer.
type cohereFormat struct{}

type cohereResponse struct {
	ID           string        `json:"id"`
	Message      cohereMsg     `json:"message"`
	FinishReason string        `json:"finish_reason"`
	Usage        *cohereUsages `json:"usage,omitempty"`
}

type cohereMsg struct {
	Role    string      `json:"role"`
	Content []textBlock `json:"content"`
}

type cohereUsages struct {
	BilledUnits cohereUsage `json:"billed_units"`
	Tokens      cohereUsage `json:"tokens"`
}

type cohereUsage struct {
	InputTokens  int64 `json:"input_tokens"`
	OutputTokens int64 `json:"output_tokens"`
}

func (cohereFormat) usage(a *answer) *cohereUsages {
	u := cohereUsage{a.call.input, a.tokens}
	return &cohereUsages{u, u}
}

func cohereFinish(a *answer) string {
	if a.cut {
		return "MAX_TOKENS"
	}
	return "COMPLETE"
}

func (f cohereFormat) whole(a *answer) any {
	return cohereResponse{cohereID(a.number), cohereMsg{"assistant", []textBlock{{"text", a.text}}}, cohereFinish(a), f.usage(a)}
}

func (cohereFormat) contentType() string { return "text/event-stream" }

// cohereEvent is any event of a stream; each has some of the fields.
type cohereEvent struct {
	ID    string `json:"id,omitempty"`
	Type  string `json:"type"`
	Index *int   `json:"index,omitempty"`
	Delta any    `json:"delta,omitempty"`
}

func (cohereFormat) send(out *events, e cohereEvent) { out.event(e.Type, e) }

// cohereEnd is how a message ends.
type cohereEnd struct {
	Error        string        `json:"error,omitempty"`
	FinishReason string        `json:"finish_reason"`
	Usage        *cohereUsages `json:"usage,omitempty"`
}

func (f cohereFormat) begin(a *answer, out *events) {
	f.send(out, cohereEvent{ID: cohereID(a.number), Type: "message-start", Delta: map[string]cohereMsg{"message": {"assistant", []textBlock{}}}})
	f.send(out, cohereEvent{Type: "content-start", Index: zero, Delta: cohereContent(map[string]string{"type": "text", "text": ""})})
}

func cohereContent(v any) any { return map[string]any{"message": map[string]any{"content": v}} }

func (f cohereFormat) token(_ *answer, out *events, word string) {
	f.send(out, cohereEvent{Type: "content-delta", Index: zero, Delta: cohereContent(map[string]string{"text": word})})
}

func (f cohereFormat) end(a *answer, out *events) {
	f.send(out, cohereEvent{Type: "content-end", Index: zero})
	f.send(out, cohereEvent{Type: "message-end", Delta: cohereEnd{FinishReason: cohereFinish(a), Usage: f.usage(a)}})
	out.write([]byte("data: [DONE]\n\n"))
}

func (f cohereFormat) fail(_ *answer, out *events, p *problem) {
	f.send(out, cohereEvent{Type: "message-end", Delta: cohereEnd{Error: cohereMessage(p), FinishReason: "ERROR"}})
}

func (f cohereFormat) failed(a *answer, p *problem) any {
	if !p.inside {
		return nil
	}
	return cohereResponse{ID: cohereID(a.number), Message: cohereMsg{"assistant", []textBlock{{"text", a.text}}}, FinishReason: "ERROR"}
}

// list serves a list of models.
func (d cohere) list(w http.ResponseWriter, _ *http.Request) {
	type model struct {
		Name      string   `json:"name"`
		Endpoints []string `json:"endpoints"`
	}
	list := struct {
		Models []model `json:"models"`
	}{}
	for _, name := range d.models("command-a-03-2025") {
		list.Models = append(list.Models, model{name, []string{"chat"}})
	}
	writeJSON(w, http.StatusOK, list)
}

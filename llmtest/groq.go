package llmtest

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Groq is a provider that speaks Groq's chat completions, at
// /openai/v1/chat/completions. It differs from [OpenAI] in that
//
//   - the -requests headers are those of the limit per day and the -tokens
//     headers those of the limit per minute (from secondary sources), if there
//     are such limits;
//   - a request larger than a limit is answered 413;
//   - a server without capacity answers 498 capacity_exceeded, which Groq documents
//     for its flex tier (console.groq.com/docs/flex-processing);
//   - usage tells times too, and streams carry it in x_groq without being asked.
//
// Limits are token buckets unless they say otherwise (inferred from the
// arithmetic of Groq's refusals), max_tokens is charged up front (inferred), and
// refused requests charge nothing (not documented).
func Groq(limits ...Limit) Provider {
	return Provider{
		name:    "Groq",
		path:    "/openai/v1",
		limits:  limits,
		options: []Option{WithMaxTokensCharged()},
		dialect: func(s *Server) dialect { return groq{openAI{s}} },
	}
}

type groq struct{ openAI }

func (d groq) route(r *http.Request) (route, *problem) {
	switch strings.TrimPrefix(r.URL.Path, "/openai/v1") {
	case "/chat/completions":
		return route{generate: chatStyle{groq: true}.read}, method(r, http.MethodPost)
	case "/models":
		return route{page: d.list("llama-3.3-70b-versatile")}, method(r, http.MethodGet)
	}
	return route{}, notServed(r)
}

const statusCapacity = 498 // Groq's own

func (groq) status(r reason) int {
	switch r {
	case tooLarge:
		return http.StatusRequestEntityTooLarge
	case overloaded:
		return statusCapacity
	}
	return usualStatus(r)
}

func (groq) headers(h http.Header, t *ticket) {
	h.Set("X-Request-Id", fmt.Sprintf("req_%026x", t.arrival))
	for _, k := range []struct {
		kind   Kind
		period time.Duration
		name   string
	}{{KindRequests, day, "Requests"}, {KindTokens, time.Minute, "Tokens"}} {
		s, ok := t.quota.tightest(func(l Limit) bool { return l.Kind == k.kind && l.Period == k.period })
		if !ok {
			s, ok = t.quota.tightest(func(l Limit) bool { return l.Kind == k.kind })
		}
		if ok {
			setInt(h, "X-Ratelimit-Limit-"+k.name, s.total)
			setInt(h, "X-Ratelimit-Remaining-"+k.name, s.remaining)
			h.Set("X-Ratelimit-Reset-"+k.name, wholeMillis(s.reset).String())
		}
	}
}

func (groq) fail(w http.ResponseWriter, p *problem) {
	setRetryAfter(w.Header(), p.retryAfter)
	writeJSON(w, p.status, groqErrorOf(p))
}

// groqErrorOf puts a problem into Groq's words: OpenAI's, but for limits and
// capacity.
func groqErrorOf(p *problem) openAIError {
	switch p.reason {
	case rateLimited:
		l := p.refusal.limit
		return newOpenAIError(fmt.Sprintf("Rate limit reached for model `%s` in organization `org_llmtest` service tier `on_demand` on %v: Limit %d, Used %d, Requested %d. Please try again in %v.",
			p.model, groqName(l), l.Amount, p.refusal.used, p.refusal.requested, wholeMillis(p.refusal.wait)), limitType(l), "", "rate_limit_exceeded")
	case tooLarge:
		l := p.refusal.limit
		return newOpenAIError(fmt.Sprintf("Request too large for model `%s` in organization `org_llmtest` service tier `on_demand` on %v: Limit %d, Requested %d, please reduce your message size and try again.",
			p.model, groqName(l), l.Amount, p.refusal.requested), limitType(l), "", "rate_limit_exceeded")
	case overloaded:
		if p.status == statusCapacity {
			return newOpenAIError("Flex tier capacity exceeded. Please try again later.", "flex_tier_error", "", "capacity_exceeded")
		}
	}
	return openAIErrorOf(p)
}

// groqName writes "minute" out, as Groq's messages do.
func groqName(l Limit) string { return strings.Replace(l.String(), "per min ", "per minute ", 1) }

func groqID(a *answer) string { return fmt.Sprintf("req_%026x", a.number) }

// groqTimes is what Groq's usage has besides OpenAI's fields, in seconds.
type groqTimes struct {
	QueueTime      float64 `json:"queue_time"`
	PromptTime     float64 `json:"prompt_time"`
	CompletionTime float64 `json:"completion_time"`
	TotalTime      float64 `json:"total_time"`
}

func newGroqTimes(a *answer) *groqTimes {
	completion := a.timing.due(a.tokens) - a.timing.first
	return &groqTimes{
		PromptTime:     a.timing.first.Seconds(),
		CompletionTime: completion.Seconds(),
		TotalTime:      (a.timing.first + completion).Seconds(),
	}
}

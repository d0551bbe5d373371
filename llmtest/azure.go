package llmtest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// AzureOpenAI is a provider that speaks Azure OpenAI's chat completions and
// embeddings, at /openai/deployments/NAME/chat/completions and …/embeddings, and
// OpenAI's own protocols at /openai/v1. The model of the limits is the
// deployment's name. [Server.URL] is the endpoint. It differs from [OpenAI] in
// that
//
//   - the resets of its headers are whole seconds without a unit;
//   - refusals carry retry-after-ms as well as Retry-After, and an error of
//     Azure's own shape;
//   - answers carry the results of content filters, and a stream begins with
//     those of the prompt, in a chunk without choices.
//
// Requests per minute are enforced in slices of 10 s and tokens per minute in
// fixed windows of the minute; max_tokens is charged up front, and refused
// requests count: all documented by Azure.
func AzureOpenAI(limits ...Limit) Provider {
	return Provider{
		name:   "Azure OpenAI",
		limits: limits,
		strategy: func(l Limit) Limit {
			const slice = 10 * time.Second
			if l.Kind == KindRequests && l.Period > slice && l.Period%slice == 0 {
				return l.Quantized(slice)
			}
			return l.By(FixedWindow)
		},
		options: []Option{WithMaxTokensCharged(), WithRefusedCounted()},
		dialect: func(s *Server) dialect { return azure{openAI{s}} },
	}
}

type azure struct{ openAI }

func (azure) key(r *http.Request) string {
	if key := r.Header.Get("Api-Key"); key != "" {
		return key
	}
	return bearer(r)
}

func (d azure) route(r *http.Request) (route, *problem) {
	path, ok := strings.CutPrefix(r.URL.Path, "/openai/")
	if !ok {
		return route{}, notServed(r)
	}
	if rest, ok := strings.CutPrefix(path, "deployments/"); ok {
		deployment, op, _ := strings.Cut(rest, "/")
		if deployment == "" {
			return route{}, notServed(r)
		}
		switch op {
		case "chat/completions":
			return route{generate: chatStyle{model: deployment, azure: true}.read}, method(r, http.MethodPost)
		case "embeddings":
			return route{generate: d.embeddings(deployment)}, method(r, http.MethodPost)
		}
		return route{}, notServed(r)
	}
	switch path {
	case "v1/chat/completions":
		return route{generate: chatStyle{azure: true}.read}, method(r, http.MethodPost)
	case "v1/responses", "responses":
		return route{generate: readResponse}, method(r, http.MethodPost)
	case "v1/embeddings":
		return route{generate: d.embeddings("")}, method(r, http.MethodPost)
	case "v1/models", "models":
		return route{page: d.list("gpt-4o-mini")}, method(r, http.MethodGet)
	}
	return route{}, notServed(r)
}

func (azure) headers(h http.Header, t *ticket) {
	h.Set("Apim-Request-Id", fmt.Sprintf("00000000-0000-4000-8000-%012x", t.arrival))
	h.Set("X-Ms-Region", "East US")
	writeQuota(h, t.quota, wholeSeconds)
}

func (azure) fail(w http.ResponseWriter, p *problem) {
	if p.retryAfter > 0 {
		ms := int64(roundUp(p.retryAfter, time.Millisecond) / time.Millisecond)
		w.Header().Set("Retry-After-Ms", strconv.FormatInt(ms, 10))
		setRetryAfter(w.Header(), p.retryAfter)
	}
	writeJSON(w, p.status, azureErrorOf(p))
}

type azureError struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// azureErrorOf puts a problem into Azure's words. Its errors have a code and a
// message; what OpenAI itself would say about a bad request it hands on.
func azureErrorOf(p *problem) any {
	var e azureError
	e.Error.Code, e.Error.Message = strconv.Itoa(p.status), p.message
	switch p.reason {
	case wrongKey:
		e.Error.Message = "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource."
	case unknownPath:
		e.Error.Message = "Resource not found"
	case rateLimited, tooLarge:
		rate := "call"
		if limitType(p.refusal.limit) == "tokens" {
			rate = "token"
		}
		e.Error.Message = fmt.Sprintf("Your requests to %s have exceeded the %s rate limit of your current pricing tier.", p.model, rate)
		if p.reason == rateLimited {
			e.Error.Message += fmt.Sprintf(" Please retry after %s seconds.", wholeSeconds(p.refusal.wait))
		}
	case overloaded:
		e.Error.Message = "The service is temporarily unable to process your request. Please try again later."
	case outOfQuota, spendLimited:
		return openAIErrorOf(p)
	case injected:
		e.Error.Message = injectedMessage
	case badRequest, unknownMethod:
		return openAIErrorOf(p)
	}
	return e
}

type filtered struct {
	Filtered bool   `json:"filtered"`
	Severity string `json:"severity"`
}

// azureFilter is what the content filters say about words that are safe.
func azureFilter() any {
	safe := filtered{false, "safe"}
	return map[string]filtered{"hate": safe, "self_harm": safe, "sexual": safe, "violence": safe}
}

func azurePrompt() any {
	return []any{map[string]any{"prompt_index": 0, "content_filter_results": azureFilter()}}
}

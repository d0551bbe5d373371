package llmtest

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// WithDraftHeaders states limits in the headers RateLimit-Policy and RateLimit of the
// IETF's draft-ietf-httpapi-ratelimit-headers instead of the provider's own. They say
// what period a limit has, so that a client can learn one of a few seconds as well;
// periods and resets are rounded up to whole seconds. Retry-After stays. Defaults to
// the provider's own headers.
func WithDraftHeaders() Option { return func(c *config) { c.draft = true } }

// writeDraft sets the draft's headers in place of any others.
func writeDraft(h http.Header, q quota) {
	for name := range h {
		if strings.Contains(name, "Ratelimit") {
			delete(h, name)
		}
	}
	var policies, states []string
	for i, s := range q {
		name := fmt.Sprintf("%q", fmt.Sprint(strings.ReplaceAll(string(s.Kind), " ", "-"), i))
		policies = append(policies, fmt.Sprintf("%s;q=%d;w=%d", name, s.total, roundUp(s.Period, time.Second)/time.Second))
		states = append(states, fmt.Sprintf("%s;r=%d;t=%d", name, s.remaining, roundUp(s.reset, time.Second)/time.Second))
	}
	if len(policies) > 0 {
		h.Set("RateLimit-Policy", strings.Join(policies, ", "))
		h.Set("RateLimit", strings.Join(states, ", "))
	}
}

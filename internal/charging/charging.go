// Package charging gives an accounting policy to the engine, in the engine's words.
package charging

import (
	"github.com/llmqueue/llmqueue/accounting"
	"github.com/llmqueue/llmqueue/internal/endpoint"
)

type charging struct{ policy accounting.Policy }

// New is the policy for the engine; nil for the zero one.
func New(p accounting.Policy) endpoint.Accounting {
	if p == (accounting.Policy{}) {
		return nil
	}
	return charging{p}
}

func (c charging) Reserved(estimate endpoint.Usage, n, meanOutput int64) endpoint.Usage {
	return fromTokens(c.policy.Reserved(toTokens(estimate), n, meanOutput))
}

func (c charging) Settled(reserved, used endpoint.Usage) endpoint.Usage {
	return fromTokens(c.policy.Settled(toTokens(reserved), toTokens(used)))
}

func toTokens(u endpoint.Usage) accounting.Tokens {
	return accounting.Tokens{Input: u.Input, CachedInput: u.Cached, Output: u.Output}
}

func fromTokens(t accounting.Tokens) endpoint.Usage {
	return endpoint.Usage{Input: t.Input, Cached: t.CachedInput, Output: t.Output}
}

package llmqueue

import (
	"fmt"

	"github.com/llmqueue/llmqueue/accounting"
)

// WithAccounting sets what the provider charges to its token limits, when a request arrives
// and when it has been answered: see package accounting, which has the known providers.
// It changes what limits hold; Response.Usage stays what was used. A policy that makes no
// sense is ErrInvalidConfiguration. Defaults to the estimate at the start and what was
// used in the end.
func WithAccounting(p accounting.Policy) Option {
	return Option{func(s *settings) { s.accounting = p }}
}

// accountingByName is accounting.ByName with the error of a configuration.
func accountingByName(name string) (accounting.Policy, error) {
	p, err := accounting.ByName(name)
	if err != nil {
		return p, fmt.Errorf("%w: %w", ErrInvalidConfiguration, err)
	}
	return p, nil
}

// reserved is what n requests whose estimates come to estimate take at the start. mean is
// what attempts used so far.
func reserved(p accounting.Policy, estimate Usage, n int64, mean Usage) Usage {
	if p == (accounting.Policy{}) {
		return estimate
	}
	return usageFrom(p.Reserved(tokensOf(estimate), n, mean.OutputTokens))
}

// settled is what an attempt takes in the end that reserved so much and used so much.
func settled(p accounting.Policy, reserved, used Usage) Usage {
	if p == (accounting.Policy{}) {
		return used
	}
	return usageFrom(p.Settled(tokensOf(reserved), tokensOf(used)))
}

func tokensOf(u Usage) accounting.Tokens {
	return accounting.Tokens{Input: u.InputTokens, CachedInput: u.CachedInputTokens, Output: u.OutputTokens}
}

func usageFrom(t accounting.Tokens) Usage {
	return Usage{InputTokens: t.Input, CachedInputTokens: t.CachedInput, OutputTokens: t.Output}
}

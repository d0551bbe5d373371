package llmqueue

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Accounting is what a provider charges a request to its token limits: when it arrives,
// and when it has been answered. The zero value charges what the request's estimate says
// (input and output), and in the end what was used. AccountingFor has those of known
// providers. It changes what limits hold; Response.Usage stays what was used.
type Accounting struct {
	// Reserve is what is charged at the start; empty means ReserveAll.
	Reserve Reserve
	// NoRefund keeps the charge of the start when less was used. What was used beyond
	// it is charged all the same.
	NoRefund bool
	// CachedFree leaves cached input tokens out, at the start as far as the estimate
	// names them, unless ReserveCached charges them there all the same.
	CachedFree, ReserveCached bool
	// OutputFactor is how often an output token counts in the end; 0 means 1.
	OutputFactor float64
}

// Reserve says what of a request's estimate is charged when it starts.
type Reserve string

const (
	ReserveAll    Reserve = "all"    // input and output
	ReserveLarger Reserve = "larger" // the larger of input and output
	ReserveMean   Reserve = "mean"   // input, and the mean output of the attempts so far, at most what the estimate names
	ReserveInput  Reserve = "input"  // input alone
)

// accountings is section by section what the providers document. OpenAI:
// platform.openai.com/docs/guides/rate-limits (max_tokens or the estimate of the input,
// whichever is more; nothing about giving back). Azure: learn.microsoft.com, Azure OpenAI
// quota (prompt and max_tokens, counted until the minute resets). Anthropic:
// docs.anthropic.com/en/api/rate-limits (cache reads are free for most models, output
// counts as it is produced). Groq: console.groq.com/docs/rate-limits (cached tokens are
// free). Bedrock: docs.aws.amazon.com, quotas token burndown (Claude's output counts five
// times, ten times from Sonnet 5 on, which is from a secondary source).
var accountings = map[string]Accounting{
	"":                 {},
	"openai":           {Reserve: ReserveLarger, NoRefund: true},
	"azure":            {NoRefund: true},
	"anthropic":        {Reserve: ReserveMean, CachedFree: true},
	"groq":             {CachedFree: true},
	"gemini":           {},
	"mistral":          {},
	"bedrock":          {CachedFree: true, ReserveCached: true},
	"bedrock-claude":   {CachedFree: true, ReserveCached: true, OutputFactor: 5},
	"bedrock-claude-5": {CachedFree: true, ReserveCached: true, OutputFactor: 10},
}

// AccountingFor is the accounting of a provider: "openai", "azure", "anthropic",
// "gemini", "groq", "mistral", "bedrock", "bedrock-claude" (output counts five times) or
// "bedrock-claude-5" (ten times). Another name is ErrInvalidConfiguration.
func AccountingFor(provider string) (Accounting, error) {
	a, ok := accountings[strings.ToLower(provider)]
	if !ok {
		names := slices.Sorted(maps.Keys(accountings))
		return Accounting{}, fmt.Errorf("%w: no accounting %q, use one of %s, or an Accounting of your own",
			ErrInvalidConfiguration, provider, strings.Join(names[1:], ", "))
	}
	return a, nil
}

// WithAccounting sets what the provider charges. Defaults to the estimate at the start
// and what was used in the end.
func WithAccounting(a Accounting) Option {
	return Option{func(s *settings) { s.accounting = a }}
}

func (a Accounting) validate() error {
	switch a.Reserve {
	case "", ReserveAll, ReserveLarger, ReserveMean, ReserveInput:
	default:
		return invalid("Accounting.Reserve is %q, use %q, %q, %q or %q", a.Reserve, ReserveAll, ReserveLarger, ReserveMean, ReserveInput)
	}
	if !(a.OutputFactor >= 0 && a.OutputFactor <= 1000) {
		return invalid("Accounting.OutputFactor is %v, give 0 (which means 1) to 1000", a.OutputFactor)
	}
	return nil
}

// reserved is what a request with this estimate takes at the start. mean is what
// attempts used so far.
func (a Accounting) reserved(estimate, mean Usage) Usage {
	if a == (Accounting{}) {
		return estimate
	}
	u := estimate
	if !a.ReserveCached {
		u = a.counted(u)
	}
	switch a.Reserve {
	case ReserveLarger:
		u.OutputTokens = max(u.OutputTokens-u.InputTokens, 0)
	case ReserveMean:
		if u.OutputTokens == 0 || mean.OutputTokens > 0 {
			u.OutputTokens = min(mean.OutputTokens, cmp.Or(u.OutputTokens, mean.OutputTokens))
		}
	case ReserveInput:
		u.OutputTokens = 0
	}
	return u
}

// reservedBy is about what n requests take together at the start, whose estimates come
// to sum.
func (a Accounting) reservedBy(sum Usage, n int64, mean Usage) Usage {
	mean.OutputTokens *= n
	return a.reserved(sum, mean)
}

// settled is what an attempt takes in the end that reserved so much and used so much.
func (a Accounting) settled(reserved, used Usage) Usage {
	if a == (Accounting{}) {
		return used
	}
	u := a.counted(used)
	if a.OutputFactor > 0 {
		u.OutputTokens = roundUp(float64(u.OutputTokens) * a.OutputFactor)
	}
	if a.NoRefund && u.Total() <= reserved.Total() {
		return reserved
	}
	return u
}

// counted leaves out what is free.
func (a Accounting) counted(u Usage) Usage {
	if a.CachedFree {
		u.InputTokens -= min(u.CachedInputTokens, u.InputTokens)
		u.CachedInputTokens = 0
	}
	return u
}

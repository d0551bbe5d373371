package accounting

import (
	"fmt"
	"strings"
)

// What the known providers document. Values are for reading: give WithAccounting a changed
// copy rather than changing one of these.
var (
	// OpenAI charges max_tokens or the estimate of the input, whichever is more, and
	// documents nothing about giving back
	// (platform.openai.com/docs/guides/rate-limits).
	OpenAI = Policy{Reserve: ReserveLarger, NoRefund: true}
	// Azure charges the prompt and max_tokens, and counts them until the minute resets
	// (learn.microsoft.com, Azure OpenAI quota).
	Azure = Policy{NoRefund: true}
	// Anthropic charges output as it is produced, and nothing for cache reads of most
	// models (docs.anthropic.com/en/api/rate-limits).
	Anthropic = Policy{Reserve: ReserveMean, CachedFree: true}
	// Groq charges nothing for cached tokens (console.groq.com/docs/rate-limits).
	Groq = Policy{CachedFree: true}
	// Gemini documents nothing beyond what is used, which is the zero Policy.
	Gemini = Policy{}
	// Mistral documents nothing beyond what is used, which is the zero Policy.
	Mistral = Policy{}
	// Bedrock charges cached tokens at the start only (docs.aws.amazon.com, quotas token
	// burndown). Claude has values of its own there.
	Bedrock = Policy{CachedFree: true, ReserveCached: true}
	// BedrockClaude is Bedrock with Claude, whose output counts five times (as Bedrock).
	BedrockClaude = Policy{CachedFree: true, ReserveCached: true, OutputFactor: 5}
	// BedrockClaude5 is Bedrock with Claude from Sonnet 5 on, whose output counts ten
	// times, which is from a secondary source.
	BedrockClaude5 = Policy{CachedFree: true, ReserveCached: true, OutputFactor: 10}
)

// named are the providers as a configuration names them, in the order of the alphabet.
var named = []struct {
	name   string
	policy Policy
}{
	{"anthropic", Anthropic},
	{"azure", Azure},
	{"bedrock", Bedrock},
	{"bedrock-claude", BedrockClaude},
	{"bedrock-claude-5", BedrockClaude5},
	{"gemini", Gemini},
	{"groq", Groq},
	{"mistral", Mistral},
	{"openai", OpenAI},
}

// ByName is the policy of a provider for a configuration that names it: "anthropic",
// "azure", "bedrock", "bedrock-claude" (output counts five times), "bedrock-claude-5" (ten
// times), "gemini", "groq", "mistral" or "openai", in upper or lower case. The empty name is
// the zero Policy. The error of another name lists these.
func ByName(name string) (Policy, error) {
	if name == "" {
		return Policy{}, nil
	}
	names := make([]string, 0, len(named))
	for _, n := range named {
		if strings.EqualFold(n.name, name) {
			return n.policy, nil
		}
		names = append(names, n.name)
	}
	return Policy{}, fmt.Errorf("no accounting %q, use one of %s, or a Policy of your own", name, strings.Join(names, ", "))
}

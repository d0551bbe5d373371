package accounting_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/accounting"
)

// What each provider charges at the start and in the end. The estimate is 100 tokens in, of
// them 40 cached, and 300 out, where attempts had 30 out so far; used are 90 in, of them 50
// cached, and 20 out.
func TestByName(t *testing.T) {
	estimate := accounting.Tokens{Input: 100, CachedInput: 40, Output: 300}
	used := accounting.Tokens{Input: 90, CachedInput: 50, Output: 20}
	for _, c := range []struct {
		name       string
		want       accounting.Policy
		start, end int64
	}{
		{"", accounting.Policy{}, 400, 110},
		{"gemini", accounting.Gemini, 400, 110},
		{"Mistral", accounting.Mistral, 400, 110},
		{"OpenAI", accounting.OpenAI, 300, 300},
		{"azure", accounting.Azure, 400, 400},
		{"groq", accounting.Groq, 360, 60},
		{"anthropic", accounting.Anthropic, 60 + 30, 60},
		{"bedrock", accounting.Bedrock, 400, 60},
		{"bedrock-claude", accounting.BedrockClaude, 400, 140},
		{"bedrock-claude-5", accounting.BedrockClaude5, 400, 240},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := accounting.ByName(c.name)
			require.NoError(t, err)
			assert.Equal(t, c.want, p)
			require.NoError(t, p.Validate())
			start := p.Reserved(estimate, 1, 30)
			assert.Equal(t, c.start, start.Total(), "at the start")
			assert.Equal(t, c.end, p.Settled(start, used).Total(), "in the end")
		})
	}
	_, err := accounting.ByName("acme")
	require.Error(t, err)
	for _, name := range []string{"acme", "anthropic", "bedrock-claude-5", "openai"} {
		assert.Contains(t, err.Error(), name)
	}
}

// The mean stands in for an output that no estimate names, never exceeds one that it does,
// and counts once for each of several requests.
func TestReserveMean(t *testing.T) {
	p := accounting.Policy{Reserve: accounting.ReserveMean}
	for _, c := range []struct{ output, n, mean, want int64 }{
		{300, 1, 0, 300},
		{300, 1, 20, 20},
		{300, 1, 500, 300},
		{0, 1, 20, 20},
		{0, 1, 0, 0},
		{900, 3, 20, 60},
	} {
		got := p.Reserved(accounting.Tokens{Output: c.output}, c.n, c.mean)
		assert.Equal(t, c.want, got.Output, "%+v", c)
	}
}

// Nothing comes back under NoRefund, and what was used beyond the charge is charged.
func TestNoRefund(t *testing.T) {
	p := accounting.Policy{NoRefund: true}
	held := accounting.Tokens{Input: 10, Output: 10}
	assert.Equal(t, held, p.Settled(held, accounting.Tokens{Input: 10}))
	assert.Equal(t, int64(30), p.Settled(held, accounting.Tokens{Input: 10, Output: 20}).Total())
}

func TestValidate(t *testing.T) {
	for says, p := range map[string]accounting.Policy{
		"Reserve":      {Reserve: "some"},
		"OutputFactor": {OutputFactor: -1},
		"1000":         {OutputFactor: 1001},
		"NaN":          {OutputFactor: math.NaN()},
	} {
		assert.ErrorContains(t, p.Validate(), says)
	}
	assert.NoError(t, accounting.Policy{Reserve: accounting.ReserveInput, OutputFactor: 1000}.Validate())
}

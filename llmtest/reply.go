package llmtest

import (
	"math/rand/v2"
	"strings"
)

// An outputLength is a distribution of answer lengths in tokens.
type outputLength struct {
	median int64
	spread float64
}

// maxOutput bounds an answer whose request does not: a long tail is realistic,
// an endless answer is not.
const maxOutput = 16_384

func (o outputLength) draw(r *rand.Rand) int64 {
	n := logNormal(r, float64(o.median), o.spread) + 0.5
	return max(int64(min(n, float64(max(maxOutput, o.median)))), 1)
}

// A reply is everything that is decided about an answer before it begins.
type reply struct {
	fault  Fault
	tokens int64 // length of the answer
	cut    bool  // the request's maximum cut it short
	timing timing
	rand   *rand.Rand // draws the words
}

// plan draws the reply to the call. The same seed, body and repetition give the
// same reply; only scripted faults depend on the order of requests.
func (c *config) plan(call *call, t *ticket) reply {
	r := rand.New(rand.NewPCG(c.seed, call.body+0x9e3779b97f4a7c15*uint64(t.repeat)))
	p := reply{rand: r}
	p.fault = c.faults.draw(t.accepted, r)
	p.timing = c.latency.draw(r)
	p.tokens = c.output.draw(r)
	if call.silent {
		p.tokens = 0
	}
	if call.maxTokens > 0 && call.maxTokens < p.tokens {
		p.tokens, p.cut = call.maxTokens, true
	}
	return p
}

// words are three letters each, so that with the space before them every word
// is four bytes: one token by the usual estimate, and n words are n tokens.
var words = strings.Fields(`the sun set far out and one old red fox ran off for the hen
	who had sat all day per the law but not yet was she her own top egg now
	any wet dog may see`)

// spaced are the words with the space before them.
var spaced = func() []string {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = " " + w
	}
	return list
}()

// word returns the answer's i-th token, counted from zero, as text.
func (p *reply) word(i int64) string {
	n := p.rand.IntN(len(words))
	if i > 0 {
		return spaced[n]
	}
	return words[n]
}

// text returns the whole answer. It and word draw from the same sequence: use
// one or the other.
func (p *reply) text() string {
	var b strings.Builder
	b.Grow(int(4 * p.tokens))
	for i := range p.tokens {
		b.WriteString(p.word(i))
	}
	return b.String()
}

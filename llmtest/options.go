package llmtest

import (
	"fmt"
	"time"
)

// An Option changes how a server behaves. Later options override earlier ones;
// fault shares add up.
type Option func(*config)

type config struct {
	limits       []Limit
	strategy     Strategy // for limits that name none; empty leaves it to the provider
	strategySet  bool
	charging     charging
	burndown     int64
	countRefused bool
	failedFree   bool
	noRetryAfter bool
	inMemory     bool
	address      string
	key          string
	seed         uint64
	latency      Latency
	load         Load
	output       outputLength
	faults       faults
	spoil        bool
	spoilValue   string
	draft        bool
	batches      Batches
}

func newConfig(p Provider, opts []Option) (config, error) {
	c := config{
		seed:    1,
		latency: Latency{FirstToken: time.Millisecond, PerToken: 20 * time.Microsecond, Spread: 0.3},
		output:  outputLength{median: 32, spread: 0.5},
		address: "127.0.0.1:0",
	}
	for _, o := range p.options {
		o(&c)
	}
	for _, o := range opts {
		o(&c)
	}
	var err error
	if c.limits, err = c.complete(p, p.limits); err != nil {
		return c, err
	}
	return c, c.check()
}

// complete returns the limits with nothing left to defaults. It checks them.
func (c *config) complete(p Provider, limits []Limit) ([]Limit, error) {
	complete := make([]Limit, 0, len(limits))
	for _, l := range limits {
		switch {
		case l.Strategy != "":
		case c.strategySet:
			l.Strategy = c.strategy
		case p.strategy != nil:
			l = p.strategy(l)
		default:
			l.Strategy = TokenBucket
		}
		l = l.complete()
		if err := l.check(); err != nil {
			return nil, err
		}
		complete = append(complete, l)
	}
	return complete, nil
}

func (c *config) check() error {
	if c.latency.FirstToken < 0 || c.latency.PerToken < 0 || c.latency.Spread < 0 {
		return fmt.Errorf("llmtest: latency %+v: want nothing below zero", c.latency)
	}
	if c.output.median < 1 || c.output.spread < 0 {
		return fmt.Errorf("llmtest: output of %d tokens, spread %v: want at least 1 and 0", c.output.median, c.output.spread)
	}
	if c.burndown < 0 || c.charging == chargeReserve && c.burndown < 1 {
		return fmt.Errorf("llmtest: burndown of %d: want at least 1", c.burndown)
	}
	if err := c.load.check(); err != nil {
		return err
	}
	if err := c.batches.check(); err != nil {
		return err
	}
	for _, f := range c.faults.script {
		if err := f.check(); err != nil {
			return err
		}
	}
	var sum float64
	for _, s := range c.faults.shares {
		if err := s.fault.check(); err != nil {
			return err
		}
		if !(s.share >= 0) { // also catches NaN
			return fmt.Errorf("llmtest: fault share %v: want 0 to 1", s.share)
		}
		sum += s.share
	}
	if !(sum <= 1) {
		return fmt.Errorf("llmtest: fault shares add up to %v: want at most 1", sum)
	}
	return nil
}

// InMemory serves over pipes instead of a loopback port: only the server's own
// [Server.Client] reaches it. This is how to use a server inside a
// [testing/synctest] bubble, where network I/O would stop the bubble's clock
// from advancing. Defaults to a loopback port.
func InMemory() Option { return func(c *config) { c.inMemory = true } }

// ListenOn serves on a TCP address of the caller's choice, such as
// "127.0.0.1:8080". Defaults to a free loopback port.
func ListenOn(address string) Option { return func(c *config) { c.address = address } }

// WithStrategy sets how limits are enforced that name no strategy of their own.
// Defaults to the provider's way: see the providers.
func WithStrategy(s Strategy) Option {
	return func(c *config) { c.strategy, c.strategySet = s, true }
}

// WithMaxTokensCharged charges a request's input tokens and its max_tokens when
// it arrives, and gives nothing back. OpenAI and Azure OpenAI document that they
// do; it is the default of the providers that speak as they do.
func WithMaxTokensCharged() Option { return func(c *config) { c.charging = chargeMaxTokens } }

// WithActualUsage charges a request's input tokens when it arrives and its
// output tokens as they are produced, streamed or not, in up to 32 instalments;
// max_tokens does not count. Anthropic documents that it does so, and it is the
// default of Anthropic, Cohere, Gemini and Ollama. Output is charged even when it lifts
// a limit's use above its amount; nothing is let in then until there is room
// again.
func WithActualUsage() Option { return func(c *config) { c.charging = chargeActual } }

// WithBurndown charges a request's input tokens, cached ones included, and its
// max_tokens when it arrives, and settles the charge when the answer ends: cached
// input is given back, and each output token counts as many as burndown says.
// Amazon Bedrock documents that it does so
// (docs.aws.amazon.com/bedrock/latest/userguide/quotas-token-burndown.html), and it
// is the default of Bedrock, with 1; secondary sources give it a burndown of 5 for
// most Claude models, 10 for some, and 1 for others.
func WithBurndown(burndown int64) Option {
	return func(c *config) { c.charging, c.burndown = chargeReserve, burndown }
}

// WithRefusedCounted charges refused requests one request each (and no tokens)
// to the request limits. OpenAI and Azure OpenAI document that they do; it is
// their default.
func WithRefusedCounted() Option { return func(c *config) { c.countRefused = true } }

// WithRefusedFree charges a refused request nothing. It is the default of all
// providers but OpenAI and Azure OpenAI.
func WithRefusedFree() Option { return func(c *config) { c.countRefused = false } }

// WithFailedFree gives back what an answer that fails was charged, besides
// output that was charged as it was produced. Defaults to charging it: OpenAI
// and Azure OpenAI document that failures count, and no provider that they do
// not.
func WithFailedFree() Option { return func(c *config) { c.failedFree = true } }

// WithoutRetryAfter leaves out of refusals how long to wait: Retry-After, and what
// stands for it in a provider's headers and error details. Anthropic has been seen
// to refuse a subscription so. Defaults to what the provider says.
func WithoutRetryAfter() Option { return func(c *config) { c.noRetryAfter = true } }

// WithLoad sets how the server bears many requests at once. Defaults to any
// number of them, except for Ollama.
func WithLoad(l Load) Option { return func(c *config) { c.load = l } }

// WithKey refuses every request that does not carry key where the provider
// wants it. Defaults to the empty key: any request is welcome.
func WithKey(key string) Option { return func(c *config) { c.key = key } }

// WithSeed sets the seed of everything that is drawn: lengths, latencies, words
// and fault shares. Defaults to 1.
func WithSeed(seed uint64) Option { return func(c *config) { c.seed = seed } }

// WithLatency sets how long answers take. Defaults to 1 ms and 20 µs per token
// with a spread of 0.3, so that tests are quick. See [TypicalLatency] for one
// that is not.
func WithLatency(l Latency) Option { return func(c *config) { c.latency = l } }

// WithOutputTokens draws the length of answers from a log-normal distribution
// with the given median, in tokens, and standard deviation of the logarithm; a
// spread of 0 means always the median. Whatever is drawn, an answer has at least
// one token and at most the request's max_completion_tokens or max_tokens.
// Defaults to 32 and 0.5.
func WithOutputTokens(median int64, spread float64) Option {
	return func(c *config) { c.output = outputLength{median, spread} }
}

// WithFaultShare fails a share, 0 to 1, of the requests that the limits let in.
// They are charged. Which ones depends on the seed and on the
// requests' bodies, not on their order. Shares of several calls add up.
func WithFaultShare(share float64, f Fault) Option {
	return func(c *config) { c.faults.shares = append(c.faults.shares, faultShare{share, f}) }
}

// WithFaultScript fails the requests that the limits let in according to a
// script: the first with the first fault, and so on. The zero Fault answers as
// usual. When the script ends, fault shares decide.
func WithFaultScript(script ...Fault) Option {
	return func(c *config) { c.faults.script = append([]Fault(nil), script...) }
}

// WithBadHeaders makes all rate limit headers say value, such as "-1", "0" or
// "soon", and leaves them out if it is empty: those of refusals too, Retry-After
// included. Azure OpenAI has been seen to send -1 and 0. See [FaultHeaders] for
// some answers only.
func WithBadHeaders(value string) Option {
	return func(c *config) { c.spoil, c.spoilValue = true, value }
}

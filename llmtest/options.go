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
	strategy     Strategy
	actualUsage  bool
	countRefused bool
	inMemory     bool
	key          string
	seed         uint64
	latency      Latency
	output       outputLength
	faults       faults
}

func newConfig(limits []Limit, opts []Option) (config, error) {
	c := config{
		limits:   append([]Limit(nil), limits...),
		strategy: TokenBucket,
		seed:     1,
		latency:  Latency{FirstToken: time.Millisecond, PerToken: 20 * time.Microsecond, Spread: 0.3},
		output:   outputLength{median: 32, spread: 0.5},
	}
	for _, o := range opts {
		o(&c)
	}
	for i := range c.limits {
		l := &c.limits[i]
		if l.Strategy == "" {
			l.Strategy = c.strategy
		}
		if l.Kind == KindConcurrent {
			l.Period, l.Strategy = 0, ""
		}
		if err := l.check(); err != nil {
			return c, err
		}
	}
	return c, c.check()
}

func (c *config) check() error {
	if c.latency.FirstToken < 0 || c.latency.PerToken < 0 || c.latency.Spread < 0 {
		return fmt.Errorf("llmtest: latency %+v: want nothing below zero", c.latency)
	}
	if c.output.median < 1 || c.output.spread < 0 {
		return fmt.Errorf("llmtest: output of %d tokens, spread %v: want at least 1 and 0", c.output.median, c.output.spread)
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

// WithStrategy sets how limits are enforced that name no strategy of their own.
// Defaults to [TokenBucket].
func WithStrategy(s Strategy) Option { return func(c *config) { c.strategy = s } }

// WithActualUsage charges a request's input tokens when it arrives and its
// output tokens when it ends, as many as were really produced, instead of
// max_tokens up front. Output is charged even when it lifts a limit's use
// above its amount; nothing is let in then until there is room again.
func WithActualUsage() Option { return func(c *config) { c.actualUsage = true } }

// WithRefusedCounted charges refused requests one request each (and no tokens)
// to the request limits, as OpenAI and Azure OpenAI document that they do.
// Defaults to charging a refused request nothing.
func WithRefusedCounted() Option { return func(c *config) { c.countRefused = true } }

// WithKey answers 401 to every request that does not carry key as its bearer
// token. Defaults to the empty key: any request is welcome.
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
// They are charged, and fail at once. Which ones depends on the seed and on the
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

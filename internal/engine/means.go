package engine

import "github.com/llmqueue/llmqueue/internal/endpoint"

// meanMemory is how many values a mean looks back on, so that it follows a change of
// traffic.
const meanMemory = 1000

// mean is a running mean.
type mean struct{ n, value float64 }

func (m *mean) add(x float64) {
	m.n = min(m.n+1, meanMemory)
	m.value += (x - m.value) / m.n
}

// sizes learns how large requests are from the attempts that were settled.
type sizes struct {
	input, output mean
	known         bool // some attempt was settled, or nothing ever reports
}

func (s *sizes) add(u endpoint.Usage) {
	s.input.add(float64(u.Input))
	s.output.add(float64(u.Output))
	s.known = true
}

// replace corrects a figure that was added before.
func (s *sizes) replace(was, is endpoint.Usage) {
	s.input.value += float64(is.Input-was.Input) / max(s.input.n, 1)
	s.output.value += float64(is.Output-was.Output) / max(s.output.n, 1)
}

// mean is what a request of unknown size reserves.
func (s *sizes) mean() endpoint.Usage {
	if !s.known {
		return endpoint.UnknownMean
	}
	return endpoint.Usage{Input: endpoint.RoundUp(max(s.input.value, 0)), Output: endpoint.RoundUp(max(s.output.value, 0))}
}

// budget bounds retries after passing faults, so that they are no storm against a provider
// that is down. A served call earns its share of one, and a retry that was served gives back
// two: when the provider is back, retries double with each round.
type budget struct {
	left float64
	at   int64 // when left was brought up to date
}

// budgetAllowance is how many retries may come at once.
const budgetAllowance = 20

// served books a call that was served.
func (b *budget) served(share float64, retry bool) {
	if share < 0 {
		return // there is no bound
	}
	if retry {
		share += 2
	}
	b.left = min(b.left+share, budgetAllowance)
}

// take books a retry, or says how long to wait: one a second is always allowed.
func (b *budget) take(now int64, share float64) (wait int64) {
	const second = 1e9
	if share < 0 {
		return 0
	}
	b.left = min(b.left+float64(now-b.at)/second, budgetAllowance)
	b.at = now
	if b.left >= 1 {
		b.left--
		return 0
	}
	return max(int64((1-b.left)*second), 1)
}

// delay is the backoff after attempt n (1 is the first): full jitter, so that requests
// that failed together do not come back together.
func (q *Engine) delay(n int) int64 {
	ceiling := q.cfg.MaxDelay
	if shift := n - 1; shift < 62 && q.cfg.BaseDelay <= ceiling>>shift {
		ceiling = q.cfg.BaseDelay << shift
	}
	return int64(q.rand.Uint64N(uint64(ceiling) + 1))
}

package llmtest

import (
	"context"
	"math"
	"math/rand/v2"
	"time"
)

// Latency is how long answers take: the time to the first token, then a time
// for each further token. Both are drawn anew for each answer from a
// log-normal distribution, whose shape (most near the median, some far above)
// is that of real services. The zero Latency answers at once.
type Latency struct {
	FirstToken time.Duration // median time until the first token
	PerToken   time.Duration // median time for each token after the first
	Spread     float64       // standard deviation of the logarithm; 0 means always the median
}

// TypicalLatency is 400 ms to the first token and 15 ms for each token after
// it, with a spread of 0.3: what a mid-sized hosted model feels like. It is no
// provider's figure.
func TypicalLatency() Latency {
	return Latency{FirstToken: 400 * time.Millisecond, PerToken: 15 * time.Millisecond, Spread: 0.3}
}

// Scaled returns the latency with both times multiplied by f and the same
// spread.
func (l Latency) Scaled(f float64) Latency {
	l.FirstToken = time.Duration(float64(l.FirstToken) * f)
	l.PerToken = time.Duration(float64(l.PerToken) * f)
	return l
}

// A timing is the latency of one answer.
type timing struct {
	first, perToken time.Duration
}

func (l Latency) draw(r *rand.Rand) timing {
	return timing{
		first:    time.Duration(logNormal(r, float64(l.FirstToken), l.Spread)),
		perToken: time.Duration(logNormal(r, float64(l.PerToken), l.Spread)),
	}
}

// due returns when the answer's n-th token is there, counted from its start.
// The first token is number 1.
func (t timing) due(n int64) time.Duration {
	return t.first + time.Duration(max(n-1, 0))*t.perToken
}

// produced returns how many of n tokens are there after elapsed.
func (t timing) produced(elapsed time.Duration, n int64) int64 {
	switch {
	case elapsed < t.first:
		return 0
	case t.perToken <= 0:
		return n
	}
	return min(n, 1+int64((elapsed-t.first)/t.perToken))
}

// logNormal always draws, so that a spread of zero changes no later draw.
func logNormal(r *rand.Rand, median, spread float64) float64 {
	return median * math.Exp(spread*r.NormFloat64())
}

// A clock paces one answer. It reuses one timer and is not safe for concurrent
// use.
type clock struct {
	start time.Time
	timer *time.Timer
}

// sleepUntil waits until due has passed since the start. It returns false if
// ctx ended first.
func (c *clock) sleepUntil(ctx context.Context, due time.Duration) bool {
	rest := due - time.Since(c.start)
	if rest <= 0 {
		return ctx.Err() == nil
	}
	if c.timer == nil {
		c.timer = time.NewTimer(rest)
	} else {
		c.timer.Reset(rest)
	}
	select {
	case <-c.timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// stop releases the timer.
func (c *clock) stop() {
	if c.timer != nil {
		c.timer.Stop()
	}
}

package llmtest

import (
	"math/bits"
	"time"
)

// A bucket holds at most amount tokens, starts full and gains amount tokens per
// period, evenly. It counts in whole tokens and a remainder, so that however
// long it runs nothing is rounded away.
type bucket struct {
	amount int64
	period time.Duration
	tokens int64         // may be below zero after a take that did not fit
	frac   uint64        // the part of the next token gained so far, counted in 1/period of a token
	at     time.Duration // when tokens and frac were true
}

func newBucket(amount int64, period time.Duration) *bucket {
	return &bucket{amount: amount, period: period, tokens: amount}
}

func (b *bucket) refill(now time.Duration) {
	elapsed := now - b.at
	b.at = now
	if elapsed >= 2*b.period { // take leaves no more than one period of debt
		b.tokens, b.frac = b.amount, 0
		return
	}
	hi, lo := bits.Mul64(uint64(elapsed), uint64(b.amount))
	lo, carry := bits.Add64(lo, b.frac, 0)
	gained, rest := bits.Div64(hi+carry, lo, uint64(b.period))
	b.tokens += int64(gained)
	b.frac = rest
	if b.tokens >= b.amount {
		b.tokens, b.frac = b.amount, 0
	}
}

// until returns how long it takes from b.at until the bucket holds n, rounded
// up to the nanosecond. n must not be above amount.
func (b *bucket) until(n int64) time.Duration {
	if n <= b.tokens {
		return 0
	}
	// The least elapsed with elapsed·amount + frac ≥ (n-tokens)·period.
	hi, lo := bits.Mul64(uint64(n-b.tokens), uint64(b.period))
	lo, borrow := bits.Sub64(lo, b.frac, 0)
	q, rest := bits.Div64(hi-borrow, lo, uint64(b.amount))
	if rest > 0 {
		q++
	}
	return time.Duration(q)
}

func (b *bucket) wait(now time.Duration, n int64) (time.Duration, bool) {
	if n > b.amount {
		return 0, false
	}
	b.refill(now)
	return b.until(n), true
}

// take leaves no more debt than one period pays back. Requests that count
// although they were refused would otherwise close the bucket for as long as
// the client had hammered it; like this they close it for one period, as they
// do a sliding window.
func (b *bucket) take(now time.Duration, n int64) {
	b.refill(now)
	b.tokens -= n
	if b.tokens < -b.amount {
		b.tokens, b.frac = -b.amount, 0
	}
}

func (b *bucket) refund(now, _ time.Duration, n int64) {
	b.refill(now)
	b.tokens += n // the next refill takes off what is above amount
}

func (b *bucket) state(now time.Duration) (int64, int64, time.Duration) {
	b.refill(now)
	return b.amount, max(b.tokens, 0), b.until(b.amount)
}

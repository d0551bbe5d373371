package llmtest

import (
	"errors"
	"fmt"
	"time"
)

// A Kind is what a [Limit] counts.
type Kind string

// The kinds of limits.
const (
	KindRequests   Kind = "requests"   // requests per period
	KindTokens     Kind = "tokens"     // input and output tokens per period
	KindConcurrent Kind = "concurrent" // requests in progress
)

// A Strategy is how a server enforces a limit per period.
type Strategy string

const (
	// TokenBucket holds Amount at most, starts full and refills evenly, so
	// that up to twice Amount may pass in one period. OpenAI's reset headers
	// show this arithmetic (inferred from its documented samples).
	TokenBucket Strategy = "token bucket"

	// SlidingWindow lets no more than Amount pass in any period whatever. A
	// charge leaves the window exactly one period after it was made.
	SlidingWindow Strategy = "sliding window"

	// FixedWindow starts counting anew each period, the first of which begins
	// when the server starts. Azure OpenAI documents a count that starts anew
	// each minute.
	FixedWindow Strategy = "fixed window"
)

// A Limit is one limit that a server enforces. It is a plain value; the
// constructors [RPM], [RPD], [TPM], [TPD] and [Concurrent] cover the usual
// ones.
type Limit struct {
	Kind     Kind
	Amount   int64         // at most this much per Period, or at once; 1 to 2⁵⁰
	Period   time.Duration // at most 100 years; unused by KindConcurrent
	Strategy Strategy      // empty means the server's: see WithStrategy
	Model    string        // counts only requests for this model; empty means all
}

// RPM limits requests per minute.
func RPM(n int64) Limit { return Limit{Kind: KindRequests, Amount: n, Period: time.Minute} }

// RPD limits requests per 24 hours.
func RPD(n int64) Limit { return Limit{Kind: KindRequests, Amount: n, Period: 24 * time.Hour} }

// TPM limits input and output tokens per minute.
func TPM(n int64) Limit { return Limit{Kind: KindTokens, Amount: n, Period: time.Minute} }

// TPD limits input and output tokens per 24 hours.
func TPD(n int64) Limit { return Limit{Kind: KindTokens, Amount: n, Period: 24 * time.Hour} }

// Concurrent limits the requests in progress. OpenAI documents no such limit;
// other providers and local servers have one.
func Concurrent(n int64) Limit { return Limit{Kind: KindConcurrent, Amount: n} }

// Per returns the limit with another period: RPM(10).Per(time.Second) is ten
// requests a second.
func (l Limit) Per(period time.Duration) Limit {
	l.Period = period
	return l
}

// By returns the limit enforced with s instead of the server's own strategy.
func (l Limit) By(s Strategy) Limit {
	l.Strategy = s
	return l
}

// For returns the limit counting only the requests that name model. Limits for
// different models are independent of each other.
func (l Limit) For(model string) Limit {
	l.Model = model
	return l
}

// String returns the limit as an error message names it, such as
// "requests per min (RPM)".
func (l Limit) String() string {
	if l.Kind == KindConcurrent {
		return "concurrent requests"
	}
	switch l.Period {
	case time.Minute:
		return fmt.Sprintf("%s per min (%cPM)", l.Kind, l.Kind[0]-'a'+'A')
	case 24 * time.Hour:
		return fmt.Sprintf("%s per day (%cPD)", l.Kind, l.Kind[0]-'a'+'A')
	}
	return fmt.Sprintf("%s per %v", l.Kind, l.Period)
}

// The bounds keep every sum and product of the meters within 64 and 128 bits.
const (
	maxAmount = 1 << 50
	maxPeriod = 100 * 365 * 24 * time.Hour
)

// check reports what is wrong with the limit, if anything.
func (l Limit) check() error {
	switch {
	case l.Amount < 1 || l.Amount > maxAmount:
		return fmt.Errorf("llmtest: limit %q has amount %d: want 1 to %d", l.Kind, l.Amount, int64(maxAmount))
	case l.Kind == KindConcurrent:
		return nil
	case l.Kind != KindRequests && l.Kind != KindTokens:
		return fmt.Errorf("llmtest: unknown kind of limit %q", l.Kind)
	case l.Period <= 0 || l.Period > maxPeriod:
		return fmt.Errorf("llmtest: limit %q has period %v: want more than zero and at most %v", l.Kind, l.Period, maxPeriod)
	}
	switch l.Strategy {
	case TokenBucket, SlidingWindow, FixedWindow:
		return nil
	case "":
		return errors.New("llmtest: the server's strategy is empty: use TokenBucket, SlidingWindow or FixedWindow")
	}
	return fmt.Errorf("llmtest: unknown strategy %q", l.Strategy)
}

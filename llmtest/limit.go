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
	KindRequests   Kind = "requests"      // requests per period
	KindTokens     Kind = "tokens"        // input and output tokens per period
	KindInput      Kind = "input tokens"  // input tokens per period
	KindOutput     Kind = "output tokens" // output tokens per period
	KindConcurrent Kind = "concurrent"    // requests in progress
	KindUnified    Kind = "unified"       // input and output tokens of a subscription per period: see Unified
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

	// Daily starts counting anew at midnight in the limit's Zone. Gemini
	// documents it for requests per day, at midnight Pacific time. See
	// Limit.Daily.
	Daily Strategy = "daily reset"

	// Quantized enforces the limit in slices of its period, each with its part
	// of Amount: 600 a minute in slices of a second are 10 a second. A request
	// larger than a slice's part is let in when nothing is used, and takes up
	// the slices after it. OpenAI and Azure OpenAI document slices of 1 s and
	// of 1 s or 10 s. See Limit.Quantized.
	Quantized Strategy = "quantized"
)

// A Limit is one limit that a server enforces. It is a plain value; the
// constructors [RPM], [RPD], [TPM], [TPD], [ITPM], [OTPM], [Unified] and
// [Concurrent] cover the usual ones.
type Limit struct {
	Kind     Kind
	Amount   int64          // at most this much per Period, or at once; 1 to 2⁵⁰
	Period   time.Duration  // at most 100 years; unused by KindConcurrent
	Strategy Strategy       // empty means the server's: see WithStrategy
	Model    string         // counts only requests for this model; empty means all
	Slice    time.Duration  // of Quantized: divides Period; zero means 1 s
	Zone     *time.Location // of Daily: whose midnight; nil means UTC
}

// RPM limits requests per minute.
func RPM(n int64) Limit { return Limit{Kind: KindRequests, Amount: n, Period: time.Minute} }

// RPD limits requests per 24 hours.
func RPD(n int64) Limit { return Limit{Kind: KindRequests, Amount: n, Period: 24 * time.Hour} }

// TPM limits input and output tokens per minute.
func TPM(n int64) Limit { return Limit{Kind: KindTokens, Amount: n, Period: time.Minute} }

// TPD limits input and output tokens per 24 hours.
func TPD(n int64) Limit { return Limit{Kind: KindTokens, Amount: n, Period: 24 * time.Hour} }

// ITPM limits input tokens per minute.
func ITPM(n int64) Limit { return Limit{Kind: KindInput, Amount: n, Period: time.Minute} }

// OTPM limits output tokens per minute.
func OTPM(n int64) Limit { return Limit{Kind: KindOutput, Amount: n, Period: time.Minute} }

// Unified limits the input and output tokens of a subscription in each window of
// time, such as five hours or seven days. [Anthropic] tells how such a limit stands
// in headers of its own; other providers enforce it and say nothing about it.
func Unified(window time.Duration, n int64) Limit {
	return Limit{Kind: KindUnified, Amount: n, Period: window}
}

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

// Daily returns the limit per day, which starts anew at midnight in zone.
func (l Limit) Daily(zone *time.Location) Limit {
	l.Period, l.Strategy, l.Zone = day, Daily, zone
	return l
}

// Quantized returns the limit enforced in slices of its period.
func (l Limit) Quantized(slice time.Duration) Limit {
	l.Strategy, l.Slice = Quantized, slice
	return l
}

// For returns the limit counting only the requests that name model. Limits for
// different models are independent of each other.
func (l Limit) For(model string) Limit {
	l.Model = model
	return l
}

// String returns the limit as OpenAI's error messages name it, such as
// "requests per min (RPM)".
func (l Limit) String() string {
	initials := map[Kind]string{KindRequests: "R", KindTokens: "T", KindInput: "IT", KindOutput: "OT"}[l.Kind]
	switch {
	case l.Kind == KindConcurrent:
		return "concurrent requests"
	case l.Period == time.Minute:
		return fmt.Sprintf("%s per min (%sPM)", l.Kind, initials)
	case l.Period == day:
		return fmt.Sprintf("%s per day (%sPD)", l.Kind, initials)
	}
	return fmt.Sprintf("%s per %v", l.Kind, l.Period)
}

const day = 24 * time.Hour

// The bounds keep every sum and product of the meters within 64 and 128 bits.
const (
	maxAmount = 1 << 50
	maxPeriod = 100 * 365 * 24 * time.Hour
)

// complete fills in what the limit leaves to defaults.
func (l Limit) complete() Limit {
	switch {
	case l.Kind == KindConcurrent:
		l.Period, l.Strategy = 0, ""
	case l.Strategy == Daily && l.Zone == nil:
		l.Zone = time.UTC
	case l.Strategy == Quantized && l.Slice == 0:
		l.Slice = time.Second
	}
	return l
}

// check reports what is wrong with a complete limit, if anything.
func (l Limit) check() error {
	switch {
	case l.Amount < 1 || l.Amount > maxAmount:
		return fmt.Errorf("llmtest: limit %q has amount %d: want 1 to %d", l.Kind, l.Amount, int64(maxAmount))
	case l.Kind == KindConcurrent:
		return nil
	case l.Kind != KindRequests && l.Kind != KindTokens && l.Kind != KindInput && l.Kind != KindOutput && l.Kind != KindUnified:
		return fmt.Errorf("llmtest: unknown kind of limit %q", l.Kind)
	case l.Period <= 0 || l.Period > maxPeriod:
		return fmt.Errorf("llmtest: limit %q has period %v: want more than zero and at most %v", l.Kind, l.Period, maxPeriod)
	}
	switch l.Strategy {
	case TokenBucket, SlidingWindow, FixedWindow:
		return nil
	case Daily:
		if l.Period != day {
			return fmt.Errorf("llmtest: limit %q resets daily and has period %v: want 24h", l.Kind, l.Period)
		}
		return nil
	case Quantized:
		if l.Slice < 0 || l.Slice > l.Period || l.Period%l.Slice != 0 {
			return fmt.Errorf("llmtest: limit %q has slices of %v: want a whole number of them in %v", l.Kind, l.Slice, l.Period)
		}
		return nil
	case "":
		return errors.New("llmtest: the server's strategy is empty: use TokenBucket, SlidingWindow, FixedWindow, Daily or Quantized")
	}
	return fmt.Errorf("llmtest: unknown strategy %q", l.Strategy)
}

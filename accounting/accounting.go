// Package accounting says what providers charge a request to its token limits: when it
// arrives, and when it has been answered.
//
//	q, err := llmqueue.NewQueue("claude", ask, llmqueue.WithLimits(llmqueue.ITPM(50_000)),
//		llmqueue.WithAccounting(accounting.Anthropic))
//
// What providers charge changes with time. Where one charges otherwise than its value here
// says, give a Policy of your own.
package accounting

import (
	"cmp"
	"fmt"
)

// Policy is what a provider charges to its token limits. The zero value charges what the
// request's estimate says (input and output), and in the end what was used. It is a plain
// value, compared with ==; its methods are safe for concurrent use.
type Policy struct {
	// Reserve is what is charged at the start. Defaults to ReserveAll.
	Reserve Reserve
	// NoRefund keeps the charge of the start when less was used. What was used beyond
	// it is charged all the same.
	NoRefund bool
	// CachedFree leaves cached input tokens out, at the start as far as the estimate
	// names them, unless ReserveCached charges them there all the same.
	CachedFree, ReserveCached bool
	// OutputFactor is how often an output token counts in the end, up to 1,000.
	// Defaults to 0, which means once.
	OutputFactor float64
}

// Reserve says what of a request's estimate is charged when it starts.
type Reserve string

// What may be charged at the start. The empty Reserve means ReserveAll.
const (
	ReserveAll    Reserve = "all"    // input and output
	ReserveLarger Reserve = "larger" // the larger of input and output
	ReserveMean   Reserve = "mean"   // input, and the mean output of the attempts so far, at most what the estimate names
	ReserveInput  Reserve = "input"  // input alone
)

// Tokens counts tokens of one request, or of several together. None may be negative.
type Tokens struct {
	Input       int64 // cached part included
	CachedInput int64
	Output      int64
}

// Total is input plus output.
func (t Tokens) Total() int64 { return t.Input + t.Output }

// Validate says what is wrong with p, or nil.
func (p Policy) Validate() error {
	switch p.Reserve {
	case "", ReserveAll, ReserveLarger, ReserveMean, ReserveInput:
	default:
		return fmt.Errorf("Policy.Reserve is %q, use %q, %q, %q or %q", p.Reserve, ReserveAll, ReserveLarger, ReserveMean, ReserveInput)
	}
	if !(p.OutputFactor >= 0 && p.OutputFactor <= 1000) {
		return fmt.Errorf("Policy.OutputFactor is %v, give 0 (which means 1) to 1000", p.OutputFactor)
	}
	return nil
}

// Reserved is what n requests are charged at the start whose estimates come to estimate
// together. meanOutput is the mean output of an attempt so far, 0 while there was none;
// only ReserveMean asks for it.
func (p Policy) Reserved(estimate Tokens, n, meanOutput int64) Tokens {
	t := estimate
	if !p.ReserveCached {
		t = p.counted(t)
	}
	switch p.Reserve {
	case ReserveLarger:
		t.Output = max(t.Output-t.Input, 0)
	case ReserveMean:
		mean := meanOutput * n
		if t.Output == 0 || mean > 0 {
			t.Output = min(mean, cmp.Or(t.Output, mean))
		}
	case ReserveInput:
		t.Output = 0
	}
	return t
}

// Settled is what an attempt is charged in the end that was charged reserved at the start
// and used so much.
func (p Policy) Settled(reserved, used Tokens) Tokens {
	t := p.counted(used)
	if p.OutputFactor > 0 {
		t.Output = roundUp(float64(t.Output) * p.OutputFactor)
	}
	if p.NoRefund && t.Total() <= reserved.Total() {
		return reserved
	}
	return t
}

// counted leaves out what is free.
func (p Policy) counted(t Tokens) Tokens {
	if p.CachedFree {
		t.Input -= min(t.CachedInput, t.Input)
		t.CachedInput = 0
	}
	return t
}

// roundUp is f as a whole number, where what is above it by an error of floats is not.
func roundUp(f float64) int64 {
	n := int64(f)
	if float64(n) < f-1e-6 {
		n++
	}
	return n
}

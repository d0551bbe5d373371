package endpoint

import (
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/internal/window"
)

// Usage counts tokens. Cached is part of Input.
type Usage struct{ Input, Output, Cached int64 }

// Total is input and output together.
func (u Usage) Total() int64 { return u.Input + u.Output }

// Plus is u and v together.
func (u Usage) Plus(v Usage) Usage {
	return Usage{u.Input + v.Input, u.Output + v.Output, u.Cached + v.Cached}
}

// Minus is u without v.
func (u Usage) Minus(v Usage) Usage {
	return Usage{u.Input - v.Input, u.Output - v.Output, u.Cached - v.Cached}
}

func (u Usage) charge() window.Charge {
	return window.Charge{Requests: 1, Input: u.Input, Output: u.Output}
}

// Load is what several requests take together. Unsized of them have no known size and
// are not part of Input and Output.
type Load struct{ Requests, Input, Output, Unsized int64 }

// Kind says what a limit counts.
type Kind uint8

// The kinds of limits, with the period that each has when none is given.
const (
	RPM        Kind = iota // requests, a minute
	RPD                    // requests, a day
	TPM                    // input and output tokens, a minute
	TPD                    // input and output tokens, a day
	ITPM                   // input tokens, a minute
	OTPM                   // output tokens, a minute
	Concurrent             // attempts under way, no period
)

const day = 24 * time.Hour

var kinds = [...]struct {
	period time.Duration
	counts window.Kind
}{
	RPM:        {time.Minute, window.Requests},
	RPD:        {day, window.Requests},
	TPM:        {time.Minute, window.Tokens},
	TPD:        {day, window.Tokens},
	ITPM:       {time.Minute, window.Input},
	OTPM:       {time.Minute, window.Output},
	Concurrent: {},
}

// Limit is one limit, already validated. Period zero is the kind's own; Resets, when
// not nil, makes it a daily one that starts anew at midnight there.
type Limit struct {
	Kind   Kind
	Amount int64
	Period time.Duration
	Burst  int64
	Resets *time.Location
}

func (l Limit) period() time.Duration {
	switch {
	case l.Resets != nil:
		return day
	case l.Period == 0:
		return kinds[l.Kind].period
	}
	return l.Period
}

// Like reports whether l and o count the same over the same period.
func (l Limit) Like(o Limit) bool {
	return l.Kind != Concurrent && o.Kind != Concurrent &&
		kinds[l.Kind].counts == kinds[o.Kind].counts && l.period() == o.period()
}

// Takes is what a request that uses u takes of l.
func (l Limit) Takes(u Usage) int64 {
	switch kinds[l.Kind].counts {
	case window.Requests:
		return 1
	case window.Input:
		return u.Input
	case window.Output:
		return u.Output
	}
	return u.Total()
}

// margin is how much longer than its period l is held. A negative one means the
// default: 2% of the period, at most 250 ms.
func (l Limit) margin(margin time.Duration) time.Duration {
	if margin < 0 {
		return min(l.period()/50, 250*time.Millisecond)
	}
	return margin
}

// Hold is how long a charge counts in l: its period and the margin.
func (l Limit) Hold(margin time.Duration) time.Duration { return l.period() + l.margin(margin) }

// Windows translates all but the concurrent limit, in order.
func Windows(limits []Limit, margin time.Duration) []window.Limit {
	var out []window.Limit
	for _, l := range limits {
		if l.Kind != Concurrent {
			out = append(out, window.Limit{
				Kind: kinds[l.Kind].counts, Amount: l.Amount, Period: l.period(),
				Burst: l.Burst, Margin: l.margin(margin), Daily: l.Resets,
			})
		}
	}
	return out
}

// WindowAt is the limit behind the i-th window of limits.
func WindowAt(limits []Limit, i int) Limit {
	for _, l := range limits {
		if l.Kind == Concurrent {
			continue
		}
		if i == 0 {
			return l
		}
		i--
	}
	return Limit{}
}

// Slots is the amount of the concurrent limit, or otherwise without one.
func Slots(limits []Limit, otherwise int64) int64 {
	for _, l := range limits {
		if l.Kind == Concurrent {
			return l.Amount
		}
	}
	return otherwise
}

// Shortest is the shortest period of the limits, 0 when none has one.
func Shortest(limits []Limit) (period time.Duration) {
	for _, l := range limits {
		if p := l.period(); p > 0 && (period == 0 || p < period) {
			period = p
		}
	}
	return period
}

func indexLike(limits []Limit, l Limit) int { return slices.IndexFunc(limits, l.Like) }

// WindowOf is the index among the windows of limits of the one that is like l, or -1.
func WindowOf(limits []Limit, l Limit) int {
	i := indexLike(limits, l)
	for _, before := range limits[:max(i, 0)] {
		if before.Kind == Concurrent {
			i--
		}
	}
	return i
}

// countsTokens reports whether any of the limits counts tokens.
func countsTokens(limits []Limit) bool {
	return slices.ContainsFunc(limits, func(l Limit) bool {
		return l.Kind != Concurrent && kinds[l.Kind].counts != window.Requests
	})
}

// capped brings u under every limit's amount, so that a mean can never be a request that
// never starts.
func capped(limits []Limit, u Usage) Usage {
	for _, l := range limits {
		switch l.Kind {
		case ITPM:
			u.Input = min(u.Input, l.Amount)
		case OTPM:
			u.Output = min(u.Output, l.Amount)
		case TPM, TPD:
			if u.Total() > l.Amount {
				u.Input = min(u.Input, l.Amount)
				u.Output = l.Amount - u.Input
			}
		}
	}
	return u
}

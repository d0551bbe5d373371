package llmtest

import (
	"slices"
	"time"
)

// A Verdict is what became of a request.
type Verdict string

// The verdicts. A refused request never began; the others were let in by every
// limit.
const (
	Refused   Verdict = "refused"   // answered 429: a limit was broken
	Running   Verdict = "running"   // not answered yet
	Completed Verdict = "completed" // answered in full
	Failed    Verdict = "failed"    // answered with a fault: see Fault
	Canceled  Verdict = "canceled"  // the client went away before the end
)

// An Arrival is one request as the server saw it.
type Arrival struct {
	At           time.Time
	Model        string
	InputTokens  int64         // estimated from the message contents
	OutputTokens int64         // really produced; 0 while it runs
	Charged      int64         // tokens charged so far to token limits
	Duration     time.Duration // from arrival to the end of the answer; 0 while it runs
	Verdict      Verdict
	Broken       Limit // of a refused request: the limit that keeps it out for the longest
}

// Stats is what a server has seen since its start: a snapshot, and plain data.
type Stats struct {
	Accepted  int64 // let in by every limit; the next three are among them
	Completed int64 // answered in full
	Failed    int64 // answered with a fault
	Canceled  int64 // the client went away before the end
	Refused   int64 // answered 429 because a limit was broken
	Invalid   int64 // never reached the limits: bad JSON, unknown path, wrong key

	PeakConcurrent int64 // the most accepted requests in progress at once
	InputTokens    int64 // of accepted requests
	OutputTokens   int64 // really produced
	TokensCharged  int64 // charged to token limits, or what would have been without one

	Limits []LimitStats // in the order in which the limits were given
}

// LimitStats is what one limit has seen.
type LimitStats struct {
	Limit   Limit
	Refused int64 // requests that this limit kept out, or kept out for the longest

	// Peak is the most that was charged within any one Period, wherever it
	// begins, found from all recorded charges; for Concurrent, the most in
	// progress at once. A sliding window keeps it within the limit; a token
	// bucket and a fixed window let up to twice the limit through.
	// WithActualUsage and WithRefusedCounted charge without asking, and so may
	// lift it higher.
	Peak int64
}

// Stats returns what the server has seen so far. It walks through all arrivals:
// milliseconds for a hundred thousand. It is safe for concurrent use, also after
// Close.
func (s *Server) Stats() Stats { return s.enforcer.stats() }

// Arrivals returns every request that reached the limits, in the order in which
// they were decided. It is safe for concurrent use, also after Close; the slice
// is the caller's own.
func (s *Server) Arrivals() []Arrival {
	e := s.enforcer
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.arrivals)
}

func (e *enforcer) stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := Stats{Accepted: e.accepted, Invalid: e.invalid, PeakConcurrent: e.peak}
	for i := range e.arrivals {
		a := &e.arrivals[i]
		switch a.Verdict {
		case Refused:
			s.Refused++
			continue
		case Completed:
			s.Completed++
		case Failed:
			s.Failed++
		case Canceled:
			s.Canceled++
		}
		s.InputTokens += a.InputTokens
		s.OutputTokens += a.OutputTokens
		s.TokensCharged += a.Charged
	}
	for i := range e.rules {
		r := &e.rules[i]
		s.Limits = append(s.Limits, LimitStats{Limit: r.limit, Refused: r.refused, Peak: e.windowPeak(r)})
	}
	return s
}

// windowPeak returns the most that was charged to the rule in any period. It
// counts from the record of charges, not from the meter that enforced them.
func (e *enforcer) windowPeak(r *rule) (peak int64) {
	if g, ok := r.meter.(*gauge); ok {
		return g.peak
	}
	amount := func(c *charge) int64 {
		switch {
		case !r.covers(c.model):
			return 0
		case r.limit.Kind == KindTokens:
			return c.tokens
		}
		return c.requests
	}
	var sum int64
	oldest := 0
	for i := range e.charges {
		c := &e.charges[i]
		for ; c.at-e.charges[oldest].at >= r.limit.Period; oldest++ {
			sum -= amount(&e.charges[oldest])
		}
		sum += amount(c)
		peak = max(peak, sum)
	}
	return peak
}

package llmtest

import (
	"slices"
	"time"
)

// A Verdict is what became of a request.
type Verdict string

// The verdicts. A request refused or met by an overloaded server never began;
// the others were let in by every limit.
const (
	Refused    Verdict = "refused"    // a limit was broken
	Overloaded Verdict = "overloaded" // the server had no capacity: see Load
	Running    Verdict = "running"    // not answered yet
	Completed  Verdict = "completed"  // answered in full
	Failed     Verdict = "failed"     // ended by a fault: see Fault
	Canceled   Verdict = "canceled"   // the client went away before the end
)

// An Arrival is one request as the server saw it.
type Arrival struct {
	At           time.Time
	Model        string
	InputTokens  int64         // estimated from the text
	CachedTokens int64         // input tokens that were in the prompt cache
	OutputTokens int64         // really produced; 0 while it runs
	Charged      int64         // tokens charged so far to token limits
	Duration     time.Duration // from arrival to the end of the answer; 0 while it runs
	Verdict      Verdict
	Broken       Limit // of a refused request: the limit that keeps it out for the longest
	Fault        Fault // that was drawn for it, once it has ended
}

// Wasted returns the tokens that were charged for an answer that did not arrive
// whole: it failed, or its client went away.
func (a *Arrival) Wasted() int64 {
	if a.Verdict == Failed || a.Verdict == Canceled {
		return a.Charged
	}
	return 0
}

// Stats is what a server has seen since its start: a snapshot, and plain data.
type Stats struct {
	Accepted   int64 // let in by every limit; the next three are among them
	Completed  int64 // answered in full
	Failed     int64 // ended by a fault
	Canceled   int64 // the client went away before the end
	Refused    int64 // answered 429 because a limit was broken
	Overloaded int64 // turned away because the server had no capacity
	Invalid    int64 // never reached the limits: bad JSON, unknown path, wrong key

	PeakConcurrent int64 // the most accepted requests in progress at once
	InputTokens    int64 // of accepted requests
	OutputTokens   int64 // really produced
	TokensCharged  int64 // charged to token limits, or what would have been without one
	TokensWasted   int64 // charged for answers that failed or that nobody waited for

	Limits []LimitStats // as they were given; then those that SetLimits replaced, oldest first
}

// LimitStats is what one limit has seen.
type LimitStats struct {
	Limit   Limit
	Refused int64 // requests that this limit kept out, or kept out for the longest

	// Since and Until are when it came into force and when SetLimits replaced
	// it; Until is zero while it is in force.
	Since, Until time.Time

	// Peak is the most that was charged within any one Period, wherever it
	// begins, while the limit was in force, found from all recorded charges;
	// for Concurrent, the most in progress at once. A sliding window keeps it
	// within the limit; other strategies let up to twice the limit through.
	// What is charged without asking may lift it higher: refused requests, and
	// output as it is produced.
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
		case Overloaded:
			s.Overloaded++
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
		s.TokensWasted += a.Wasted()
	}
	for _, r := range slices.Concat(e.rules, e.retired) {
		l := LimitStats{Limit: r.limit, Refused: r.refused, Since: e.start.Add(r.since), Peak: e.windowPeak(r)}
		if r.until > 0 {
			l.Until = e.start.Add(r.until)
		}
		s.Limits = append(s.Limits, l)
	}
	return s
}

// windowPeak returns the most that was charged to the rule in any period. It
// counts from the record of charges, not from the meter that enforced them.
func (e *enforcer) windowPeak(r *rule) (peak int64) {
	if g, ok := r.meter.(*gauge); ok {
		return g.peak
	}
	charges := e.charges[r.first:]
	if r.until > 0 {
		charges = e.charges[r.first:r.last]
	}
	amount := func(ch *charge) int64 {
		if !r.covers(ch.model) {
			return 0
		}
		return ch.amount(r.limit.Kind)
	}
	var sum int64
	oldest := 0
	for i := range charges {
		ch := &charges[i]
		for ; ch.at-charges[oldest].at >= r.limit.Period; oldest++ {
			sum -= amount(&charges[oldest])
		}
		sum += amount(ch)
		peak = max(peak, sum)
	}
	return peak
}

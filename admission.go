package llmqueue

import (
	"time"

	"github.com/llmqueue/llmqueue/internal/window"
)

// defaultConcurrency bounds running processors when no limit does.
const defaultConcurrency = 256

// concurrency is the amount of the concurrent limit, or otherwise without one.
func concurrency(limits []Limit, otherwise int64) int64 {
	for _, l := range limits {
		if l.Kind == KindConcurrent {
			return l.Amount
		}
	}
	return otherwise
}

// windowLimits translates all but the concurrent limit, in order. A negative
// margin means the default: 2% of the period, at most 250 ms.
func windowLimits(limits []Limit, margin time.Duration) []window.Limit {
	var out []window.Limit
	for _, l := range limits {
		if l.Kind == KindConcurrent {
			continue
		}
		m := margin
		if m < 0 {
			m = min(l.period()/50, 250*time.Millisecond)
		}
		out = append(out, window.Limit{
			Kind: kinds[l.Kind].counts, Amount: l.Amount, Period: l.period(),
			Burst: l.Burst, Margin: m, Daily: l.Resets,
		})
	}
	return out
}

// charge is what one request using u takes from the windows.
func charge(u Usage) window.Charge {
	return window.Charge{Requests: 1, Input: u.InputTokens, Output: u.OutputTokens}
}

// exceeded gives the first limit that u can never fit under.
func exceeded(limits []Limit, set *window.Set, u Usage) (Limit, bool) {
	i := set.Exceeds(charge(u))
	if i < 0 {
		return Limit{}, false
	}
	for _, l := range limits {
		if l.Kind == KindConcurrent {
			continue
		}
		if i == 0 {
			return l, true
		}
		i--
	}
	return Limit{}, false
}

func limitInfos(now time.Time, limits []Limit, set *window.Set, running int64) []LimitInfo {
	infos := make([]LimitInfo, 0, len(limits)+1)
	var slots *LimitInfo
	i := 0
	for _, l := range limits {
		if l.Kind == KindConcurrent {
			slots = &LimitInfo{Limit: l, Used: running, Available: max(l.Amount-running, 0)}
			continue
		}
		used, available, reset := set.Usage(now, i)
		infos = append(infos, LimitInfo{Limit: l, Used: used, Available: available, ResetAt: reset})
		i++
	}
	if slots != nil {
		infos = append(infos, *slots)
	}
	return infos
}

// tokenLimited reports whether any limit counts tokens.
func tokenLimited(limits []Limit) bool {
	for _, l := range limits {
		if l.Kind != KindConcurrent && kinds[l.Kind].counts != window.Requests {
			return true
		}
	}
	return false
}

// meanMemory is how many values a mean looks back on, so that it follows a change
// of traffic.
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
	open          bool // the gate: more than one request of unknown size may run
}

func (s *sizes) add(u Usage) {
	s.input.add(float64(u.InputTokens))
	s.output.add(float64(u.OutputTokens))
	s.open = true
}

// replace corrects a figure that was added before.
func (s *sizes) replace(was, is Usage) {
	s.input.value += float64(is.InputTokens-was.InputTokens) / max(s.input.n, 1)
	s.output.value += float64(is.OutputTokens-was.OutputTokens) / max(s.output.n, 1)
}

// mean is what a request of unknown size reserves.
func (s *sizes) mean() Usage {
	return Usage{InputTokens: roundUp(max(s.input.value, 0)), OutputTokens: roundUp(max(s.output.value, 0))}
}

func roundUp(f float64) int64 {
	n := int64(f)
	if float64(n) < f-1e-6 {
		n++
	}
	return n
}

// capTo brings u under every limit's amount, so that a mean can never be a request
// that never starts.
func capTo(limits []Limit, u Usage) Usage {
	for _, l := range limits {
		switch l.Kind {
		case KindITPM:
			u.InputTokens = min(u.InputTokens, l.Amount)
		case KindOTPM:
			u.OutputTokens = min(u.OutputTokens, l.Amount)
		case KindTPM, KindTPD:
			if u.Total() > l.Amount {
				u.InputTokens = min(u.InputTokens, l.Amount)
				u.OutputTokens = l.Amount - u.InputTokens
			}
		}
	}
	return u
}

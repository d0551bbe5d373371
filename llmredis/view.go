package llmredis

import (
	"time"

	"github.com/llmqueue/llmqueue"
)

// Exceeds goes by the limits themselves, also while a local share is in force: Redis
// may come back.
func (m *member) Exceeds(u llmqueue.Usage) (llmqueue.Limit, bool) {
	return exceeded(m.set.rules, charge(u))
}

func (m *member) Share(u llmqueue.Usage) float64 {
	n := charge(u)
	var share float64
	for _, r := range m.set.rules {
		share = max(share, float64(n[r.kind])/float64(r.limit.Amount))
	}
	return share
}

// Forecast counts on no more than the limits themselves forbid: what other processes
// are going to use nobody knows.
func (m *member) Forecast(now time.Time, requests int64, ahead, own llmqueue.Usage) time.Time {
	s := m.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.local != nil && m.inner != nil {
		return m.inner.Forecast(now, requests, ahead, own)
	}
	all := charge(ahead)
	all[0] = requests
	n := charge(own)
	at := now
	for i, r := range s.rules {
		demand := all[r.kind] + n[r.kind]
		if full := s.seen[i].full; full.After(at) {
			at = full
		}
		if r.limit.Resets != nil || demand <= r.limit.Amount {
			continue
		}
		periods := (demand - 1) / r.limit.Amount
		if t := now.Add(time.Duration(min(periods, 1e6)) * time.Duration(r.hold) * time.Millisecond); t.After(at) {
			at = t
		}
	}
	return at
}

// Limits shows what the server said last, which it says again soon after.
func (m *member) Limits(now time.Time) []llmqueue.LimitInfo {
	s := m.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.local != nil && m.inner != nil {
		return m.inner.Limits(now)
	}
	if age := now.Sub(s.seenAt); age > time.Second && !s.look {
		s.look = true
		s.kick()
	}
	infos := make([]llmqueue.LimitInfo, 0, len(s.limiter.limits))
	i := 0
	for _, l := range s.limiter.limits {
		if l.Kind == llmqueue.KindConcurrent {
			used := max(s.inUse, s.busy)
			infos = append(infos, llmqueue.LimitInfo{Limit: l, Used: used, Available: max(l.Amount-used, 0)})
			continue
		}
		r, f := s.rules[i], s.seen[i]
		i++
		info := llmqueue.LimitInfo{Limit: l, Used: f.used}
		gone := s.seenAt.Add(time.Duration(r.hold)*time.Millisecond + s.lease)
		if r.limit.Resets != nil {
			for _, midnight := range r.midnights(s.seenAt) {
				if gone = time.UnixMilli(midnight); gone.After(s.seenAt) {
					break
				}
			}
		}
		if !gone.After(now) {
			info.Used = 0
		}
		info.Available = max(l.Amount-info.Used, 0)
		if info.Used > 0 {
			info.ResetAt = gone
		}
		if f.full.After(now) {
			info.Available, info.ResetAt = 0, f.full
		}
		infos = append(infos, info)
	}
	return infos
}

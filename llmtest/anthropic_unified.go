package llmtest

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// writeUnified sets the headers about the limits of a subscription. The claim that
// represents them all is the one that was broken, or else the tightest.
func writeUnified(h http.Header, t *ticket) {
	const prefix = "Anthropic-Ratelimit-Unified-"
	claim, ok := t.quota.tightest(func(l Limit) bool { return l.Kind == KindUnified })
	if !ok {
		return
	}
	all := "allowed"
	for _, s := range t.quota {
		if s.Kind != KindUnified {
			continue
		}
		status := "allowed"
		if t.refusal != nil && t.refusal.limit == s.Limit {
			claim, status, all = s, "rejected", "rejected"
		}
		name := prefix + unifiedWindow(s.Period)
		h.Set(name+"-Status", status)
		h.Set(name+"-Reset", unifiedReset(t, s))
		used := float64(s.total-s.remaining) / float64(s.total)
		h.Set(name+"-Utilization", strconv.FormatFloat(math.Floor(100*used)/100, 'f', 2, 64))
	}
	h.Set(prefix+"Status", all)
	h.Set(prefix+"Reset", unifiedReset(t, claim))
	h.Set(prefix+"Representative-Claim", unifiedClaim(claim.Period))
}

// unifiedReset is when a window ends, in seconds of Unix time, rounded up.
func unifiedReset(t *ticket, s quotaState) string {
	return strconv.FormatInt(t.at.Add(s.reset+time.Second-1).Unix(), 10)
}

// unifiedWindow names a window: 5h, 7d.
func unifiedWindow(d time.Duration) string {
	switch {
	case d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return d.String()
}

// unifiedClaim names a window in words. Only the first two were seen.
func unifiedClaim(d time.Duration) string {
	switch d {
	case 5 * time.Hour:
		return "five_hour"
	case 7 * day:
		return "seven_day"
	}
	return unifiedWindow(d)
}

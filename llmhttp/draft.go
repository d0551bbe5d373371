package llmhttp

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
)

// draftLimits reads the headers of the IETF's draft-ietf-httpapi-ratelimit-headers:
//
//	RateLimit-Policy: "burst";q=100;w=60,"daily";q=1000;w=86400
//	RateLimit: "burst";r=50;t=30
//
// and those of its older versions, whose amounts have no names:
//
//	RateLimit-Policy: 100;w=60
//	RateLimit: limit=100, remaining=50, reset=30
//	RateLimit-Limit: 100
//	RateLimit-Remaining: 50
//	RateLimit-Reset: 30
func draftLimits(h http.Header, now time.Time) []llmqueue.ObservedLimit {
	policies := append(h.Values("Ratelimit-Policy"), h.Values("X-Ratelimit-Policy")...)
	if len(policies) == 0 {
		return nil
	}
	states := items(h.Values("Ratelimit"))
	var limits []llmqueue.ObservedLimit
	for _, p := range items(policies) {
		l, ok := p.limit()
		if !ok {
			continue
		}
		remaining, reset := olderState(h, states, l.Amount)
		for _, s := range states {
			if slices.ContainsFunc(s.names, func(name string) bool { return slices.Contains(p.names, name) }) {
				remaining, reset = s.params["r"], s.params["t"]
			}
		}
		if n, ok := integer(remaining); ok && n >= 0 {
			l.Remaining = min(n, l.Amount)
		}
		l.Reset, _ = wait(reset, now)
		limits = append(limits, l)
	}
	return limits
}

// olderState is what is left of a limit of that amount, and until when, in the older versions.
func olderState(h http.Header, states []item, amount int64) (remaining, reset string) {
	state := map[string]string{}
	for _, name := range []string{"limit", "remaining", "reset"} {
		state[name] = cmp.Or(h.Get("Ratelimit-"+name), h.Get("X-Ratelimit-"+name))
	}
	for _, s := range states {
		if k, v, ok := strings.Cut(s.names[0], "="); ok {
			state[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	if n, ok := integer(state["limit"]); !ok || n != amount {
		return "", ""
	}
	return state["remaining"], state["reset"]
}

// windows are the limits in a list of amounts with windows, such as 100, 100;w=60, 1000;w=3600.
func windows(values []string) []llmqueue.ObservedLimit {
	var limits []llmqueue.ObservedLimit
	for _, i := range items(values) {
		if l, ok := i.limit(); ok {
			limits = append(limits, l)
		}
	}
	return limits
}

// item is one of a list: names, of which most have one, with parameters.
type item struct {
	names  []string
	params map[string]string
}

// limit is what an item limits, if it is an amount in a window.
func (i item) limit() (llmqueue.ObservedLimit, bool) {
	l := llmqueue.ObservedLimit{Kind: i.kind(), Remaining: -1}
	quota, ok := i.params["q"]
	if !ok {
		quota = i.names[0]
	}
	l.Amount, ok = integer(quota)
	w, known := number(i.params["w"])
	if !ok || l.Amount < 1 || l.Kind == "" || !known {
		return l, false // without its window a quota says little
	}
	setPeriod(&l, seconds(w))
	return l, l.Period != 0
}

// kind is what a policy counts; empty when it is neither requests nor tokens.
func (i item) kind() llmqueue.LimitKind {
	unit := strings.ToLower(i.params["qu"])
	if strings.Contains(unit, "token") || unit == "" && strings.Contains(strings.ToLower(i.names[0]), "token") {
		return llmqueue.KindTPM
	}
	if unit == "" || unit == "requests" {
		return llmqueue.KindRPM
	}
	return ""
}

// items reads lists such as "a";x=1;y="2", "b". Names hold no quotes in practice.
func items(values []string) []item {
	var all []item
	for _, member := range cut(strings.Join(values, ","), ',') {
		parts := cut(member, ';')
		it := item{names: []string{bareWord(parts[0])}, params: map[string]string{}}
		for _, p := range parts[1:] {
			if k, v, ok := strings.Cut(p, "="); ok {
				it.params[strings.TrimSpace(k)] = bareWord(v)
			} else {
				it.names = append(it.names, bareWord(p))
			}
		}
		if it.names[0] != "" {
			all = append(all, it)
		}
	}
	return all
}

func bareWord(s string) string { return strings.Trim(strings.TrimSpace(s), `"`) }

// cut splits at sep outside of quotes.
func cut(s string, sep rune) []string {
	quoted := false
	var parts []string
	from := 0
	for i, c := range s {
		switch {
		case c == '"':
			quoted = !quoted
		case c == sep && !quoted:
			parts = append(parts, s[from:i])
			from = i + 1
		}
	}
	return append(parts, s[from:])
}

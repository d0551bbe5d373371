package llmhttp

import (
	"net/http"
	"strings"

	"github.com/llmqueue/llmqueue"
)

// draftLimits reads the headers of the IETF's draft-ietf-httpapi-ratelimit-headers:
//
//	RateLimit-Policy: "burst";q=100;w=60,"daily";q=1000;w=86400
//	RateLimit: "burst";r=50;t=30
func draftLimits(h http.Header) []llmqueue.ObservedLimit {
	policies := items(h.Values("Ratelimit-Policy"))
	if len(policies) == 0 {
		return nil
	}
	states := items(h.Values("Ratelimit"))
	var limits []llmqueue.ObservedLimit
	for _, p := range policies {
		l := llmqueue.ObservedLimit{Kind: p.kind(), Remaining: -1}
		amount, ok := integer(p.params["q"])
		if !ok || amount < 1 || l.Kind == "" {
			continue
		}
		l.Amount = amount
		w, ok := number(p.params["w"])
		if !ok {
			continue // without its window a quota says little
		}
		if setPeriod(&l, seconds(w)); l.Period == 0 {
			continue
		}
		for _, s := range states {
			if s.name != p.name {
				continue
			}
			if n, ok := integer(s.params["r"]); ok && n >= 0 {
				l.Remaining = min(n, amount)
			}
			if t, ok := number(s.params["t"]); ok {
				l.Reset = seconds(t)
			}
		}
		limits = append(limits, l)
	}
	return limits
}

// item is one of a list: a name with parameters.
type item struct {
	name   string
	params map[string]string
}

// kind is what a policy counts; empty when it is neither requests nor tokens.
func (i item) kind() llmqueue.LimitKind {
	unit := strings.ToLower(i.params["qu"])
	if strings.Contains(unit, "token") || unit == "" && strings.Contains(strings.ToLower(i.name), "token") {
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
		it := item{name: bareWord(parts[0]), params: map[string]string{}}
		for _, p := range parts[1:] {
			k, v, _ := strings.Cut(p, "=")
			it.params[strings.TrimSpace(k)] = bareWord(v)
		}
		if it.name != "" {
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

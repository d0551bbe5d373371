package llmhttp

import (
	"cmp"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
)

// Most providers name the headers of a limit by the same words in some order, such as
// X-RateLimit-Remaining-Tokens-Minute or Anthropic-Ratelimit-Input-Tokens-Reset: what is said
// of the limit, what it counts, and the time it counts over. A name that has a word which is
// not listed here says something else.
//
// Sources: platform.openai.com/docs/guides/rate-limits, learn.microsoft.com (Azure OpenAI
// quota), docs.anthropic.com/en/api/rate-limits, console.groq.com/docs/rate-limits,
// docs.mistral.ai/deployment/laplateforme/tier, docs.together.ai/docs/rate-limits,
// inference-docs.cerebras.ai/support/rate-limits, docs.sambanova.ai/cloud/docs/get-started/rate-limits,
// docs.fireworks.ai/guides/quotas_usage/rate-limits, docs.digitalocean.com (gradient, limits).
var headerWords = map[string]headerWord{
	"limit": {says: saysLimit}, "remaining": {says: saysRemaining}, "reset": {says: saysReset},

	"requests": {counts: countsRequests}, "request": {counts: countsRequests}, "req": {counts: countsRequests}, "calls": {counts: countsRequests},
	"tokens": {counts: countsTokens}, "token": {counts: countsTokens},
	"input": {counts: countsInput}, "prompt": {counts: countsInput},
	"output": {counts: countsOutput}, "generated": {counts: countsOutput}, "completion": {counts: countsOutput},

	"second": {period: time.Second}, "minute": {period: time.Minute}, "min": {period: time.Minute}, "1m": {period: time.Minute},
	"hour": {period: time.Hour}, "1h": {period: time.Hour}, "day": {period: 24 * time.Hour}, "daily": {period: 24 * time.Hour}, "1d": {period: 24 * time.Hour},
	"month": {period: month}, "monthly": {period: month},
	"dynamic": {period: time.Second}, // Together: what it allows at present

	"modelscope": {period: 24 * time.Hour}, "model": {}, "5": {times: 5},

	"x": {}, "anthropic": {period: time.Minute}, "ratelimit": {}, "per": {}, "after": {}, "project": {}, "count": {},
	"tokenlimit": {counts: countsTokens, period: time.Second}, // Together

	// Cohere's trial keys.
	"trial": {period: time.Minute}, "endpoint": {}, "call": {counts: countsRequests},
}

// month is longer than most, so that no limit is taken for renewed too early.
const month = 31 * 24 * time.Hour

type headerWord struct {
	says   headerSays
	counts headerCounts
	period time.Duration
	times  time.Duration // so many of the period that follows
}

type headerSays uint8

const (
	saysNothing headerSays = iota
	saysLimit
	saysRemaining
	saysReset
)

type headerCounts uint8

const (
	countsRequests headerCounts = 1 << iota
	countsTokens
	countsInput
	countsOutput
)

// kind is what a limit counts; empty for the names that do not say. It may be nothing that
// makes sense.
func (c headerCounts) kind() (kind llmqueue.LimitKind, ok bool) {
	switch c &^ countsTokens {
	case countsRequests:
		return llmqueue.KindRPM, c == countsRequests
	case countsInput:
		return llmqueue.KindITPM, true
	case countsOutput:
		return llmqueue.KindOTPM, true
	case 0:
		if c == countsTokens {
			kind = llmqueue.KindTPM
		}
		return kind, true
	}
	return "", false
}

// family is the headers that tell of one limit.
type family struct {
	kind                    llmqueue.LimitKind // empty: the names do not say
	period                  time.Duration      // zero: the figures tell, or nothing does
	of                      byte               // the first letter of its names, which keeps those of several speakers apart
	limit, remaining, reset []string
}

// maxFamilies is more than anyone sends.
const maxFamilies = 16

// families are the headers of an answer that tell of limits.
type families struct {
	all [maxFamilies]family
	n   int
}

func (fs *families) read(h http.Header) {
	for name, values := range h {
		if len(values) == 0 || !strings.Contains(name, "imit") && !strings.Contains(name, "emaining") {
			continue
		}
		says, f, ok := readName(name)
		if !ok {
			continue
		}
		i := 0
		for i < fs.n && (fs.all[i].kind != f.kind || fs.all[i].period != f.period || fs.all[i].of != f.of) {
			i++
		}
		if i == maxFamilies {
			continue
		}
		if i == fs.n {
			fs.all[i] = f
			fs.n++
		}
		switch says {
		case saysLimit:
			fs.all[i].limit = values
		case saysRemaining:
			fs.all[i].remaining = values
		case saysReset:
			fs.all[i].reset = values
		}
	}
}

// readName takes the name of a header apart.
func readName(name string) (says headerSays, f family, ok bool) {
	var counts headerCounts
	var times time.Duration
	f.of = name[0]
	for rest, rate := name, false; rest != ""; {
		word, after, _ := strings.Cut(rest, "-")
		rest = after
		if word == "Rate" {
			rate = true
			continue
		}
		var lower [12]byte
		if len(word) > len(lower) {
			return 0, f, false
		}
		w, known := headerWords[string(appendLower(lower[:0], word))]
		if !known {
			return 0, f, false
		}
		if rate { // two words for one
			rate = false
			if w.says == saysLimit {
				continue
			}
		}
		if word == "Project" || word == "Model" {
			f.of = word[1] // as no name begins
		}
		says = max(says, w.says)
		counts |= w.counts
		if times = cmp.Or(w.times, times); w.period > 0 {
			f.period = w.period * max(times, 1)
		}
	}
	if f.kind, ok = counts.kind(); f.kind == "" && f.period > 0 {
		f.kind = llmqueue.KindRPM
	}
	return says, f, ok && says != saysNothing
}

func appendLower(to []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		to = append(to, c)
	}
	return to
}

// ParseLimits reads the rate limits that an answer's headers state: in the names of OpenAI
// and the many who follow it, Azure OpenAI, Anthropic, Groq, Mistral, Together, Fireworks,
// Cerebras, SambaNova, DigitalOcean, OpenRouter and Cohere, and in all versions of the IETF's
// draft for RateLimit and RateLimit-Policy. now is when the answer arrived.
//
// Where the headers do not say what period a limit has, it is inferred from the
// reset, as far as that tells: Period is zero otherwise. What cannot be is left out:
// limits below 1 (Azure sends -1 for unknown) and resets in the past or further off
// than 31 days. Of two limits on the same thing the tighter figures are given.
// Anthropic's priority and fast limits are left out, they bind few calls. Limits on requests
// come first, and the shorter periods before the longer ones.
func ParseLimits(h http.Header, now time.Time) []llmqueue.ObservedLimit {
	var fs families
	fs.read(h)
	if fs.n == 0 && h["Ratelimit-Policy"] == nil && h["X-Ratelimit-Policy"] == nil {
		return nil
	}
	now = answered(h, now)
	var limits []llmqueue.ObservedLimit
	var tokens *family // Anthropic's
	for i := range fs.n {
		f := &fs.all[i]
		switch {
		case f.kind == "":
			limits = f.bare(limits, h, now)
		case f.of == 'A' && f.kind == llmqueue.KindTPM:
			tokens = f
		default:
			limits = f.add(limits, now)
		}
	}
	if tokens != nil {
		for _, l := range tokens.add(nil, now) {
			if ofItsOwn(l, limits) {
				limits = tighten(limits, l)
			}
		}
	}
	for _, l := range draftLimits(h, now) {
		limits = tighten(limits, l)
	}
	slices.SortFunc(limits, func(a, b llmqueue.ObservedLimit) int {
		return cmp.Or(cmp.Compare(period(a), period(b)), cmp.Compare(kindOrder[a.Kind], kindOrder[b.Kind]))
	})
	return limits
}

var kindOrder = map[llmqueue.LimitKind]int{llmqueue.KindITPM: 1, llmqueue.KindOTPM: 2, llmqueue.KindTPM: 3, llmqueue.KindTPD: 3}

// nth is the value with that index, or the only one.
func nth(values []string, i int) string {
	if i < len(values) {
		return values[i]
	}
	return ""
}

// add reads the family's limit. A gateway may have added its own to that of the provider.
func (f *family) add(limits []llmqueue.ObservedLimit, now time.Time) []llmqueue.ObservedLimit {
	for i := range f.limit {
		if l, _, ok := f.figures(i, now); ok {
			limits = tighten(limits, l)
		}
	}
	return limits
}

// figures reads the i-th of the family's limits. dated tells that the reset was a time of day.
func (f *family) figures(i int, now time.Time) (l llmqueue.ObservedLimit, dated, ok bool) {
	amount, ok := integer(nth(f.limit, i))
	if !ok || amount < 1 {
		return l, false, false
	}
	l = llmqueue.ObservedLimit{Kind: f.kind, Amount: amount, Remaining: -1}
	setPeriod(&l, f.period)
	if n, ok := integer(nth(f.remaining, i)); ok && n >= 0 {
		l.Remaining = min(n, amount)
	}
	l.Reset, dated = wait(nth(f.reset, i), now)
	if l.Period == 0 && !dated {
		setPeriod(&l, infer(l))
	}
	return l, dated, true
}

// ofItsOwn reports whether Anthropic's tokens limit is one of its own: the header
// repeats whichever limit is the most restrictive, so it may be input's or output's
// again, or the sum that follows from both.
func ofItsOwn(l llmqueue.ObservedLimit, others []llmqueue.ObservedLimit) bool {
	var sum int64
	for _, o := range others {
		if o.Kind == llmqueue.KindITPM || o.Kind == llmqueue.KindOTPM {
			if o.Amount == l.Amount {
				return false
			}
			sum += o.Amount
		}
	}
	return sum == 0 || l.Amount < sum
}

// bare reads the names without a kind, which say little: Together counts by the
// second, and OpenRouter dates the reset (its requests are per minute, or per day
// until midnight UTC). The IETF's older drafts give windows beside the amount. From anyone
// else they count only when the period is revealed.
func (f *family) bare(limits []llmqueue.ObservedLimit, h http.Header, now time.Time) []llmqueue.ObservedLimit {
	f.kind = llmqueue.KindRPM
	defer func() { f.kind = "" }()
	l, dated, ok := f.figures(0, now)
	if !ok {
		return limits
	}
	if windows := windows(f.limit); len(windows) > 0 {
		for _, w := range windows {
			if w.Amount == l.Amount {
				w.Remaining, w.Reset = l.Remaining, l.Reset
			}
			limits = tighten(limits, w)
		}
		return limits
	}
	switch {
	case h.Get("X-Tokenlimit-Limit") != "":
		l.Kind, l.Period = llmqueue.KindRPM, time.Second
	case dated && l.Reset > 0:
		reset := now.Add(l.Reset).UTC()
		switch midnight := reset.Truncate(24 * time.Hour); {
		case l.Reset <= 70*time.Second:
			setPeriod(&l, time.Minute)
		case reset.Sub(midnight) < time.Second:
			setPeriod(&l, 24*time.Hour)
		}
	}
	if l.Period == 0 {
		return limits
	}
	return tighten(limits, l)
}

// infer finds a limit's period in its figures. A bucket that refills evenly is full
// again in period × used ÷ amount.
func infer(l llmqueue.ObservedLimit) time.Duration {
	used := l.Amount - l.Remaining
	if l.Remaining < 0 || used <= 0 || l.Reset <= 0 {
		return 0
	}
	ratio := float64(l.Reset) * float64(l.Amount) / float64(used)
	for _, period := range []time.Duration{time.Minute, time.Hour, 24 * time.Hour} {
		if period > time.Minute && l.Reset <= time.Minute {
			// It may be the rest of a minute that does not refill evenly: an hour
			// taken for a minute costs some refusals, a minute taken for an hour
			// costs nearly all of its quota.
			return 0
		}
		if math.Abs(ratio/float64(period)-1) <= 0.1 {
			return period
		}
	}
	return 0
}

// setPeriod gives l a period, and if that is a day, the kind of that name.
func setPeriod(l *llmqueue.ObservedLimit, period time.Duration) {
	l.Period = period
	if period == 24*time.Hour {
		switch l.Kind {
		case llmqueue.KindRPM:
			l.Kind = llmqueue.KindRPD
		case llmqueue.KindTPM:
			l.Kind = llmqueue.KindTPD
		}
	}
}

// tighten adds l, or the tighter of its figures to a limit on the same thing.
func tighten(limits []llmqueue.ObservedLimit, l llmqueue.ObservedLimit) []llmqueue.ObservedLimit {
	for i := range limits {
		o := &limits[i]
		if o.Kind != l.Kind || period(*o) != period(l) {
			continue
		}
		if l.Remaining >= 0 && (o.Remaining < 0 || l.Remaining < o.Remaining) {
			o.Remaining, o.Reset = l.Remaining, l.Reset
		}
		if o.Period == 0 {
			o.Period = l.Period
		}
		o.Amount = min(o.Amount, l.Amount)
		o.Remaining = min(o.Remaining, o.Amount)
		return limits
	}
	return append(limits, l)
}

// period is l's period as far as it matters here: unknown ones are the usual minute.
func period(l llmqueue.ObservedLimit) time.Duration {
	if l.Period == 0 {
		return time.Minute
	}
	return l.Period
}

// maxAmount bounds a limit; what is above it means that there is none.
const maxAmount = 1 << 48

// integer reads a header's number. Some servers add more of them, or parameters.
func integer(s string) (int64, bool) {
	if s == "" {
		return 0, false
	}
	if i := strings.IndexAny(s, ",;"); i >= 0 {
		s = s[:i]
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	return n, err == nil && n <= maxAmount
}

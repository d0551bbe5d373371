package llmhttp

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
)

// family is the headers that state one limit.
type family struct {
	limit, remaining, reset string
	kind                    llmqueue.LimitKind
	period                  time.Duration // zero: the figures tell, or nothing does
}

// families are those that say of themselves what they limit, in the canonical
// spelling of http.Header.
var families = []family{
	// OpenAI, Azure OpenAI, Groq (whose requests are per day), and others.
	{"X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests", llmqueue.KindRPM, 0},
	{"X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens", llmqueue.KindTPM, 0},
	{"X-Ratelimit-Limit-Project-Tokens", "X-Ratelimit-Remaining-Project-Tokens", "X-Ratelimit-Reset-Project-Tokens", llmqueue.KindTPM, 0},
	// Anthropic.
	{"Anthropic-Ratelimit-Requests-Limit", "Anthropic-Ratelimit-Requests-Remaining", "Anthropic-Ratelimit-Requests-Reset", llmqueue.KindRPM, time.Minute},
	{"Anthropic-Ratelimit-Input-Tokens-Limit", "Anthropic-Ratelimit-Input-Tokens-Remaining", "Anthropic-Ratelimit-Input-Tokens-Reset", llmqueue.KindITPM, time.Minute},
	{"Anthropic-Ratelimit-Output-Tokens-Limit", "Anthropic-Ratelimit-Output-Tokens-Remaining", "Anthropic-Ratelimit-Output-Tokens-Reset", llmqueue.KindOTPM, time.Minute},
	// Mistral.
	{"X-Ratelimit-Limit-Req-Minute", "X-Ratelimit-Remaining-Req-Minute", "", llmqueue.KindRPM, time.Minute},
	{"X-Ratelimit-Limit-Tokens-Minute", "X-Ratelimit-Remaining-Tokens-Minute", "", llmqueue.KindTPM, time.Minute},
	// Together: what it allows at present.
	{"X-Ratelimit-Limit-Dynamic", "X-Ratelimit-Remaining-Dynamic", "", llmqueue.KindRPM, time.Second},
	{"X-Tokenlimit-Limit-Dynamic", "X-Tokenlimit-Remaining-Dynamic", "", llmqueue.KindTPM, time.Second},
	{"X-Tokenlimit-Limit", "X-Tokenlimit-Remaining", "", llmqueue.KindTPM, time.Second},
	// Cohere's trial keys. No month is longer than 31 days.
	{"X-Trial-Endpoint-Call-Limit", "X-Trial-Endpoint-Call-Remaining", "", llmqueue.KindRPM, time.Minute},
	{"X-Endpoint-Monthly-Call-Limit", "", "", llmqueue.KindRPM, 31 * 24 * time.Hour},
}

var (
	anthropicTokens = family{"Anthropic-Ratelimit-Tokens-Limit", "Anthropic-Ratelimit-Tokens-Remaining", "Anthropic-Ratelimit-Tokens-Reset", llmqueue.KindTPM, time.Minute}
	bare            = family{"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", llmqueue.KindRPM, 0}
)

// ParseLimits reads the rate limits that an answer's headers state: those of OpenAI
// and the many who use its names, Azure OpenAI, Anthropic, Groq, Mistral, Together,
// OpenRouter, Cohere, and the IETF's draft for RateLimit and RateLimit-Policy. now is
// when the answer arrived.
//
// Where the headers do not say what period a limit has, it is inferred from the
// reset, as far as that tells: Period is zero otherwise. What cannot be is left out:
// limits below 1 (Azure sends -1 for unknown) and resets in the past or further off
// than 31 days. Of two limits on the same thing the tighter figures are given.
// Anthropic's priority and fast limits are left out, they bind few calls.
func ParseLimits(h http.Header, now time.Time) []llmqueue.ObservedLimit {
	now = answered(h, now)
	var limits []llmqueue.ObservedLimit
	for i := range families {
		if l, _, ok := families[i].read(h, now); ok {
			limits = tighten(limits, l)
		}
	}
	if l, _, ok := anthropicTokens.read(h, now); ok && ofItsOwn(l, limits) {
		limits = tighten(limits, l)
	}
	if l, ok := readBare(h, now); ok {
		limits = tighten(limits, l)
	}
	for _, l := range draftLimits(h) {
		limits = tighten(limits, l)
	}
	return limits
}

// read reads one family. dated tells that the reset was a time of day.
func (f *family) read(h http.Header, now time.Time) (l llmqueue.ObservedLimit, dated, ok bool) {
	amount, ok := integer(h.Get(f.limit))
	if !ok || amount < 1 {
		return l, false, false
	}
	l = llmqueue.ObservedLimit{Kind: f.kind, Period: f.period, Amount: amount, Remaining: -1}
	if n, ok := integer(h.Get(f.remaining)); ok && n >= 0 {
		l.Remaining = min(n, amount)
	}
	if f.reset != "" {
		l.Reset, dated = wait(h.Get(f.reset), now)
	}
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

// readBare reads the names without a kind, which say little: Together counts by the
// second, and OpenRouter dates the reset (its requests are per minute, or per day
// until midnight UTC). From anyone else they count only when the period is revealed.
func readBare(h http.Header, now time.Time) (l llmqueue.ObservedLimit, ok bool) {
	l, dated, ok := bare.read(h, now)
	if !ok {
		return l, false
	}
	if h.Get("X-Tokenlimit-Limit") != "" {
		l.Kind, l.Period = bare.kind, time.Second
		return l, true
	}
	if dated && l.Reset > 0 {
		reset := now.Add(l.Reset).UTC()
		switch midnight := reset.Truncate(24 * time.Hour); {
		case l.Reset <= 70*time.Second:
			setPeriod(&l, time.Minute)
		case reset.Sub(midnight) < time.Second:
			setPeriod(&l, 24*time.Hour)
		}
	}
	return l, l.Period != 0
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

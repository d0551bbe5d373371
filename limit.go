package llmqueue

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/llmqueue/llmqueue/internal/strictjson"
)

// LimitKind says what a limit counts.
type LimitKind string

// The kinds of limits, with the period each has when none is given.
const (
	KindRPM        LimitKind = "rpm"        // requests, 1 minute
	KindRPD        LimitKind = "rpd"        // requests, 24 hours
	KindTPM        LimitKind = "tpm"        // input + output tokens, 1 minute
	KindTPD        LimitKind = "tpd"        // input + output tokens, 24 hours
	KindITPM       LimitKind = "itpm"       // input tokens, 1 minute
	KindOTPM       LimitKind = "otpm"       // output tokens, 1 minute
	KindConcurrent LimitKind = "concurrent" // running processors, no period
)

const day = 24 * time.Hour

// kinds holds what the queue knows of each kind.
var kinds = map[LimitKind]struct{ period time.Duration }{
	KindRPM:        {time.Minute},
	KindRPD:        {day},
	KindTPM:        {time.Minute},
	KindTPD:        {day},
	KindITPM:       {time.Minute},
	KindOTPM:       {time.Minute},
	KindConcurrent: {},
}

// Limit is one bound on a model: at most Amount of Kind in any Period.
//
// In JSON: {"type":"rpm","limit":500,"time_period":"60s","burst":50,"resets":"America/Los_Angeles"},
// where time_period is also accepted as a number of seconds and everything but
// type and limit may be left out.
type Limit struct {
	Kind   LimitKind
	Amount int64 // at least 1
	// Period is how long a charge counts. Zero means the kind's own; a concurrent
	// limit has none. At most 366 days.
	Period time.Duration
	// Burst bounds how much may start at once: in any interval d at most
	// Burst + Amount·d/Period is admitted. Zero means Amount, which suits servers
	// that count in minutes or with token buckets; those that enforce in slices of
	// a second want less. A single reservation above Burst starts when the
	// allowance is full and leaves debt.
	Burst int64
	// Resets, when not nil, makes the limit a daily one that is counted from
	// midnight to midnight in that location instead of sliding.
	Resets *time.Location
}

// RPM limits requests per minute to n.
func RPM(n int64) Limit { return Limit{Kind: KindRPM, Amount: n} }

// RPD limits requests in any 24 hours to n. See Limit.Daily for a reset at midnight.
func RPD(n int64) Limit { return Limit{Kind: KindRPD, Amount: n} }

// TPM limits tokens, input and output together, per minute to n.
func TPM(n int64) Limit { return Limit{Kind: KindTPM, Amount: n} }

// TPD limits tokens, input and output together, in any 24 hours to n.
func TPD(n int64) Limit { return Limit{Kind: KindTPD, Amount: n} }

// ITPM limits input tokens per minute to n.
func ITPM(n int64) Limit { return Limit{Kind: KindITPM, Amount: n} }

// OTPM limits output tokens per minute to n.
func OTPM(n int64) Limit { return Limit{Kind: KindOTPM, Amount: n} }

// Concurrent limits how many processors run at a time to n. Without one a queue
// runs at most 256.
func Concurrent(n int64) Limit { return Limit{Kind: KindConcurrent, Amount: n} }

// Per returns l with another period.
func (l Limit) Per(period time.Duration) Limit {
	l.Period = period
	return l
}

// WithBurst returns l with another burst.
func (l Limit) WithBurst(n int64) Limit {
	l.Burst = n
	return l
}

// Daily returns l reset at midnight in loc instead of sliding. Gemini, for one,
// resets its requests per day at midnight Pacific time.
func (l Limit) Daily(loc *time.Location) Limit {
	if loc == nil {
		loc = time.UTC
	}
	l.Resets = loc
	l.Period = 0
	return l
}

// period is how long a charge counts, the kind's default filled in.
func (l Limit) period() time.Duration {
	if l.Resets != nil {
		return day
	}
	if l.Period == 0 {
		return kinds[l.Kind].period
	}
	return l.Period
}

// String gives the limit as a person writes it: "500 rpm", "20 rpm per 10s".
func (l Limit) String() string {
	s := strconv.FormatInt(l.Amount, 10) + " " + string(l.Kind)
	switch {
	case l.Resets != nil:
		s += " resetting at midnight " + l.Resets.String()
	case l.Kind != KindConcurrent && l.period() != kinds[l.Kind].period:
		s += " per " + l.period().String()
	}
	if l.Burst > 0 {
		s += fmt.Sprintf(" burst %d", l.Burst)
	}
	return s
}

// maxAmount bounds Amount and Burst so that the window's arithmetic cannot overflow.
const maxAmount = 1 << 48

func (l Limit) validate() error {
	k, ok := kinds[l.Kind]
	switch {
	case !ok:
		return strictjson.Errorf("type", "unknown kind %q, use rpm, rpd, tpm, tpd, itpm, otpm or concurrent", l.Kind)
	case l.Amount < 1 || l.Amount > maxAmount:
		return strictjson.Errorf("limit", "%d is out of range, give 1 to %d", l.Amount, int64(maxAmount))
	case l.Burst < 0 || l.Burst > maxAmount:
		return strictjson.Errorf("burst", "%d is out of range, give 0 (the whole limit) to %d", l.Burst, int64(maxAmount))
	case l.Kind == KindConcurrent && (l.Period != 0 || l.Burst != 0 || l.Resets != nil):
		return strictjson.Errorf("time_period", "a concurrent limit has no period, burst or reset, leave them out")
	case l.Period < 0 || l.Period > 366*day:
		return strictjson.Errorf("time_period", "%v is out of range, give more than 0 and at most 366 days", l.Period)
	case l.Resets != nil && (k.period != day && l.Period == 0 || l.Period != 0 && l.Period != day):
		return strictjson.Errorf("resets", "only a limit per day can reset at midnight, use rpd or tpd, not %s", l.Kind)
	case l.Resets != nil && l.Burst != 0:
		return strictjson.Errorf("burst", "a limit that resets at midnight has no burst, leave it out")
	}
	return nil
}

// validateLimits checks each limit and that no two have the same kind and period.
func validateLimits(limits []Limit) error {
	for i, l := range limits {
		if err := l.validate(); err != nil {
			return fmt.Errorf("%w: limit %s: %w", ErrInvalidConfiguration, l, err)
		}
		for _, first := range limits[:i] {
			if first.Kind == l.Kind && first.period() == l.period() {
				return invalid("limits %s and %s are of one kind and period, keep one", first, l)
			}
		}
	}
	return nil
}

type limitJSON struct {
	Type       LimitKind          `json:"type"`
	Limit      int64              `json:"limit"`
	TimePeriod *strictjson.Period `json:"time_period,omitempty"`
	Burst      int64              `json:"burst,omitempty"`
	Resets     string             `json:"resets,omitempty"`
}

// MarshalJSON writes the limit in the form described at Limit.
func (l Limit) MarshalJSON() ([]byte, error) {
	j := limitJSON{Type: l.Kind, Limit: l.Amount, Burst: l.Burst}
	if p := strictjson.Period(l.period()); p != 0 && (l.Resets == nil || l.Period != 0) {
		j.TimePeriod = &p
	}
	if l.Resets != nil {
		j.Resets = l.Resets.String()
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads the form described at Limit. Its errors wrap
// ErrInvalidConfiguration and name the field.
func (l *Limit) UnmarshalJSON(data []byte) error {
	got, err := decodeLimit(data)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidConfiguration, err)
	}
	*l = got
	return nil
}

// Usage counts tokens. Its fields may grow: use field names in literals.
type Usage struct {
	// InputTokens is the prompt, cached part included.
	InputTokens int64 `json:"input_tokens"`
	// OutputTokens is what the model produced.
	OutputTokens int64 `json:"output_tokens"`
	// CachedInputTokens is the part of InputTokens that the provider had cached.
	CachedInputTokens int64 `json:"cached_input_tokens,omitempty"`
}

// Total is input plus output tokens.
func (u Usage) Total() int64 { return u.InputTokens + u.OutputTokens }

func (u Usage) isZero() bool { return u == Usage{} }

func (u Usage) plus(v Usage) Usage {
	return Usage{
		InputTokens:       u.InputTokens + v.InputTokens,
		OutputTokens:      u.OutputTokens + v.OutputTokens,
		CachedInputTokens: u.CachedInputTokens + v.CachedInputTokens,
	}
}

// maxTokens bounds a single figure, so that sums of many stay far from overflow.
const maxTokens = 1 << 48

func (u Usage) validate(what string) error {
	for _, f := range []struct {
		name string
		n    int64
	}{{"InputTokens", u.InputTokens}, {"OutputTokens", u.OutputTokens}, {"CachedInputTokens", u.CachedInputTokens}} {
		if f.n < 0 || f.n > maxTokens {
			return fmt.Errorf("%w: %s.%s is %d, give a number from 0 to %d", ErrInvalidParams, what, f.name, f.n, int64(maxTokens))
		}
	}
	return nil
}

// clamped returns u with every field brought into the valid range.
func (u Usage) clamped() Usage {
	return Usage{
		InputTokens:       min(max(u.InputTokens, 0), maxTokens),
		OutputTokens:      min(max(u.OutputTokens, 0), maxTokens),
		CachedInputTokens: min(max(u.CachedInputTokens, 0), maxTokens),
	}
}

// UsageReporter may be implemented by a result T to say what the call used,
// instead of ReportUsage. A zero usage, or one returned beside an error, is no
// report; a call of ReportUsage in the same attempt wins.
type UsageReporter interface{ TokenUsage() Usage }

// UsageEstimator may be implemented by params P to say how many tokens to reserve
// when Request.Estimate is zero and the queue has no estimator of its own.
type UsageEstimator interface{ EstimateUsage() Usage }

// ReportUsage says, from inside a processor or a middleware, what this attempt
// used. It may be called again: each call replaces the attempt's figure. Negative
// numbers count as zero. Outside an attempt, or after it ended, it does nothing.
// Safe for concurrent use.
//
// The figure settles the reservation, so it should be what the provider counts
// against the limit. One that charges max_tokens when a request arrives gives
// nothing back for a short answer (OpenAI's and Azure OpenAI's guides describe it
// so): report max_tokens as OutputTokens there, or the queue starts what the
// provider refuses.
func ReportUsage(ctx context.Context, u Usage) {
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		a.report(u.clamped())
	}
}

// ReportedUsage is what this attempt was found to have used so far, and whether anything
// is known of it: by ReportUsage, else by a result that is a UsageReporter, else by what
// was observed. It is for a middleware, after next returned. Outside an attempt it knows
// nothing. Safe for concurrent use.
func ReportedUsage(ctx context.Context) (u Usage, known bool) {
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		return a.used()
	}
	return Usage{}, false
}

// EstimateTokens guesses how many tokens text is: one for every four bytes,
// rounded up. Measured against the o200k vocabulary it is off by -5% to +20% on
// English, German, Chinese, JSON and Go source.
func EstimateTokens(text string) int64 { return int64((len(text) + 3) / 4) }

package llmqueue

import (
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
	type identity struct {
		kind   LimitKind
		period time.Duration
	}
	seen := make(map[identity]int, len(limits))
	for i, l := range limits {
		if err := l.validate(); err != nil {
			return fmt.Errorf("%w: limit %d (%s): %w", ErrInvalidConfiguration, i, l, err)
		}
		id := identity{l.Kind, l.period()}
		if j, twice := seen[id]; twice {
			return fmt.Errorf("%w: limits %d and %d are both %s over the same period, keep one", ErrInvalidConfiguration, j, i, l.Kind)
		}
		seen[id] = i
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

package llmqueue

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"time"
)

// ModelConfig describes one model for Manager.RegisterAll, as it comes out of a
// configuration file:
//
//	{"model_id": "gpt-5-mini", "rate_limiters": [
//		{"type": "rpm", "limit": 500},
//		{"type": "tpm", "limit": 200000, "time_period": "60s"},
//		{"type": "concurrent", "limit": 32}]}
//
// Unknown fields are errors: a misspelt one would be a limit that is not kept.
type ModelConfig struct {
	ModelID string `json:"model_id" validate:"required"`
	// Limits are the model's own. Empty means those given to RegisterAll or to
	// the manager.
	Limits []Limit `json:"rate_limiters"`
	// Accounting names what the provider charges: see accounting.ByName. Empty means what
	// was given to RegisterAll or to the manager.
	Accounting string `json:"accounting,omitempty"`
}

// UnmarshalJSON reads the form described at ModelConfig. Its errors wrap
// ErrInvalidConfiguration and name the model and the field.
func (c *ModelConfig) UnmarshalJSON(data []byte) error {
	fields, err := jsonFields(data, "model_id", "rate_limiters", "accounting")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidConfiguration, err)
	}
	var got ModelConfig
	if err := jsonField(fields, "model_id", &got.ModelID, "a string"); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidConfiguration, err)
	}
	if got.ModelID == "" {
		return fmt.Errorf("%w: %w", ErrInvalidConfiguration, fieldError{"model_id", "missing, name the model"})
	}
	if err := jsonField(fields, "accounting", &got.Accounting, `a name like "anthropic"`); err != nil {
		return fmt.Errorf("%w: model %q: %w", ErrInvalidConfiguration, got.ModelID, err)
	}
	if _, err := accountingByName(got.Accounting); err != nil {
		return fmt.Errorf("model %q: %w", got.ModelID, err)
	}
	var limits []json.RawMessage
	if err := jsonField(fields, "rate_limiters", &limits, "a list"); err != nil {
		return fmt.Errorf("%w: model %q: %w", ErrInvalidConfiguration, got.ModelID, err)
	}
	for i, raw := range limits {
		l, err := decodeLimit(raw)
		if err != nil {
			return fmt.Errorf("%w: model %q: rate_limiters[%d].%w", ErrInvalidConfiguration, got.ModelID, i, err)
		}
		got.Limits = append(got.Limits, l)
	}
	*c = got
	return nil
}

func decodeLimit(data []byte) (Limit, error) {
	fields, err := jsonFields(data, "type", "limit", "time_period", "burst", "resets")
	if err != nil {
		return Limit{}, err
	}
	var (
		l      Limit
		kind   string
		period any
		resets string
	)
	for _, f := range []struct {
		name string
		to   any
		want string
	}{
		{"type", &kind, "a string"},
		{"limit", &l.Amount, "a whole number"},
		{"time_period", &period, `a string like "60s" or a number of seconds`},
		{"burst", &l.Burst, "a whole number"},
		{"resets", &resets, `a string like "America/Los_Angeles"`},
	} {
		if err := jsonField(fields, f.name, f.to, f.want); err != nil {
			return Limit{}, err
		}
	}
	l.Kind = LimitKind(strings.ToLower(kind))
	if l.Period, err = parsePeriod(period); err != nil {
		return Limit{}, err
	}
	if resets != "" {
		if l.Resets, err = time.LoadLocation(resets); err != nil {
			return Limit{}, fieldError{"resets", fmt.Sprintf("unknown time zone %q, use a name like \"America/Los_Angeles\" or \"UTC\"", resets)}
		}
	}
	return l, l.validate()
}

// parsePeriod reads a time_period: "60s", or a number of seconds.
func parsePeriod(v any) (time.Duration, error) {
	bad := func(why string) (time.Duration, error) {
		return 0, fieldError{"time_period", why + `, give a string like "60s" or a number of seconds`}
	}
	switch v := v.(type) {
	case nil:
		return 0, nil
	case string:
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 {
			return bad(fmt.Sprintf("%q is no positive duration", v))
		}
		return d, nil
	case float64:
		if ns := v * float64(time.Second); ns >= 1 && ns < math.MaxInt64 {
			return time.Duration(ns), nil
		}
		return bad(fmt.Sprintf("%v is no positive number of seconds", v))
	default:
		return bad(fmt.Sprintf("%v is neither", v))
	}
}

// jsonFields splits an object into its fields and refuses unknown names.
func jsonFields(data []byte, known ...string) (map[string]json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil || fields == nil {
		return nil, fmt.Errorf("want an object with %s, got %.40s", strings.Join(known, ", "), bytes.TrimSpace(data))
	}
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fieldError{name, "unknown field, use " + strings.Join(known, ", ")}
		}
	}
	return fields, nil
}

func jsonField(fields map[string]json.RawMessage, name string, to any, want string) error {
	raw, ok := fields[name]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return fieldError{name, fmt.Sprintf("want %s, got %.40s", want, raw)}
	}
	return nil
}

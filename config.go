package llmqueue

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-playground/validator/v10"

	"github.com/llmqueue/llmqueue/accounting"
	"github.com/llmqueue/llmqueue/internal/bridge"
	"github.com/llmqueue/llmqueue/internal/clock"
	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/engine"
	"github.com/llmqueue/llmqueue/internal/strictjson"
	"github.com/llmqueue/llmqueue/internal/validation"
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
	fields, err := strictjson.Fields(data, "model_id", "rate_limiters", "accounting")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidConfiguration, err)
	}
	var got ModelConfig
	if err = fields.Read("model_id", &got.ModelID, "a string"); err == nil && got.ModelID == "" {
		err = strictjson.Errorf("model_id", "missing, name the model")
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidConfiguration, err)
	}
	var limits []json.RawMessage
	if err := cmp.Or(fields.Read("accounting", &got.Accounting, `a name like "anthropic"`), fields.Read("rate_limiters", &limits, "a list")); err != nil {
		return inModel(got.ModelID, fmt.Errorf("%w: %w", ErrInvalidConfiguration, err))
	}
	if _, err := accountingByName(got.Accounting); err != nil {
		return inModel(got.ModelID, err)
	}
	for i, raw := range limits {
		l, err := decodeLimit(raw)
		if err != nil {
			return inModel(got.ModelID, fmt.Errorf("%w: rate_limiters[%d].%w", ErrInvalidConfiguration, i, err))
		}
		got.Limits = append(got.Limits, l)
	}
	*c = got
	return nil
}

func decodeLimit(data []byte) (Limit, error) {
	fields, err := strictjson.Fields(data, "type", "limit", "time_period", "burst", "resets")
	if err != nil {
		return Limit{}, err
	}
	var (
		l      Limit
		kind   string
		resets string
	)
	for _, f := range []struct {
		name string
		to   any
		want string
	}{
		{"type", &kind, "a string"},
		{"limit", &l.Amount, "a whole number"},
		{"burst", &l.Burst, "a whole number"},
		{"resets", &resets, `a string like "America/Los_Angeles"`},
	} {
		if err := fields.Read(f.name, f.to, f.want); err != nil {
			return Limit{}, err
		}
	}
	l.Kind = LimitKind(strings.ToLower(kind))
	if l.Period, err = fields.ReadPeriod("time_period"); err != nil {
		return Limit{}, err
	}
	if resets != "" {
		if l.Resets, err = time.LoadLocation(resets); err != nil {
			return Limit{}, strictjson.Errorf("resets", "unknown time zone %q, use a name like \"America/Los_Angeles\" or \"UTC\"", resets)
		}
	}
	return l, l.validate()
}

// settings is what the options of one queue come to.
type settings struct {
	endpointSettings
	queueSettings
}

// endpointSettings is what holds for one endpoint: AddEndpoint takes these and no
// others.
type endpointSettings struct {
	limits     []Limit
	unlimited  bool
	shared     []SharedLimiter
	margin     time.Duration // negative: the default
	prior      iter.Seq2[time.Time, Usage]
	learn      bool
	breaker    func(endpoint string) Breaker
	accounting accounting.Policy

	// amounts is which of WithLimits and WithUnlimited the list at hand has; again is
	// that one came that contradicts it, in any list.
	amounts string
	again   string
}

// queueSettings is what holds for a whole queue.
type queueSettings struct {
	estimator       any // func(Request[P]) Usage
	coalesce        any // func(Request[P]) string
	retry           RetryPolicy
	timeout         time.Duration
	firstByte       time.Duration
	stall           time.Duration
	maxPause        time.Duration
	hedge           *HedgePolicy
	maxQueued       int
	historySize     int
	historyTTL      time.Duration
	middleware      []Middleware
	observers       []func(Event)
	monitors        []func(func() QueueInfo) func()
	logger          *slog.Logger
	validator       *validator.Validate
	unvalidated     bool
	noDeadlineCheck bool
	fallback        []string
	keepOnQuota     bool
	backfill        bool
	grace           time.Duration
	outstanding     int
	seed            uint64 // of what is decided at random; 0: any
}

// newSettings is what lists of options come to, where the later win: a manager's, and then
// those of its queue.
func newSettings(lists ...[]Option) settings {
	q := queueSettings{historySize: 10_000, historyTTL: time.Hour, grace: time.Second, outstanding: 4096}
	s := settings{endpointSettings: endpointSettings{margin: -1}, queueSettings: q}
	for _, opts := range lists {
		s.amounts = ""
		for _, o := range opts {
			if o.apply != nil {
				o.apply(&s)
			}
		}
	}
	return s
}

// setLimits takes in WithLimits or WithUnlimited, whose name is option.
func (s *endpointSettings) setLimits(option string, limits []Limit, unlimited bool) {
	if s.amounts != "" && s.again == "" && !(unlimited && s.unlimited) {
		s.again = s.amounts + " and then " + option
	}
	s.amounts, s.limits, s.unlimited = option, limits, unlimited
}

// invalid is an ErrInvalidConfiguration that says what is wrong.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalidConfiguration, fmt.Sprintf(format, args...))
}

func (s *endpointSettings) validate() error {
	if s.again != "" {
		return invalid("%s in one list of options, the first would be lost: put all limits into one WithLimits", s.again)
	}
	if err := validateLimits(s.limits); err != nil {
		return err
	}
	if len(s.limits) == 0 && len(s.shared) == 0 && !s.unlimited && !s.learn {
		return invalid("no limits, use WithLimits, WithSharedLimits, WithLearnedLimits or WithUnlimited")
	}
	if slices.Contains(s.shared, nil) {
		return invalid("WithSharedLimits got nil")
	}
	if err := s.accounting.Validate(); err != nil {
		return invalid("WithAccounting: %v", err)
	}
	return nil
}

func (s *queueSettings) validate() error {
	if err := s.retry.validate(); err != nil {
		return err
	}
	if s.hedge != nil {
		if err := s.hedge.validate(); err != nil {
			return err
		}
	}
	switch {
	case s.timeout < 0:
		return invalid("WithTimeout(%v), give a positive duration (0 means none)", s.timeout)
	case s.firstByte < 0:
		return invalid("WithFirstByteTimeout(%v), give a positive duration (0 means none)", s.firstByte)
	case s.stall < 0:
		return invalid("WithStallTimeout(%v), give a positive duration (0 means none)", s.stall)
	case s.maxPause < 0:
		return invalid("WithMaxPause(%v), give a positive duration (0 means 1 hour)", s.maxPause)
	case s.maxQueued < 0:
		return invalid("WithMaxQueued(%d), give 1 or more (0 means no bound)", s.maxQueued)
	case s.historySize < 0 || s.historySize > 0 && s.historyTTL <= 0:
		return invalid("WithHistory(%d, %v), give a size of 0 or more and a positive time", s.historySize, s.historyTTL)
	case s.grace < 0:
		return invalid("WithShutdownGrace(%v), give 0 or more", s.grace)
	case s.outstanding < 1:
		return invalid("WithMaxOutstanding(%d), give 1 or more", s.outstanding)
	case slices.ContainsFunc(s.middleware, func(mw Middleware) bool { return mw == nil }):
		return invalid("WithMiddleware got nil")
	case slices.ContainsFunc(s.observers, func(o func(Event)) bool { return o == nil }):
		return invalid("WithObserver got nil")
	case slices.ContainsFunc(s.monitors, func(m func(func() QueueInfo) func()) bool { return m == nil }):
		return invalid("WithMonitor got nil")
	}
	return nil
}

// engineConfig is what the settings, which are valid, come to for the engine.
func (s *queueSettings) engineConfig(seed uint64) engine.Config {
	return engine.Config{
		MaxAttempts: s.retry.MaxAttempts, BaseDelay: int64(s.retry.BaseDelay), MaxDelay: int64(s.retry.MaxDelay), RetryBudget: s.retry.Budget,
		Timeout: int64(s.timeout), MaxQueued: s.maxQueued, Backfill: s.backfill, WaitForQuota: s.keepOnQuota,
		NoDeadlineCheck: s.noDeadlineCheck, Fallback: len(s.fallback) > 0, Seed: seed,
		FirstByte: int64(s.firstByte), Stall: int64(s.stall), MaxPause: int64(cmp.Or(s.maxPause, time.Hour)), Hedge: s.hedge.config(),
	}
}

func init() {
	bridge.PlanOf = func(now time.Time, opts any) (bridge.Plan, error) { return planOf(now, opts.([]Option)) }
	bridge.CheckUsage = func(u endpoint.Usage, what string) error { return fromEngineUsage(u).validate(what) }
}

// planOf is what options come to for a plan, which package plan plays.
func planOf(now time.Time, opts []Option) (p bridge.Plan, err error) {
	s := newSettings(opts)
	plain := newSettings().queueSettings
	plain.backfill = s.backfill
	if len(s.shared) > 0 || s.learn || s.breaker != nil || !reflect.DeepEqual(s.queueSettings, plain) {
		return p, invalid("a plan takes WithLimits, WithUnlimited, WithMargin, WithPriorUsage, WithAccounting and WithBackfill, leave other options out")
	}
	if err := s.endpointSettings.validate(); err != nil {
		return p, err
	}
	s.retry = s.retry.withDefaults()
	c := clock.New(now)
	p = bridge.Plan{Engine: s.engineConfig(0), Endpoint: s.endpointConfig(&c), Epoch: c.Epoch}
	for _, l := range s.limits {
		p.Limits = append(p.Limits, l.String())
	}
	return p, nil
}

// accountingByName is accounting.ByName with the error of a configuration.
func accountingByName(name string) (accounting.Policy, error) {
	p, err := accounting.ByName(name)
	if err != nil {
		return p, fmt.Errorf("%w: %w", ErrInvalidConfiguration, err)
	}
	return p, nil
}

// validation returns a check of params or results by their validate tags, nil when there is
// nothing to check.
func (s *queueSettings) validation(typ reflect.Type, sentinel error) (validation.Check, error) {
	if s.unvalidated {
		return nil, nil
	}
	check, err := validation.New(s.validator, typ, sentinel)
	if err != nil {
		return nil, fmt.Errorf("%w: %w, correct the tag or give WithValidator one that knows it", ErrInvalidConfiguration, err)
	}
	return check, nil
}

// recovered runs f, whose panic is an error.
func recovered(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	f()
	return nil
}

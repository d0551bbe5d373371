package cli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/accounting"
)

// limitsOf are the limits of a model: its own by the config file, else those of the flags.
func (f *runFlags) limitsOf(model string) []llmqueue.Limit {
	limits, _ := f.limitsFrom(f.amounts)
	if m, ok := f.models[model]; ok && len(m.amounts()) > 0 {
		limits, _ = f.limitsFrom(m.amounts())
	}
	return limits
}

func (f *runFlags) limitsFrom(a amounts) (limits []llmqueue.Limit, err error) {
	for _, k := range limitKinds {
		n := a[string(k.kind)]
		if n == nil || *n == 0 {
			continue
		}
		if *n < 0 || *n > 1<<48 {
			return nil, fmt.Errorf("--%s %d: want 1 or more", k.kind, *n)
		}
		l := llmqueue.Limit{Kind: k.kind, Amount: *n}
		switch k.kind {
		case llmqueue.KindRPD, llmqueue.KindTPD:
			if f.dayResets != "" {
				zone, err := time.LoadLocation(f.dayResets)
				if err != nil {
					return nil, fmt.Errorf("--day-resets %q: want a time zone such as America/Los_Angeles or UTC", f.dayResets)
				}
				l = l.Daily(zone)
			}
		default:
			if f.period != time.Minute {
				l = l.Per(f.period)
			}
		}
		limits = append(limits, l)
	}
	return limits, nil
}

func (f *runFlags) checkLimits() error {
	given, err := f.limitsFrom(f.amounts)
	if err != nil {
		return err
	}
	for model, m := range f.models {
		of, err := f.limitsFrom(m.amounts())
		if err != nil {
			return fmt.Errorf("models.%s: %w", model, err)
		}
		given = append(given, of...)
	}
	if f.limits == "given" && len(given) == 0 {
		return errors.New("--limits given, but no limit is: give --rpm, --tpm or another")
	}
	return nil
}

// learns reports whether the provider's answers decide on a model's limits.
func (f *runFlags) learns(model string) bool {
	if f.limits != "" {
		return f.limits == "auto"
	}
	return len(f.limitsOf(model)) == 0
}

// accountings are those of the models.
func (f *runFlags) accountings(p provider) (func(model string) accounting.Policy, error) {
	all, err := accountingOf(f.accounting, p)
	if err != nil {
		return nil, err
	}
	own := map[string]accounting.Policy{}
	for model, m := range f.models {
		if m.Accounting != "" {
			if own[model], err = accountingOf(m.Accounting, p); err != nil {
				return nil, fmt.Errorf("models.%s: %s", model, strings.TrimPrefix(err.Error(), "--"))
			}
		}
	}
	return func(model string) accounting.Policy {
		if a, ok := own[model]; ok {
			return a
		}
		return all
	}, nil
}

// Package prices knows what tokens cost.
package prices

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/llmqueue/llmqueue"
)

// Price is what a model's tokens cost, in US dollars for a million of them.
type Price struct {
	Input       *float64 `yaml:"input"`
	Output      *float64 `yaml:"output"`
	CachedInput *float64 `yaml:"cached_input"` // as other input when it is not given
}

// Table has the price of each model. A nil one knows none.
type Table map[string]Price

// Read reads a YAML or JSON file of the form
//
//	gpt-4.1-mini: {input: 0.40, cached_input: 0.10, output: 1.60}
func Read(path string) (Table, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the prices: %w", err)
	}
	var t Table
	if err := yaml.UnmarshalWithOptions(data, &t, yaml.Strict()); err != nil {
		first, _, _ := strings.Cut(yaml.FormatError(err, false, false), "\n")
		return nil, fmt.Errorf("%s:%s: want MODEL: {input: USD, output: USD, cached_input: USD} for a million tokens", path, first)
	}
	for _, model := range slices.Sorted(maps.Keys(t)) {
		p := t[model]
		if p.Input == nil || p.Output == nil {
			return nil, fmt.Errorf("%s: %s: want input and output, in USD for a million tokens (0 is a price)", path, model)
		}
		for _, usd := range []*float64{p.Input, p.Output, p.CachedInput} {
			if usd != nil && !(*usd >= 0 && *usd < 1e9) {
				return nil, fmt.Errorf("%s: %s: %v is no price, give USD for a million tokens", path, model, *usd)
			}
		}
	}
	return t, nil
}

// Of returns the price of a model, or of the longest name in the table that the model's
// begins with before a "-": that of gpt-4.1-mini is that of gpt-4.1-mini-2025-04-14.
func (t Table) Of(model string) (Price, bool) {
	if p, ok := t[model]; ok {
		return p, true
	}
	best := ""
	for name := range t {
		if len(name) > len(best) && dated(model, name) {
			best = name
		}
	}
	p, ok := t[best]
	return p, ok && best != ""
}

// dated reports whether model is name with a date behind it.
func dated(model, name string) bool {
	rest, ok := strings.CutPrefix(model, name+"-")
	return ok && strings.Trim(rest, "0123456789-") == "" && len(rest) >= 4
}

// Cost is what a usage costs in US dollars.
func (p Price) Cost(u llmqueue.Usage) float64 {
	cached := *p.Input
	if p.CachedInput != nil {
		cached = *p.CachedInput
	}
	return (float64(u.InputTokens-u.CachedInputTokens)**p.Input + float64(u.CachedInputTokens)*cached + float64(u.OutputTokens)**p.Output) / 1e6
}

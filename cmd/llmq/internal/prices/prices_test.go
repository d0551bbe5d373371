package prices

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue"
)

func read(t *testing.T, text string) (Table, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "prices.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Read(path)
}

func TestCost(t *testing.T) {
	table, err := read(t, "gpt-4.1-mini: {input: 0.40, cached_input: 0.10, output: 1.60}\ngpt-4.1: {input: 2, output: 8}\nfree: {input: 0, output: 0}")
	if err != nil {
		t.Fatal(err)
	}
	u := llmqueue.Usage{InputTokens: 1_000_000, CachedInputTokens: 500_000, OutputTokens: 1_000_000}
	for model, want := range map[string]float64{"gpt-4.1-mini": 0.2 + 0.05 + 1.6, "gpt-4.1-mini-2025-04-14": 1.85, "gpt-4.1": 10, "free": 0} {
		if p, ok := table.Of(model); !ok || math.Abs(p.Cost(u)-want) > 1e-9 {
			t.Errorf("%s costs %v (%v), want %v", model, p.Cost(u), ok, want)
		}
	}
	for _, model := range []string{"gpt-4.1-nano", "gpt-4", "gpt-4.1-mini-tuned", ""} {
		if _, ok := table.Of(model); ok {
			t.Errorf("%q has another model's price", model)
		}
	}
	if _, ok := Table(nil).Of("m"); ok {
		t.Error("no table has a price")
	}
}

func TestABadTableIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"m: {input: 1}":                      "m: want input and output",
		"m: {input: -1, output: 1}":          "-1 is no price",
		"m: {input: 1, output: 1, ouput: 2}": "want MODEL: {input: USD",
		"m: {input: cheap, output: 1}":       "want MODEL: {input: USD",
		"m: [":                               "want MODEL: {input: USD",
		"m: {input: 1, output: .nan}":        "is no price",
	} {
		if _, err := read(t, text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q on one line", text, err, want)
		}
	}
}

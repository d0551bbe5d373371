package gateway

import (
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue"
)

func TestConfigErrorsNameTheLineAndWhatToDo(t *testing.T) {
	t.Parallel()
	const up = "upstreams: [{dialect: openai}, {dialect: anthropic}]\n"
	for name, c := range map[string]struct{ text, want string }{
		"unknown setting":      {up + "model: {}", "line 2: unknown field \"model\""},
		"no YAML":              {"models: [", "line 1"},
		"dialect":              {"upstreams:\n  - {dialect: klingon}", "line 2: upstreams[0].dialect: \"klingon\" is none of openai, anthropic, gemini, ollama"},
		"address":              {"upstreams: [{dialect: openai, base_url: api.openai.com}]", "upstreams[0].base_url: no http or https address"},
		"key in the address":   {"upstreams: [{dialect: openai, base_url: 'https://k:s@h/v1'}]", "keys belong into the environment"},
		"key in the file":      {"upstreams: [{dialect: openai, key_env: sk-abc}]", "not the key"},
		"auth":                 {"upstreams: [{dialect: openai, auth: basic}]", "is none of bearer"},
		"name twice":           {"upstreams: [{dialect: openai}, {dialect: openai}]", "give each upstream a name of its own"},
		"accounting":           {"upstreams: [{dialect: openai, accounting: roman}]", "upstreams[0].accounting"},
		"upstream":             {up + "models:\n  m:\n    upstream: azure", "line 4: models.m.upstream: \"azure\" is no upstream"},
		"negative limit":       {up + "models:\n  gpt-4.1-mini: {rpm: -5}", "models.gpt-4.1-mini: rpm: -5: want 1 or more"},
		"two dialects":         {up + "models: {m: {endpoints: [{upstream: openai}, {upstream: anthropic}]}}", "nothing is translated"},
		"limits in two places": {up + "models: {m: {rpm: 5, endpoints: [{upstream: openai}]}}", "not at both"},
		"endpoint twice":       {up + "models: {m: {endpoints: [{upstream: openai}, {upstream: openai}]}}", "give each key an upstream of its own"},
		"fallback unknown":     {up + "models:\n  m:\n    fallbacks: [n]", "line 4: models.m.fallbacks[0]: \"n\" is no model"},
		"fallback in a circle": {up + "models: {m: {fallbacks: [n]}, n: {fallbacks: [m]}}", "leads back"},
		"fallback translated":  {up + "models: {m: {fallbacks: [n]}, n: {upstream: anthropic}}", "nothing is translated"},
		"zone":                 {up + "models: {m: {rpd: 5, day_resets: Mars}}", "is no time zone"},
		"unknown models":       {up + "unknown_models: maybe", "is none of learn, pass and refuse"},
		"keep-alive":           {up + "keep_alive: 1ms", "100ms and more"},
		"beyond loopback":      {up + "listen: 0.0.0.0:4000\nclients: {trust_priority: true}", "line 2: listen: 0.0.0.0:4000 can be reached"},
		"all addresses":        {up + "listen: ':4000'", "let clients need keys"},
		"prices":               {up + "prices: {m: {input: 1}}", "line 2: prices: llmq serve counts no money yet"},
		"tenants":              {up + "tenants: {a: {weight: 2}}", "line 2: tenants: tenants have equal shares"},
		"keys twice":           {up + "clients: {keys_file: a, keys_env: B}", "give one"},
		"default's upstream":   {up + "default_model: {upstream: openai}", "it takes limits and times"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseConfig([]byte(c.text), func(*Config) {})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("the error is %v: want one line with %q", err, c.want)
			}
		})
	}
}

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	c := parse(t, "")
	if c.Listen != "127.0.0.1:4000" || len(c.Upstreams) != 4 || c.Upstreams[1].BaseURL != "https://api.anthropic.com" || c.Upstreams[1].KeyEnv != "ANTHROPIC_API_KEY" || c.Upstreams[0].Accounting != "openai" {
		t.Errorf("an empty file gives %+v: want all four providers, on loopback", c)
	}
	if !c.Default.learns() {
		t.Error("a model without limits does not learn them")
	}
	c = parse(t, "models: {m: {rpm: 5, tpd: 100, day_resets: UTC, period: 2s}}")
	limits, err := c.Models["m"].list()
	if err != nil || len(limits) != 3 || limits[0] != llmqueue.RPM(5).Per(2*time.Second) || limits[1].Resets != time.UTC || limits[2] != llmqueue.Concurrent(256) {
		t.Errorf("the limits are %v, %v", limits, err)
	}
	if c.Models["m"].learns() {
		t.Error("a model with limits learns others")
	}
}

package gateway

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/accounting"
)

// Config is what a gateway serves, as its file has it. Make one with [ParseConfig], or fill it and
// call [Config.Complete].
type Config struct {
	Listen    string           `yaml:"listen"`
	Upstreams []Upstream       `yaml:"upstreams"`
	Models    map[string]Model `yaml:"models"`
	// UnknownModels says what becomes of a model that Models does not have: "learn" gives it a
	// queue of its own whose limits the provider's answers tell, "pass" lets it through without
	// one, "refuse" answers 404. Defaults to "learn".
	UnknownModels string `yaml:"unknown_models"`
	// Default is what an unknown model's queue begins with.
	Default Model   `yaml:"default_model"`
	Clients Clients `yaml:"clients"`
	// KeepAlive is how often a stream that waits gets a comment, so that nothing between takes the
	// connection for dead. 0, the default, sends none.
	KeepAlive time.Duration `yaml:"keep_alive"`
	// MaxRequestBytes bounds a request's body. Defaults to 32 MiB.
	MaxRequestBytes int64 `yaml:"max_request_bytes"`
	// ClientTimeout bounds how long a client may take to send its request, and to take each part of
	// its answer. Defaults to 1 minute.
	ClientTimeout time.Duration `yaml:"client_timeout"`
	// DrainTimeout bounds how long an ending gateway finishes what it has. Defaults to 10 minutes.
	DrainTimeout time.Duration `yaml:"drain_timeout"`
	// Redis is the URL of a Redis that holds the given limits for several gateways.
	Redis string `yaml:"redis"`

	// What the queues cannot do yet. A file that has it is refused.
	Prices  any `yaml:"prices"`
	Tenants any `yaml:"tenants"`
}

// Upstream is a provider.
type Upstream struct {
	Name    string `yaml:"name"`
	Dialect string `yaml:"dialect"` // "openai", "anthropic", "gemini" or "ollama"
	// BaseURL is what an SDK of the dialect takes: https://api.openai.com/v1,
	// https://api.anthropic.com. Defaults to that of the dialect's own provider.
	BaseURL string `yaml:"base_url"`
	// KeyEnv names the environment variable with the key. Without one the client's own key is passed on.
	KeyEnv string `yaml:"key_env"`
	// Auth is how the key is sent: "bearer", "api-key", "x-api-key" or "x-goog-api-key". Defaults
	// to the dialect's way.
	Auth string `yaml:"auth"`
	// Accounting is what the provider charges: see accounting.ByName. Defaults to what is known of its host.
	Accounting string `yaml:"accounting"`
}

// Limits are those of a model at one upstream. Those that are zero do not hold.
type Limits struct {
	RPM        int64 `yaml:"rpm"`
	TPM        int64 `yaml:"tpm"`
	ITPM       int64 `yaml:"itpm"`
	OTPM       int64 `yaml:"otpm"`
	RPD        int64 `yaml:"rpd"`
	TPD        int64 `yaml:"tpd"`
	Concurrent int64 `yaml:"concurrent"`
	// Period is how long the minute of RPM, TPM, ITPM and OTPM is. Defaults to 1 minute.
	Period time.Duration `yaml:"period"`
	// DayResets is the time zone at whose midnight RPD and TPD begin anew. Without one they slide.
	DayResets string `yaml:"day_resets"`
	// Learn lets the provider's answers raise the limits. Defaults to true where none is given but
	// Concurrent.
	Learn *bool `yaml:"learn"`
}

// Endpoint is one way to a model.
type Endpoint struct {
	Upstream string `yaml:"upstream"`
	// Model is its name there, such as that of a deployment. Defaults to the model's.
	Model  string `yaml:"model"`
	Limits `yaml:",inline"`
}

// Model is a model with a queue of its own.
type Model struct {
	Endpoint `yaml:",inline"`
	// Endpoints are its ways, instead of the one above.
	Endpoints []Endpoint `yaml:"endpoints"`
	// Fallbacks are the models of the same dialect that take over, in order, what this one refuses or fails.
	Fallbacks []string `yaml:"fallbacks"`
	// MaxWait bounds how long a request may wait. 0, the default, is no bound.
	MaxWait time.Duration `yaml:"max_wait"`
	// MaxQueued bounds how many requests may wait. 0, the default, is no bound.
	MaxQueued int `yaml:"max_queued"`
	// Attempts of a request at most, where the provider's failure may pass. Defaults to 5.
	Attempts int `yaml:"attempts"`
	// Timeout bounds an attempt, FirstByteTimeout how long nothing of its answer may come, and
	// StallTimeout how long nothing more. 0, the default, is no bound.
	Timeout          time.Duration `yaml:"timeout"`
	FirstByteTimeout time.Duration `yaml:"first_byte_timeout"`
	StallTimeout     time.Duration `yaml:"stall_timeout"`
	// WaitForQuota keeps requests while the provider's quota is used up, instead of failing them.
	WaitForQuota bool `yaml:"wait_for_quota"`
}

// Clients are those who may call.
type Clients struct {
	// KeysFile and KeysEnv hold the clients' keys: a line each with the tenant, the key or
	// sha256: and its hash in hexadecimal, and "admin" if it opens the page and the metrics.
	KeysFile string `yaml:"keys_file"`
	KeysEnv  string `yaml:"keys_env"`
	// TenantHeader names the header with the tenant, where clients need no key. Defaults to
	// X-LLMQ-Tenant.
	TenantHeader string `yaml:"tenant_header"`
	// TrustPriority lets clients with a key set the priority of their calls. Without keys they may.
	TrustPriority bool `yaml:"trust_priority"`
}

// enabled reports whether clients need a key.
func (c Clients) enabled() bool { return c.KeysFile != "" || c.KeysEnv != "" }

// configError is an error at a place in the file.
type configError struct {
	path []any
	text string
}

func (e *configError) Error() string {
	var b strings.Builder
	for _, p := range e.path {
		switch p := p.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", p)
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			fmt.Fprint(&b, p)
		}
	}
	if b.Len() == 0 {
		return e.text
	}
	return b.String() + ": " + e.text
}

func wrong(path []any, format string, args ...any) error {
	return &configError{path, fmt.Sprintf(format, args...)}
}

func at(path []any, more ...any) []any { return append(slices.Clone(path), more...) }

// ReadConfig reads a file, changes what set does, and completes it. Its errors name the file, the
// line and what to do.
func ReadConfig(file string, set func(*Config)) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	c, err := ParseConfig(data, set)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

// syntax is where a library's error says that it is.
var syntax = regexp.MustCompile(`^\[(\d+):\d+\] `)

// ParseConfig is ReadConfig of a file's text.
func ParseConfig(data []byte, set func(*Config)) (*Config, error) {
	c := &Config{}
	if err := yaml.UnmarshalWithOptions(data, c, yaml.Strict()); err != nil && len(bytes.TrimSpace(data)) > 0 {
		first, _, _ := strings.Cut(strings.TrimSpace(yaml.FormatError(err, false, false)), "\n")
		if m := syntax.FindStringSubmatch(first); m != nil {
			first = "line " + m[1] + ": " + first[len(m[0]):]
		}
		if strings.Contains(first, "unknown field") {
			first += ": docs/guides/gateway.md has all settings"
		}
		return nil, errors.New(first)
	}
	set(c)
	if err := c.Complete(); err != nil {
		if e := (*configError)(nil); errors.As(err, &e) {
			if line := lineOf(data, e.path); line > 0 {
				return nil, fmt.Errorf("line %d: %w", line, err)
			}
		}
		return nil, err
	}
	return c, nil
}

// lineOf is the line of a place in a file, or of what surrounds it; 0 if there is none.
func lineOf(data []byte, path []any) int {
	for n := len(path); n > 0; n-- {
		b := (&yaml.PathBuilder{}).Root()
		for _, p := range path[:n] {
			switch p := p.(type) {
			case int:
				b = b.Index(uint(p))
			default:
				b = b.Child(fmt.Sprint(p))
			}
		}
		if node, err := b.Build().ReadNode(bytes.NewReader(data)); err == nil && node != nil {
			return node.GetToken().Position.Line
		}
	}
	return 0
}

// Complete fills in what is left to defaults and checks everything, but for keys in the environment.
// Call it once.
func (c *Config) Complete() error {
	c.UnknownModels = cmp.Or(c.UnknownModels, "learn")
	c.MaxRequestBytes = cmp.Or(c.MaxRequestBytes, 32<<20)
	c.ClientTimeout = cmp.Or(c.ClientTimeout, time.Minute)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, 10*time.Minute)
	c.Listen = cmp.Or(c.Listen, "127.0.0.1:4000")
	c.Clients.TenantHeader = cmp.Or(c.Clients.TenantHeader, "X-LLMQ-Tenant")
	if len(c.Upstreams) == 0 {
		for _, d := range dialects {
			c.Upstreams = append(c.Upstreams, Upstream{Name: d.name, Dialect: d.name, KeyEnv: d.keyEnv})
		}
	}
	switch {
	case c.Prices != nil:
		return wrong([]any{"prices"}, "llmq serve counts no money yet: remove it")
	case c.Tenants != nil:
		return wrong([]any{"tenants"}, "tenants have equal shares and no limits of their own yet: remove it, and name them at their keys or in the header %s", c.Clients.TenantHeader)
	case !slices.Contains([]string{"learn", "pass", "refuse"}, c.UnknownModels):
		return wrong([]any{"unknown_models"}, "%q is none of learn, pass and refuse", c.UnknownModels)
	case c.KeepAlive < 0 || c.KeepAlive > 0 && c.KeepAlive < 100*time.Millisecond:
		return wrong([]any{"keep_alive"}, "%v: want 0 for none, or 100ms and more", c.KeepAlive)
	case c.MaxRequestBytes < 1:
		return wrong([]any{"max_request_bytes"}, "%d: want 1 or more", c.MaxRequestBytes)
	case c.ClientTimeout < 0 || c.DrainTimeout < 0:
		return wrong(nil, "client_timeout and drain_timeout want a time above zero")
	case !isLoopback(c.Listen) && !c.Clients.enabled():
		return wrong([]any{"listen"}, "%s can be reached from other machines: let clients need keys (clients.keys_file, --client-keys-env or --client-keys-file)", c.Listen)
	case c.Clients.KeysFile != "" && c.Clients.KeysEnv != "":
		return wrong([]any{"clients"}, "keys_file and keys_env exclude each other, give one")
	}
	if err := c.completeUpstreams(); err != nil {
		return err
	}
	return c.completeModels()
}

func (c *Config) completeUpstreams() error {
	seen := map[string]bool{}
	for i := range c.Upstreams {
		u, path := &c.Upstreams[i], []any{"upstreams", i}
		d := dialectNamed(u.Dialect)
		if d == nil {
			return wrong(at(path, "dialect"), "%q is none of %s", u.Dialect, dialectNames())
		}
		u.Name = cmp.Or(u.Name, u.Dialect)
		if seen[u.Name] {
			return wrong(path, "%q stands twice: give each upstream a name of its own", u.Name)
		}
		seen[u.Name] = true
		u.BaseURL = strings.TrimRight(cmp.Or(u.BaseURL, d.baseURL), "/")
		base, err := url.Parse(u.BaseURL)
		switch {
		case err != nil, base.Scheme != "http" && base.Scheme != "https", base.Host == "":
			return wrong(at(path, "base_url"), "no http or https address, give one such as %s", d.baseURL)
		case base.User != nil || base.RawQuery != "" || base.Fragment != "":
			return wrong(at(path, "base_url"), "it has a user, a query or a fragment: leave it out, keys belong into the environment")
		}
		u.Auth = cmp.Or(u.Auth, d.auth)
		if _, ok := authHeaders[u.Auth]; !ok {
			return wrong(at(path, "auth"), "%q is none of bearer, api-key, x-api-key and x-goog-api-key", u.Auth)
		}
		if strings.Trim(u.KeyEnv, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") != "" {
			return wrong(at(path, "key_env"), "want the name of an environment variable, not the key")
		}
		if u.Accounting == "" && base.Hostname() == d.host {
			u.Accounting = d.accounting
		}
		if _, err := accounting.ByName(u.Accounting); err != nil {
			return wrong(at(path, "accounting"), "%v", err)
		}
	}
	return nil
}

func (c *Config) completeModels() error {
	for _, name := range slices.Sorted(maps.Keys(c.Models)) {
		m := c.Models[name]
		if err := c.completeModel(&m, []any{"models", name}); err != nil {
			return err
		}
		c.Models[name] = m
	}
	if d := c.Default; d.Upstream != "" || d.Model != "" || len(d.Endpoints) > 0 || len(d.Fallbacks) > 0 {
		return wrong([]any{"default_model"}, "it takes limits and times, no upstream, endpoints or fallbacks")
	}
	if err := c.completeModel(&c.Default, []any{"default_model"}); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Models)) {
		if _, err := c.fallbacks(name); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) completeModel(m *Model, path []any) error {
	if m.MaxWait < 0 || m.MaxQueued < 0 || m.Attempts < 0 || m.Timeout < 0 || m.FirstByteTimeout < 0 || m.StallTimeout < 0 {
		return wrong(path, "times and bounds want 0 or more")
	}
	several := len(m.Endpoints) > 0
	if !several {
		m.Endpoints = []Endpoint{m.Endpoint}
		m.Endpoints[0].Upstream = cmp.Or(m.Upstream, c.Upstreams[0].Name)
	} else if m.Endpoint != (Endpoint{}) {
		return wrong(path, "upstream, model and limits stand at each of its endpoints, or at the model, not at both")
	}
	seen := map[[2]string]bool{}
	for i, e := range m.Endpoints {
		where := path
		if several {
			where = at(path, "endpoints", i)
		}
		u := c.upstream(e.Upstream)
		switch {
		case u == nil:
			return wrong(at(where, "upstream"), "%q is no upstream of this file", e.Upstream)
		case u.Dialect != c.upstream(m.Endpoints[0].Upstream).Dialect:
			return wrong(at(where, "upstream"), "%s speaks another dialect than the model's first endpoint, and nothing is translated", e.Upstream)
		case seen[[2]string{e.Upstream, e.Model}]:
			return wrong(at(where, "upstream"), "%s stands twice: give each key an upstream of its own", e.Upstream)
		}
		seen[[2]string{e.Upstream, e.Model}] = true
		if _, err := e.list(); err != nil {
			return wrong(where, "%v", err)
		}
		if c.Redis != "" && e.learns() && e.Learn != nil {
			return wrong(at(where, "learn"), "limits in Redis are those that are given, they cannot be learned: remove it")
		}
	}
	return nil
}

func (c *Config) upstream(name string) *Upstream {
	for i := range c.Upstreams {
		if c.Upstreams[i].Name == name {
			return &c.Upstreams[i]
		}
	}
	return nil
}

// fallbacks are the models that take over from one, each fallback's own before the next one.
func (c *Config) fallbacks(name string) ([]string, error) {
	var list []string
	var visit func(from string, above []string) error
	visit = func(from string, above []string) error {
		for i, to := range c.Models[from].Fallbacks {
			path := []any{"models", from, "fallbacks", i}
			m, ok := c.Models[to]
			switch {
			case !ok:
				return wrong(path, "%q is no model of this file", to)
			case slices.Contains(above, to):
				return wrong(path, "%s leads back to %s: take it out", to, name)
			case c.upstream(m.Endpoints[0].Upstream).Dialect != c.upstream(c.Models[from].Endpoints[0].Upstream).Dialect:
				return wrong(path, "%s speaks another dialect than %s, and nothing is translated", to, from)
			}
			if !slices.Contains(list, to) {
				list = append(list, to)
			}
			if err := visit(to, append(above, to)); err != nil {
				return err
			}
		}
		return nil
	}
	return list, visit(name, []string{name})
}

// learns reports whether the provider's answers decide on the limits.
func (l Limits) learns() bool {
	if l.Learn != nil {
		return *l.Learn
	}
	return l.RPM|l.TPM|l.ITPM|l.OTPM|l.RPD|l.TPD == 0
}

// list are the limits, Concurrent among them.
func (l Limits) list() (limits []llmqueue.Limit, err error) {
	var zone *time.Location
	if l.DayResets != "" {
		if zone, err = time.LoadLocation(l.DayResets); err != nil {
			return nil, fmt.Errorf("day_resets: %q is no time zone, give one such as America/Los_Angeles or UTC", l.DayResets)
		}
	}
	if l.Period < 0 {
		return nil, errors.New("period wants a time above zero")
	}
	for _, k := range []struct {
		amount int64
		kind   llmqueue.LimitKind
	}{
		{l.RPM, llmqueue.KindRPM}, {l.TPM, llmqueue.KindTPM}, {l.ITPM, llmqueue.KindITPM}, {l.OTPM, llmqueue.KindOTPM},
		{l.RPD, llmqueue.KindRPD}, {l.TPD, llmqueue.KindTPD},
		{cmp.Or(l.Concurrent, 256), llmqueue.KindConcurrent},
	} {
		limit := llmqueue.Limit{Kind: k.kind, Amount: k.amount}
		switch {
		case k.amount == 0:
			continue
		case k.amount < 0:
			return nil, fmt.Errorf("%s: %d: want 1 or more", k.kind, k.amount)
		case k.kind == llmqueue.KindConcurrent:
		case k.kind == llmqueue.KindRPD || k.kind == llmqueue.KindTPD:
			if zone != nil {
				limit = limit.Daily(zone)
			}
		case l.Period > 0:
			limit = limit.Per(l.Period)
		}
		limits = append(limits, limit)
	}
	return limits, nil
}

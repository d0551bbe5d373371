package gateway

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/llmtest"
)

// keysFile is a file with clients' keys, as a line of configuration.
func keysFile(t testing.TB, lines ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keys.txt")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return "\nclients: {keys_file: '" + file + "'}"
}

const (
	teamKey  = "gw-team-a-0123456789"
	adminKey = "gw-admin-0123456789ab"
)

// recorder is an upstream that remembers what it was asked with.
func recorder(t testing.TB) (url string, seen chan *http.Request) {
	t.Helper()
	seen = make(chan *http.Request, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Clone(r.Context())
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		fmt.Fprint(w, `{"object":"chat.completion","choices":[{"message":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, seen
}

func TestTheUpstreamGetsItsOwnKeyAndNoOther(t *testing.T) {
	t.Parallel()
	keys := keysFile(t, "# who may call", "team-a "+teamKey, fmt.Sprintf("ops sha256:%x admin", sha256.Sum256([]byte(adminKey))))
	const all = "/v1/chat/completions"
	for name, c := range map[string]struct {
		settings, keys string
		path           string
		send           []string
		status         int
		want           map[string]string // headers that the upstream gets
	}{
		"the client's own is passed on":            {"", "", all, []string{"Authorization", "Bearer sk-mine"}, 200, map[string]string{"Authorization": "Bearer sk-mine"}},
		"the upstream's replaces it":               {", key_env: UPSTREAM_KEY", "", all, []string{"Authorization", "Bearer sk-mine"}, 200, map[string]string{"Authorization": "Bearer " + upstreamKey}},
		"in the upstream's way":                    {", key_env: UPSTREAM_KEY, auth: api-key", "", all, []string{"Authorization", "Bearer sk-mine"}, 200, map[string]string{"Api-Key": upstreamKey}},
		"of one in the address nothing is left":    {", key_env: UPSTREAM_KEY", "", all + "?key=sk-mine&x=1", nil, 200, map[string]string{"Authorization": "Bearer " + upstreamKey}},
		"a gateway's key stays here":               {"", keys, all, []string{"Authorization", "Bearer " + teamKey}, 200, nil},
		"one in two places stays here":             {"", keys, all, []string{"Authorization", "Bearer " + teamKey, "X-Api-Key", teamKey}, 200, nil},
		"a hash opens":                             {"", keys, all, []string{"X-Api-Key", adminKey}, 200, nil},
		"beside a gateway's key one's own goes on": {"", keys, all, []string{"X-LLMQ-Key", teamKey, "Authorization", "Bearer sk-mine"}, 200, map[string]string{"Authorization": "Bearer sk-mine"}},
		"nobody's key is refused":                  {"", keys, all, []string{"Authorization", "Bearer sk-mine-and-not-known"}, 401, nil},
		"no key is refused":                        {"", keys, all, nil, 401, nil},
		"a list goes with the key too":             {", key_env: UPSTREAM_KEY", "", "/v1/models/m", []string{"Authorization", "Bearer sk-mine"}, 200, map[string]string{"Authorization": "Bearer " + upstreamKey}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, seen := recorder(t)
			g := serve(t, "upstreams: [{dialect: openai, base_url: '"+url+"/v1'"+c.settings+"}]"+c.keys)
			res := post(t, g.url+c.path, chat("m"), append(c.send, "X-LLMQ-Tenant", "x")...)
			if res.status != c.status {
				t.Fatalf("%d %s, want %d", res.status, res.body, c.status)
			}
			if c.status != http.StatusOK {
				if len(seen) != 0 {
					t.Error("a call without a client's key went upstream")
				}
				return
			}
			r := <-seen
			for _, name := range []string{"Authorization", "Api-Key", "X-Api-Key", "X-Goog-Api-Key", "X-Llmq-Key", "X-Llmq-Tenant"} {
				if got := r.Header.Get(name); got != c.want[name] {
					t.Errorf("the upstream got %s: %q, want %q", name, got, c.want[name])
				}
			}
			if got := r.Header.Get("Accept-Encoding"); got != "" {
				t.Errorf("the upstream may answer in %s, in which usage cannot be read", got)
			}
			if strings.Contains(r.URL.RawQuery, "key=") {
				t.Errorf("the upstream got the query %s", r.URL.RawQuery)
			}
			if log := g.log.String(); strings.Contains(log, "sk-") || strings.Contains(log, "gw-") || strings.Contains(log, "sky") {
				t.Errorf("the log has a key or a body:\n%s", log)
			}
		})
	}
}

// A call that goes to another upstream than the first of its dialect takes no key of that along.
func TestAnUpstreamsKeyGoesToNoOtherUpstream(t *testing.T) {
	t.Parallel()
	first, _ := recorder(t)
	second, seen := recorder(t)
	for settings, want := range map[string]map[string]string{
		"":                                       {"Authorization": "Bearer sk-mine"},
		", key_env: UPSTREAM_KEY, auth: api-key": {"Api-Key": upstreamKey},
	} {
		g := serve(t, "upstreams:\n  - {name: one, dialect: openai, base_url: '"+first+"/v1', key_env: UPSTREAM_KEY}\n"+
			"  - {name: two, dialect: openai, base_url: '"+second+"/v1'"+settings+"}\nmodels: {m: {upstream: two}}")
		if res := post(t, g.url+"/v1/chat/completions", chat("m"), "Authorization", "Bearer sk-mine"); res.status != http.StatusOK {
			t.Fatalf("%d %s", res.status, res.body)
		}
		r := <-seen
		for _, name := range []string{"Authorization", "Api-Key"} {
			if got := r.Header.Get(name); got != want[name] {
				t.Errorf("with%s the upstream got %s: %q, want %q", settings, name, got, want[name])
			}
		}
	}
}

func TestATenantIsTheKeysNotTheHeaders(t *testing.T) {
	t.Parallel()
	url, _ := recorder(t)
	for _, c := range []struct {
		keys, want string
	}{{keysFile(t, "team-a "+teamKey), "tenant=team-a"}, {"", "tenant=team-b"}} {
		g := serve(t, "upstreams: [{dialect: openai, base_url: '"+url+"/v1'}]"+c.keys)
		post(t, g.url+"/v1/chat/completions", chat("m"), "X-LLMQ-Key", teamKey, "X-LLMQ-Tenant", "team-b")
		if log := g.log.String(); !strings.Contains(log, c.want) {
			t.Errorf("no %s in\n%s", c.want, log)
		}
	}
}

func TestKeysFilesThatAreWrongAreRefused(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":                         "has no key",
		"team-a":                   "want TENANT KEY",
		"team-a short":             "could be guessed",
		"team-a sha256:abc":        "no hash of 64",
		"team-a " + teamKey + " x": "want TENANT KEY",
	} {
		_, err := New(parse(t, "upstreams: [{dialect: openai}]"+keysFile(t, line)), Options{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), teamKey) {
			t.Errorf("%q gives %v, want %q", line, err, want)
		}
	}
}

func TestNoWebPageCallsFromABrowserOnThisMachine(t *testing.T) {
	t.Parallel()
	url, seen := recorder(t)
	g := serve(t, "upstreams: [{dialect: openai, base_url: '"+url+"/v1'}]")
	for name, headers := range map[string][]string{
		"of another origin":         {"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"},
		"by a name that leads here": {"Host", "evil.example"},
	} {
		if res := post(t, g.url+"/v1/chat/completions", chat("m"), headers...); res.status != http.StatusForbidden {
			t.Errorf("a page %s got %d", name, res.status)
		}
	}
	if res := get(t, g.url+"/debug/llmqueue/", "Host", "evil.example"); res.status != http.StatusForbidden {
		t.Errorf("a page by a name that leads here reads the dashboard: %d", res.status)
	}
	if len(seen) != 0 {
		t.Error("such a call went upstream")
	}
	res := post(t, g.url+"/v1/chat/completions", chat("m"), "Host", "localhost:4000")
	if res.status != http.StatusOK || res.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a program's call got %d, with %v", res.status, res.header)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	srv := llmtest.NewServer(t, llmtest.OpenAI())
	config := "upstreams: [{dialect: openai, base_url: '" + srv.URL() + "'}]"
	g := serve(t, config)
	post(t, g.url+"/v1/chat/completions", chat("m"))
	for path, want := range map[string]string{"/healthz": "ok", "/metrics": `llmqueue_`, "/debug/llmqueue/": "<html"} {
		if res := get(t, g.url+path); res.status != http.StatusOK || !strings.Contains(res.body, want) {
			t.Errorf("%s: %d without %s", path, res.status, want)
		}
	}
	g = serve(t, config+keysFile(t, "team-a "+teamKey, "ops "+adminKey+" admin"))
	for _, path := range []string{"/metrics", "/debug/llmqueue/"} {
		for key, want := range map[string]int{"": 401, teamKey: 401, adminKey: 200} {
			if res := get(t, g.url+path, "Authorization", "Bearer "+key); res.status != want {
				t.Errorf("%s with the key %q: %d, want %d", path, key, res.status, want)
			}
		}
	}
	if res := get(t, g.url+"/healthz"); res.status != http.StatusOK {
		t.Errorf("the health wants a key: %d", res.status)
	}
	g.Drain()
	if res := get(t, g.url+"/healthz"); res.status != http.StatusServiceUnavailable {
		t.Errorf("a gateway that drains says that it is well: %d", res.status)
	}
}

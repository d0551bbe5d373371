package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// guarded is a provider that serves one key, and counts what it served.
func guarded(t *testing.T, key string) (srv *httptest.Server, served *atomic.Int64) {
	t.Helper()
	served = new(atomic.Int64)
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if got := r.Header.Get("Authorization"); got != "Bearer "+key {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":{"message":"Incorrect API key provided: %s"}}`, strings.TrimPrefix(got, "Bearer "))
			return
		}
		served.Add(1)
		_, _ = io.WriteString(w, `{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}`)
	}))
	t.Cleanup(srv.Close)
	return srv, served
}

const (
	keyOne = "sk-number-one-0123456789"
	keyTwo = "sk-number-two-0123456789"
)

// inAll is everything that a run wrote, but for the answers that it was to keep.
func inAll(t *testing.T, dir string) (all string) {
	t.Helper()
	for _, pattern := range []string{"out.jsonl", "out.jsonl.llmq/*"} {
		names, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			all += string(data)
		}
	}
	return all
}

// TestEachEndpointGetsItsOwnKey, and no key is shown or kept.
func TestEachEndpointGetsItsOwnKey(t *testing.T) {
	t.Parallel()
	one, servedOne := guarded(t, keyOne)
	two, servedTwo := guarded(t, keyTwo)
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(20, 10)...)
	write(t, dir, "half.jsonl", chats(10, 10)...)
	env := []string{"LLMQ_API_KEY=" + keyOne, "KEY_TWO=" + keyTwo}
	for i, in := range []string{"half.jsonl", "in.jsonl"} {
		p := command(t, dir, env, "run", in, "-o", "out.jsonl", "--base-url", one.URL, "--add-endpoint", two.URL+"=KEY_TWO", "--rpm", "5", "--period", "3s")
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		if code := p.code(); code != 0 {
			t.Fatalf("exit code %d: %s", code, p.stderr.String())
		}
		if a, b := servedOne.Load(), servedTwo.Load(); a == 0 || b == 0 || a+b != int64(10*(i+1)) {
			t.Errorf("served %d and %d", a, b)
		}
		if text := p.stderr.String() + inAll(t, dir); strings.Contains(text, keyOne) || strings.Contains(text, keyTwo) {
			t.Errorf("a key is shown: %s", text)
		}
	}
	eachOnce(t, readResults(t, dir, "out.jsonl"), 20)
}

// TestTheJournalCountsEachEndpoint: what a run started is known to the next one, so that no
// provider refuses anything.
func TestTheJournalCountsEachEndpoint(t *testing.T) {
	t.Parallel()
	const period = 3 * time.Second
	one := serve(t, []llmtest.Limit{llmtest.RPM(5).Per(period)})
	two := serve(t, []llmtest.Limit{llmtest.RPM(5).Per(period)})
	dir := t.TempDir()
	write(t, dir, "half.jsonl", chats(10, 10)...)
	write(t, dir, "in.jsonl", chats(20, 10)...)
	for _, in := range []string{"half.jsonl", "in.jsonl"} {
		code, _, stderr := llmq(t, dir, "run", in, "-o", "out.jsonl", "--base-url", one.URL(), "--add-endpoint", two.URL(), "--rpm", "5", "--period", period.String())
		if code != 0 || !strings.Contains(stderr, "; 0 refused by the provider") {
			t.Errorf("%s: exit code %d: %s", in, code, stderr)
		}
	}
	if a, b := one.Stats().Accepted, two.Stats().Accepted; a == 0 || b == 0 || a+b != 20 {
		t.Errorf("accepted %d and %d", a, b)
	}
}

// TestAnEndpointThatServesNothingIsLeftOut while another one serves, and told of without a key.
func TestAnEndpointThatServesNothingIsLeftOut(t *testing.T) {
	t.Parallel()
	good, served := guarded(t, keyOne)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	bad, _ := guarded(t, keyOne)
	for name, c := range map[string]struct{ first, second, say string }{
		"a wrong key":       {good.URL, bad.URL, "the provider answered 401 Unauthorized: Incorrect API key provided: [key]: check the key in KEY_TWO, and --add-endpoint: the other endpoints serve m"},
		"an absent host":    {good.URL, gone.URL, "the other endpoints go on"},
		"the first is away": {gone.URL, good.URL, "the other endpoints go on"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, before := t.TempDir(), served.Load()
			write(t, dir, "in.jsonl", chats(20, 10)...)
			env := []string{"LLMQ_API_KEY=" + keyOne, "KEY_TWO=" + keyTwo}
			if c.second == good.URL {
				env[1] = "KEY_TWO=" + keyOne
			}
			p := command(t, dir, env, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", c.first, "--add-endpoint", c.second+"=KEY_TWO", "--rpm", "1000", "--attempts", "1")
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			code, stderr := p.code(), p.stderr.String()
			if code != 0 || served.Load() != before+20 || strings.Count(stderr, c.say) != 1 || strings.Contains(stderr, keyTwo) {
				t.Errorf("exit code %d, %d served: %s", code, served.Load()-before, stderr)
			}
			eachOnce(t, readResults(t, dir, "out.jsonl"), 20)
		})
	}
}

// TestEndpointsThatAllServeNothingEndTheRun, and nothing is recorded as failed.
func TestEndpointsThatAllServeNothingEndTheRun(t *testing.T) {
	t.Parallel()
	one, _ := guarded(t, keyOne)
	two, _ := guarded(t, keyOne)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, c := range map[string]struct{ first, second, say string }{
		"wrong keys":   {one.URL, two.URL, "401 Unauthorized: Incorrect API key provided: [key]: check the key in "},
		"absent hosts": {gone.URL, gone.URL, "cannot be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "in.jsonl", chats(20, 10)...)
			p := command(t, dir, []string{"LLMQ_API_KEY=" + keyTwo, "KEY_TWO=" + keyTwo}, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", c.first, "--add-endpoint", c.second+"=KEY_TWO", "--rpm", "1000")
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			oneLine(t, p.code(), 3, p.stderr.String(), c.say)
			if list := readResults(t, dir, "out.jsonl"); list != nil {
				t.Errorf("recorded: %+v", list)
			}
		})
	}
}

func TestAnEndpointThatCannotBeUsedIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(1, 10)...)
	for _, c := range []struct {
		item, want string
	}{
		{"ftp://x=KEY_TWO", "--add-endpoint is no http or https address"},
		{"http://x/v1?key=" + keyTwo, "--add-endpoint wants the name of a variable, not the key"},
		{"http://x/v1=" + keyTwo, "--add-endpoint wants the name of a variable, not the key"},
		{"http://x/v1=KEY_NONE", "--add-endpoint: KEY_NONE is not set"},
		{"http://x/v1=", "--add-endpoint has nothing behind the ="},
		{"http://127.0.0.1:9", "http://127.0.0.1:9 with LLMQ_API_KEY stands there twice"},
	} {
		p := command(t, dir, []string{"KEY_TWO=" + keyTwo}, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", "http://127.0.0.1:9", "--add-endpoint", c.item)
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		oneLine(t, p.code(), 2, p.stderr.String(), c.want)
		if strings.Contains(p.stderr.String(), keyTwo) {
			t.Errorf("the key is shown: %s", p.stderr.String())
		}
	}
}

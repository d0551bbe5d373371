package gateway

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/llmqueue/llmqueue/llmtest"
)

// served is a gateway that serves on loopback until the test ends.
type served struct {
	*Gateway
	url string
	log *logged
}

// logged is what a gateway has logged.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// parse reads a configuration's text.
func parse(t testing.TB, text string) *Config {
	t.Helper()
	c, err := ParseConfig([]byte(text), func(*Config) {})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serve starts a gateway with a configuration.
func serve(t testing.TB, text string, options ...func(*Options)) *served {
	t.Helper()
	s := &served{log: &logged{}}
	o := Options{Logger: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, f := range options {
		f(&o)
	}
	g, err := New(parse(t, text), o)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Gateway, s.url = g, "http://"+ln.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	ended, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- g.Serve(ctx, ln, ended) }()
	t.Cleanup(func() {
		stop()
		close(ended)
		<-done
	})
	return s
}

// reply is an answer that has come whole.
type reply struct {
	status int
	header http.Header
	body   string
}

// post sends a body to a path, with headers in pairs of name and value.
func post(t testing.TB, url, body string, headers ...string) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	return send(t, r, headers...)
}

// get asks for a path.
func get(t testing.TB, url string, headers ...string) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return send(t, r, headers...)
}

func send(t testing.TB, r *http.Request, headers ...string) reply {
	t.Helper()
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		} else {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(body)}
}

// chat is the body of a chat completion.
func chat(model string, more ...string) string {
	return `{"model":"` + model + `","max_tokens":16,"messages":[{"role":"user","content":"Why is the sky blue?"}]` + strings.Join(append([]string{""}, more...), ",") + `}`
}

// refused fails the test if a simulated provider refused a call.
func refused(t testing.TB, srv *llmtest.Server, accepted int64) {
	t.Helper()
	if s := srv.Stats(); s.Refused != 0 || s.Invalid != 0 || s.Accepted < accepted {
		t.Errorf("the provider accepted %d, refused %d, found %d invalid: want at least %d, 0, 0", s.Accepted, s.Refused, s.Invalid, accepted)
	}
}

// The upstreams' key, in the environment as it is for a gateway.
const (
	upstreamKeyEnv = "UPSTREAM_KEY"
	upstreamKey    = "sk-the-upstreams-own-key"
)

func TestMain(m *testing.M) {
	os.Setenv(upstreamKeyEnv, upstreamKey)
	os.Exit(m.Run())
}

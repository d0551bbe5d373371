package gateway

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// pending waits until so many calls wait in a model's queue.
func pending(t testing.TB, g *served, model string, want int) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		info, err := g.queues.manager.Info(model)
		if err == nil && info.Pending == want {
			return
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("%d calls wait for %s, %v: want %d", info.Pending, model, err, want)
		}
	}
}

// What waits keeps its place while models, endpoints and limits come and go.
func TestReload(t *testing.T) {
	t.Parallel()
	one, two := llmtest.NewServer(t, llmtest.OpenAI()), llmtest.NewServer(t, llmtest.OpenAI())
	ups := "upstreams:\n  - {name: one, dialect: openai, base_url: '" + one.URL() + "'}\n  - {name: two, dialect: openai, base_url: '" + two.URL() + "'}\n"
	g := serve(t, ups+"models: {m: {rpm: 1}, gone: {rpm: 5}}")
	call := func(model string) <-chan int {
		status := make(chan int, 1)
		go func() { status <- post(t, g.url+"/v1/chat/completions", chat(model)).status }()
		return status
	}
	served := func(what string, status <-chan int) {
		t.Helper()
		if s := <-status; s != http.StatusOK {
			t.Fatalf("%s: %d", what, s)
		}
	}
	reload := func(text string) []string {
		t.Helper()
		later, err := g.Reload(parse(t, text))
		if err != nil {
			t.Fatal(err)
		}
		return later
	}
	served("the first", call("m"))
	waits := call("m")
	pending(t, g, "m", 1)
	reload(ups + "models: {m: {rpm: 2}, new: {rpm: 5}}")
	served("what waited for the limit that was raised", waits)
	served("a model that is new", call("new"))

	waits = call("m")
	pending(t, g, "m", 1)
	reload(ups + "models: {m: {endpoints: [{upstream: one, rpm: 2}, {upstream: two, rpm: 1}]}}")
	served("what an endpoint that is new takes", waits)
	if n := two.Stats().Accepted; n != 1 {
		t.Errorf("the new endpoint got %d calls, want 1", n)
	}
	if models := g.queues.manager.Models(); slices.Contains(models, "gone") || slices.Contains(models, "new") {
		t.Errorf("models that are gone are still there: %v", models)
	}

	later := reload(ups + "models: {m: {attempts: 2, endpoints: [{upstream: two, learn: true}]}}\nlisten: 127.0.0.1:1")
	want := []string{"listen", "models.m: its attempts, bounds and times of an attempt", "models.m: the limits at two, which are learned or in Redis"}
	if !slices.Equal(later, want) {
		t.Errorf("what takes a restart is %q, want %q", later, want)
	}
	for { // until what runs at the endpoint that is gone has ended
		if info, err := g.queues.manager.Info("m"); err != nil || t.Context().Err() != nil {
			t.Fatalf("the endpoint that is gone stayed: %v", err)
		} else if len(info.Endpoints) == 1 {
			break
		}
	}
	if _, err := g.Reload(parse(t, ups+keysFile(t, "team-a short"))); err == nil {
		t.Error("keys that are wrong were taken over")
	}
}

// A gateway that must end answers what it could not finish.
func TestAnEndThatCannotWaitAnswersWhatWaits(t *testing.T) {
	t.Parallel()
	up := newHeld(t)
	g, err := New(parse(t, "upstreams: [{dialect: openai, base_url: '"+up.url+"'}]\nmodels: {m: {rpm: 1}}"), Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- g.Serve(ctx, ln, ended) }()
	url := "http://" + ln.Addr().String() + "/v1/chat/completions"
	replies := make(chan reply, 2)
	go func() { replies <- post(t, url, chat("m")) }()
	<-up.arrived
	go func() { replies <- post(t, url, chat("m")) }()
	pending(t, &served{Gateway: g}, "m", 1)
	stop()
	close(ended)
	for range 2 {
		if res := <-replies; res.status != http.StatusServiceUnavailable || !strings.Contains(res.body, `"error"`) {
			t.Errorf("%d %s", res.status, res.body)
		}
	}
	if err := <-done; err == nil {
		t.Error("an end that left calls unfinished is none")
	}
}

// Two gateways with one Redis keep one limit.
func TestGatewaysShareLimitsInRedis(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		if path, err = exec.LookPath("valkey-server"); err != nil {
			t.Skip("there is no redis-server and no valkey-server in PATH: shared limits were not tried")
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	_ = ln.Close()
	_, port, _ := net.SplitHostPort(address)
	const password = "a-password-of-the-redis"
	server := exec.CommandContext(t.Context(), path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--requirepass", password, "--dir", t.TempDir())
	server.Stdout, server.Stderr = io.Discard, os.Stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	for { // until it listens
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("the Redis did not start")
		}
		time.Sleep(time.Millisecond)
	}
	url, seen := recorder(t) // which tells nothing of limits
	config := "upstreams: [{dialect: openai, base_url: '" + url + "/v1'}]\nmodels: {m: {rpm: 4}}\nredis: redis://" + address
	withPassword := func(o *Options) { o.RedisPassword = password }
	a, b := serve(t, config, withPassword), serve(t, config, withPassword)
	for i := range 4 {
		g := []*served{a, b}[i%2]
		if res := post(t, g.url+"/v1/chat/completions", chat("m")); res.status != http.StatusOK {
			t.Fatalf("call %d: %d %s", i, res.status, res.body)
		}
	}
	for _, g := range []*served{a, b} {
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			r, _ := http.NewRequestWithContext(ctx, http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(chat("m")))
			if res, err := http.DefaultClient.Do(r); err == nil {
				t.Errorf("a fifth call was answered %d", res.StatusCode)
			}
		}()
		pending(t, g, "m", 1)
		leave()
		pending(t, g, "m", 0)
	}
	if len(seen) != 4 {
		t.Errorf("%d calls went upstream, want 4", len(seen))
	}
	if log := a.log.String(); strings.Contains(log, password) {
		t.Errorf("the log has the password:\n%s", log)
	}
}

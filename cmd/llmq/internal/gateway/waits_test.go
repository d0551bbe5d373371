package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// held is an upstream whose answers begin when the test says so.
type held struct {
	url     string
	arrived chan *http.Request
	status  chan int // lets one call be answered
}

func newHeld(t testing.TB) *held {
	t.Helper()
	h := &held{arrived: make(chan *http.Request, 100), status: make(chan int)}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // then a client that leaves is noticed
		h.arrived <- r
		select {
		case status := <-h.status:
			if status != http.StatusOK {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(status)
				fmt.Fprintln(w, `{"error":{"message":"not this way","type":"invalid_request_error"}}`)
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(srv.Close)
	h.url = srv.URL
	return h
}

// open makes a call and returns its answer when its headers are there.
func open(t testing.TB, ctx context.Context, url, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func TestAStreamThatWaitsIsKeptAlive(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		dialect, path, stream string
		status                int
		want                  string
	}{
		"and then comes":     {"openai", "/v1/chat/completions", `"stream":true`, 200, "data: [DONE]\n\n"},
		"and fails":          {"openai", "/v1/chat/completions", `"stream":true`, 400, `data: {"error":{"message":"not this way","type":"invalid_request_error"}}` + "\n\n"},
		"at Anthropic":       {"anthropic", "/v1/messages", `"stream":true`, 400, "event: error\ndata: {"},
		"in Gemini's stream": {"gemini", "/v1beta/models/m:streamGenerateContent?alt=sse", `"x":1`, 400, "data: {"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := newHeld(t)
			g := serve(t, "upstreams: [{dialect: "+c.dialect+", base_url: '"+up.url+"'}]\nkeep_alive: 100ms")
			res := open(t, t.Context(), g.url+c.path, chat("m", c.stream))
			if kind := res.Header.Get("Content-Type"); res.StatusCode != http.StatusOK || !strings.HasPrefix(kind, "text/event-stream") {
				t.Fatalf("the answer begins with %d and %s", res.StatusCode, kind)
			}
			body := bufio.NewReader(res.Body)
			for range 2 { // while nothing is answered
				line, err := body.ReadString('\n')
				if err != nil || line != ": waiting\n" {
					t.Fatalf("%q, %v instead of a comment", line, err)
				}
				_, _ = body.ReadString('\n')
			}
			up.status <- c.status
			rest, err := io.ReadAll(body)
			if err != nil || !strings.Contains(string(rest), c.want) {
				t.Errorf("what follows is %q, %v: want %q", rest, err, c.want)
			}
		})
	}
}

func TestNoCommentGoesWhereNoneMayStand(t *testing.T) {
	t.Parallel()
	up := newHeld(t)
	g := serve(t, "upstreams: [{dialect: openai, base_url: '"+up.url+"'}]\nkeep_alive: 100ms")
	got := make(chan reply, 1)
	go func() { got <- post(t, g.url+"/v1/chat/completions", chat("m")) }()
	<-up.arrived
	up.status <- http.StatusBadRequest
	if res := <-got; res.status != http.StatusBadRequest || strings.Contains(res.body, "waiting") {
		t.Errorf("%d %s", res.status, res.body)
	}
}

func TestACallThatWouldStartTooLateIsToldWhen(t *testing.T) {
	t.Parallel()
	srv := llmtest.NewServer(t, llmtest.OpenAI())
	g := serve(t, "upstreams: [{dialect: openai, base_url: '"+srv.URL()+"'}]\nmodels: {m: {rpm: 1}}")
	if res := post(t, g.url+"/v1/chat/completions", chat("m")); res.status != http.StatusOK {
		t.Fatalf("%d %s", res.status, res.body)
	}
	for _, header := range []string{"X-Stainless-Timeout", "X-Stainless-Read-Timeout", "X-Server-Timeout", "X-LLMQ-Max-Wait"} {
		res := post(t, g.url+"/v1/chat/completions", chat("m"), header, "5")
		if res.status != http.StatusTooManyRequests || !strings.Contains(res.body, `"error"`) {
			t.Fatalf("with %s: %d %s", header, res.status, res.body)
		}
		start, err := time.Parse(time.RFC3339, res.header.Get(headerStart))
		if until := time.Until(start); err != nil || until < 20*time.Second || until > 70*time.Second {
			t.Errorf("with %s the start is told as %q", header, res.header.Get(headerStart))
		}
		if after, err := strconv.Atoi(res.header.Get("Retry-After")); err != nil || after < 20 || after > 70 {
			t.Errorf("with %s the client may try again after %q", header, res.header.Get("Retry-After"))
		}
		if res.header.Get(headerPosition) != "1" || res.header.Get("X-Should-Retry") != "false" {
			t.Errorf("with %s the headers are %v", header, res.header)
		}
	}
	for header, value := range map[string]string{"X-LLMQ-Max-Wait": "soon", "X-LLMQ-Priority": "high"} {
		if res := post(t, g.url+"/v1/chat/completions", chat("m"), header, value); res.status != http.StatusBadRequest || !strings.Contains(res.body, header) {
			t.Errorf("%s: %s gets %d %s", header, value, res.status, res.body)
		}
	}
	if n := srv.Stats().Accepted; n != 1 {
		t.Errorf("%d calls went upstream, want 1", n)
	}
}

func TestAClientThatLeavesEndsItsCall(t *testing.T) {
	t.Parallel()
	up := newHeld(t)
	g := serve(t, "upstreams: [{dialect: openai, base_url: '"+up.url+"'}]\ndefault_model: {rpm: 100}")
	ctx, leave := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		r, _ := http.NewRequestWithContext(ctx, http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(chat("m")))
		_, err := http.DefaultClient.Do(r)
		failed <- err
	}()
	r := <-up.arrived
	leave()
	<-failed
	<-r.Context().Done() // the upstream sees it: else the test would not end
}

func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	up := newHeld(t)
	g := serve(t, "upstreams: [{dialect: openai, base_url: '"+up.url+"'}]\nmax_request_bytes: 500\nclient_timeout: 200ms")
	res := post(t, g.url+"/v1/chat/completions", chat("m", `"user":"`+strings.Repeat("x", 500)+`"`))
	if res.status != http.StatusRequestEntityTooLarge || !strings.Contains(res.body, "max_request_bytes") {
		t.Errorf("a request that is too large gets %d %s", res.status, res.body)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{") // and no more
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusRequestTimeout {
		t.Errorf("a request that never ends gets %d", answer.StatusCode)
	}
	if len(up.arrived) != 0 {
		t.Error("such a request went upstream")
	}
}

func TestAnotherModelTakesOver(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		dialect, path, body string
		provider            func(...llmtest.Limit) llmtest.Provider
		models              string
		fault               llmtest.Fault
	}{
		"what cannot start in time": {"openai", "/v1/chat/completions", chat("a"), llmtest.OpenAI, "a: {rpm: 1, fallbacks: [b], max_wait: 1s}, b: {rpm: 100}", llmtest.Fault{}},
		"what fails in the end":     {"openai", "/v1/chat/completions", chat("a"), llmtest.OpenAI, "a: {rpm: 100, attempts: 1, fallbacks: [b]}, b: {rpm: 100}", llmtest.Fault{Status: 500}},
		"what is refused for now":   {"openai", "/v1/chat/completions", chat("a"), llmtest.OpenAI, "a: {rpm: 100, fallbacks: [b], max_wait: 300ms}, b: {rpm: 100}", llmtest.Fault{Status: 429, RetryAfter: time.Minute}},
		"by the path":               {"gemini", "/v1beta/models/a:generateContent", `{"contents":[{"parts":[{"text":"Why?"}]}]}`, llmtest.Gemini, "a: {rpm: 1, fallbacks: [b], max_wait: 1s}, b: {rpm: 100}", llmtest.Fault{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := llmtest.NewServer(t, c.provider(), llmtest.WithFaultScript(llmtest.Fault{}, c.fault))
			g := serve(t, "upstreams: [{dialect: "+c.dialect+", base_url: '"+srv.URL()+"'}]\nmodels: {"+c.models+"}")
			for i, want := range []string{"", "b"} {
				res := post(t, g.url+c.path, c.body)
				if res.status != http.StatusOK || res.header.Get(headerModel) != want {
					t.Fatalf("call %d: %d by %q, want %q; %s", i, res.status, res.header.Get(headerModel), want, res.body)
				}
			}
			arrivals := srv.Arrivals()
			if last := arrivals[len(arrivals)-1].Model; last != "b" {
				t.Errorf("the last call asked for %q", last)
			}
		})
	}
}

// What a request itself is to blame for stays with its model, and the answer of the model that was
// asked for is what a client gets when no other serves.
func TestNoOtherModelTakesOverWhatItCannotServe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault  llmtest.Fault
		status int
		calls  int
	}{
		"a request that is wrong": {llmtest.Fault{Status: 400}, 400, 1},
		"all of them fail":        {llmtest.Fault{Status: 500}, 500, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := llmtest.NewServer(t, llmtest.OpenAI(), llmtest.WithFaultShare(1, c.fault))
			g := serve(t, "upstreams: [{dialect: openai, base_url: '"+srv.URL()+"'}]\nmodels: {a: {rpm: 100, attempts: 1, fallbacks: [b]}, b: {rpm: 100, attempts: 1}}")
			res := post(t, g.url+"/v1/chat/completions", chat("a"))
			if res.status != c.status || !strings.Contains(res.body, `"error"`) || res.header.Get(headerModel) != "" {
				t.Errorf("%d %s by %q", res.status, res.body, res.header.Get(headerModel))
			}
			if n := len(srv.Arrivals()); n != c.calls {
				t.Errorf("%d calls went upstream, want %d", n, c.calls)
			}
		})
	}
}

func TestNoModelInTime(t *testing.T) {
	t.Parallel()
	srv := llmtest.NewServer(t, llmtest.OpenAI(), llmtest.WithFaultScript(llmtest.Fault{}, llmtest.Fault{Status: 429, RetryAfter: time.Minute}))
	g := serve(t, "upstreams: [{dialect: openai, base_url: '"+srv.URL()+"'}]\nmodels: {a: {rpm: 100, fallbacks: [b], max_wait: 300ms}, b: {rpm: 1, max_wait: 1s}}")
	if res := post(t, g.url+"/v1/chat/completions", chat("b")); res.status != http.StatusOK {
		t.Fatalf("%d %s", res.status, res.body)
	}
	res := post(t, g.url+"/v1/chat/completions", chat("a"))
	if res.status != http.StatusTooManyRequests || !strings.Contains(res.body, "within its max_wait") {
		t.Errorf("%d %s", res.status, res.body)
	}
}

func TestAnUpstreamThatIsNotThere(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	ups := "upstreams: [{dialect: openai, base_url: 'http://" + ln.Addr().String() + "/v1'}]\n"
	for _, models := range []string{"models: {m: {rpm: 100, attempts: 1}}", "models: {m: {rpm: 100, attempts: 1, fallbacks: [b]}, b: {rpm: 100, attempts: 1}}"} {
		g := serve(t, ups+models)
		res := post(t, g.url+"/v1/chat/completions", chat("m"))
		if res.status != http.StatusBadGateway || !strings.Contains(res.body, "cannot be reached") {
			t.Errorf("%d %s", res.status, res.body)
		}
		if res = get(t, g.url+"/v1/models"); res.status != http.StatusBadGateway {
			t.Errorf("what asks no model: %d %s", res.status, res.body)
		}
	}
}

// A form waits in its model's queue, and goes upstream as it is: no other model can be set in it.
func TestForms(t *testing.T) {
	t.Parallel()
	url, seen := recorder(t)
	g := serve(t, "upstreams: [{dialect: openai, base_url: '"+url+"/v1'}]\nmodels: {m: {endpoints: [{upstream: openai, rpm: 100}]}, n: {model: other, rpm: 100}}")
	const form = "--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nMODEL\r\n--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\n\r\nsound\r\n--x--\r\n"
	for model, want := range map[string]int{"m": http.StatusOK, "n": http.StatusBadRequest} {
		res := post(t, g.url+"/v1/audio/transcriptions", strings.Replace(form, "MODEL", model, 1), "Content-Type", "multipart/form-data; boundary=x")
		if res.status != want {
			t.Errorf("%s: %d %s, want %d", model, res.status, res.body, want)
		}
	}
	if len(seen) != 1 {
		t.Fatalf("%d forms went upstream, want 1", len(seen))
	}
	if info, err := g.queues.manager.Info("m"); err != nil || info.Completed != 1 {
		t.Errorf("the form waited in no queue: %+v, %v", info, err)
	}
}

// Each endpoint of a model gets its own key and its own name of the model.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	one, two := llmtest.NewServer(t, llmtest.OpenAI()), llmtest.NewServer(t, llmtest.OpenAI())
	g := serve(t, "upstreams:\n  - {name: one, dialect: openai, base_url: '"+one.URL()+"'}\n  - {name: two, dialect: openai, base_url: '"+two.URL()+"'}\n"+
		"models: {m: {max_wait: 1s, endpoints: [{upstream: one, rpm: 2}, {upstream: two, model: my-deployment, rpm: 2}]}}")
	for range 4 {
		if res := post(t, g.url+"/v1/chat/completions", chat("m")); res.status != http.StatusOK {
			t.Fatalf("%d %s", res.status, res.body)
		}
	}
	for srv, want := range map[*llmtest.Server]string{one: "m", two: "my-deployment"} {
		arrivals := srv.Arrivals()
		if len(arrivals) != 2 || arrivals[0].Model != want {
			t.Errorf("an upstream got %v, want two calls of %s", arrivals, want)
		}
	}
}

func TestUnknownModels(t *testing.T) {
	t.Parallel()
	srv := llmtest.NewServer(t, llmtest.OpenAI())
	for policy, want := range map[string]int{"learn": 200, "pass": 200, "refuse": 404} {
		g := serve(t, "upstreams: [{dialect: openai, base_url: '"+srv.URL()+"'}]\nunknown_models: "+policy)
		res := post(t, g.url+"/v1/chat/completions", chat("m"))
		if res.status != want {
			t.Errorf("%s: %d %s, want %d", policy, res.status, res.body, want)
		}
		if n := len(g.queues.manager.Models()); n != 0 != (policy == "learn") {
			t.Errorf("%s: there are %d queues", policy, n)
		}
	}
	if res := get(t, serve(t, "upstreams: [{dialect: openai, base_url: '"+srv.URL()+"'}]").url+"/favicon.ico"); res.status != http.StatusNotFound {
		t.Errorf("a path of no dialect gets %d", res.status)
	}
}

func TestNobodyFillsTheGatewayWithModels(t *testing.T) {
	t.Parallel()
	url, _ := recorder(t)
	g := serve(t, "upstreams: [{dialect: openai, base_url: '"+url+"/v1'}]")
	for i := range mostUnknown {
		if _, err := g.queues.route(dialects[0], strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	if res := post(t, g.url+"/v1/chat/completions", chat("one more")); res.status != http.StatusNotFound || !strings.Contains(res.body, "takes no more") {
		t.Errorf("one model more gets %d %s", res.status, res.body)
	}
}

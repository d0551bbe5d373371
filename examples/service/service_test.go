package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmtest"
)

// The tests are the clients. The processor is a fake, so that they need no provider.

// serve is the service with that processor for both models.
func serve(t *testing.T, ask llmqueue.Processor[Question, Answer]) (url string, manager *llmqueue.Manager[Question, Answer]) {
	t.Helper()
	manager, _, err := newManager(ask)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(newHandler(manager))
	t.Cleanup(func() {
		srv.Close()
		if err := manager.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return srv.URL, manager
}

// call is what a client gets.
func call(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, strings.TrimSpace(string(text))
}

const why = `{"prompt":"Why is the sky blue?"}`

func TestAsk(t *testing.T) {
	recorder := llmtest.Record(llmtest.FakeReply[Question](Answer{Text: "Rayleigh", Model: large}))
	url, _ := serve(t, recorder.Process)
	res, body := call(t, "POST", url+"/ask", why, "X-Tenant", "acme")
	if res.StatusCode != 200 || body != `{"text":"Rayleigh","model":"gpt-4.1"}` {
		t.Errorf("got %d %s", res.StatusCode, body)
	}
	if got := recorder.Requests()[0]; got.Tenant != "acme" || got.Params.Prompt != "Why is the sky blue?" {
		t.Errorf("the processor got %+v", got)
	}
}

func TestMistakesHaveTheirStatus(t *testing.T) {
	unknown := llmqueue.Permanent(errors.New("the provider says no"))
	url, manager := serve(t, llmtest.FakeError[Question, Answer](unknown))
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		says                     string
	}{
		{"no JSON", "POST", "/ask", `prompt`, 400, "no JSON"},
		{"no prompt", "POST", "/ask", `{}`, 400, "Prompt"},
		{"more than the limit of tokens", "POST", "/jobs", `{"prompt":"` + strings.Repeat("word ", 3900) + `"}`, 202, `"pending"`},
		{"the provider's no", "POST", "/ask", why, 502, "did not answer"},
		{"the same in a stream", "POST", "/ask/stream", why, 502, "did not answer"},
		{"no such job", "GET", "/jobs/none", "", 404, "not found"},
		{"no such job to cancel", "DELETE", "/jobs/none", "", 404, "not found"},
	} {
		if res, body := call(t, c.method, url+c.path, c.body); res.StatusCode != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s: got %d %s, want %d and %q", c.name, res.StatusCode, body, c.status, c.says)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = manager.Shutdown(ctx)
	if res, body := call(t, "POST", url+"/ask", why); res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Errorf("after the end: got %d %s, Retry-After %q", res.StatusCode, body, res.Header.Get("Retry-After"))
	}
}

// A job is looked up by its id alone, until it has its answer.
func TestJobs(t *testing.T) {
	release := make(chan struct{})
	url, _ := serve(t, func(ctx context.Context, _ llmqueue.Request[Question]) (Answer, error) {
		select {
		case <-release:
			return Answer{Text: "Rayleigh", Model: large}, nil
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		}
	})
	res, body := call(t, "POST", url+"/jobs", why)
	if res.StatusCode != 202 {
		t.Fatalf("got %d %s", res.StatusCode, body)
	}
	where := url + res.Header.Get("Location")
	look := func() (j job) {
		t.Helper()
		res, body := call(t, "GET", where, "")
		if res.StatusCode != 200 {
			t.Fatalf("got %d %s", res.StatusCode, body)
		}
		if err := json.Unmarshal([]byte(body), &j); err != nil {
			t.Fatal(err)
		}
		return j
	}
	if j := look(); j.Answer != nil || j.Status == llmqueue.StatusCompleted {
		t.Errorf("too early: %+v", j)
	}
	close(release)
	j := look()
	for j.Status != llmqueue.StatusCompleted {
		j = look()
	}
	if j.Answer == nil || j.Answer.Text != "Rayleigh" {
		t.Errorf("got %+v", j)
	}
}

func TestCancel(t *testing.T) {
	ended := make(chan struct{})
	url, _ := serve(t, func(ctx context.Context, _ llmqueue.Request[Question]) (Answer, error) {
		<-ctx.Done()
		close(ended)
		return Answer{}, ctx.Err()
	})
	res, _ := call(t, "POST", url+"/jobs", why)
	where := url + res.Header.Get("Location")
	if res, body := call(t, "DELETE", where, ""); res.StatusCode != 204 {
		t.Errorf("got %d %s", res.StatusCode, body)
	}
	<-ended
	if _, body := call(t, "GET", where, ""); !strings.Contains(body, `"canceled"`) {
		t.Errorf("got %s", body)
	}
}

func TestStream(t *testing.T) {
	url, _ := serve(t, func(ctx context.Context, req llmqueue.Request[Question]) (Answer, error) {
		for _, word := range []string{"Rayleigh", "\nscattering"} {
			if err := llmqueue.Emit(ctx, word); err != nil {
				return Answer{}, err
			}
		}
		return Answer{Text: "Rayleigh\nscattering", Model: req.ModelID}, nil
	})
	res, body := call(t, "POST", url+"/ask/stream", why)
	if got := res.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type %q", got)
	}
	if want := "data: \"Rayleigh\"\n\ndata: \"\\nscattering\"\n\nevent: done\ndata: null"; body != want {
		t.Errorf("got %q, want %q", body, want)
	}
}

// A client that leaves in the middle ends the call, and nothing is written to its handler.
func TestClientsThatLeaveAStream(t *testing.T) {
	left := make(chan error, 1)
	url, manager := serve(t, func(ctx context.Context, _ llmqueue.Request[Question]) (Answer, error) {
		for {
			if err := llmqueue.Emit(ctx, strings.Repeat("word ", 1000)); err != nil {
				left <- err
				return Answer{}, err
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "POST", url+"/ask/stream", strings.NewReader(why))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	cancel()
	res.Body.Close()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the processor got %v", err)
	}
	info, err := manager.Info(large)
	if err != nil || info.Completed != 0 {
		t.Errorf("%+v, %v", info, err)
	}
}

// The small model answers what the large one cannot.
func TestFallback(t *testing.T) {
	url, _ := serve(t, func(_ context.Context, req llmqueue.Request[Question]) (Answer, error) {
		if req.ModelID == large {
			return Answer{}, llmqueue.Elsewhere(errors.New("no such deployment"))
		}
		return Answer{Text: "Rayleigh", Model: req.ModelID}, nil
	})
	if res, body := call(t, "POST", url+"/ask", why); res.StatusCode != 200 || !strings.Contains(body, small) {
		t.Errorf("got %d %s", res.StatusCode, body)
	}
}

// SIGTERM: nobody new is let in, and who waits gets an answer.
func TestShutdownLosesNothing(t *testing.T) {
	running, release := make(chan struct{}), make(chan struct{})
	manager, _, err := newManager(func(context.Context, llmqueue.Request[Question]) (Answer, error) {
		running <- struct{}{}
		<-release
		return Answer{Text: "Rayleigh", Model: large}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	public, err := listen("127.0.0.1:0", newHandler(manager))
	if err != nil {
		t.Fatal(err)
	}
	private, err := listen("127.0.0.1:0", http.NotFoundHandler())
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan string, 1)
	go func() {
		res, err := http.Post("http://"+public.Addr+"/ask", "application/json", strings.NewReader(why))
		if err != nil {
			answered <- err.Error()
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		answered <- string(body)
	}()
	<-running
	down := make(chan error, 1)
	public.RegisterOnShutdown(func() { close(release) }) // the call ends once nobody listens any more
	go func() { down <- shutdown(time.Minute, public, private, manager) }()
	if got := <-answered; !strings.Contains(got, "Rayleigh") {
		t.Errorf("the client that waited got %q", got)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	if _, err := http.Post("http://"+public.Addr+"/ask", "application/json", strings.NewReader(why)); err == nil {
		t.Error("somebody listens after the end")
	}
}

// The whole program, against the simulator.
func TestRun(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "")
	var out strings.Builder
	if err := run(t.Context(), []string{"-addr", "127.0.0.1:0", "-admin", "127.0.0.1:0", "-check"}, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "gpt-4.1 says: ") {
		t.Errorf("got:\n%s", out.String())
	}
}

// What operators see.
func TestMetricsAndPage(t *testing.T) {
	manager, metrics, err := newManager(llmtest.FakeReply[Question](Answer{Text: "Rayleigh"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manager.Submit(t.Context(), llmqueue.NewRequest(large, Question{Prompt: "Why?"})); err != nil {
		t.Fatal(err)
	}
	families, err := metrics.Gather()
	if err != nil || len(families) == 0 {
		t.Errorf("%d families, %v", len(families), err)
	}
	if err := manager.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// docs/guides/service.md shows the program as it is.
func TestGuideShowsIt(t *testing.T) {
	guide, err := os.ReadFile("../../docs/guides/service.md")
	if err != nil {
		t.Fatal(err)
	}
	var program strings.Builder
	for _, name := range []string{"main.go", "handlers.go", "ask.go"} {
		file, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		program.Write(file)
	}
	blocks := strings.Split(string(guide), "```golang\n")[1:]
	for _, block := range blocks {
		code, _, _ := strings.Cut(block, "```")
		if !strings.Contains(program.String(), code) {
			t.Errorf("the guide shows what is not in the program:\n%s", code)
		}
	}
	if len(blocks) < 5 {
		t.Errorf("the guide has %d blocks", len(blocks))
	}
}

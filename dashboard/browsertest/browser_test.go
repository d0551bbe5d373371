package browsertest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// findBrowser returns the path of a Chromium or Chrome, or skips the test.
func findBrowser(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("CHROME"); path != "" {
		return path
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless-shell"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("no browser is installed: install chromium, or name a browser in the environment variable CHROME")
	return ""
}

// patience bounds how long anything in a browser may take.
const patience = 90 * time.Second

// tab is one page in a browser of its own.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	requests []string // every URL that the page asked for
	problems []string // exceptions, and what the console has as an error
}

// newTab starts a browser with an empty page. Nothing that the page does may go wrong
// unseen: see tab.clean.
func newTab(t *testing.T, width, height int) *tab {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(findBrowser(t)), chromedp.UserDataDir(t.TempDir()),
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WindowSize(width, height),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.WSURLReadTimeout(patience))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx}
	b.run(chromedp.EmulateViewport(int64(width), int64(height)), call(network.Enable, network.EnableParams{}), call(log.Enable, cdp.Empty{}))
	if err := chromedp.Listen(ctx, b.hear); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *tab) hear(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		b.requests = append(b.requests, e.Request.URL)
	case *runtime.EventExceptionThrown:
		b.problems = append(b.problems, fmt.Sprintf("%s at %s:%d: %+v", e.ExceptionDetails.Text, e.ExceptionDetails.URL, e.ExceptionDetails.LineNumber, e.ExceptionDetails.Exception))
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError {
			b.problems = append(b.problems, e.Entry.Text+" "+e.Entry.URL)
		}
	}
}

// clean fails the test if the page asked anybody but base for anything, or an error
// was thrown or logged, such as a breach of the content security policy.
func (b *tab) clean(base string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, url := range b.requests {
		if !strings.HasPrefix(url, base) {
			b.t.Errorf("the page asked for %s", url)
		}
	}
	for _, problem := range b.problems {
		b.t.Errorf("in the browser's console: %s", problem)
	}
}

// call is a protocol command as a step.
func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, command, params)
		return err
	})
}

func (b *tab) run(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatalf("the browser: %v", err)
	}
}

// open loads a page and waits until it has drawn a snapshot.
func (b *tab) open(url string) {
	b.t.Helper()
	b.run(chromedp.Navigate(url))
	b.until("the page is live and has drawn", `document.querySelector('#status').textContent === 'live' && !!document.documentElement.dataset.drawn`)
}

// eval runs JavaScript and returns what it gives.
func eval[T any](b *tab, script string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("the browser: %s: %v", script, err)
	}
	return v
}

// text is the text of the first element that matches.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf(`document.querySelector(%s)?.textContent ?? ''`, quote(selector)))
}

// until waits until a JavaScript condition holds. It asks again and again from here,
// because the page's policy forbids what a browser's own polling would run.
func (b *tab) until(what, condition string) {
	b.t.Helper()
	for deadline := time.Now().Add(patience / 2); !eval[bool](b, condition); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("waited in vain until %s; the page shows:\n%s", what, eval[string](b, `document.body.innerText.slice(0, 2000)`))
		}
	}
}

// snapshots waits until the page has drawn n more.
func (b *tab) snapshots(n int) {
	b.t.Helper()
	for range n {
		drawn := eval[string](b, `document.documentElement.dataset.drawn`)
		b.until("the next snapshot is drawn", `document.documentElement.dataset.drawn !== `+quote(drawn))
	}
}

func quote(s string) string {
	q, _ := json.Marshal(s)
	return string(q)
}

// serve serves a handler under the path of a real program and returns the page's URL.
func serve(t *testing.T, page http.Handler) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := serveOn(listener, page)
	t.Cleanup(stop)
	return "http://" + listener.Addr().String() + "/debug/llmqueue/"
}

// serveOn serves with the timeouts of a careful server, until stop.
func serveOn(listener net.Listener, page http.Handler) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.Handle("/debug/llmqueue/", page)
	server := &http.Server{
		Handler: mux, ReadTimeout: time.Second, WriteTimeout: time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(listener)
	}()
	return func() {
		cancel()
		server.Shutdown(context.Background())
		<-done
	}
}

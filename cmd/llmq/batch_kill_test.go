package main

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/llmqueue/llmqueue/llmtest"
)

// gallows stands before a provider and kills a process at one of its steps, once.
type gallows struct {
	*httptest.Server
	mu   sync.Mutex
	step func(*http.Request) bool
	late bool // after the provider has done the step, whose answer is never read
	kill func()
	out  string // the results, of which some are to be there before a kill in their middle
}

// take reports whether the process is to be killed now.
func (g *gallows) take(r *http.Request) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.kill == nil || !g.step(r) {
		return false
	}
	return true
}

func (g *gallows) fetches(path string) bool {
	return strings.HasSuffix(path, "/content") || strings.HasSuffix(path, ":download")
}

func (g *gallows) hang() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.kill != nil {
		g.kill()
	}
	g.kill = nil
}

func hanging(t *testing.T, srv *llmtest.Server) *gallows {
	to, err := url.Parse(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	to.Path = ""
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.FlushInterval = -1
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	g := &gallows{}
	proxy.ModifyResponse = func(res *http.Response) error {
		if !g.late || !g.take(res.Request) {
			return nil
		}
		if g.fetches(res.Request.URL.Path) && g.out != "" { // half of the results arrive
			data, _ := io.ReadAll(res.Body)
			res.Body = io.NopCloser(io.MultiReader(bytes.NewReader(data[:len(data)/2]), reader(func([]byte) (int, error) {
				eventually(t, "results", func() bool { info, err := os.Stat(g.out); return err == nil && info.Size() > 0 })
				g.hang()
				return 0, io.ErrUnexpectedEOF
			})))
			return nil
		}
		g.hang()
		return nil
	}
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.late && g.take(r) {
			g.hang()
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(g.Close)
	return g
}

type reader func([]byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// TestKilledAtEveryStepOfABatch: whatever the run was about to do or had just had done, the
// next one submits nothing twice and loses nothing.
func TestKilledAtEveryStepOfABatch(t *testing.T) {
	t.Parallel()
	is := func(method, path string) func(*http.Request) bool {
		return func(r *http.Request) bool {
			return r.Method == method && (r.URL.Path == path || strings.HasSuffix(path, "*") && strings.HasPrefix(r.URL.Path, path[:len(path)-1]))
		}
	}
	const n = 2000                                                     // so that half of the results are more than a buffer
	failing := llmtest.WithFaultShare(0.2, llmtest.Fault{Status: 400}) // some of them
	for provider, c := range map[string]struct {
		serve   func(*testing.T) *llmtest.Server
		base    string
		lines   []string
		batches func(*testing.T, *llmtest.Server) int
		steps   map[string]func(*http.Request) bool
	}{
		"OpenAI": {
			func(t *testing.T) *llmtest.Server { return batching(t, llmtest.Batches{}, failing) }, "/v1", chats(n, 10),
			func(t *testing.T, srv *llmtest.Server) int { return len(batchesAt(t, srv)) },
			map[string]func(*http.Request) bool{
				"upload": is("POST", "/v1/files"),
				"submit": is("POST", "/v1/batches"),
				"ask":    is("GET", "/v1/batches/*"),
				"fetch":  is("GET", "/v1/files/*"),
			},
		},
		"Gemini": {
			func(t *testing.T) *llmtest.Server { return batchingContent(t, llmtest.Batches{}, failing) }, "", contents(n),
			func(t *testing.T, srv *llmtest.Server) int { n, _ := contentBatchesAt(t, srv); return n },
			map[string]func(*http.Request) bool{
				"upload": func(r *http.Request) bool { return r.Header.Get("X-Goog-Upload-Command") == "start" },
				"finish": func(r *http.Request) bool { return r.Header.Get("X-Goog-Upload-Command") == "upload, finalize" },
				"submit": is("POST", "/v1beta/models/m:batchGenerateContent"),
				"ask":    is("GET", "/v1beta/batches/*"),
				"fetch":  is("GET", "/v1beta/files/*"),
			},
		},
	} {
		for name, step := range c.steps {
			for _, late := range []bool{false, true} {
				when := map[bool]string{false: " before ", true: " after "}[late]
				t.Run(provider+when+name, func(t *testing.T) {
					t.Parallel()
					srv := c.serve(t)
					g := hanging(t, srv)
					dir := t.TempDir()
					write(t, dir, "in.jsonl", c.lines...)
					p := command(t, dir, nil, viaBatch(g.URL+c.base)...)
					g.step, g.late, g.kill = step, late, func() { _ = p.Process.Kill() }
					g.out = filepath.Join(dir, "out.jsonl")
					if err := p.Start(); err != nil {
						t.Fatal(err)
					}
					_ = p.Wait()
					g.mu.Lock()
					killed := g.kill == nil
					g.mu.Unlock()
					if !killed {
						t.Fatalf("it was not killed: %s", p.stderr.String())
					}
					before, _ := os.ReadFile(filepath.Join(dir, "out.jsonl"))
					if half := late && name == "fetch"; half && len(before) == 0 {
						t.Error("no result was recorded before the kill")
					}
					code, _, stderr := llmq(t, dir, viaBatch(g.URL+c.base)...)
					if code != 1 {
						t.Errorf("exit code %d: %s", code, stderr)
					}
					eachOnce(t, readResults(t, dir, "out.jsonl"), n)
					if b := c.batches(t, srv); b != 1 {
						t.Errorf("%d batches were submitted, want 1", b)
					}
					noSpool(t, dir)
				})
			}
		}
	}
}

// TestASubmissionWithoutAnAnswerIsNotRepeated: the connection breaks after the provider has
// made the batch.
func TestASubmissionWithoutAnAnswerIsNotRepeated(t *testing.T) {
	t.Parallel()
	srv := batching(t, llmtest.Batches{})
	g := hanging(t, srv)
	g.step, g.late = func(r *http.Request) bool { return r.Method == "POST" && r.URL.Path == "/v1/batches" }, true
	g.kill = g.CloseClientConnections
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(10, 10)...)
	if code, _, stderr := llmq(t, dir, viaBatch(g.URL+"/v1")...); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	eachOnce(t, readResults(t, dir, "out.jsonl"), 10)
	if b := batchesAt(t, srv); len(b) != 1 {
		t.Errorf("%d batches were submitted, want 1", len(b))
	}
}

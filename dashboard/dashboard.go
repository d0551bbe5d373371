// Package dashboard is a web page that shows live queues: for each model a chart of
// throughput and wait, its limits, what runs, what waits and what failed.
//
//	mux.Handle("/debug/llmqueue/", dashboard.Handler(manager))
//
// The page loads nothing from elsewhere, works under any path that ends in a slash, and
// never shows params or results by itself. Whoever can open it sees model names,
// request ids, tenants and error texts: put your own authentication in front.
//
// # What it costs
//
// Nothing while nobody watches: no goroutine, no timer, no memory but its own. While
// somebody does, one goroutine takes one snapshot a second for all viewers, and ends
// when the last of them has gone. The charts' history is what was sampled while
// somebody watched, at most 15 minutes of it.
//
// # Ending
//
// A viewer's stream ends with its request's context. http.Server.Shutdown does not end
// that by itself; give the server a BaseContext that you cancel first.
package dashboard

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue"
)

// Page is an http.Handler that serves the dashboard. Make it with Handler. Safe for
// concurrent use.
type Page struct {
	settings settings
	feed     *feed
	secret   []byte // of the CSRF tokens
}

type settings struct {
	inspectors  []llmqueue.Inspector
	controllers []llmqueue.Controller // of the inspectors, by index; none: no buttons
	format      Formatter
}

// controls reports whether the page has any buttons.
func (s *settings) controls() bool {
	return slices.ContainsFunc(s.controllers, func(c llmqueue.Controller) bool { return c != nil })
}

// controlled reports whether the models of an inspector have buttons.
func (s *settings) controlled(inspector int) bool {
	return inspector < len(s.controllers) && s.controllers[inspector] != nil
}

// Handler returns a page that shows all models of the inspectors, which are managers
// of any P and T. Mount it under a path that ends in a slash.
func Handler(inspectors ...llmqueue.Inspector) *Page {
	return newPage(settings{inspectors: inspectors})
}

// WithControls returns a page like p that also has buttons to pause and resume a model
// and to cancel a request. It takes one controller for each of Handler's inspectors, in
// the same order, mostly the same managers:
//
//	page := dashboard.Handler(manager).WithControls(manager)
//
// A nil controller leaves the models of its inspector without buttons. Another number of
// controllers panics, because an order would reach the wrong manager. Defaults to no
// buttons. An order has to come from the page itself: it is a POST that passes
// http.CrossOriginProtection and carries a token that only the page can read. Who may
// open the page may use the buttons.
func (p *Page) WithControls(controllers ...llmqueue.Controller) *Page {
	s := p.settings
	if len(controllers) != len(s.inspectors) {
		panic(fmt.Sprintf("dashboard: WithControls got %d controllers, the page has %d inspectors: give one for each, in the same order",
			len(controllers), len(s.inspectors)))
	}
	s.controllers = slices.Clone(controllers)
	return newPage(s)
}

// Formatter gives the text to show about one request: what of its result, or of the
// params that the program remembers by id, may be seen. It runs when a viewer asks for
// that request, on the viewer's goroutine; ctx ends when the viewer leaves. Must be
// safe for concurrent use. The text is shown as it is, never as HTML.
type Formatter func(ctx context.Context, inspector llmqueue.Inspector, modelID, requestID string) string

// WithFormatter returns a page like p with a button on each request that shows what
// format says about it. Defaults to none: neither params nor results are shown.
func (p *Page) WithFormatter(format Formatter) *Page {
	s := p.settings
	s.format = format
	return newPage(s)
}

func newPage(s settings) *Page {
	p := &Page{settings: s, feed: newFeed(&s), secret: make([]byte, 32)}
	rand.Read(p.secret) // never fails
	return p
}

//go:embed assets
var assets embed.FS

// files are what a browser may load, by the last part of their path.
var files = map[string]struct{ file, contentType string }{
	"":                  {"assets/index.html", "text/html; charset=utf-8"},
	"dashboard.css":     {"assets/dashboard.css", "text/css; charset=utf-8"},
	"dashboard.js":      {"assets/dashboard.js", "text/javascript; charset=utf-8"},
	"rows.js":           {"assets/rows.js", "text/javascript; charset=utf-8"},
	"chart.js":          {"assets/chart.js", "text/javascript; charset=utf-8"},
	"icon.svg":          {"assets/icon.svg", "image/svg+xml"},
	"uPlot.iife.min.js": {"assets/uplot/uPlot.iife.min.js", "text/javascript; charset=utf-8"},
	"uPlot.min.css":     {"assets/uplot/uPlot.min.css", "text/css; charset=utf-8"},
}

// policy lets the page load its own files and nothing else, and run no inline script.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// ServeHTTP serves the page and its data. It looks only at the last part of the path,
// so it works with and without http.StripPrefix.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")

	_, name := path.Split(r.URL.Path)
	switch name {
	case "pause", "resume", "cancel":
		p.control(w, r, name)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed, "use GET")
		return
	}
	switch name {
	case "stream":
		p.stream(w, r)
	case "snapshot":
		p.snapshot(w)
	case "detail":
		p.detail(w, r)
	default:
		f, ok := files[name]
		if !ok {
			fail(w, http.StatusNotFound, "there is nothing here; the dashboard's path ends in a slash")
			return
		}
		if name == "" {
			p.visit(w, r)
		}
		data, _ := assets.ReadFile(f.file)
		h.Set("Content-Type", f.contentType)
		w.Write(data)
	}
}

// fail answers with an error that the page can show.
func fail(w http.ResponseWriter, status int, problem string) {
	writeJSON(w, status, map[string]string{"error": problem})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// snapshot answers with what the page shows now, once.
func (p *Page) snapshot(w http.ResponseWriter) {
	writeJSON(w, http.StatusOK, collect(&p.settings, time.Now()))
}

// detail answers with what the formatter says about one request.
func (p *Page) detail(w http.ResponseWriter, r *http.Request) {
	if p.settings.format == nil {
		fail(w, http.StatusForbidden, "params and results are not shown: the program gave no formatter")
		return
	}
	var o order
	if err := json.Unmarshal([]byte(r.URL.Query().Get("of")), &o); err != nil {
		fail(w, http.StatusBadRequest, "say which request: "+err.Error())
		return
	}
	in, ok := p.inspector(o.Manager)
	if !ok {
		fail(w, http.StatusNotFound, "there is no such manager")
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"text": p.settings.format(r.Context(), in, o.Model, o.Request)})
}

func (p *Page) inspector(i int) (llmqueue.Inspector, bool) {
	if i < 0 || i >= len(p.settings.inspectors) {
		return nil, false
	}
	return p.settings.inspectors[i], true
}

// writePatience is how long one message may take to reach a viewer before it is given up.
const writePatience = 15 * time.Second

// stream sends server-sent events: one hello, then a snapshot per tick. A viewer that
// reads too slowly gets only the latest.
func (p *Page) stream(w http.ResponseWriter, r *http.Request) {
	token := p.visit(w, r)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // a proxy that gathers answers would hold the events back
	rc := http.NewResponseController(w)
	// The server's timeouts are for one answer; this one has no end. A writer that
	// cannot set them has none.
	rc.SetReadDeadline(time.Time{})
	send := func(event string, data []byte) error {
		if err := rc.SetWriteDeadline(time.Now().Add(writePatience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		for _, part := range [][]byte{[]byte("event: " + event + "\ndata: "), data, []byte("\n\n")} {
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
		return rc.Flush()
	}

	viewer, past := p.feed.join()
	defer p.feed.leave(viewer)
	hello, _ := json.Marshal(helloJSON{
		Controls: p.settings.controls(), Details: p.settings.format != nil, Token: token, History: past,
	})
	if send("hello", hello) != nil {
		return
	}
	for r.Context().Err() == nil {
		select {
		case <-r.Context().Done():
		case data := <-viewer:
			if send("snapshot", data) != nil {
				return
			}
		}
	}
}

// helloJSON is the first event of a stream.
type helloJSON struct {
	Controls bool       `json:"controls"`
	Details  bool       `json:"details"`
	Token    string     `json:"token,omitempty"`
	History  []pastJSON `json:"history"`
}

package dashboard

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// The page works wherever it is mounted, with and without StripPrefix, and every
// answer forbids what it does not need.
func TestMounted(t *testing.T) {
	p := Handler(newManager(t, "m", llmqueue.Concurrent(1)))
	mux := http.NewServeMux()
	mux.Handle("/debug/llmqueue/", p)
	mux.Handle("/stripped/", http.StripPrefix("/stripped", p))
	mux.Handle("/bare/", http.StripPrefix("/bare/", p))
	mux.Handle("/a/{tenant}/queues/", p)
	mux.Handle("/wrong", p)
	mux.Handle("/{$}", p)
	for _, at := range []string{"/", "/debug/llmqueue/", "/stripped/", "/bare/", "/a/b/queues/"} {
		w := get(t, mux, at)
		require.Equal(t, http.StatusOK, w.Code, at)
		assert.Contains(t, w.Body.String(), "<title>llmqueue</title>")
		assert.Equal(t, "text/html; charset=utf-8", w.Header().Get("Content-Type"))
		assert.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'; style-src 'self'")
		assert.NotContains(t, w.Header().Get("Content-Security-Policy"), "unsafe")
		assert.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
		assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		assert.Empty(t, w.Header().Values("Set-Cookie"), "without controls there is no cookie")
	}
	for name, f := range files {
		w := get(t, mux, "/debug/llmqueue/"+name)
		assert.Equal(t, http.StatusOK, w.Code, name)
		assert.Equal(t, f.contentType, w.Header().Get("Content-Type"))
		assert.NotEmpty(t, w.Body.Bytes(), name)
	}
	w := get(t, mux, "/wrong")
	assert.Equal(t, http.StatusNotFound, w.Code)
	assert.Contains(t, w.Body.String(), "ends in a slash")
	assert.Equal(t, http.StatusNotFound, get(t, mux, "/debug/llmqueue/assets").Code)

	post := httptest.NewRecorder()
	mux.ServeHTTP(post, httptest.NewRequest(http.MethodPost, "/debug/llmqueue/", nil))
	assert.Equal(t, http.StatusMethodNotAllowed, post.Code)
}

// The page names only files that it brings along, has no inline script or style, and
// nothing in it leads elsewhere.
func TestSelfContained(t *testing.T) {
	elsewhere := regexp.MustCompile(`(https?:)?//[a-z0-9]`)
	require.NoError(t, fs.WalkDir(assets, "assets", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(path, "uplot/") {
			return err
		}
		data, err := assets.ReadFile(path)
		for line := range strings.Lines(string(data)) {
			if found := elsewhere.FindString(strings.ReplaceAll(line, "http://www.w3.org/2000/svg", "")); found != "" {
				t.Errorf("%s leads elsewhere: %s", path, line)
			}
			for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "setAttribute('style"} {
				assert.NotContains(t, line, bad, path)
			}
		}
		return err
	}))
	html := get(t, Handler(), "/").Body.String()
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(html, -1) {
		assert.Contains(t, files, m[1])
	}
	assert.NotRegexp(t, `<style|style=|\son[a-z]+=|<script[^>]*>[^<]`, html)
	licence, err := fs.ReadFile(assets, "assets/uplot/LICENSE")
	require.NoError(t, err)
	assert.Contains(t, string(licence), "MIT License")
}

// A snapshot shows managers of different types, the same name twice, and for each
// model the figures of Info.
func TestSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, "m", llmqueue.Concurrent(2), llmqueue.RPM(100), llmqueue.TPM(5000))
		other := llmqueue.NewManager[struct{ Text string }, []byte]()
		defer other.Shutdown(context.WithoutCancel(t.Context()))
		for _, model := range []string{"m", "z"} {
			_, err := other.Register(model, func(context.Context, llmqueue.Request[struct{ Text string }]) ([]byte, error) { return nil, nil },
				llmqueue.WithUnlimited())
			require.NoError(t, err)
		}
		post(t, m, job{ID: "failed", Params: -1, Tenant: "t"})
		post(t, m, job{ID: "done"})
		synctest.Wait()
		for i := range 300 {
			post(t, m, job{ID: fmt.Sprint("r", i), Params: 3600, Priority: -i, Tenant: "t", Estimate: llmqueue.Usage{InputTokens: 7, OutputTokens: 3}})
		}
		time.Sleep(2 * time.Second)

		var s struct {
			Time   int64
			Models []modelJSON
		}
		s.Models = nil
		w := get(t, Handler(m, other), "/snapshot")
		require.NoError(t, json.Unmarshal([]byte(strings.ReplaceAll(w.Body.String(), "null", "0")), &s))
		assert.Equal(t, time.Now().UnixMilli(), s.Time)
		require.Len(t, s.Models, 3)
		for i, want := range []key{{0, "m"}, {1, "m"}, {1, "z"}} {
			assert.Equal(t, want, key{s.Models[i].Manager, s.Models[i].Model})
		}
		got := s.Models[0]
		info, err := m.Info("m")
		require.NoError(t, err)
		assert.Equal(t, []int64{int64(info.Pending), int64(info.Processing), info.Slots, info.Accepted, info.Completed, info.Failed, info.Canceled, info.Retries},
			[]int64{int64(got.Pending), int64(got.Processing), got.Slots, got.Accepted, got.Completed, got.Failed, got.Canceled, got.Retries})
		require.Len(t, got.Endpoints, 1)
		require.Len(t, got.Endpoints[0].Limits, len(info.Limits))
		for i, l := range info.Limits {
			assert.Equal(t, gaugeJSON{Name: l.Limit.String(), Amount: l.Limit.Amount, Used: l.Used, Available: l.Available, ResetAt: millis(l.ResetAt)}, got.Endpoints[0].Limits[i])
		}
		require.Len(t, got.Running, 2)
		assert.Equal(t, "r0", got.Running[0].ID)
		require.Len(t, got.Waiting, maxListed, "a bounded part of the 298 that wait")
		assert.Equal(t, 298, got.Pending)
		assert.Equal(t, requestJSON{ID: "r2", Tenant: "t", Priority: -2, Tokens: 10, Position: 1, Created: s.Time - 2000, Expected: got.Waiting[0].Expected, WaitsFor: got.Waiting[0].WaitsFor}, got.Waiting[0])
		require.Len(t, got.Failures, 1)
		assert.Equal(t, "failed", got.Failures[0].ID)
		assert.Contains(t, got.Failures[0].Error, "negative")
		assert.NotContains(t, w.Body.String(), "secret")
	})
}

// told is an inspector that says what the test says.
type told []llmqueue.QueueInfo

func (t told) Models() []string                        { return nil }
func (t told) Info(string) (llmqueue.QueueInfo, error) { return llmqueue.QueueInfo{}, nil }
func (t told) InfoAll() []llmqueue.QueueInfo           { return t }
func (t told) Requests(string, llmqueue.RequestFilter) ([]llmqueue.RequestInfo, error) {
	return nil, nil
}

// A snapshot tells which endpoint is held out, why and until when, how calls ended there of late
// and how fast output comes. The reason is a provider's text: it comes out as it went in, cannot
// end a script, and is bounded.
func TestSnapshotOfHealth(t *testing.T) {
	probe := time.UnixMilli(1_700_000_004_000)
	hostile := "</script><img src=x onerror=alert(1)>"
	w := get(t, Handler(told{{ModelID: "m", Hedges: 3, Endpoints: []llmqueue.EndpointInfo{
		{Name: "good", RecentServed: 9, RecentFailures: 0.5, RecentRefusals: 0.25, FirstOutput: 1500 * time.Millisecond},
		{Name: "bad", Open: true, HeldOut: true, HeldOutReason: hostile, NextProbe: probe, RecentFaults: 4},
		{Name: "long", HeldOut: true, HeldOutReason: strings.Repeat("x", 5000)},
	}}}), "/snapshot")
	assert.NotContains(t, w.Body.String(), "<")
	var s struct{ Models []modelJSON }
	require.NoError(t, json.Unmarshal([]byte(strings.ReplaceAll(w.Body.String(), "null", "0")), &s))
	require.Len(t, s.Models, 1)
	got := s.Models[0]
	assert.EqualValues(t, 3, got.Hedges)
	require.Len(t, got.Endpoints, 3)
	assert.LessOrEqual(t, len(got.Endpoints[2].HeldReason), maxText+len("…"))
	assert.Equal(t, []endpointJSON{
		{Name: "good", Recent: recentJSON{Served: 9, Failures: 0.5, Refusals: 0.25}, FirstOutput: 1500, Limits: []gaugeJSON{}},
		{Name: "bad", Open: true, HeldOut: true, HeldReason: hostile, NextProbe: probe.UnixMilli(), Recent: recentJSON{Faults: 4}, Limits: []gaugeJSON{}},
	}, got.Endpoints[:2])
}

// More may run and wait than was counted a moment before: the lists keep their bounds.
func TestListsAreBounded(t *testing.T) {
	var live []llmqueue.RequestInfo
	for i := range 2 * maxListed {
		live = append(live,
			llmqueue.RequestInfo{ID: fmt.Sprint("r", i), Status: llmqueue.StatusProcessing},
			llmqueue.RequestInfo{ID: fmt.Sprint("w", i), Status: llmqueue.StatusPending},
			llmqueue.RequestInfo{ID: fmt.Sprint("e", i), Status: llmqueue.StatusCompleted})
	}
	m := model(0, llmqueue.QueueInfo{})
	m.list(live, nil)
	require.Len(t, m.Running, maxListed)
	require.Len(t, m.Waiting, maxListed)
	assert.Equal(t, "r199", m.Running[maxListed-1].ID)
	assert.Equal(t, "w199", m.Waiting[maxListed-1].ID)
}

// Hostile text comes out of the snapshot as it went in, cannot end a script or an
// event, and is bounded.
func TestSnapshotOfHostileText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, "</script><m>", llmqueue.Concurrent(100))
		long := "x" + strings.Repeat("ä", 5000) // the bound is in the middle of a letter
		for _, id := range []string{"</script><img src=x onerror=alert(1)>", "a\n\nevent: hello\ndata: {}\n\n", "\u2028\u202e", "bad\xff", long} {
			post(t, m, job{ModelID: "</script><m>", ID: id, Tenant: id, Params: 10})
		}
		var r reader
		defer watch(t, Handler(m), &r)()
		synctest.Wait()
		_, snapshots := r.events(t) // which fails on an event that is none
		require.Len(t, snapshots, 1)
		running := snapshots[0].Models[0].Running
		require.Len(t, running, 5)
		assert.Equal(t, "</script><img src=x onerror=alert(1)>", running[0].ID)
		assert.Equal(t, running[0].ID, running[0].Tenant)
		assert.Equal(t, "a\n\nevent: hello\ndata: {}\n\n", running[1].ID)
		assert.Equal(t, "bad\ufffd", running[3].ID)
		assert.Equal(t, []bool{false, false, false, true, true},
			[]bool{running[0].Inexact, running[1].Inexact, running[2].Inexact, running[3].Inexact, running[4].Inexact},
			"a request whose id is not shown as it is gets no button")
		assert.LessOrEqual(t, len(running[4].ID), maxID+len("…"))
		assert.True(t, utf8.ValidString(running[4].ID))
		assert.NotContains(t, r.data.String(), "<", "in JSON it is written \\u003c")
	})
}

// Only a formatter shows what is in a request, and it decides what.
func TestFormatter(t *testing.T) {
	m := newManager(t, "m", llmqueue.Concurrent(1))
	post(t, m, job{ID: "a&b", Params: 0})
	_, err := m.Wait(t.Context(), "m", "a&b")
	require.NoError(t, err)
	ask := func(p *Page, of string) (int, string) {
		w := get(t, p, "/x/detail?of="+url.QueryEscape(of))
		return w.Code, w.Body.String()
	}
	plain := Handler(m)
	code, body := ask(plain, `{"model":"m","request":"a&b"}`)
	assert.Equal(t, http.StatusForbidden, code)
	assert.NotContains(t, body, "secret")

	p := plain.WithFormatter(func(_ context.Context, in llmqueue.Inspector, model, id string) string {
		resp, err := in.(*manager).Status(model, id)
		return fmt.Sprint("<b>", resp.Result, err)
	})
	code, body = ask(p, `{"model":"m","request":"a&b"}`)
	assert.Equal(t, http.StatusOK, code)
	assert.JSONEq(t, `{"text":"<b>secret result<nil>"}`, body)
	code, _ = ask(p, `{"manager":1,"model":"m","request":"a&b"}`)
	assert.Equal(t, http.StatusNotFound, code)
	code, _ = ask(p, `nonsense`)
	assert.Equal(t, http.StatusBadRequest, code)
	assert.Nil(t, plain.settings.format, "the page it was made from is as it was")
}

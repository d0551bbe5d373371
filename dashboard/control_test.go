package dashboard

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// visitor is a browser that has the page open.
type visitor struct {
	page   *Page
	cookie *http.Cookie
	token  string
}

func visit(t *testing.T, p *Page) visitor {
	t.Helper()
	w := get(t, p, "/debug/llmqueue/")
	cookies := w.Result().Cookies()
	require.Len(t, cookies, 1)
	c := cookies[0]
	assert.True(t, c.HttpOnly)
	assert.Equal(t, http.SameSiteStrictMode, c.SameSite)
	assert.NotContains(t, w.Body.String(), p.token(c.Value), "the token comes with the stream")
	return visitor{p, c, p.token(c.Value)}
}

// order sends what the page's own script would send, after change.
func (v visitor) order(t *testing.T, action, body string, change func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://service.example/debug/llmqueue/"+action, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Origin", "http://service.example")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("X-Csrf-Token", v.token)
	r.AddCookie(v.cookie)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	v.page.ServeHTTP(w, r)
	return w
}

const wholeModel = `{"manager":0,"model":"m"}`

// An order that anybody but the page itself could have sent changes nothing.
func TestForeignOrdersAreRefused(t *testing.T) {
	m := newManager(t, "m", llmqueue.Concurrent(1))
	p := Handler(m).WithControls(m)
	v := visit(t, p)
	stranger := visit(t, Handler(m).WithControls(m))
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for name, c := range map[string]struct {
		change func(*http.Request)
		status int
		says   string
	}{
		"another site":             {header("Sec-Fetch-Site", "cross-site"), 403, "own page"},
		"another host of the site": {header("Sec-Fetch-Site", "same-site"), 403, "own page"},
		"another origin, from an old browser": {func(r *http.Request) {
			r.Header.Del("Sec-Fetch-Site")
			r.Header.Set("Origin", "http://evil.example")
		}, 403, "own page"},
		"no token":                {header("X-Csrf-Token", ""), 403, "token"},
		"a wrong token":           {header("X-Csrf-Token", v.token+"x"), 403, "token"},
		"a token of another page": {header("X-Csrf-Token", stranger.token), 403, "token"},
		"another page's token for this visit": {
			header("X-Csrf-Token", stranger.page.token(v.cookie.Value)), 403, "token"},
		"a token of another visit": {header("X-Csrf-Token", p.token("other")), 403, "token"},
		"no cookie":                {func(r *http.Request) { r.Header.Del("Cookie") }, 403, "token"},
		"an empty cookie": {func(r *http.Request) {
			r.Header.Set("Cookie", cookieName+"=")
			r.Header.Set("X-Csrf-Token", p.token(""))
		}, 403, "token"},
		"a form":        {header("Content-Type", "application/x-www-form-urlencoded"), 415, "json"},
		"text":          {header("Content-Type", "text/plain"), 415, "json"},
		"no type":       {header("Content-Type", ""), 415, "json"},
		"a GET":         {func(r *http.Request) { r.Method = http.MethodGet }, 405, "POST"},
		"a PUT":         {func(r *http.Request) { r.Method = http.MethodPut }, 405, "POST"},
		"an OPTIONS":    {func(r *http.Request) { r.Method = http.MethodOptions }, 405, "POST"},
		"a page of off": {nil, 403, "WithControls"},
	} {
		t.Run(name, func(t *testing.T) {
			v := v
			if c.change == nil {
				v.page = Handler(m)
			}
			for _, action := range []string{"pause", "resume", "cancel"} {
				w := v.order(t, action, wholeModel, c.change)
				assert.Equal(t, c.status, w.Code)
				assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
				assert.Contains(t, w.Body.String(), `{"error":"`)
				assert.Contains(t, w.Body.String(), c.says)
			}
			info, err := m.Info("m")
			require.NoError(t, err)
			assert.False(t, info.Paused, "the order was carried out")
		})
	}
}

// An order that names nothing that is there says so.
func TestOrdersThatMissAreRefused(t *testing.T) {
	m := newManager(t, "m", llmqueue.Concurrent(1))
	v := visit(t, Handler(m).WithControls(m))
	for name, c := range map[string]struct {
		action, body string
		status       int
	}{
		"no JSON":          {"pause", "pause", 400},
		"nothing":          {"pause", "", 400},
		"too much":         {"pause", `{"model":"` + strings.Repeat("m", maxOrder) + `"}`, 400},
		"another manager":  {"pause", `{"manager":1,"model":"m"}`, 404},
		"no manager":       {"pause", `{"manager":-1,"model":"m"}`, 404},
		"an unknown model": {"pause", `{"model":"n"}`, 404},
		"resume unknown":   {"resume", `{"model":"n"}`, 404},
		"unknown request":  {"cancel", `{"model":"m","request":"r"}`, 404},
		"unknown both":     {"cancel", `{"model":"n","request":"r"}`, 404},
	} {
		t.Run(name, func(t *testing.T) {
			w := v.order(t, c.action, c.body, nil)
			assert.Equal(t, c.status, w.Code)
			assert.Contains(t, w.Body.String(), `{"error":"`)
		})
	}
}

// The page's own orders are carried out, and everybody sees it without waiting for
// the next tick.
func TestOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, second := newManager(t, "m", llmqueue.Concurrent(1)), newManager(t, "m", llmqueue.Concurrent(1))
		v := visit(t, Handler(m, second).WithControls(m, second))
		paused := func(m *manager) bool {
			info, err := m.Info("m")
			require.NoError(t, err)
			return info.Paused
		}
		var r reader
		defer watch(t, v.page, &r)()
		synctest.Wait()

		assert.Equal(t, http.StatusNoContent, v.order(t, "pause", `{"manager":1,"model":"m"}`, nil).Code)
		assert.Equal(t, []bool{false, true}, []bool{paused(m), paused(second)}, "only the second manager's")
		synctest.Wait()
		_, snapshots := r.events(t)
		assert.Len(t, snapshots, 2)
		// A browser that sends neither header, and a type with a parameter.
		assert.Equal(t, http.StatusNoContent, v.order(t, "resume", `{"manager":1,"model":"m"}`, func(r *http.Request) {
			r.Header.Del("Sec-Fetch-Site")
			r.Header.Set("Content-Type", "application/json; charset=utf-8")
		}).Code)
		assert.False(t, paused(second))

		post(t, m, job{ModelID: "m", ID: "runs", Params: 100})
		post(t, m, job{ModelID: "m", ID: "waits", Params: 100})
		for _, id := range []string{"waits", "runs"} {
			assert.Equal(t, http.StatusNoContent, v.order(t, "cancel", `{"model":"m","request":"`+id+`"}`, nil).Code)
			resp, err := m.Status("m", id)
			require.NoError(t, err)
			assert.Equal(t, llmqueue.StatusCanceled, resp.Status)
		}
	})
}

// The stream gives the token that belongs to the visitor's cookie, and a cookie to who
// lost it; a page without controls gives neither.
func TestToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, "m", llmqueue.Concurrent(1))
		p := Handler(m).WithControls(m)
		var r reader
		defer watch(t, p, &r)()
		synctest.Wait()
		hello, _ := r.events(t)
		assert.True(t, hello.Controls)
		c, err := http.ParseSetCookie(r.header.Get("Set-Cookie"))
		require.NoError(t, err)
		assert.Equal(t, p.token(c.Value), hello.Token)
		assert.False(t, c.Secure, "not over HTTPS")

		w, req := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "https://service.example/", nil)
		assert.NotEmpty(t, p.visit(w, req))
		assert.True(t, w.Result().Cookies()[0].Secure)
		req.AddCookie(w.Result().Cookies()[0])
		again := httptest.NewRecorder()
		assert.Equal(t, p.token(w.Result().Cookies()[0].Value), p.visit(again, req))
		assert.Empty(t, again.Result().Cookies(), "who has one keeps it")

		var off reader
		defer watch(t, Handler(m), &off)()
		synctest.Wait()
		hello, _ = off.events(t)
		assert.False(t, hello.Controls)
		assert.Empty(t, hello.Token)
		assert.Empty(t, off.header.Get("Set-Cookie"))
	})
}

// Only the models of an inspector that has a controller can be ordered about.
func TestControlsOfSomeManagers(t *testing.T) {
	seen, ruled := newManager(t, "m", llmqueue.Concurrent(1)), newManager(t, "m", llmqueue.Concurrent(1))
	p := Handler(seen, ruled).WithControls(nil, ruled)
	v := visit(t, p)
	w := v.order(t, "pause", `{"manager":0,"model":"m"}`, nil)
	assert.Equal(t, http.StatusForbidden, w.Code)
	assert.Contains(t, w.Body.String(), "no controller")
	assert.Equal(t, http.StatusNoContent, v.order(t, "pause", `{"manager":1,"model":"m"}`, nil).Code)
	info, err := seen.Info("m")
	require.NoError(t, err)
	assert.False(t, info.Paused, "the order reached the wrong manager")
	info, err = ruled.Info("m")
	require.NoError(t, err)
	assert.True(t, info.Paused)
	body := get(t, p, "/snapshot").Body.String()
	assert.Equal(t, 1, strings.Count(body, `"controls":true`), "buttons for one of the two models")

	assert.Panics(t, func() { Handler(seen, ruled).WithControls(ruled) }, "nobody knows whose controller it is")
	assert.Panics(t, func() { Handler(seen).WithControls() })
}

package dashboard

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"mime"
	"net/http"

	"github.com/llmqueue/llmqueue"
)

// order names what a button is for. Request is empty for a whole model.
type order struct {
	Manager int    `json:"manager"`
	Model   string `json:"model"`
	Request string `json:"request"`
}

// maxOrder bounds the body of an order, in bytes.
const maxOrder = 64 << 10

// control carries an order out: pause, resume or cancel.
func (p *Page) control(w http.ResponseWriter, r *http.Request, action string) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		fail(w, http.StatusMethodNotAllowed, "use POST")
		return
	}
	if !p.settings.controls() {
		fail(w, http.StatusForbidden, "the controls are off: the program did not call WithControls")
		return
	}
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		fail(w, http.StatusForbidden, "only the dashboard's own page may do this: "+err.Error())
		return
	}
	if !p.genuine(r) {
		fail(w, http.StatusForbidden, "the token is missing or not of this visit: reload the page, with cookies allowed")
		return
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		fail(w, http.StatusUnsupportedMediaType, "send application/json")
		return
	}
	var o order
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrder)).Decode(&o); err != nil {
		fail(w, http.StatusBadRequest, "the order cannot be read: "+err.Error())
		return
	}
	if _, ok := p.inspector(o.Manager); !ok {
		fail(w, http.StatusNotFound, "there is no such manager")
		return
	}
	if !p.settings.controlled(o.Manager) {
		fail(w, http.StatusForbidden, "the controls of this model are off: the program gave WithControls no controller for it")
		return
	}
	c := p.settings.controllers[o.Manager]
	var err error
	switch action {
	case "pause":
		err = c.Pause(o.Model)
	case "resume":
		err = c.Resume(o.Model)
	default:
		err = c.Cancel(o.Model, o.Request)
	}
	switch {
	case err == nil:
		p.feed.look()
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, llmqueue.ErrModelNotRegistered), errors.Is(err, llmqueue.ErrRequestNotFound):
		fail(w, http.StatusNotFound, err.Error())
	default:
		fail(w, http.StatusInternalServerError, err.Error())
	}
}

// The token of a visit is a MAC of a random value in a cookie. Another site can make a
// browser send the cookie, but can read neither it nor the token.
const (
	cookieName  = "llmqueue_dashboard"
	tokenHeader = "X-Csrf-Token"
)

// visit returns the visitor's token and gives the cookie to who has none. Without
// controls there is no cookie and no token.
func (p *Page) visit(w http.ResponseWriter, r *http.Request) (token string) {
	if !p.settings.controls() {
		return ""
	}
	if c, err := r.Cookie(cookieName); err == nil && c.Value != "" {
		return p.token(c.Value)
	}
	// No path: the default is the page's own folder, which only the browser knows.
	c := &http.Cookie{Name: cookieName, Value: rand.Text(), HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil}
	http.SetCookie(w, c)
	return p.token(c.Value)
}

func (p *Page) token(visit string) string {
	mac := hmac.New(sha256.New, p.secret)
	mac.Write([]byte(visit))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// genuine reports whether r carries the token that belongs to its cookie.
func (p *Page) genuine(r *http.Request) bool {
	c, err := r.Cookie(cookieName)
	return err == nil && c.Value != "" && hmac.Equal([]byte(r.Header.Get(tokenHeader)), []byte(p.token(c.Value)))
}

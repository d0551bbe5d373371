package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// authHeaders are the headers in which a key is sent, by the name of the way.
var authHeaders = map[string]string{
	"bearer": "Authorization", "api-key": "Api-Key", "x-api-key": "X-Api-Key", "x-goog-api-key": "X-Goog-Api-Key",
}

// upstream is a provider, ready to be called. It does not change.
type upstream struct {
	name    string
	dialect *dialect
	base    *url.URL
	auth    string
	key     string
}

func newUpstream(u Upstream) (*upstream, error) {
	base, err := url.Parse(u.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: its base_url is no address", u.Name)
	}
	up := &upstream{name: u.Name, dialect: dialectNamed(u.Dialect), base: base, auth: u.Auth}
	if u.KeyEnv == "" {
		return up, nil
	}
	up.key = strings.TrimSpace(os.Getenv(u.KeyEnv))
	for _, r := range up.key {
		if r <= ' ' || r > '~' {
			return nil, fmt.Errorf("upstream %s: the key in %s has a character that no key has (a space, a line end or a letter beyond ASCII): set it anew", u.Name, u.KeyEnv)
		}
	}
	return up, nil
}

// credentials are those that a client sent along: where the upstream has no key they are passed on.
type credentials struct {
	header http.Header // the headers of authHeaders alone
	query  string      // Gemini's key=
}

// takeCredentials takes them off a request.
func takeCredentials(h http.Header, q *url.URL) (c credentials) {
	for _, name := range authHeaders {
		if v := h[name]; len(v) > 0 {
			if c.header == nil {
				c.header = make(http.Header, 1)
			}
			c.header[name] = v
			delete(h, name)
		}
	}
	if strings.Contains(q.RawQuery, "key=") {
		values := q.Query()
		if c.query = values.Get("key"); c.query != "" {
			values.Del("key")
			q.RawQuery = values.Encode()
		}
	}
	return c
}

// address points a request at the upstream, with its key or the client's. The path is the one that
// the client asked for, as it stands in an address.
func (u *upstream) address(r *http.Request, path string, c *credentials) error {
	raw := u.base.EscapedPath() + strings.TrimPrefix(path, u.dialect.prefix)
	plain, err := url.PathUnescape(raw)
	if err != nil {
		return err
	}
	to := *r.URL
	to.Scheme, to.Host, to.Path, to.RawPath = u.base.Scheme, u.base.Host, plain, raw
	for _, name := range authHeaders {
		delete(r.Header, name)
	}
	switch {
	case u.key == "":
		maps.Copy(r.Header, c.header)
		if c.query != "" && r.Header.Get("X-Goog-Api-Key") == "" {
			r.Header.Set("X-Goog-Api-Key", c.query)
		}
	case u.auth == "bearer":
		r.Header.Set("Authorization", "Bearer "+u.key)
	default:
		r.Header.Set(authHeaders[u.auth], u.key)
	}
	r.URL, r.Host = &to, u.base.Host
	return nil
}

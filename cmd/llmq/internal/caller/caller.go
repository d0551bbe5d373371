// Package caller sends requests to the provider.
package caller

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/jsonwalk"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// Config says whom to call and how.
type Config struct {
	BaseURL string
	Flag    string   // that the base URL is of, for messages; "": --base-url
	Key     string   // never printed
	Hidden  []string // other keys that are never printed
	KeyFrom string   // where it comes from, or should, for messages
	// Auth is how the key is sent: "bearer", "api-key", "x-api-key" or
	// "x-goog-api-key".
	Auth        string
	Header      http.Header
	Timeout     time.Duration  // of one attempt
	Connections int            // that are kept
	CAs         *x509.CertPool // that certify the host; nil: the system's
}

// Caller calls a provider. Safe for concurrent use.
type Caller struct {
	config Config
	base   *url.URL
	calls  http.RoundTripper
	plain  *http.Client // for probes
}

// Reply is an answer.
type Reply struct {
	Status    int
	RequestID string
	Body      json.RawMessage
	Usage     llmqueue.Usage
	Sent      time.Time
	Latency   time.Duration
	Lacks     string // what it lacks to fit the schema; whoever checks it fills it in
	Charged   int64  // tokens that the limits were charged; the caller of Call fills it in
}

// StatusError is an answer that is no success.
type StatusError struct{ Reply }

func (e *StatusError) Error() string {
	return fmt.Sprintf("the provider answered %d %s: %s", e.Status, http.StatusText(e.Status), message(e.Body))
}

// message is what a failure's body says, in one line.
func message(body json.RawMessage) string {
	var b struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
		Message string `json:"message"`
	}
	_ = json.Unmarshal(body, &b)
	text := cmp.Or(b.Error.Message, b.Message, string(body))
	text = strings.TrimSuffix(strings.Join(strings.Fields(text), " "), ".")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return text
}

// New checks the configuration.
func New(c Config) (*Caller, error) {
	flag := cmp.Or(c.Flag, "--base-url")
	base, err := url.Parse(c.BaseURL)
	switch {
	case c.BaseURL == "":
		return nil, fmt.Errorf("no %s: name the provider's, such as https://api.openai.com/v1", flag)
	case err != nil, base.Scheme != "http" && base.Scheme != "https", base.Host == "":
		return nil, fmt.Errorf("%s is no http or https address, give one such as https://api.openai.com/v1", flag)
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("%s has a user, a query or a fragment: leave it out, keys belong into the environment or a file", flag)
	}
	for _, r := range c.Key {
		if r <= ' ' || r > '~' {
			return nil, errors.New("the key has a character that no key has (a space, a line end or a letter beyond ASCII): write it anew")
		}
	}
	base.Path = strings.TrimRight(base.Path, "/")
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost, transport.MaxIdleConns = c.Connections, 0
	if c.CAs != nil {
		transport.TLSClientConfig = &tls.Config{RootCAs: c.CAs}
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Caller{
		config: c, base: base,
		calls: llmhttp.NewTransport(transport),
		plain: &http.Client{Transport: transport, CheckRedirect: stay, Timeout: 10 * time.Second},
	}, nil
}

// URL joins the base URL and a request's path, which may begin with what the base ends
// with: /v1. Gemini has the version behind /upload.
func (c *Caller) URL(path string) *url.URL {
	u := *c.base
	if i := strings.LastIndexByte(u.Path, '/'); i >= 0 {
		last := u.Path[i:]
		switch {
		case path == last || strings.HasPrefix(path, last+"/"):
			path = path[len(last):]
		case strings.HasPrefix(path, "/upload"+last+"/"):
			u.Path = u.Path[:i]
		}
	}
	u.Path += path
	return &u
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// Call sends one request. What the provider answers beside a success is a *StatusError, and
// a success without an answer a *NoAnswerError.
func (c *Caller) Call(ctx context.Context, path string, body []byte) (Reply, error) {
	if c.config.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.config.Timeout)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "", bytes.NewReader(body))
	if err != nil {
		return Reply{}, c.hidden(err)
	}
	req.URL = c.URL(path)
	c.authorize(req.Header)
	req.Header.Set("Content-Type", "application/json")
	r := Reply{Sent: time.Now()}
	res, err := c.calls.RoundTrip(req) // as a client does that follows no redirects: the key goes nowhere else
	if err != nil {
		return r, c.hidden(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	r.Latency = time.Since(r.Sent)
	if err != nil {
		return r, c.hidden(fmt.Errorf("the answer broke off: %w", err))
	}
	if len(data) > maxAnswer {
		return r, fmt.Errorf("the answer is longer than %d MiB", maxAnswer>>20)
	}
	seen := llmqueue.Observed(ctx)
	r.Status, r.Usage = res.StatusCode, seen.Usage
	for _, name := range []string{"X-Request-Id", "Request-Id", "Apim-Request-Id"} {
		if r.RequestID == "" {
			r.RequestID = c.redact(res.Header.Get(name))
		}
	}
	if r.Status < 200 || r.Status > 299 {
		r.Body = c.hiddenBody(data)
		return r, &StatusError{r}
	}
	body, whole := asJSON(data)
	why := lacks(path, data, whole)
	if why != "" || !served(seen.Outcome) {
		r.Body = c.hiddenBody(data)
		return r, noAnswer(r, data, why, !served(seen.Outcome))
	}
	r.Body = body
	return r, nil
}

func (c *Caller) authorize(h http.Header) {
	maps.Copy(h, c.config.Header)
	if c.config.Key == "" {
		return
	}
	switch c.config.Auth {
	case "api-key":
		h.Set("Api-Key", c.config.Key)
	case "x-goog-api-key":
		h.Set("X-Goog-Api-Key", c.config.Key)
	case "x-api-key":
		h.Set("X-Api-Key", c.config.Key)
		if h.Get("Anthropic-Version") == "" {
			h.Set("Anthropic-Version", "2023-06-01")
		}
	default:
		h.Set("Authorization", "Bearer "+c.config.Key)
	}
}

// asJSON is a body as one line of JSON: as it is, if it is that, and as a text when it is none.
func asJSON(data []byte) (line json.RawMessage, whole bool) {
	if !jsonwalk.Valid(data) {
		line, _ = json.Marshal(strings.ToValidUTF8(string(data), "\uFFFD"))
		return line, false
	}
	if data = bytes.TrimSpace(data); bytes.IndexByte(data, '\n') < 0 && bytes.IndexByte(data, '\r') < 0 {
		return data, true
	}
	var b bytes.Buffer
	_ = json.Compact(&b, data) // it is valid
	return b.Bytes(), true
}

// hiddenBody is the body of a failure as one line of JSON, with no key in it.
func (c *Caller) hiddenBody(data []byte) json.RawMessage {
	line, _ := asJSON([]byte(c.redact(string(data))))
	return line
}

// hidden is err with no key in its text.
func (c *Caller) hidden(err error) error {
	if text := err.Error(); c.redact(text) != text {
		return &hiddenError{c.redact(text), err}
	}
	return err
}

type hiddenError struct {
	text string
	err  error
}

func (e *hiddenError) Error() string { return e.text }
func (e *hiddenError) Unwrap() error { return e.err }

// Untrusted reports whether err is of a host whose certificate is of no authority that is
// known, of another name, or out of its time: another attempt would end alike.
func Untrusted(err error) bool {
	e := (*tls.CertificateVerificationError)(nil)
	return errors.As(err, &e)
}

// Unreachable reports whether err is of a call that never reached the provider: no name,
// no route, no connection.
func Unreachable(err error) bool {
	if op := (*net.OpError)(nil); errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect" || op.Op == "socks connect") {
		return true
	}
	dns := (*net.DNSError)(nil)
	return errors.As(err, &dns)
}

// Reason is what the client says of why a call failed, in one line without the address.
func (c *Caller) Reason(err error) string {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	return strings.Join(strings.Fields(c.redact(err.Error())), " ")
}

// Probe reports whether the provider's host answers at all.
func (c *Caller) Probe(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, c.base.String(), nil)
	if err != nil {
		return c.hidden(err)
	}
	res, err := c.plain.Do(req)
	if err != nil {
		return c.hidden(err)
	}
	return res.Body.Close()
}

// Host is whom the caller calls, for messages.
func (c *Caller) Host() string { return c.base.Host }

package llmhttp

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/llmqueue/llmqueue"
)

// Transport is an [http.RoundTripper] that tells the queue what the provider says
// beside its answers. It changes no request; of a response it changes nothing but
// the header X-Should-Retry: see [WithSDKRetries]. The zero value uses what
// [http.DefaultTransport] was when the program started. Safe for concurrent use.
type Transport struct {
	base       http.RoundTripper
	sdkRetries bool
	observe    func(context.Context, llmqueue.Observation) // for tests; nil: llmqueue.Observe
}

// original is what http.DefaultTransport was before a Transport could take its place.
var original = http.DefaultTransport

// NewTransport returns a Transport that sends requests through base; nil means what
// [http.DefaultTransport] is now, or what that sends requests through where it is a Transport
// or a QueueTransport itself: they may take the default's place, and no answer is observed
// twice.
func NewTransport(base http.RoundTripper, opts ...Option) *Transport {
	var o options
	o.set(opts)
	return &Transport{base: beneath(base), sdkRetries: o.sdkRetries}
}

// beneath is what a new transport sends requests through: see NewTransport.
func beneath(base http.RoundTripper) http.RoundTripper {
	if base != nil {
		return base
	}
	switch ours := http.DefaultTransport.(type) {
	case *Transport:
		return ours.next()
	case *QueueTransport:
		return ours.sends.next()
	default:
		return ours
	}
}

func (t *Transport) tell(ctx context.Context, o llmqueue.Observation) {
	if t.observe != nil {
		t.observe(ctx, o)
		return
	}
	llmqueue.Observe(ctx, o)
}

func (t *Transport) next() http.RoundTripper {
	if t.base == nil {
		return original
	}
	return t.base
}

// CloseIdleConnections does so in the transport beneath: http.Client asks for it.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.next().(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// maxErrorBody is how much of an error's body is read before it is handed on.
const maxErrorBody = 64 << 10

// RoundTrip sends the request. Outside a queue's attempt it does nothing else. It counts
// as sent when its headers are on the wire: a connection that is new, and a machine that is
// busy, delay the first calls by more than the next ones.
// Inside one it observes the answer when its headers are there (with an error's body, up
// to 64 KiB of which it reads first), with each part of it that comes, and when its body
// ends or is closed. A call that failed without an answer is retryable, also when a
// timeout of the client's own ended it: whether to give up is judged by the queue's
// request. So is an answer that breaks off, which it does as well when it ends before
// the last event that a stream of its kind always has. A call that was canceled, or
// whose body was closed early, says nothing.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if !llmqueue.InAttempt(ctx) {
		return t.next().RoundTrip(req)
	}
	begun := time.Now()
	var wrote atomic.Int64 // ns later
	res, err := t.next().RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { wrote.Store(int64(time.Since(begun))) },
	})))
	sent := begun.Add(time.Duration(wrote.Load()))
	from := origin{host: req.URL.Hostname(), method: req.Method}
	if res != nil {
		from.header = res.Header
	}
	switch {
	case err != nil:
		if !canceled(ctx) {
			t.tell(ctx, llmqueue.Observation{SentAt: sent, Outcome: llmqueue.OutcomeRetryable})
		}
	case res.StatusCode >= 400:
		t.failed(ctx, sent, from, res)
	case res.StatusCode >= 200 && res.StatusCode < 300:
		t.served(ctx, sent, from, res)
	}
	// The rest are redirects, and 101, whose body is a connection that must stay one.
	return res, err
}

func (t *Transport) served(ctx context.Context, sent time.Time, from origin, res *http.Response) {
	t.tell(ctx, llmqueue.Observation{
		SentAt:  sent,
		Outcome: llmqueue.OutcomeServed,
		Limits:  ParseLimits(res.Header, time.Now()),
	})
	if res.Body != nil && res.Body != http.NoBody {
		b := &body{src: res.Body, ctx: ctx, from: from, tell: t.tell, sent: sent}
		if plain(res.Header) {
			b.scan = newScanner()
		}
		res.Body = b
	}
	t.discourage(res)
}

func (t *Transport) failed(ctx context.Context, sent time.Time, from origin, res *http.Response) {
	var start []byte
	if res.Body != nil && res.Body != http.NoBody {
		// SDKs close the body of a failure unread, so what it says is lost unless it
		// is read here. Reading beyond the bound by one byte tells whether it ended.
		var err error
		start, err = io.ReadAll(io.LimitReader(res.Body, maxErrorBody+1))
		readers := []io.Reader{bytes.NewReader(start)}
		switch {
		case err != nil:
			readers = append(readers, failing{err})
		case len(start) > maxErrorBody:
			readers = append(readers, res.Body)
		}
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(readers...), res.Body}
	}
	if !plain(res.Header) {
		start = nil
	}
	e, usage := parseFailure(start[:min(len(start), maxErrorBody)])
	o := e.observation(res.StatusCode, from, time.Now())
	o.Usage = usage
	o.SentAt = sent
	t.tell(ctx, o)
	switch o.Outcome {
	case llmqueue.OutcomeFatal, llmqueue.OutcomeElsewhere:
		if !passing(res.StatusCode) {
			return
		}
	}
	t.discourage(res)
}

// discourage keeps an SDK from trying again after res: see WithSDKRetries.
func (t *Transport) discourage(res *http.Response) {
	if t.sdkRetries {
		return
	}
	if res.Header == nil {
		res.Header = http.Header{}
	}
	res.Header.Set("X-Should-Retry", "false")
}

// plain reports whether a body is readable as it arrives. It is not when the client
// asked for compression itself; what net/http compresses it decompresses unseen.
func plain(h http.Header) bool {
	e := h.Get("Content-Encoding")
	return e == "" || e == "identity"
}

// failing repeats an error after the bytes that came before it.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

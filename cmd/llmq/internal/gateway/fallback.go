package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// fallback sends what a model refuses or fails to the models that take over from it.
type fallback struct {
	queue  http.RoundTripper
	queues *queues
}

// maxFailure bounds what is kept of a failure while other models are asked.
const maxFailure = 64 << 10

// RoundTrip sends a call. When no model serves it, the answer is that of the model that was asked for.
func (f *fallback) RoundTrip(r *http.Request) (*http.Response, error) {
	c := callOf(r.Context())
	res, err := f.ask(r, c)
	asked := c.route
	if asked == nil || len(asked.fallbacks) == 0 || !elsewhere(r, res, err) {
		return res, err
	}
	if err == nil {
		kept, _ := io.ReadAll(io.LimitReader(res.Body, maxFailure)) // what broke off stays so
		_ = res.Body.Close()                                        // gives its slot back
		res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(kept)), int64(len(kept))
		res.Header.Del("Content-Length")
	}
	path, body := c.path, c.body
	c.handed = true
	for i, model := range asked.fallbacks {
		c.left = len(asked.fallbacks) - 1 - i
		renamed, with, bad := c.dialect.rename(path, body, model)
		if bad != nil {
			break // a form, for example
		}
		c.path, c.body = renamed, with
		next := r.Clone(r.Context())
		if c.path != path { // the transport finds the model in it
			next.URL.Path, next.URL.RawPath = c.path, c.path
			if plain, err := url.PathUnescape(c.path); err == nil {
				next.URL.Path = plain
			}
		}
		setBody(next, c.body)
		other, failed := f.ask(next, c)
		if !elsewhere(r, other, failed) {
			if failed == nil {
				other.Header.Set(headerModel, model)
			}
			return other, failed
		}
		if failed == nil {
			_ = other.Body.Close()
		}
	}
	c.route, c.path, c.body = asked, path, body
	return res, err
}

// ask sends a call to its model's queue.
func (f *fallback) ask(r *http.Request, c *call) (*http.Response, error) {
	if !f.queues.hand() {
		return f.queue.RoundTrip(r)
	}
	res, err := f.queue.RoundTrip(r.WithContext(c.patience.begin(r.Context())))
	if c.patience.end() && err != nil {
		err = errLate
	}
	return res, err
}

// elsewhere reports whether another model may serve a call that ended so.
func elsewhere(r *http.Request, res *http.Response, err error) bool {
	if r.Context().Err() != nil {
		return false
	}
	if err != nil {
		return true
	}
	if refused := llmhttp.Refusal(res); refused != nil {
		return !errors.Is(refused, llmqueue.ErrQueueClosed) && !errors.Is(refused, llmqueue.ErrCanceled) && !errors.Is(refused, llmqueue.ErrModelNotRegistered)
	}
	if res.StatusCode < 400 {
		return false
	}
	head, err := io.ReadAll(io.LimitReader(res.Body, maxFailure))
	rest := res.Body
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), failing{err}, rest), rest}
	return llmhttp.ParseError(res.StatusCode, res.Header, head, time.Now()).Outcome != llmqueue.OutcomeFatal
}

// failing gives an error to who reads on, if there is one.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}

package llmhttp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
)

// requestBody is a request's body, for all attempts.
type requestBody struct {
	first  io.ReadCloser                 // what was given; nil when it was sent, when again gives it, or when there is none
	again  func() (io.ReadCloser, error) // the body from its beginning; nil when it is there only once
	absent bool
}

// repeats reports whether another attempt can be made.
func (b *requestBody) repeats() bool { return b.absent || b.again != nil || b.first != nil }

// next is the body for the next attempt.
func (b *requestBody) next() (io.ReadCloser, error) {
	if b.first != nil {
		first := b.first
		b.first = nil
		return first, nil
	}
	return b.again()
}

// close closes the body of a call that is not made.
func (b *requestBody) close() {
	if b.first != nil {
		_ = b.first.Close()
	}
}

// read finds out what the request asks.
func (c *call) read() error {
	r := c.request
	var seen requestScanner
	if c.transport.options.tokenizer != nil {
		seen.texts = new(bytes.Buffer)
	}
	if r.Body == nil || r.Body == http.NoBody {
		c.body.absent = true
	} else {
		c.body.first = r.Body
		if err := c.readBody(&seen); err != nil {
			return err
		}
	}
	c.ModelCall = seen.call(r.URL.EscapedPath())
	if seen.texts != nil && c.Asks && seen.bytes > 0 {
		c.InputTokens = max(c.transport.options.tokenizer(c.Model, seen.texts.String()), 0) + seen.other()
	}
	return nil
}

// readBody lets seen read the body, and keeps it for the attempts.
func (c *call) readBody(seen *requestScanner) error {
	r := c.request
	if r.GetBody != nil {
		// No attempt sends r.Body: azcore's GetBody rewinds that very reader. As net/http does
		// it, the body is closed before GetBody is called.
		c.body.first, c.body.again = nil, r.GetBody
		return errors.Join(seen.read(r.Header, r.Body), r.Body.Close())
	}
	limit := c.transport.options.replay
	start, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return err
	}
	var from io.Reader = bytes.NewReader(start)
	if int64(len(start)) <= limit {
		c.body.again = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(start)), nil }
	} else {
		from = io.MultiReader(from, r.Body)
	}
	c.body.first = struct {
		io.Reader
		io.Closer
	}{from, r.Body}
	return seen.read(r.Header, bytes.NewReader(start))
}

// read reads a body of JSON, or a form such as those that have files.
func (s *requestScanner) read(h http.Header, body io.Reader) error {
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err == nil && kind == "multipart/form-data" {
		s.form(multipart.NewReader(body, params["boundary"]))
		return nil
	}
	_, err = io.Copy(s, body)
	return err
}

// form reads the fields of a form that count.
func (s *requestScanner) form(r *multipart.Reader) {
	for {
		part, err := r.NextPart()
		if err != nil {
			return
		}
		switch nameOf([]byte(part.FormName())) {
		case modelName:
			s.model = field(part)
		case streamName:
			s.stream = field(part) == "true"
		}
	}
}

// field is the value of a form's field.
func field(r io.Reader) string {
	value, _ := io.ReadAll(io.LimitReader(r, longestWord))
	return string(value)
}

// attempt is the request that goes out.
func (c *call) attempt(ctx context.Context) (*http.Request, error) {
	var r *http.Request
	if c.transport.options.endpoints != nil {
		r = c.request.Clone(ctx)
	} else {
		r = c.request.WithContext(ctx)
	}
	r.Header = c.transport.options.headers.without(r.Header)
	if c.body.absent {
		return r, nil
	}
	body, err := c.body.next()
	if err != nil {
		return nil, err
	}
	r.Body = body
	if c.body.again != nil {
		r.GetBody = c.body.again
	}
	return r, nil
}

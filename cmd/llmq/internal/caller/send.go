package caller

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
)

// Send sends a request that is no call of a model: for a file or a batch. The path may have a
// query; size is that of the
// body. What the provider answers beside a success is a *StatusError; of a success the caller
// closes the body.
func (c *Caller) Send(ctx context.Context, method, path, contentType string, body io.Reader, size int64) (*http.Response, error) {
	header := http.Header{}
	if body != nil {
		header.Set("Content-Type", contentType)
	}
	return c.SendWith(ctx, method, path, header, body, size)
}

// SendWith is Send with headers of its own.
func (c *Caller) SendWith(ctx context.Context, method, path string, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	path, query, _ := strings.Cut(path, "?")
	to := c.URL(path).String()
	if query != "" {
		to += "?" + query
	}
	req, err := http.NewRequestWithContext(ctx, method, to, body)
	if err != nil {
		return nil, c.hidden(err)
	}
	if body != nil {
		req.ContentLength = size
	}
	maps.Copy(req.Header, header)
	c.authorize(req.Header)
	client := &http.Client{Transport: c.plain.Transport, CheckRedirect: c.plain.CheckRedirect, Timeout: c.config.Timeout}
	res, err := client.Do(req)
	if err != nil {
		return nil, c.hidden(err)
	}
	if res.StatusCode >= 200 && res.StatusCode <= 299 {
		return res, nil
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, c.hidden(fmt.Errorf("the answer broke off: %w", err))
	}
	return nil, &StatusError{Reply{Status: res.StatusCode, Body: c.hiddenBody(data)}}
}

// Lacks says what a body lacks to be the answer that a path gives, or "".
func Lacks(path string, body []byte) string { return lacks(path, body, json.Valid(body)) }

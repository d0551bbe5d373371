package llmhttp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// exchange sends one request through a transport, within an attempt, and hands the
// response to use.
func exchange(t *testing.T, rt http.RoundTripper, use func(*http.Response, error)) reply {
	t.Helper()
	q := newQueue(t, func(ctx context.Context) (string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://provider.example", strings.NewReader("{}"))
		require.NoError(t, err)
		use(rt.RoundTrip(req))
		llmqueue.Observe(ctx, llmqueue.Observation{Outcome: llmqueue.OutcomeServed}) // else a refusal is tried again
		return "", nil
	})
	res, err := q.Submit(t.Context(), llmqueue.Request[string]{})
	require.NoError(t, err)
	return res
}

func TestOutsideAnAttemptNothingIsTouched(t *testing.T) {
	body := io.NopCloser(strings.NewReader(openAIQuota))
	res := response(429, "Retry-After: 5", body)
	req := httptest.NewRequest(http.MethodPost, "http://x", nil)
	got, err := llmhttp.NewTransport(provider(func(r *http.Request) (*http.Response, error) {
		assert.Same(t, req, r)
		return res, nil
	})).RoundTrip(req)
	require.NoError(t, err)
	assert.Same(t, res, got)
	assert.Equal(t, body, got.Body)
	assert.Equal(t, header("Retry-After: 5"), got.Header)
}

// An error's body is read ahead and reaches the SDK byte for byte.
func TestErrorBodyIsPutBack(t *testing.T) {
	for _, size := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 64<<10 + 2, 1 << 20} {
		want := strings.Repeat("0123456789abcdef", size/16+1)[:size]
		src := &closing{Reader: iotest.HalfReader(strings.NewReader(want))}
		exchange(t, llmhttp.NewTransport(answers(func() *http.Response { return response(500, "", src) })), func(res *http.Response, err error) {
			require.NoError(t, err)
			got, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			assert.True(t, want == string(got), "a body of %d bytes arrives as %d others", size, len(got))
			require.NoError(t, res.Body.Close())
			assert.True(t, src.closed)
		})
	}
}

// closing remembers that it was closed.
type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

// An error body that breaks off breaks off for the SDK as well.
func TestErrorBodyThatFails(t *testing.T) {
	broken := errors.New("broken")
	body := io.MultiReader(strings.NewReader(openAIQuota[:40]), iotest.ErrReader(broken))
	exchange(t, llmhttp.NewTransport(answers(func() *http.Response { return response(429, "", body) })), func(res *http.Response, err error) {
		require.NoError(t, err)
		got, err := io.ReadAll(res.Body)
		assert.Equal(t, openAIQuota[:40], string(got))
		assert.Equal(t, broken, err)
	})
}

// SDKs are told to leave retrying to the queue, where they would retry.
func TestSDKRetries(t *testing.T) {
	for _, c := range []struct {
		name          string
		status        int
		headers, body string
		opts          []llmhttp.Option
		want          string
	}{
		{"served, and its body may break off", 200, "", "{}", nil, "false"},
		{"served, left to the SDK", 200, "", "{}", []llmhttp.Option{llmhttp.WithSDKRetries()}, ""},
		{"rate limited", 429, "Retry-After: 1", openAIRateLimit, nil, "false"},
		{"quota", 429, "", openAIQuota, nil, "false"},
		{"never", 429, "", geminiNever, nil, "false"},
		{"overloaded", 529, "", anthropic529, nil, "false"},
		{"server error", 500, "", "", nil, "false"},
		{"conflict", 409, "", "", nil, "false"},
		{"against the server's advice", 500, "X-Should-Retry: true", "", nil, "false"},
		{"bad request", 400, "", "", nil, ""},
		{"left to the SDK", 429, "", "", []llmhttp.Option{llmhttp.WithSDKRetries()}, ""},
		{"left to the SDK by the server's advice", 429, "X-Should-Retry: true", "", []llmhttp.Option{llmhttp.WithSDKRetries()}, "true"},
	} {
		t.Run(c.name, func(t *testing.T) {
			exchange(t, llmhttp.NewTransport(answers(says(c.status, c.headers, c.body)), c.opts...), func(res *http.Response, err error) {
				require.NoError(t, err)
				assert.Equal(t, c.want, res.Header.Get("X-Should-Retry"))
			})
		})
	}
}

// The body of a protocol switch is a connection and must stay writable. A redirect
// is no answer.
func TestBodiesThatAreNoAnswers(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	defer ours.Close()
	for _, status := range []int{101, 307} {
		exchange(t, llmhttp.NewTransport(answers(func() *http.Response { return response(status, "", ours) })), func(res *http.Response, err error) {
			require.NoError(t, err)
			assert.Equal(t, net.Conn(ours), res.Body, "status %d", status)
		})
	}
}

func TestEmptyAnswers(t *testing.T) {
	for _, status := range []int{200, 204, 302, 304, 429} {
		for _, body := range []io.ReadCloser{nil, http.NoBody} {
			res := &http.Response{StatusCode: status, Body: body}
			exchange(t, llmhttp.NewTransport(answers(func() *http.Response { return res })), func(got *http.Response, err error) {
				require.NoError(t, err)
				assert.Equal(t, body, got.Body, "status %d", status)
			})
		}
	}
}

func TestCompressedBody(t *testing.T) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err := w.Write([]byte(`{"usage":{"prompt_tokens":4,"completion_tokens":2}}`))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "gzip", r.Header.Get("Accept-Encoding"))
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(zipped.Bytes())
	}))
	defer srv.Close()
	base := srv.Client().Transport

	call := func(ask func(*http.Request)) (body []byte, used llmqueue.Usage) {
		res := exchange(t, provider(func(r *http.Request) (*http.Response, error) {
			r.URL.Host = strings.TrimPrefix(srv.URL, "http://")
			ask(r)
			return llmhttp.NewTransport(base).RoundTrip(r)
		}), func(res *http.Response, err error) {
			require.NoError(t, err)
			body, err = io.ReadAll(res.Body)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
		})
		return body, res.Usage
	}
	got, usage := call(func(r *http.Request) { r.Header.Set("Accept-Encoding", "gzip") })
	assert.Equal(t, zipped.Bytes(), got)
	assert.Zero(t, usage)
	got, usage = call(func(*http.Request) {}) // net/http asks for compression by itself
	assert.Contains(t, string(got), "prompt_tokens")
	assert.Equal(t, used(4, 2, 0), usage)

	res, err := asked(t, answers(says(200, "Content-Encoding: br", `{"usage":{"prompt_tokens":4}}`))) // looks like JSON by chance
	require.NoError(t, err)
	assert.Zero(t, res.Usage)
	res, err = asked(t, answers(says(429, "Content-Encoding: br", openAIQuota), says(200, "", "")), llmqueue.WithRetry(llmqueue.RetryPolicy{BaseDelay: 1, MaxDelay: 1}))
	require.NoError(t, err, "the status alone counts")
	assert.Equal(t, 2, res.Attempts)
}

// The events of a stream arrive one by one: the server sends the next only when the
// reader has the one before.
func TestStreamIsNotDelayed(t *testing.T) {
	events := []string{"data: {\"choices\":[{\"delta\":{\"content\":\"1\"}}]}\n\n", ": ping\n\n", "data: {\"us", "age\":{\"prompt_tokens\":4,\"completion_tokens\":2}}\n\n", "data: [DONE]\n\n"}
	arrived := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, e := range events {
			_, _ = io.WriteString(w, e)
			_ = http.NewResponseController(w).Flush()
			<-arrived
		}
	}))
	defer srv.Close()
	client := &http.Client{Transport: llmhttp.NewTransport(srv.Client().Transport)}
	q := newQueue(t, func(ctx context.Context) (string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
		require.NoError(t, err)
		res, err := client.Do(req)
		require.NoError(t, err)
		for _, e := range events {
			got := make([]byte, len(e))
			_, err = io.ReadFull(res.Body, got)
			require.NoError(t, err)
			assert.Equal(t, e, string(got))
			arrived <- struct{}{}
		}
		return "", res.Body.Close()
	})
	res, err := q.Submit(t.Context(), llmqueue.Request[string]{})
	require.NoError(t, err)
	assert.Equal(t, used(4, 2, 0), res.Usage)
}

// A reader that goes away while another goroutine waits for the next byte.
func TestCloseWhileReading(t *testing.T) {
	r, w := io.Pipe()
	res := exchange(t, llmhttp.NewTransport(answers(func() *http.Response { return response(200, "", r) })), func(res *http.Response, err error) {
		require.NoError(t, err)
		read := make(chan error)
		go func() {
			_, err := io.Copy(io.Discard, res.Body)
			read <- err
		}()
		_, err = io.WriteString(w, `{"usage":{"prompt_tokens":4,"completion_tokens":2}}`)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		assert.ErrorIs(t, <-read, io.ErrClosedPipe)
	})
	assert.LessOrEqual(t, res.Usage.InputTokens, int64(4))
}

type idle struct {
	http.RoundTripper
	closed bool
}

func (i *idle) CloseIdleConnections() { i.closed = true }

func TestCloseIdleConnections(t *testing.T) {
	i := &idle{}
	client := &http.Client{Transport: llmhttp.NewTransport(i)}
	client.CloseIdleConnections()
	assert.True(t, i.closed)
	llmhttp.NewTransport(provider(nil)).CloseIdleConnections() // has none
}

func TestDefaultTransport(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer srv.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	for _, rt := range []http.RoundTripper{llmhttp.NewTransport(nil), &llmhttp.Transport{}} {
		res, err := (&http.Client{Transport: rt}).Get(srv.URL)
		require.NoError(t, err)
		got, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		assert.Equal(t, "hello", string(got))
	}
}

package llmhttp_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// These tests ask what a queue's user notices of what a provider says. The processor
// marks no error.

const answered = `{"usage":{"prompt_tokens":4,"completion_tokens":2}}`

func TestQueueWaitsAsLongAsTheProviderSays(t *testing.T) {
	for _, c := range []struct {
		name string
		says func() *http.Response
		want time.Duration
	}{
		{"retry-after", says(429, "Retry-After: 7", openAIRateLimit), 7 * time.Second},
		{"retry-after-ms", says(429, "retry-after-ms: 1500\nretry-after: 2", ""), 1500 * time.Millisecond},
		{"longer than any backoff", says(429, "retry-after: 3600", anthropic429), time.Hour},
		{"in the body", says(429, "", geminiPerMinute), 26 * time.Second},
		{"in words", says(429, "", openAIRateLimit), 20 * time.Second},
		{"within a stream", says(200, "", "data: {\"error\":{\"code\":429,\"message\":\"Try again in 3s.\"}}\n\n"), 3 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				res, err := asked(t, answers(c.says, says(200, "", answered)))
				require.NoError(t, err)
				assert.Equal(t, c.want, time.Since(start))
				assert.Equal(t, 2, res.Attempts)
				assert.Equal(t, used(4, 2, 0), res.Usage)
			})
		})
	}
}

func TestQueueTriesPassingFaultsAgain(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}
	for _, c := range []struct {
		name  string
		fault provider
	}{
		{"500", answers(says(500, "", ""))},
		{"503", answers(says(503, "", ""))},
		{"no connection", func(*http.Request) (*http.Response, error) { return nil, reset }},
		{"a connection that breaks within the answer", answers(func() *http.Response {
			return response(200, "", iotest.DataErrReader(&broken{strings.NewReader(`{"choices":[`), reset}))
		})},
		{"overloaded, within a stream", answers(says(200, "", anthropicStart+"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n"))},
		{"an error without an object, within a stream", answers(says(200, "", "data: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"m\"}\n\n"))},
		{"an error in the body of a 200", answers(says(200, "", `{"id":"gen-1","error":{"code":502,"message":"Provider disconnected"}}`))},
		{"a response that failed", answers(says(200, "", "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"status\":\"failed\",\"error\":{\"code\":\"server_error\",\"message\":\"m\"}}}\n\n"))},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				res, err := asked(t, provider(func(r *http.Request) (*http.Response, error) {
					if n++; n <= 2 {
						return c.fault(r)
					}
					return answers(says(200, "", answered))(r)
				}))
				require.NoError(t, err)
				assert.Equal(t, 3, res.Attempts)
			})
		})
	}
}

// broken ends with an error.
type broken struct {
	*strings.Reader
	err error
}

func (b *broken) Read(p []byte) (int, error) {
	if b.Len() == 0 {
		return 0, b.err
	}
	return b.Reader.Read(p)
}

func TestQueueDoesNotTryAgain(t *testing.T) {
	for _, c := range []struct {
		name  string
		says  func() *http.Response
		quota bool
	}{
		{"a bad request", says(400, "", `{"error":{"type":"invalid_request_error"}}`), false},
		{"a bad request, within a stream", says(200, "", "data: {\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\"}}\n\n"), false},
		{"a model that is not in the plan", says(429, "", geminiNever), false},
		{"a quota", says(429, "", openAIQuota), true},
		{"a quota, within a stream", says(200, "", "event: error\ndata: {\"type\":\"error\",\"error\":{\"code\":\"insufficient_quota\",\"message\":\"m\"}}\n\n"), true},
		{"a spend limit", says(429, "", `{"type":"error","error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"}}}`), true},
		{"no credit", says(402, "", ""), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				res, err := asked(t, answers(c.says, says(200, "", answered)))
				require.Error(t, err)
				assert.Equal(t, 1, res.Attempts)
				assert.Equal(t, c.quota, errors.Is(err, llmqueue.ErrQuotaExhausted))
			})
		})
	}
}

func TestQueueLearnsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const headers = "x-ratelimit-limit-requests: 60\nx-ratelimit-remaining-requests: 59\nx-ratelimit-reset-requests: 1s"
		client := &http.Client{Transport: llmhttp.NewTransport(answers(says(200, headers, answered)))}
		q := newQueue(t, func(ctx context.Context) (string, error) { return ask(ctx, client) }, llmqueue.WithLimits(llmqueue.RPM(500)))
		_, err := q.Submit(t.Context(), llmqueue.Request[string]{})
		require.NoError(t, err)
		assert.EqualValues(t, 60, q.Info().Limits[0].Limit.Amount)
	})
}

// A timeout of the client's own is a passing fault, before the headers and in the body;
// whether to give up is judged by the request's context, which ends the request itself.
func TestClientTimeoutsAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		hanging := provider(func(r *http.Request) (*http.Response, error) {
			switch calls++; calls {
			case 1:
				<-r.Context().Done()
				return nil, context.Cause(r.Context())
			case 2:
				return response(200, "", iotest.TimeoutReader(strings.NewReader("{}"))), nil
			}
			return response(200, "", strings.NewReader(answered)), nil
		})
		client := &http.Client{Transport: llmhttp.NewTransport(hanging), Timeout: time.Second}
		q := newQueue(t, func(ctx context.Context) (string, error) { return ask(ctx, client) })
		res, err := q.Submit(t.Context(), llmqueue.Request[string]{})
		require.NoError(t, err)
		assert.Equal(t, 3, res.Attempts)

		calls = 0
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err = q.Submit(ctx, llmqueue.Request[string]{})
		require.ErrorIs(t, err, llmqueue.ErrCanceled)
		synctest.Wait()
		assert.Equal(t, 1, calls, "the caller gave up")
	})
}

// An error of the processor's own, after the provider served it, says nothing about
// the provider.
func TestErrorsAfterAnAnswer(t *testing.T) {
	for _, c := range []struct {
		name string
		read func(io.ReadCloser) error
	}{
		{"read to the end", func(body io.ReadCloser) error { _, err := io.ReadAll(body); return err }},
		{"closed early", func(body io.ReadCloser) error { return body.Close() }},
		{"read after it was closed", func(body io.ReadCloser) error {
			_ = body.Close()
			_, err := io.ReadAll(body)
			assert.ErrorIs(t, err, io.ErrClosedPipe)
			return nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := &http.Client{Transport: llmhttp.NewTransport(answers(func() *http.Response {
				r, w := io.Pipe()
				go func() {
					_, _ = io.WriteString(w, answered)
					_ = w.Close()
				}()
				return response(200, "", r)
			}))}
			own := errors.New("the answer is not what was asked for")
			q := newQueue(t, func(ctx context.Context) (string, error) {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x", nil)
				require.NoError(t, err)
				res, err := client.Do(req)
				require.NoError(t, err)
				require.NoError(t, c.read(res.Body))
				return "", own
			})
			res, err := q.Submit(t.Context(), llmqueue.Request[string]{})
			require.ErrorIs(t, err, own)
			assert.Equal(t, 1, res.Attempts)
		})
	}
}

// What was handed on of a stream that its reader closes early is no usage: the
// reservation stands.
func TestStreamThatIsClosedEarly(t *testing.T) {
	client := &http.Client{Transport: llmhttp.NewTransport(answers(says(200, "", anthropicStart+anthropicDelta)))}
	q := newQueue(t, func(ctx context.Context) (string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x", nil)
		require.NoError(t, err)
		res, err := client.Do(req)
		require.NoError(t, err)
		_, err = res.Body.Read(make([]byte, len(anthropicStart)))
		require.NoError(t, err)
		return "", res.Body.Close()
	}, llmqueue.WithLimits(llmqueue.TPM(1000)))
	_, err := q.Submit(t.Context(), llmqueue.Request[string]{Estimate: used(100, 200, 0)})
	require.NoError(t, err)
	assert.EqualValues(t, 300, q.Info().Limits[0].Used)
}

package llmhttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// provider answers requests without a network.
type provider func(*http.Request) (*http.Response, error)

func (p provider) RoundTrip(r *http.Request) (*http.Response, error) { return p(r) }

// answers gives the same answers one after the other, the last again and again.
func answers(all ...func() *http.Response) provider {
	n := 0
	return func(r *http.Request) (*http.Response, error) {
		res := all[min(n, len(all)-1)]()
		n++
		res.Request = r
		return res, nil
	}
}

// says makes an answer.
func says(status int, headers, body string) func() *http.Response {
	return func() *http.Response { return response(status, headers, strings.NewReader(body)) }
}

func response(status int, headers string, body io.Reader) *http.Response {
	c, ok := body.(io.ReadCloser)
	if !ok {
		c = io.NopCloser(body)
	}
	return &http.Response{StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Header: header(headers), Body: c, ContentLength: -1}
}

// ask makes a call as an SDK does, and gives the body or the status as an error.
func ask(ctx context.Context, client *http.Client) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://provider.example/v1", strings.NewReader("{}"))
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if res.StatusCode >= 400 {
		return "", fmt.Errorf("status %d", res.StatusCode)
	}
	body, err := io.ReadAll(res.Body)
	if err == nil && (strings.Contains(string(body), `"error":{`) || strings.Contains(string(body), `"type":"error"`)) {
		err = errors.New("an error in the body")
	}
	return string(body), err
}

type (
	reply = llmqueue.Response[string]
	queue = llmqueue.Queue[string, string]
)

// newQueue makes a queue whose processor is use.
func newQueue(t testing.TB, use func(context.Context) (string, error), opts ...llmqueue.Option) *queue {
	t.Helper()
	m := llmqueue.NewManager[string, string](llmqueue.WithUnlimited()) // unless opts have limits
	q, err := m.Register("m", func(ctx context.Context, _ llmqueue.Request[string]) (string, error) { return use(ctx) }, opts...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, q.Shutdown(context.Background())) })
	return q
}

// asked is what becomes of one request that asks p through a transport.
func asked(t testing.TB, p http.RoundTripper, opts ...llmqueue.Option) (reply, error) {
	t.Helper()
	client := &http.Client{Transport: llmhttp.NewTransport(p)}
	q := newQueue(t, func(ctx context.Context) (string, error) { return ask(ctx, client) }, opts...)
	return q.Submit(context.Background(), llmqueue.Request[string]{})
}

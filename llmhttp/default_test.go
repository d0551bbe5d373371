package llmhttp_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// A Transport may take the place of http.DefaultTransport, and others may be made before and
// after: each call arrives once, and is observed once.
func TestTransportAsTheDefault(t *testing.T) {
	var arrived int
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived++
		_, _ = io.WriteString(w, `{"object":"chat.completion","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":5}}`)
	}))
	defer srv.Close()
	before := http.DefaultTransport
	defer func() { http.DefaultTransport = before }()

	zero := &llmhttp.Transport{}
	for name, c := range map[string]struct {
		standard func() http.RoundTripper // becomes the default
		client   func() *http.Client
	}{
		"the default itself":                {func() http.RoundTripper { return llmhttp.NewTransport(nil) }, func() *http.Client { return &http.Client{} }},
		"another one made after":            {func() http.RoundTripper { return llmhttp.NewTransport(nil) }, func() *http.Client { return &http.Client{Transport: llmhttp.NewTransport(nil)} }},
		"a zero value beside":               {func() http.RoundTripper { return llmhttp.NewTransport(nil) }, func() *http.Client { return &http.Client{Transport: zero} }},
		"a zero value":                      {func() http.RoundTripper { return zero }, func() *http.Client { return &http.Client{} }},
		"after a zero value":                {func() http.RoundTripper { return zero }, func() *http.Client { return &http.Client{Transport: llmhttp.NewTransport(nil)} }},
		"within another's":                  {func() http.RoundTripper { return provider(llmhttp.NewTransport(nil).RoundTrip) }, func() *http.Client { return &http.Client{} }},
		"a zero value within another's":     {func() http.RoundTripper { return provider(zero.RoundTrip) }, func() *http.Client { return &http.Client{} }},
		"another's, that is found in place": {func() http.RoundTripper { return provider(before.RoundTrip) }, func() *http.Client { return &http.Client{Transport: llmhttp.NewTransport(nil)} }},
	} {
		t.Run(name, func(t *testing.T) {
			arrived, http.DefaultTransport = 0, before
			http.DefaultTransport = c.standard()
			client := c.client()
			q := newQueue(t, func(ctx context.Context) (string, error) {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL, nil)
				require.NoError(t, err)
				res, err := client.Do(req)
				if err != nil {
					return "", err
				}
				defer res.Body.Close()
				_, err = io.Copy(io.Discard, res.Body)
				return "", err
			})
			res, err := q.Submit(t.Context(), llmqueue.Request[string]{})
			require.NoError(t, err)
			assert.Equal(t, 1, arrived)
			assert.Equal(t, llmqueue.Usage{InputTokens: 7, OutputTokens: 5}, res.Usage)
			client.CloseIdleConnections()
		})
	}
}

package llmhttp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// headerNames are the headers that are read.
var headerNames = strings.Fields(`x-ratelimit-limit-requests x-ratelimit-remaining-requests x-ratelimit-reset-requests
	x-ratelimit-limit-tokens x-ratelimit-remaining-tokens x-ratelimit-reset-tokens
	anthropic-ratelimit-input-tokens-limit anthropic-ratelimit-input-tokens-remaining anthropic-ratelimit-input-tokens-reset
	anthropic-ratelimit-tokens-limit x-ratelimit-limit x-ratelimit-remaining x-ratelimit-reset x-tokenlimit-limit
	x-ratelimit-limit-req-minute ratelimit-policy ratelimit date retry-after retry-after-ms x-amzn-errortype
	ratelimit-limit ratelimit-remaining ratelimit-reset x-ratelimit-limit-tokens-5-minute x-ratelimit-remaining-tokens-month
	x-rate-limit-reset-tokens x-ratelimit-limit-tokens-prompt anthropic-ratelimit-unified-status anthropic-ratelimit-unified-5h-status
	anthropic-ratelimit-unified-5h-reset anthropic-ratelimit-unified-reset`)

// sound checks what must hold of every observation.
func sound(t *testing.T, o llmqueue.Observation) {
	t.Helper()
	wait := func(d time.Duration) {
		assert.True(t, d >= 0 && d <= 31*day, "a wait of %v", d)
	}
	wait(o.Delay)
	seen := map[string]bool{}
	for _, l := range o.Limits {
		wait(l.Reset)
		wait(l.Period)
		assert.Positive(t, l.Amount)
		assert.True(t, l.Remaining >= -1 && l.Remaining <= l.Amount, "%d of %d remain", l.Remaining, l.Amount)
		limit := fmt.Sprint(l.Kind, l.Period)
		assert.False(t, seen[limit], "%s twice", limit)
		seen[limit] = true
	}
	for _, n := range []int64{o.Usage.InputTokens, o.Usage.OutputTokens, o.Usage.CachedInputTokens} {
		assert.True(t, n >= 0 && n < 1<<48, "%d tokens", n)
	}
	assert.LessOrEqual(t, o.Usage.CachedInputTokens, o.Usage.InputTokens)
}

// FuzzLimits: whatever stands in the headers, limits make sense. Values are separated
// by line feeds, in the order of headerNames.
func FuzzLimits(f *testing.F) {
	for _, s := range []string{
		"500\n499\n120ms\n10000\n9481\n3.114s", "-1\n-1\n0", "20\n19\n10\n0\n-5\n-3h", "60\n0\n99999999999h",
		strings.Repeat("\n", 6) + "80000\n79000\n2025-08-21T12:41:00Z\n80000", strings.Repeat("\n", 10) + "20\n0\n1755780060000",
		strings.Repeat("\n", 10) + "5\n4\n1\n100", strings.Repeat("\n", 14) + "100;w=60, 9;w=0\nlimit=100, remaining=-3" + strings.Repeat("\n", 5) + "100, 100;w=60\n7\n-1\n5\n0\n55\n8\nrejected\nrejected\n1755780060\n1755780090", strings.Repeat("\n", 15) + `"a";q=1;w=60,"b";q=3;w=1e9;qu="tokens"` + "\n" + `"a";r=0;t=60` + "\nThu, 01 Jan 1970 00:00:00 GMT\n7\n100",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, values string) {
		h := http.Header{}
		for i, v := range strings.Split(values, "\n") {
			if i < len(headerNames) && v != "" {
				h.Set(headerNames[i], v)
			}
		}
		sound(t, llmqueue.Observation{Limits: llmhttp.ParseLimits(h, now), Delay: llmhttp.ParseDelay(h, nil, now)})
	})
}

// FuzzDelay: no header and no text makes a wait that is negative or absurd.
func FuzzDelay(f *testing.F) {
	for _, s := range []string{"20", "1.5", "Thu, 21 Aug 2025 12:41:00 GMT", "1e300", "-7", "292277026596", "1755780060000", "9.9.9", "1h1h1h", "0001-01-01T00:00:00Z"} {
		f.Add(s, s, "try again in "+s+"s")
	}
	f.Add("", "", `{"error":{"message":"Please retry after 9 days 3 hrs 2 min 1sec 0.5ms","details":[{"retryDelay":"x"}]}}`)
	f.Fuzz(func(t *testing.T, after, ms, body string) {
		h := http.Header{"Retry-After": {after}, "Retry-After-Ms": {ms}}
		sound(t, llmqueue.Observation{Delay: llmhttp.ParseDelay(h, []byte(body), now)})
	})
}

// FuzzError: whatever a failure's body says, the observation makes sense.
func FuzzError(f *testing.F) {
	for _, s := range []string{openAIRateLimit, openAIQuota, anthropic429, anthropic529, geminiPerMinute, geminiPerDay, geminiNever, "[" + geminiNever + "]",
		`{"error":"busy"}`, `{"object":"error","type":"x","code":"1300"}`, `{"error":{"metadata":{"headers":{"X-RateLimit-Limit":"2","X-RateLimit-Reset":"0"}}}}`,
		`{"message":"You have reached your specified API usage limits. You will regain access on 9999-12-31 at 00:00 UTC."}`, "<html>", "null"} {
		f.Add(uint16(429), s)
		f.Add(uint16(200), s)
	}
	for _, r := range recordedAnswers(f) {
		if r.Kind == "failure" {
			f.Add(uint16(r.Status), r.Body)
		}
	}
	f.Fuzz(func(t *testing.T, status uint16, body string) {
		o := llmhttp.ParseError(int(status), http.Header{}, []byte(body), now)
		sound(t, o)
		assert.NotEmpty(t, o.Outcome)
		assert.False(t, status >= 400 && o.Outcome == llmqueue.OutcomeServed, "a failure was served")
	})
}

// FuzzBody: a body cut at any places arrives byte for byte, and tells the same as
// when it comes in one piece.
func FuzzBody(f *testing.F) {
	for i, c := range recordings {
		f.Add([]byte(c.body), []byte{byte(i), 1, 40})
	}
	for _, r := range recordedAnswers(f) {
		if r.Kind != "failure" && r.Body != "" {
			f.Add([]byte(r.Body), []byte{3, 60})
		}
	}
	f.Add(converseStream(), []byte{1, 5, 30})
	f.Add(append([]byte{0, 0, 0, 40, 0, 0, 0, 200}, converseStream()...), []byte{9})
	f.Add([]byte("data: {\"usage\":{\"prompt_tokens\":1}}\r\n\r\ndata:{\"error\":{\"code\":429}}\r\r\n"), []byte{1})
	f.Add([]byte("event: error\nerror: {\"choices\":[{\"error\":{\"code\":429}},\"]\",[{}]],\"usage\":{\"prompt_tokens\":1}}\n\n"+chatWord+anthropicDelta), []byte{3})
	f.Add([]byte(`{"choices":[1}{"choices":[}],"usage":{"prompt_tokens":1}}`), []byte{3})
	f.Add([]byte(`{"usage":{},"usage":{"prompt_tokens":3},"us\u0061ge":4,"message":{"usage":[}}{"eval_count":9}`), []byte{2, 7})
	var next *http.Response
	var told llmqueue.Usage
	rt := llmhttp.NewTransport(provider(func(*http.Request) (*http.Response, error) { return next, nil }))
	// A body that looks cut off is no failure here.
	rt.Overhear(func(_ context.Context, o llmqueue.Observation) { told = o.Usage })
	q := newQueue(f, func(ctx context.Context) (string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://x", nil)
		if err != nil {
			return "", err
		}
		res, err := rt.RoundTrip(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		return string(got), err
	}, llmqueue.WithHistory(1, time.Minute))
	f.Fuzz(func(t *testing.T, body, sizes []byte) {
		next, told = response(200, "", &cuts{body, sizes, 0}), llmqueue.Usage{}
		res, err := q.Submit(t.Context(), llmqueue.Request[string]{})
		require.NoError(t, err)
		require.Equal(t, string(body), res.Result)
		assert.Equal(t, llmhttp.ParseUsage(body), told)
		sound(t, llmqueue.Observation{Usage: told})
	})
}

// cuts reads b in pieces of the given sizes, over and over. Some are empty.
type cuts struct {
	b, sizes []byte
	i        int
}

func (c *cuts) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	n := len(c.b)
	if len(c.sizes) > 0 {
		n = min(n, int(c.sizes[c.i%len(c.sizes)]%17)+c.i%2)
		c.i++
	}
	n = copy(p, c.b[:n])
	c.b = c.b[n:]
	return n, nil
}

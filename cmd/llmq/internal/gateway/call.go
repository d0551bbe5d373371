package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// The gateway's own headers.
const (
	headerKey      = "X-Llmq-Key"
	headerMaxWait  = "X-Llmq-Max-Wait"
	headerPriority = "X-Llmq-Priority"
	headerPosition = "X-LLMQ-Position"
	headerStart    = "X-LLMQ-Estimated-Start"
	headerModel    = "X-LLMQ-Model"
)

// sdkTimeouts are the headers in which SDKs tell how many seconds they wait for an answer to
// begin: X-Stainless-Timeout those of OpenAI and Anthropic (client.ts in openai/openai-node), and
// X-Stainless-Read-Timeout in Python (_base_client.py in openai/openai-python); X-Server-Timeout
// those of Gemini (_api_client.ts in googleapis/js-genai).
var sdkTimeouts = []string{"X-Stainless-Timeout", "X-Stainless-Read-Timeout", "X-Server-Timeout"}

// call is one request of a client. One goroutine at a time uses it.
type call struct {
	dialect     *dialect
	path        string // as the client asked for it, with the model that is tried
	body        []byte // likewise
	credentials credentials
	until       time.Time // by when it has to start; zero without a bound
	route       *route    // of the latest attempt; nil before the first
	handed      bool      // it has left the model that was asked for
	left        int       // how many models may still follow then
	patience    patience
}

type callKey struct{}

// callOf is the call whose context ctx comes from.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// maxWait is how long the call may wait for a model that lets it wait for bound.
func (c *call) maxWait(bound time.Duration) time.Duration {
	if c.until.IsZero() {
		return bound
	}
	left := max(time.Until(c.until), time.Millisecond)
	if bound > 0 {
		return min(left, bound)
	}
	return left
}

// deadline is how long a client says that it waits; 0 if it does not say. bySDK tells whether the
// headers of SDKs count, which mean the time until something comes.
func deadline(h http.Header, bySDK bool) (time.Duration, error) {
	if v := h.Get(headerMaxWait); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			d = seconds(v)
		}
		if d <= 0 {
			return 0, fmt.Errorf("header X-LLMQ-Max-Wait is %q, give a duration such as 1m30s or seconds", v)
		}
		return d, nil
	}
	if !bySDK {
		return 0, nil
	}
	shortest := time.Duration(0)
	for _, name := range sdkTimeouts {
		if d := seconds(h.Get(name)); d > 0 && (shortest == 0 || d < shortest) {
			shortest = d
		}
	}
	return shortest, nil
}

func seconds(s string) time.Duration {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f > 0) || f > math.MaxInt32 {
		return 0
	}
	return time.Duration(f * float64(time.Second))
}

// claim is what the call claims of a queue, apart from its model and size.
func claim(tenant string, h http.Header, mayPriority bool) (c llmqueue.Claim, err error) {
	c.Tenant = tenant
	if v := h.Get(headerPriority); v != "" && mayPriority {
		if c.Priority, err = strconv.Atoi(v); err != nil {
			return c, fmt.Errorf("header X-LLMQ-Priority is %q, give a whole number", v)
		}
	}
	return c, nil
}

// streams reports whether a call asks for a stream in which a comment may stand.
func (c *call) streams(r *http.Request) bool {
	return c.dialect.sendsEvents(r) && (c.dialect.name == "gemini" || llmhttp.ParseRequest(r.URL.Path, c.body).Stream)
}

// setBody gives a request a body that can be sent again.
func setBody(r *http.Request, body []byte) {
	r.ContentLength = int64(len(body))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r.Body, _ = r.GetBody()
}

package llmhttp_test

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// slowToConnect is a transport whose first call has to make its connection.
type slowToConnect struct {
	calls  atomic.Int64
	makes  time.Duration
	answer func() *http.Response
}

func (s *slowToConnect) RoundTrip(req *http.Request) (*http.Response, error) {
	if s.calls.Add(1) == 1 {
		time.Sleep(s.makes)
	}
	httptrace.ContextClientTrace(req.Context()).WroteHeaders()
	return s.answer(), nil
}

// TestACallCountsAsSentWhenItIsOnTheWire: of two calls that start together, one goes out
// 200 ms later for want of a connection, and the provider counts it until so much later.
// Seen to fail with the time at which RoundTrip begins.
func TestACallCountsAsSentWhenItIsOnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: llmhttp.NewTransport(&slowToConnect{makes: 200 * time.Millisecond, answer: says(200, "", answered)})}
		q := newQueue(t, func(ctx context.Context) (string, error) {
			_, err := ask(ctx, client)
			return "", err
		}, llmqueue.WithLimits(llmqueue.RPM(2).Per(10*time.Second)), llmqueue.WithMargin(0))
		begin := time.Now()
		var ends []time.Duration
		requests := func(yield func(llmqueue.Request[string]) bool) {
			for range 3 {
				if !yield(llmqueue.Request[string]{}) {
					return
				}
			}
		}
		for res, err := range q.SubmitAll(t.Context(), requests) {
			assert.NoError(t, err)
			ends = append(ends, res.FinishedAt.Sub(begin))
		}
		assert.Equal(t, []time.Duration{0, 200 * time.Millisecond, 10*time.Second + 200*time.Millisecond}, ends,
			"the third call comes within the period of a call that went out late")
	})
}

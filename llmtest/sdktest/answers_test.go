package sdktest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

// same asks a second server, without limits and without the transport, what each answer
// has to be: it draws the same faults and the same words.
func same(t *testing.T, s sdk, stream bool, options []llmtest.Option, answers map[string]string) {
	t.Helper()
	srv := llmtest.NewServer(t, s.provider(), options...)
	ask := s.client(t, &http.Client{Transport: injected{srv.Client().Transport}}, srv.URL(), stream)
	var wg sync.WaitGroup
	var next, different atomic.Int64
	answer := func(i int) (want string, err error) {
		for range 20 {
			if want, err = ask(t.Context(), prompt(i)); err == nil {
				break
			}
		}
		return want, err
	}
	for range slots {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < requests; i = int(next.Add(1)) - 1 {
				want, err := answer(i)
				if got := answers[fmt.Sprint(i)]; (err != nil || got != want) && different.Add(1) <= 3 {
					t.Errorf("answer %d is %q, the provider says %q, %v", i, got, want, err)
				}
			}
		})
	}
	wg.Wait()
}

// injected turns an answer with an error after its 200 into a failure, by what all such
// errors say.
type injected struct{ next http.RoundTripper }

func (i injected) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := i.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if bytes.Contains(data, []byte("llmtest: a fault was injected")) {
		err = errCutShort
	}
	if err != nil {
		return nil, err
	}
	res.Body = io.NopCloser(bytes.NewReader(data))
	return res, nil
}

// booked asks a third server, without limits, and compares the usage that the queue books
// with the server's own count. Nothing reports usage but the transport.
func booked(t *testing.T, s sdk, stream bool, options []llmtest.Option) {
	t.Helper()
	srv := llmtest.NewServer(t, s.provider(), options...)
	ask := s.client(t, &http.Client{Transport: llmhttp.NewTransport(srv.Client().Transport)}, srv.URL(), stream)
	q, err := llmqueue.NewQueue("m", func(ctx context.Context, r llmqueue.Request[string]) (string, error) {
		return ask(ctx, r.Params)
	}, llmqueue.WithLimits(llmqueue.Concurrent(slots)), llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 20}))
	if err != nil {
		t.Fatal(err)
	}
	var all iter.Seq[llmqueue.Request[string]] = func(yield func(llmqueue.Request[string]) bool) {
		for i := range requests / 5 {
			if !yield(llmqueue.Request[string]{ID: fmt.Sprint(i), Params: prompt(5 * i)}) {
				return
			}
		}
	}
	var sum llmqueue.Usage
	for res, err := range q.SubmitAll(t.Context(), all) {
		i, _ := strconv.Atoi(res.RequestID)
		want := llmqueue.Usage{InputTokens: llmqueue.EstimateTokens(prompt(5 * i)), OutputTokens: int64(len(strings.Fields(res.Result)))}
		got := res.Usage
		if res.Attempts > 1 { // what a failed attempt told of itself is booked too
			got.InputTokens, got.OutputTokens = min(got.InputTokens, want.InputTokens), min(got.OutputTokens, want.OutputTokens)
		}
		if err != nil || got != want {
			t.Errorf("request %d booked %+v after %d attempts, its answer has %+v: %v", i, res.Usage, res.Attempts, want, err)
			break
		}
		sum.InputTokens += want.InputTokens
		sum.OutputTokens += want.OutputTokens
	}
	if err := q.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	var counted llmqueue.Usage
	for _, a := range srv.Arrivals() {
		if a.Verdict == llmtest.Completed {
			counted.InputTokens += a.InputTokens
			counted.OutputTokens += a.OutputTokens
		}
	}
	if sum != counted {
		t.Errorf("the answers have %+v, the server counted %+v", sum, counted)
	}
}

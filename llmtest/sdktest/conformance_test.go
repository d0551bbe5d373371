package sdktest

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

// What every SDK's user may rely on when llmhttp's transport is in the SDK's client
// and a queue in front: the SDK is left at its defaults, the provider enforces limits
// that bind, and every tenth answer goes wrong. To hold another SDK to it, add it to
// sdks.
//
// Faults of the connection before there is an answer (a reset) are left out: there is no
// header to tell an SDK with, so that those of OpenAI and Anthropic retry them
// themselves unless they are told not to (option.WithMaxRetries(0)). Those of Amazon,
// Azure and Cohere know no such header at all: their own retries are off.

const (
	requests  = 600
	maxTokens = 60
	slots     = 64
	dropAt    = 380 // the call before which the provider lowers its limits
)

// faults go wrong together with a tenth of all answers. The last two come in answers that
// an SDK takes for whole ones.
var faults = []llmtest.Option{
	llmtest.WithFaultShare(0.025, llmtest.Fault{Status: 500}),
	llmtest.WithFaultShare(0.02, llmtest.Fault{Status: 503, RetryAfter: 2 * time.Second}),
	llmtest.WithFaultShare(0.015, llmtest.Fault{Status: 529}),
	llmtest.WithFaultShare(0.02, llmtest.Fault{Kind: llmtest.FaultCut}),
	llmtest.WithFaultShare(0.01, llmtest.Fault{Kind: llmtest.FaultStream}),
	llmtest.WithFaultShare(0.01, llmtest.Fault{Kind: llmtest.FaultBody, Status: 500}),
	llmtest.WithFaultShare(0.01, llmtest.Fault{Kind: llmtest.FaultAnswer, Status: 500}),
}

func TestConformance(t *testing.T) {
	for _, s := range sdks {
		for _, stream := range []bool{false, true} {
			inBubble(t, fmt.Sprintf("%s/stream=%v", s.name, stream), func(t *testing.T) { conform(t, s, stream) })
		}
	}
}

// prompt is small in the first half, where the requests' limit binds, and large in the
// second, where that of tokens does.
func prompt(i int) string {
	words := 10
	if i >= requests/2 {
		words = 90 + i%20
	}
	return strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%03d ", i), words), " ")
}

func conform(t *testing.T, s sdk, stream bool) {
	options := append([]llmtest.Option{
		llmtest.InMemory(), llmtest.WithSeed(7), llmtest.WithLatency(llmtest.TypicalLatency()),
		llmtest.WithOutputTokens(40, 0.3), llmtest.WithLoad(llmtest.Load{}),
	}, faults...)
	srv := llmtest.NewServer(t, s.provider(s.limits...), options...)
	w := newWire(t, srv)
	ask := s.client(t, &http.Client{Transport: w}, srv.URL(), stream)

	opts := []llmqueue.Option{
		llmqueue.WithEstimator(func(r llmqueue.Request[string]) llmqueue.Usage {
			return llmqueue.Usage{InputTokens: llmqueue.EstimateTokens(r.Params), OutputTokens: maxTokens}
		}),
		llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 20}), // a tenth of a tenth, and so on: 10⁻²⁰
		llmqueue.WithMiddleware(w.attempt),
	}
	if s.chargesMax {
		opts = append(opts, llmqueue.WithMiddleware(func(ctx context.Context, a llmqueue.Attempt, next func(context.Context) error) error {
			llmqueue.ReportUsage(ctx, a.Estimate) // the provider gives nothing of it back
			return next(ctx)
		}))
	}
	if s.configured == nil {
		opts = append(opts, llmqueue.WithLearnedLimits(), llmqueue.WithLimits(llmqueue.Concurrent(slots)))
	} else {
		opts = append(opts, llmqueue.WithLimits(append(s.configured, llmqueue.Concurrent(slots))...))
	}
	q, err := llmqueue.NewQueue("m", func(ctx context.Context, r llmqueue.Request[string]) (string, error) {
		return ask(ctx, r.Params)
	}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	before := int64(-1)
	w.at(dropAt, func() {
		before = srv.Stats().Refused
		if err := srv.SetLimits(s.lowered...); err != nil {
			t.Error(err)
		}
		if s.told != nil { // its refusals do not say how low the limits are
			if err := q.SetLimits(append(s.told, llmqueue.Concurrent(slots))...); err != nil {
				t.Error(err)
			}
		}
	})

	begin := time.Now()
	answers := make(map[string]string)
	var all iter.Seq[llmqueue.Request[string]] = func(yield func(llmqueue.Request[string]) bool) {
		for i := range requests {
			if !yield(llmqueue.Request[string]{ID: fmt.Sprint(i), Params: prompt(i)}) {
				return
			}
		}
	}
	for res, err := range q.SubmitAll(t.Context(), all) {
		if _, twice := answers[res.RequestID]; err != nil || twice || res.Status != llmqueue.StatusCompleted {
			t.Fatalf("request %s ended as %s, twice: %v, after %d attempts: %v", res.RequestID, res.Status, twice, res.Attempts, err)
		}
		answers[res.RequestID] = res.Result
	}
	took := time.Since(begin)
	if err := q.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if i := q.Info(); len(answers) != requests || i.Completed != requests || i.Accepted != requests {
		t.Errorf("%d answers, %d accepted, %d completed, want %d", len(answers), i.Accepted, i.Completed, requests)
	}
	same(t, s, stream, options, answers)
	booked(t, s, stream, options)

	st := srv.Stats()
	t.Logf("%v, %d calls, %d failed, refused: %d before the limits fell, %d after", took.Round(time.Second), w.calls.Load(), st.Failed, before, st.Refused-before)
	if st.Failed < requests/15 {
		t.Errorf("%d faults are not a tenth of all answers", st.Failed)
	}
	if before != 0 {
		t.Errorf("%d calls were refused in steady state", before)
	}
	// When the limits fall, each slot may have a call on its way that is refused. It says
	// so, and the queue goes by the new limits as soon as it hears it.
	if after := st.Refused - before; after > slots {
		t.Errorf("%d calls were refused after the limits fell, more than the %d that may have been on their way", after, slots)
	}
	// The first limit, of requests, binds at first, and the second, of tokens, in the end.
	for _, l := range []llmtest.LimitStats{st.Limits[len(s.lowered)], st.Limits[1]} {
		if l.Peak < l.Limit.Amount*9/10 {
			t.Errorf("limit %v did not bind: at most %d of %d", l.Limit, l.Peak, l.Limit.Amount)
		}
	}
	w.check(t)
}

// A wire looks at every call twice, above the transport and beneath it.
type wire struct {
	transport http.RoundTripper // the transport under test, above the one beneath
	calls     atomic.Int64
	n         int64
	do        func()

	mu       sync.Mutex
	above    map[*http.Request]*seen
	beneath  map[*http.Request]*seen // by the call above
	problems []string
}

func newWire(t *testing.T, srv *llmtest.Server) *wire {
	t.Helper()
	w := &wire{above: make(map[*http.Request]*seen), beneath: make(map[*http.Request]*seen)}
	beneath := srv.Client().Transport
	w.transport = llmhttp.NewTransport(roundTripper(func(r *http.Request) (*http.Response, error) {
		if w.calls.Add(1) == w.n {
			w.do()
		}
		call, ok := r.Context().Value(callKey{}).(*http.Request)
		if !ok || r.Method != call.Method || r.URL != call.URL || r.Body != call.Body || r.ContentLength != call.ContentLength || !maps.EqualFunc(r.Header, call.Header, slices.Equal) {
			w.problem("a call was not handed on as it is")
			return beneath.RoundTrip(r)
		}
		return w.look(w.beneath, call, beneath, r)
	}))
	return w
}

// at calls do just before the n-th call.
func (w *wire) at(n int64, do func()) { w.n, w.do = n, do }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := w.look(w.above, r, w.transport, r.WithContext(context.WithValue(r.Context(), callKey{}, r)))
	if trip, ok := r.Context().Value(tripKey{}).(*trip); ok {
		w.mu.Lock()
		trip.calls = append(trip.calls, w.above[r])
		w.mu.Unlock()
	}
	return res, err
}

// look sends r and notes it in to.
func (w *wire) look(to map[*http.Request]*seen, call *http.Request, next http.RoundTripper, r *http.Request) (*http.Response, error) {
	c := &seen{wire: w, began: time.Now()}
	w.mu.Lock()
	to[call] = c
	w.mu.Unlock()
	res, err := next.RoundTrip(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	c.err, c.ended = err, time.Now()
	if err == nil {
		c.status, c.header = res.StatusCode, maps.Clone(res.Header)
		c.src, res.Body = res.Body, c
	}
	return res, err
}

func (w *wire) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// callKey finds, beneath the transport, the call as it was above.
type callKey struct{}

type tripKey struct{}

// trip is an attempt's calls.
type trip struct{ calls []*seen }

// attempt is a middleware: an attempt is one call, and nobody sleeps before or after it.
func (w *wire) attempt(ctx context.Context, a llmqueue.Attempt, next func(context.Context) error) error {
	var trip trip
	begin := time.Now()
	err := next(context.WithValue(ctx, tripKey{}, &trip))
	end := time.Now()
	w.mu.Lock()
	calls := trip.calls
	w.mu.Unlock()
	if len(calls) != 1 {
		w.problem("request %s, attempt %d made %d calls, and took %v: %v", a.RequestID, a.Number, len(calls), end.Sub(begin), err)
	} else if c := calls[0]; !c.began.Equal(begin) || !c.ended.Equal(end) {
		w.problem("request %s, attempt %d slept: %v before its call, %v after it", a.RequestID, a.Number, c.began.Sub(begin), end.Sub(c.ended))
	}
	return err
}

// check compares what was seen above the transport with what was beneath it.
func (w *wire) check(t *testing.T) {
	t.Helper()
	synctest.Wait()
	for r, a := range w.above {
		b := w.beneath[r]
		if b == nil {
			w.problem("a call was not handed on")
			continue
		}
		delete(a.header, "X-Should-Retry")
		if a.status != b.status || a.err != b.err || fmt.Sprint(a.header) != fmt.Sprint(b.header) || a.hash != b.hash || a.size != b.size {
			w.problem("an answer was altered: %v becomes %v", b, a)
		}
	}
	if int64(len(w.above)) != w.calls.Load() {
		w.problem("%d calls became %d", len(w.above), w.calls.Load())
	}
	for i, p := range w.problems {
		if i == 5 {
			t.Errorf("and %d more", len(w.problems)-i)
			break
		}
		t.Error(p)
	}
}

package llmqueue_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// What the rows of TestAvailability are played on: providers in memory, queues that call
// them over HTTP or mark errors by hand, and callers who note what they see.

// reaction is what a provider does with one call. The zero value is an answer at once.
type reaction struct {
	after  time.Duration // until it begins
	status int           // 0: 200
	wait   time.Duration // Retry-After; 0: it does not say
	body   string        // instead of the usual one for the status
	hangs  bool          // nothing comes for an hour
	stalls bool          // nothing comes for an hour after the first part
	breaks bool          // the connection breaks after the body
	used   llmqueue.Usage
}

const servedIn = 100 * time.Millisecond // how long a healthy provider takes

var (
	healthy = reaction{after: servedIn}
	failing = reaction{after: 10 * time.Millisecond, status: 500}
	hanging = reaction{hangs: true}
)

// callKey finds the tokens that a call is for in its context.
type callKey struct{}

// provider is one address of a provider.
type provider struct {
	name  string
	begin time.Time
	react func(at time.Duration) reaction

	mu    sync.Mutex
	calls []time.Duration // when they came, since begin
}

// always reacts in one way.
func always(r reaction) func(time.Duration) reaction {
	return func(time.Duration) reaction { return r }
}

// until reacts in one way for a while and in another one afterwards.
func until(d time.Duration, first, then reaction) func(time.Duration) reaction {
	return func(at time.Duration) reaction {
		if at < d {
			return first
		}
		return then
	}
}

// called is how many calls came from from until before to.
func (p *provider) called(from, to time.Duration) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range p.calls {
		if at >= from && at < to {
			n++
		}
	}
	return n
}

func (p *provider) total() int { return p.called(0, 1<<62) }

// take notes a call and waits until its answer begins. The error is that of a caller who went
// away.
func (p *provider) take(ctx context.Context) (reaction, error) {
	p.mu.Lock()
	at := time.Since(p.begin)
	p.calls = append(p.calls, at)
	r := p.react(at)
	p.mu.Unlock()
	if r.used == (llmqueue.Usage{}) {
		r.used, _ = ctx.Value(callKey{}).(llmqueue.Usage)
	}
	if r.hangs {
		r.after = hangsFor
	}
	if r.after > 0 && !nap(ctx, r.after) {
		return r, context.Cause(ctx)
	}
	if r.hangs {
		return r, errHung
	}
	return r, nil
}

// hangsFor is when even the most patient connection breaks.
const hangsFor = time.Hour

var errHung = errors.New("nothing came for an hour")

// nap reports whether d passed before ctx ended.
func nap(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// RoundTrip is the provider on the wire.
func (p *provider) RoundTrip(req *http.Request) (*http.Response, error) {
	r, err := p.take(req.Context())
	if err != nil {
		return nil, err
	}
	h := http.Header{"Content-Type": {"application/json"}}
	if r.wait > 0 {
		h.Set("Retry-After", strconv.Itoa(int(r.wait/time.Second)))
	}
	body := []io.Reader{strings.NewReader(cmp.Or(r.body, r.usualBody()))}
	switch {
	case r.stalls:
		body = append(body, &broken{req.Context(), hangsFor})
	case r.breaks:
		body = append(body, &broken{req.Context(), 0})
	}
	return &http.Response{
		StatusCode: cmp.Or(r.status, 200), Status: fmt.Sprint(cmp.Or(r.status, 200)), Header: h, Request: req,
		Body: io.NopCloser(io.MultiReader(body...)),
	}, nil
}

func (r *reaction) usualBody() string {
	kind := map[int]string{401: "invalid_api_key", 403: "permission_denied", 404: "model_not_found", 429: "rate_limit_exceeded"}
	switch {
	case r.status >= 400:
		return fmt.Sprintf(`{"error":{"message":"no","code":%q}}`, cmp.Or(kind[r.status], "server_error"))
	case r.stalls || r.breaks:
		return `data: {"choices":[{"delta":{"content":"half"}}]}` + "\n\n"
	}
	usage, _ := json.Marshal(map[string]int64{"prompt_tokens": r.used.InputTokens, "completion_tokens": r.used.OutputTokens})
	return `{"choices":[{"message":{"content":"whole"}}],"usage":` + string(usage) + `}`
}

// broken is a body that breaks after a while.
type broken struct {
	ctx   context.Context
	after time.Duration
}

func (b *broken) Read([]byte) (int, error) {
	nap(b.ctx, b.after)
	return 0, io.ErrUnexpectedEOF
}

// scene is where one row is played, in one way.
type scene struct {
	*testing.T
	wire    bool // over HTTP, else marked by hand
	begin   time.Time
	manager *llmqueue.Manager[int, string]
	events  []llmqueue.Event
	mu      sync.Mutex // guards events
}

// inScene plays a row in a bubble.
func inScene(t *testing.T, wire bool, play func(*scene)) {
	synctest.Test(t, func(t *testing.T) {
		s := &scene{T: t, wire: wire, begin: time.Now()}
		s.manager = llmqueue.NewManager[int, string](llmqueue.WithUnlimited(), llmqueue.WithMargin(0),
			llmqueue.WithShutdownGrace(time.Minute), llmqueue.WithObserver(func(e llmqueue.Event) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.events = append(s.events, e)
			}))
		t.Cleanup(func() { shut(s.manager.Shutdown) })
		play(s)
	})
}

func (s *scene) now() time.Duration { return time.Since(s.begin) }

func (s *scene) provider(name string, react func(time.Duration) reaction) *provider {
	return &provider{name: name, begin: s.begin, react: react}
}

// model registers a model whose first endpoint is p.
func (s *scene) model(name string, p *provider, opts ...llmqueue.Option) *llmqueue.Queue[int, string] {
	q, err := s.manager.Register(name, s.processor(p), opts...)
	require.NoError(s, err)
	return q
}

// fallback registers a healthy model of that name.
func (s *scene) fallback(name string) *provider {
	p := s.provider(name, always(healthy))
	s.model(name, p)
	return p
}

func (s *scene) endpoint(q *llmqueue.Queue[int, string], p *provider, opts ...llmqueue.Option) {
	if len(opts) == 0 {
		opts = []llmqueue.Option{llmqueue.WithUnlimited()}
	}
	require.NoError(s, q.AddEndpoint(p.name, s.processor(p), append(opts, llmqueue.WithMargin(0))...))
}

// processor calls p and gives its name. It is like many a stream's reader in that it takes the
// end of a body for the end of the answer, whatever ended it.
func (s *scene) processor(p *provider) llmqueue.Processor[int, string] {
	if !s.wire {
		return func(ctx context.Context, r llmqueue.Request[int]) (string, error) {
			got, err := p.take(context.WithValue(ctx, callKey{}, r.Estimate))
			if err != nil {
				return "", err
			}
			return p.name, got.mark(ctx)
		}
	}
	client := &http.Client{Transport: llmhttp.NewTransport(p)}
	return func(ctx context.Context, r llmqueue.Request[int]) (string, error) {
		req, err := http.NewRequestWithContext(context.WithValue(ctx, callKey{}, r.Estimate), http.MethodPost, "http://"+p.name, nil)
		if err != nil {
			return "", err
		}
		res, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		_, _ = io.ReadAll(res.Body)
		if res.StatusCode != http.StatusOK {
			return "", errors.New(res.Status)
		}
		return p.name, nil
	}
}

// mark is what a processor without llmhttp makes of a reaction.
func (r *reaction) mark(ctx context.Context) error {
	err := fmt.Errorf("status %d", r.status)
	switch {
	case r.stalls:
		llmqueue.Observe(ctx, llmqueue.Observation{Output: true})
		nap(ctx, hangsFor)
		return cmp.Or(ctx.Err(), errHung)
	case r.breaks || strings.Contains(r.body, `"error"`):
		sent := time.Now()
		llmqueue.Observe(ctx, llmqueue.Observation{SentAt: sent, Outcome: llmqueue.OutcomeServed})
		broke := llmqueue.Observation{SentAt: sent, Outcome: llmqueue.OutcomeRetryable, Usage: r.used}
		if strings.Contains(r.body, "invalid_request_error") {
			broke.Outcome = llmqueue.OutcomeFatal
		}
		llmqueue.Observe(ctx, broke)
		return nil
	case r.status == 0:
		llmqueue.ReportUsage(ctx, r.used)
		return nil
	case r.status == 429:
		return llmqueue.RateLimited(err, r.wait)
	case r.status >= 500:
		return llmqueue.Retryable(err)
	}
	return llmqueue.Elsewhere(err)
}

// seen is what the caller of one request saw.
type seen struct {
	asked, took time.Duration
	by          string // which provider answered; "" when none did
	attempts    int
	usage       llmqueue.Usage
	err         error
}

// sights is what all callers saw, by when they asked.
type sights []seen

// ask submits n requests, one every so often, and waits for all of them.
func (s *scene) ask(q *llmqueue.Queue[int, string], n int, every time.Duration, req llmqueue.Request[int]) sights {
	return s.askWithin(0, q, n, every, req)
}

// askWithin is ask with a deadline for each request, unless it is 0.
func (s *scene) askWithin(deadline time.Duration, q *llmqueue.Queue[int, string], n int, every time.Duration, req llmqueue.Request[int]) sights {
	all := make(sights, n)
	var wg sync.WaitGroup
	for i := range n {
		if i > 0 && every > 0 {
			time.Sleep(every)
		}
		ctx, cancel := context.WithCancel(s.Context())
		if deadline > 0 {
			ctx, cancel = context.WithTimeout(s.Context(), deadline)
		}
		asked := s.now()
		wg.Go(func() {
			defer cancel()
			r, err := q.Submit(ctx, req)
			all[i] = seen{asked, s.now() - asked, r.Result, r.Attempts, r.Usage, err}
		})
	}
	wg.Wait()
	return all
}

// served is how many got an answer of a provider.
func (all sights) served(by string) (n int) {
	for _, v := range all {
		if v.err == nil && v.by == by {
			n++
		}
	}
	return n
}

// failed is how many got no answer, and the first reason.
func (all sights) failed() (n int, first error) {
	for _, v := range all {
		if v.err != nil {
			first = cmp.Or(first, v.err)
			n++
		}
	}
	return n, first
}

// quantile is the time within which that share got their answers.
func (all sights) quantile(share float64) time.Duration {
	var took []time.Duration
	for _, v := range all {
		if v.err == nil {
			took = append(took, v.took)
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[min(int(share*float64(len(took))), len(took)-1)]
}

func (all sights) slowest() time.Duration { return all.quantile(1) }

// last is when the last answer came.
func (all sights) last() (at time.Duration) {
	for _, v := range all {
		if v.err == nil {
			at = max(at, v.asked+v.took)
		}
	}
	return at
}

// after are those who asked then or later.
func (all sights) after(at time.Duration) sights {
	i, _ := slices.BinarySearchFunc(all, at, func(v seen, at time.Duration) int { return cmp.Compare(v.asked, at) })
	return all[i:]
}

// allServed checks that everybody got an answer of one provider, within a time.
func (s *scene) allServed(all sights, by string, within time.Duration) {
	s.Helper()
	n, why := all.failed()
	assert.Zero(s, n, "requests failed of %d, the first with: %v", len(all), why)
	assert.Equal(s, len(all), all.served(by), "served by %s", by)
	assert.LessOrEqual(s, all.slowest(), within, "the slowest answer")
}

// atMost checks a count that a provider or a user notices.
func (s *scene) atMost(most, n int, what string) {
	s.Helper()
	assert.LessOrEqual(s, n, most, what)
}

// ended is a context whose time is over.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

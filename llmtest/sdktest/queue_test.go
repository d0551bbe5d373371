package sdktest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/accounting"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

// What every client's user may rely on when llmhttp's QueueTransport is in the client and
// nothing else is known of a queue: the client is left at its defaults, as for TestConformance,
// and its calls all begin at once.

const callers = 400

// earlyFaults come before anything of an answer, so that each can be tried again.
var earlyFaults = []llmtest.Option{
	llmtest.WithFaultShare(0.02, llmtest.Fault{Status: 500}),
	llmtest.WithFaultShare(0.02, llmtest.Fault{Status: 503, RetryAfter: 2 * time.Second}),
	llmtest.WithFaultShare(0.015, llmtest.Fault{Status: 529}),
	llmtest.WithFaultShare(0.015, llmtest.Fault{Kind: llmtest.FaultReset}),
}

// wholeFaults spoil an answer that is read before it is handed on. Those of a stream that was
// begun are its reader's.
var wholeFaults = []llmtest.Option{
	llmtest.WithFaultShare(0.02, llmtest.Fault{Kind: llmtest.FaultCut}),
	llmtest.WithFaultShare(0.01, llmtest.Fault{Kind: llmtest.FaultBody, Status: 500}),
	llmtest.WithFaultShare(0.01, llmtest.Fault{Kind: llmtest.FaultAnswer, Status: 500}),
}

func TestQueueTransport(t *testing.T) {
	for _, s := range slices.Concat(sdks, frameworks) {
		for _, stream := range []bool{false, true} {
			inBubble(t, fmt.Sprintf("%s/stream=%v", s.name, stream), func(t *testing.T) {
				if attempts, faults := queued(t, s, stream, throughTransport); attempts != callers+faults {
					t.Errorf("%d attempts of %d calls with %d faults, want one for each", attempts, callers, faults)
				}
			})
		}
	}
}

// way brings a client's calls through a queue. It tells how many the client made.
type way func(t *testing.T, s sdk, stream bool, q *queue, base http.RoundTripper, url string) (ask, func() int64)

type queue = llmqueue.Queue[string, string]

func throughTransport(t *testing.T, s sdk, stream bool, q *queue, base http.RoundTripper, url string) (ask, func() int64) {
	tr := &countingTransport{next: llmhttp.NewQueueTransport(q, base)}
	return s.client(t, &http.Client{Transport: tr}, url, stream), tr.calls.Load
}

func queued(t *testing.T, s sdk, stream bool, through way) (attempts, faults int64) {
	failing := earlyFaults
	if !stream {
		failing = slices.Concat(earlyFaults, wholeFaults)
	}
	srv := llmtest.NewServer(t, s.provider(s.limits...), slices.Concat([]llmtest.Option{
		llmtest.InMemory(), llmtest.WithSeed(7), llmtest.WithLatency(llmtest.TypicalLatency()),
		llmtest.WithOutputTokens(40, 0.3), llmtest.WithLoad(llmtest.Load{}),
	}, failing)...)
	q := transportQueue(t, s)
	ask, calls := through(t, s, stream, q, srv.Client().Transport, srv.URL())

	var failed, words atomic.Int64
	var all sync.WaitGroup
	begin := time.Now()
	for i := range callers {
		all.Go(func() {
			answer, err := ask(t.Context(), prompt(i*requests/callers))
			if err != nil && failed.Add(1) <= 3 {
				t.Errorf("call %d: %v", i, err)
			}
			words.Add(int64(len(strings.Fields(answer))))
		})
	}
	all.Wait()
	took := time.Since(begin)
	synctest.Wait()

	info, st := q.Info(), srv.Stats()
	t.Logf("%v, %d attempts, %d refused, %d failed", took.Round(time.Second), info.Attempts, st.Refused, st.Failed)
	if failed.Load() != 0 || st.Refused != 0 {
		t.Errorf("%d calls failed, and the server refused %d", failed.Load(), st.Refused)
	}
	if info.Completed != callers || info.Processing != 0 || info.Pending != 0 {
		t.Errorf("%d of %d calls are completed, %d run, %d wait", info.Completed, callers, info.Processing, info.Pending)
	}
	if n := calls(); n != callers || info.Attempts > callers+st.Failed { // an SDK may try again within one
		t.Errorf("the client made %d calls of %d, and the queue %d attempts with %d faults", n, callers, info.Attempts, st.Failed)
	}
	if st.Failed < callers/25 {
		t.Errorf("%d faults are not one in 25", st.Failed)
	}
	// Calls that fail at once are none of the server's limits, but some of the queue's: then that the
	// rest had to wait for the next minute tells.
	if took < time.Minute && !slices.ContainsFunc(st.Limits, func(l llmtest.LimitStats) bool { return l.Peak >= l.Limit.Amount*9/10 }) {
		t.Errorf("no limit did bind: %+v", st.Limits)
	}
	var counted llmqueue.Usage
	for _, a := range srv.Arrivals() {
		if a.Verdict == llmtest.Completed {
			counted.InputTokens += a.InputTokens
			counted.OutputTokens += a.OutputTokens
		}
	}
	if words.Load() != counted.OutputTokens {
		t.Errorf("the answers have %d tokens, the server counted %+v", words.Load(), counted)
	}
	if info.Usage != counted {
		t.Errorf("the queue booked %+v, the server counted %+v", info.Usage, counted)
	}
	return info.Attempts, st.Failed
}

// transportQueue is a queue for the calls of a client, whose limits are learned where they can be.
func transportQueue(t *testing.T, s sdk) *queue {
	t.Helper()
	opts := []llmqueue.Option{llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 20})}
	if s.chargesMax {
		opts = append(opts, llmqueue.WithAccounting(accounting.Azure)) // input and max_tokens, for good
	}
	if s.configured == nil {
		opts = append(opts, llmqueue.WithLearnedLimits(), llmqueue.WithLimits(llmqueue.Concurrent(slots)))
	} else {
		opts = append(opts, llmqueue.WithLimits(append(slices.Clip(s.configured), llmqueue.Concurrent(slots))...))
	}
	q, err := llmqueue.NewQueue("m", nothingProcessed, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return q
}

func nothingProcessed(context.Context, llmqueue.Request[string]) (string, error) {
	return "", errors.New("this queue is for the transport's calls")
}

// countingTransport counts a client's calls.
type countingTransport struct {
	next  http.RoundTripper
	calls atomic.Int64
}

func (c *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	c.calls.Add(1)
	return c.next.RoundTrip(r)
}

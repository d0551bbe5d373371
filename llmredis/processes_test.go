package llmredis

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmtest"
)

// load is a load that several processes put on one simulated provider.
type load struct {
	period   time.Duration
	requests int64 // of the limit
	periods  int   // that are measured
}

// sized is the load for a test: minutes with LLMREDIS_FULL=1, seconds otherwise.
func sized(periods int) load {
	if os.Getenv("LLMREDIS_FULL") != "" {
		return load{period: time.Minute, requests: 3000, periods: max(periods, 5)}
	}
	return load{period: 10 * time.Second, requests: 500, periods: periods}
}

func (l load) limits() []llmqueue.Limit {
	return []llmqueue.Limit{
		llmqueue.RPM(l.requests).Per(l.period), llmqueue.TPM(110 * l.requests).Per(l.period), llmqueue.Concurrent(40),
	}
}

// provider enforces those limits in exact sliding windows. It settles tokens when an
// answer ends.
func (l load) provider(t testing.TB) *llmtest.Server {
	return llmtest.NewServer(t, llmtest.OpenAI(
		llmtest.RPM(l.requests).Per(l.period), llmtest.TPM(110*l.requests).Per(l.period), llmtest.Concurrent(40),
	), llmtest.WithStrategy(llmtest.SlidingWindow), llmtest.WithBurndown(1), llmtest.WithRefusedFree())
}

// hold is how long a charge counts, with the margin.
func (l load) hold() time.Duration { return l.period + min(l.period/50, 250*time.Millisecond) }

// use is how much of the quota was used: how long so many periods' worth of requests
// should have taken, as a part of how long they took. It waits until they are there.
func (l load) use(t testing.TB, srv *llmtest.Server, since time.Time, periods int) float64 {
	t.Helper()
	want := int64(periods)*l.requests + 1
	var accepted []time.Time
	require.Eventually(t, func() bool {
		accepted = accepted[:0]
		for _, a := range srv.Arrivals() {
			if a.Verdict != llmtest.Refused && !a.At.Before(since) {
				accepted = append(accepted, a.At)
			}
		}
		return int64(len(accepted)) >= want
	}, time.Duration(2*periods)*l.hold()+30*time.Second, 50*time.Millisecond, "the load does not go on")
	return float64(periods) * l.hold().Seconds() / accepted[want-1].Sub(accepted[0]).Seconds()
}

func (l load) start(t testing.TB, n int, o order) []*worker {
	o.Limits, o.Callers = l.limits(), 50
	if o.Prefix == "" {
		o.Prefix = fresh(t)
	}
	var ws []*worker
	for range n {
		ws = append(ws, startWorker(t, o))
	}
	return ws
}

// check ends the workers and looks at what the provider says.
func check(t testing.TB, srv *llmtest.Server, ws []*worker) (counts []int64) {
	t.Helper()
	for _, w := range ws {
		done, _ := w.end(t)
		counts = append(counts, done)
	}
	stats := srv.Stats()
	assert.Zero(t, stats.Refused, "calls were refused: %s", fmt.Sprint(stats.Limits))
	return counts
}

// Two, four and eight processes use one key: none is refused, and next to nothing is
// left unused.
func TestProcessesShareAKey(t *testing.T) {
	redis := private(t)
	for _, n := range []int{2, 4, 8} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			l := sized(2)
			srv := l.provider(t)
			ws := l.start(t, n, order{Redis: redis.address(), URL: srv.URL()})
			use := l.use(t, srv, time.Time{}, l.periods)
			counts := check(t, srv, ws)
			t.Logf("%d processes used %.2f%% of the quota; calls by process: %v", n, 100*use, counts)
			assert.GreaterOrEqual(t, use, 0.97, "quota went unused")
			var sum int64
			for _, c := range counts {
				sum += c
			}
			for _, c := range counts {
				assert.GreaterOrEqual(t, c, sum/int64(n)/3, "a process starved: %v", counts)
			}
		})
	}
}

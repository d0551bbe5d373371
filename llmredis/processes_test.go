package llmredis

import (
	"fmt"
	"os"
	"slices"
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
	margin   time.Duration
	wanted   float64 // use of the quota
}

// sized is the load for a test: minutes with LLMREDIS_FULL=1 and what is wanted of an idle machine,
// else seconds and what a machine shows that many tests keep busy: there a call may
// arrive at the provider half a second after it was started.
func sized(periods int) load {
	if os.Getenv("LLMREDIS_FULL") != "" {
		return load{period: time.Minute, requests: 3000, periods: max(periods, 5), margin: 250 * time.Millisecond, wanted: 0.97}
	}
	return load{period: 10 * time.Second, requests: 400, periods: periods, margin: 700 * time.Millisecond, wanted: 0.9}
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
func (l load) hold() time.Duration { return l.period + l.margin }

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
	o.Limits, o.Callers, o.Margin = l.limits(), 50, l.margin
	if o.Prefix == "" {
		o.Prefix = fresh(t)
	}
	var ws []*worker
	for range n {
		ws = append(ws, startWorker(t, o))
	}
	return ws
}

// check ends the workers and looks at what they started and what the provider says.
//
// That no window is exceeded goes by the instants of the reservations. The provider goes by
// when calls arrive: on a machine that is so busy that a call arrives later after its
// start than the margin allows for, it may refuse one all the same.
func (l load) check(t testing.TB, srv *llmtest.Server, ws []*worker) (counts []int64) {
	t.Helper()
	var starts, arrivals []time.Time
	for _, w := range ws {
		if w.stdin != nil && w.cmd.ProcessState == nil {
			counts = append(counts, w.end(t))
		}
		starts = append(starts, w.starts...)
	}
	slices.SortFunc(starts, time.Time.Compare)
	for i := int(l.requests); i < len(starts); i++ {
		require.GreaterOrEqual(t, starts[i].Sub(starts[i-int(l.requests)]), l.period, "more than %d calls were started within a period", l.requests)
	}
	stats := srv.Stats()
	if stats.Refused == 0 {
		return counts
	}
	for _, a := range srv.Arrivals() {
		arrivals = append(arrivals, a.At)
	}
	var late time.Duration // of some call at least
	for i := range min(len(starts), len(arrivals)) {
		late = max(late, arrivals[i].Sub(starts[i]))
	}
	if late > l.margin/2 {
		t.Logf("%d calls were refused: this machine is so busy that calls arrive %v after they were started, or later", stats.Refused, late.Round(time.Millisecond))
		return counts
	}
	t.Errorf("calls were refused: %+v", stats.Limits)
	return counts
}

// Two, four and eight processes use one key: none is refused, and next to nothing is
// left unused.
func TestProcessesShareAKey(t *testing.T) {
	t.Parallel()
	redis := private(t)
	for _, n := range []int{2, 4, 8} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			l := sized(2)
			srv := l.provider(t)
			ws := l.start(t, n, order{Redis: redis.address(), URL: srv.URL()})
			use := l.use(t, srv, time.Time{}, l.periods)
			counts := l.check(t, srv, ws)
			t.Logf("%d processes used %.2f%% of the quota; calls by process: %v", n, 100*use, counts)
			assert.GreaterOrEqual(t, use, l.wanted, "quota went unused")
			var sum int64
			for _, c := range counts {
				sum += c
			}
			for _, c := range counts {
				assert.GreaterOrEqual(t, c, sum/int64(n)/4, "a process starved: %v", counts)
			}
		})
	}
}

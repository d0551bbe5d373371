package llmprom_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmprom"
)

func TestNamesKeepPrometheusConventions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		metrics := llmprom.New(llmprom.WithTenants(10))
		m := newManager(t, "gpt", metrics.Observe(), llmqueue.WithLimits(llmqueue.RPM(10), llmqueue.Concurrent(2)))
		require.NoError(t, metrics.Add(m))
		do(t, m, "gpt", time.Second)
		synctest.Wait()
		problems, err := testutil.GatherAndLint(registered(t, metrics))
		require.NoError(t, err)
		assert.Empty(t, problems, "promtool check metrics would complain")
	})
}

// All figures of a queue in a moment that stands still.
//
// Faults seen to fail here: the wait recorded when a request is queued; an attempt
// recorded for a request that ended in line; two shared sets with one scope.
func TestShowsWhatAQueueIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		metrics := llmprom.New()
		organisation, family := llmqueue.NewSharedLimits(llmqueue.RPM(100)), llmqueue.NewSharedLimits(llmqueue.RPM(50), llmqueue.TPM(9000))
		m := newManager(t, "gpt", metrics.Observe(), llmqueue.WithLimits(
			llmqueue.RPM(4), llmqueue.TPM(1000).Per(90*time.Second), llmqueue.RPD(1000).Daily(time.UTC), llmqueue.Concurrent(2)),
			llmqueue.WithSharedLimits(organisation), llmqueue.WithSharedLimits(family))
		require.NoError(t, metrics.Add(m))
		reg := registered(t, metrics)

		do(t, m, "gpt", -time.Second)
		for range 2 { // run for ten seconds
			post(t, m, job{Params: 10 * time.Second})
		}
		for range 3 {
			post(t, m, job{})
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		got := gather(t, reg)
		for series, want := range map[string]float64{
			`llmqueue_accepted_requests_total{model="gpt"}`:                    6,
			`llmqueue_finished_requests_total{model="gpt",status="completed"}`: 0,
			`llmqueue_finished_requests_total{model="gpt",status="failed"}`:    1,
			`llmqueue_finished_requests_total{model="gpt",status="canceled"}`:  0,
			`llmqueue_attempts_total{model="gpt"}`:                             3,
			`llmqueue_retries_total{model="gpt"}`:                              0,
			`llmqueue_refused_calls_total{model="gpt"}`:                        0,
			`llmqueue_coalesced_requests_total{model="gpt"}`:                   0,
			`llmqueue_fallbacks_total{model="gpt"}`:                            0,
			`llmqueue_hedges_total{model="gpt"}`:                               0,
			`llmqueue_dropped_events_total{model="gpt"}`:                       0,
			`llmqueue_pending_requests{model="gpt"}`:                           3,
			`llmqueue_processing_requests{model="gpt"}`:                        2,
			`llmqueue_forwarded_requests{model="gpt"}`:                         0,
			`llmqueue_abandoned_processors{model="gpt"}`:                       0,
			`llmqueue_slots{model="gpt"}`:                                      2,
			`llmqueue_paused{model="gpt"}`:                                     0,
			`llmqueue_pause_remaining_seconds{model="gpt"}`:                    0,
			`llmqueue_closed{model="gpt"}`:                                     0,

			`llmqueue_endpoint_processors{endpoint="gpt",model="gpt"}`:              2,
			`llmqueue_endpoint_slots{endpoint="gpt",model="gpt"}`:                   2,
			`llmqueue_endpoint_breaker_open{endpoint="gpt",model="gpt"}`:            0,
			`llmqueue_endpoint_held_out{endpoint="gpt",model="gpt"}`:                0,
			`llmqueue_endpoint_pause_remaining_seconds{endpoint="gpt",model="gpt"}`: 0,

			`llmqueue_limit_amount{endpoint="gpt",limit="rpm",model="gpt",period="1m",scope="own"}`:        4,
			`llmqueue_limit_used{endpoint="gpt",limit="rpm",model="gpt",period="1m",scope="own"}`:          3,
			`llmqueue_limit_available{endpoint="gpt",limit="rpm",model="gpt",period="1m",scope="own"}`:     1,
			`llmqueue_limit_reset_seconds{endpoint="gpt",limit="rpm",model="gpt",period="1m",scope="own"}`: 57,
			`llmqueue_limit_amount{endpoint="gpt",limit="tpm",model="gpt",period="1m30s",scope="own"}`:     1000,
			`llmqueue_limit_amount{endpoint="gpt",limit="rpd",model="gpt",period="24h",scope="own"}`:       1000,
			`llmqueue_limit_used{endpoint="gpt",limit="concurrent",model="gpt",scope="own"}`:               2,
			`llmqueue_limit_reset_seconds{endpoint="gpt",limit="concurrent",model="gpt",scope="own"}`:      0,
			`llmqueue_limit_amount{endpoint="gpt",limit="rpm",model="gpt",period="1m",scope="shared"}`:     100,
			`llmqueue_limit_amount{endpoint="gpt",limit="rpm",model="gpt",period="1m",scope="shared2"}`:    50,
			`llmqueue_limit_used{endpoint="gpt",limit="rpm",model="gpt",period="1m",scope="shared2"}`:      3,
			`llmqueue_limit_amount{endpoint="gpt",limit="tpm",model="gpt",period="1m",scope="shared"}`:     9000,
			`llmqueue_wait_seconds_count{model="gpt"}`:                                                     3,
			`llmqueue_wait_seconds_sum{model="gpt"}`:                                                       0,
			`llmqueue_tokens_total{direction="input",model="gpt"}`:                                         10,
			`llmqueue_tokens_total{direction="output",model="gpt"}`:                                        3,
			`llmqueue_cached_input_tokens_total{model="gpt"}`:                                              4,
		} {
			if have, ok := got[series]; !ok || have != want {
				t.Errorf("%s is %v (there: %t), want %v", series, have, ok, want)
			}
		}

		canceled := post(t, m, job{})
		require.NoError(t, m.Cancel("gpt", canceled))
		synctest.Wait()
		assert.Equal(t, figures{
			`llmqueue_processing_seconds_count{endpoint="gpt",model="gpt",outcome="unexplained"}`: 1,
		}, gather(t, reg).with("llmqueue_processing_seconds_count"), "only one attempt has ended")

		require.NoError(t, m.Pause("gpt"))
		assert.Equal(t, 1.0, gather(t, reg)[`llmqueue_paused{model="gpt"}`])
		require.NoError(t, m.Resume("gpt"))
		time.Sleep(time.Hour)
		synctest.Wait()
		got = gather(t, reg)
		assert.Equal(t, 6.0, got[`llmqueue_wait_seconds_count{model="gpt"}`])
		// One waited for a slot, two until an earlier start was a minute ago.
		assert.Equal(t, 10.0+59+60, got[`llmqueue_wait_seconds_sum{model="gpt"}`])
		assert.Equal(t, 5.0, got[`llmqueue_finished_requests_total{model="gpt",status="completed"}`])

		canceled = post(t, m, job{Params: time.Minute})
		time.Sleep(2 * time.Second)
		require.NoError(t, m.Cancel("gpt", canceled))
		synctest.Wait()
		assert.Equal(t, 2.0, gather(t, reg)[`llmqueue_processing_seconds_sum{endpoint="gpt",model="gpt",outcome="canceled"}`])
	})
}

func post(t *testing.T, m *manager, r job) (id string) {
	t.Helper()
	r.NoWait, r.ModelID = true, "gpt"
	resp, err := m.Submit(t.Context(), r)
	require.NoError(t, err)
	return resp.RequestID
}

// A provider's pause counts down, on its endpoint and, when that is the only one, on
// the queue; the refused call and its retry are counted.
func TestShowsPausesByTheProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		metrics := llmprom.New()
		refusals := 1
		q, err := llmqueue.NewQueue("gpt", func(context.Context, job) (string, error) {
			time.Sleep(2 * time.Second)
			if refusals--; refusals >= 0 {
				return "", llmqueue.RateLimited(assert.AnError, 20*time.Second)
			}
			return "", nil
		}, llmqueue.WithUnlimited(), llmqueue.WithMargin(0), metrics.Observe())
		require.NoError(t, err)
		require.NoError(t, metrics.AddQueue(q))
		reg := registered(t, metrics)
		resp, err := q.Submit(t.Context(), job{NoWait: true})
		require.NoError(t, err)

		time.Sleep(5 * time.Second)
		synctest.Wait()
		got := gather(t, reg)
		assert.Equal(t, 17.0, got[`llmqueue_pause_remaining_seconds{model="gpt"}`])
		assert.Equal(t, 17.0, got[`llmqueue_endpoint_pause_remaining_seconds{endpoint="gpt",model="gpt"}`])
		assert.Equal(t, 0.0, got[`llmqueue_paused{model="gpt"}`], "nobody called Pause")

		_, err = q.Wait(t.Context(), resp.RequestID)
		require.NoError(t, err)
		require.NoError(t, q.Shutdown(t.Context()))
		synctest.Wait()
		got = gather(t, reg)
		assert.Equal(t, 0.0, got[`llmqueue_pause_remaining_seconds{model="gpt"}`])
		assert.Equal(t, 1.0, got[`llmqueue_closed{model="gpt"}`])
		assert.Equal(t, 1.0, got[`llmqueue_refused_calls_total{model="gpt"}`])
		assert.Equal(t, 1.0, got[`llmqueue_retries_total{model="gpt"}`])
		assert.Equal(t, 2.0, got[`llmqueue_wait_seconds_count{model="gpt"}`])
		assert.Equal(t, 20.0, got[`llmqueue_wait_seconds_sum{model="gpt"}`])
		for outcome, want := range map[string]float64{"rate_limited": 1, "served": 1} {
			series := `{endpoint="gpt",model="gpt",outcome="` + outcome + `"}`
			assert.Equal(t, want, got["llmqueue_processing_seconds_count"+series], outcome)
			assert.Equal(t, 2*want, got["llmqueue_processing_seconds_sum"+series], outcome)
		}
	})
}

// Prometheus takes a counter that went down for a restarted program, and a rate for
// what it is not.
//
// Faults seen to fail here: only the last queue of a name counted; Since not compared, so that a queue that overtook the one before counts as the same;
// max left out; counters of a removed model left out.
func TestCountersNeverGoDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		metrics := llmprom.New()
		m := newManager(t, "gpt", llmqueue.WithUnlimited())
		require.NoError(t, metrics.Add(m))
		reg := registered(t, metrics)
		const completed = `llmqueue_finished_requests_total{model="gpt",status="completed"}`
		const input = `llmqueue_tokens_total{direction="input",model="gpt"}`

		resp, err := m.Submit(t.Context(), job{ID: "corrected", ModelID: "gpt"})
		require.NoError(t, err)
		do(t, m, "gpt", 0)
		assert.Equal(t, 20.0, gather(t, reg)[input])
		require.NoError(t, m.UpdateUsage("gpt", resp.RequestID, llmqueue.Usage{InputTokens: 1}))
		assert.Equal(t, 20.0, gather(t, reg)[input], "corrected downward")
		do(t, m, "gpt", 0)
		assert.Equal(t, 21.0, gather(t, reg)[input])

		require.NoError(t, m.Unregister(t.Context(), "gpt"))
		got := gather(t, reg)
		assert.Equal(t, 3.0, got[completed], "the model is gone, what it did is not")
		assert.NotContains(t, got, `llmqueue_pending_requests{model="gpt"}`, "it is gone")

		time.Sleep(time.Second)
		register(t, m, "gpt")
		assert.Equal(t, 3.0, gather(t, reg)[completed], "a new queue goes on where the last one stood")
		for range 2 {
			do(t, m, "gpt", 0)
		}
		assert.Equal(t, 5.0, gather(t, reg)[completed])

		// Once more, and between two scrapes the new queue overtakes the old one.
		require.NoError(t, m.Unregister(t.Context(), "gpt"))
		time.Sleep(time.Second)
		register(t, m, "gpt")
		for range 10 {
			do(t, m, "gpt", 0)
		}
		got = gather(t, reg)
		assert.Equal(t, 15.0, got[completed])
		assert.Equal(t, 21.0+120, got[input])
	})
}

// A queue that is removed ends what it has, and the next one of its name may begin
// meanwhile; no scrape sees the end of the first.
//
// Faults seen to fail here: no last word; the last word of the first taken for that of
// the second.
func TestCountersKnowHowAQueueEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		metrics := llmprom.New()
		m := newManager(t, "gpt", metrics.Observe(), llmqueue.WithUnlimited())
		require.NoError(t, metrics.Add(m))
		reg := registered(t, metrics)
		const completed = `llmqueue_finished_requests_total{model="gpt",status="completed"}`
		do(t, m, "gpt", 0)
		assert.Equal(t, 1.0, gather(t, reg)[completed])
		for range 3 {
			post(t, m, job{Params: time.Minute})
		}
		removed := make(chan error)
		go func() { removed <- m.Unregister(t.Context(), "gpt") }()
		time.Sleep(time.Second)
		register(t, m, "gpt")
		do(t, m, "gpt", 0)
		do(t, m, "gpt", 0)
		assert.Equal(t, 3.0, gather(t, reg)[completed])
		require.NoError(t, <-removed)
		assert.Equal(t, 6.0, gather(t, reg)[completed])

		// Many queues of a name are many last words, and still no sum is lost.
		for range 50 {
			require.NoError(t, m.Unregister(t.Context(), "gpt"))
			time.Sleep(time.Second)
			register(t, m, "gpt")
			do(t, m, "gpt", 0)
		}
		assert.Equal(t, 56.0, gather(t, reg)[completed])
		require.NoError(t, m.Shutdown(t.Context()))
		assert.Equal(t, 56.0, gather(t, reg)[completed], "what was shut down is still there, and counts once")
	})
}

// fixed is a source that says what the test says.
type fixed struct{ infos *[]llmqueue.QueueInfo }

func (f fixed) InfoAll() []llmqueue.QueueInfo { return *f.infos }

// A source of the program's own may not know when its queues were made, and may tell
// what was true a while ago.
func TestASourceOfItsOwn(t *testing.T) {
	infos := []llmqueue.QueueInfo{{ModelID: "gpt", Accepted: 7, Completed: 5, PausedUntil: time.Now().Add(-time.Hour)}}
	metrics := llmprom.New()
	require.NoError(t, metrics.Add(fixed{&infos}))
	reg := registered(t, metrics)
	assert.Equal(t, 0.0, gather(t, reg)[`llmqueue_pause_remaining_seconds{model="gpt"}`])
	infos = []llmqueue.QueueInfo{{ModelID: "gpt", Accepted: 2, Completed: 1}}
	assert.Equal(t, 9.0, gather(t, reg)[`llmqueue_accepted_requests_total{model="gpt"}`])
	assert.Equal(t, 6.0, gather(t, reg)[`llmqueue_finished_requests_total{model="gpt",status="completed"}`])

	// One that says of a queue of long ago what it said before.
	for i := range 30 {
		infos = []llmqueue.QueueInfo{{ModelID: "gpt", Accepted: 1, Since: time.Unix(int64(i), 0)}}
		gather(t, reg)
	}
	infos = []llmqueue.QueueInfo{{ModelID: "gpt", Accepted: 1, Since: time.Unix(2, 0)}}
	assert.Equal(t, 9.0+30, gather(t, reg)[`llmqueue_accepted_requests_total{model="gpt"}`])
}

// An operator sees which endpoint is held out, how calls ended there of late and how fast output
// comes, and how often a second attempt was started; why it is held out is in no label.
//
// Faults seen to fail here: two kinds swapped; a first output of 0 s shown while none is known.
func TestShowsHowEndpointsDo(t *testing.T) {
	infos := []llmqueue.QueueInfo{{ModelID: "gpt", Accepted: 9, Hedges: 3, Endpoints: []llmqueue.EndpointInfo{
		{Name: "good", RecentServed: 12.5, RecentFailures: .25, RecentRefusals: 2, FirstOutput: 1500 * time.Millisecond},
		{Name: "bad", HeldOut: true, HeldOutReason: "401: the key is wrong", RecentFaults: 4},
	}}}
	metrics := llmprom.New()
	require.NoError(t, metrics.Add(fixed{&infos}))
	reg := registered(t, metrics)
	got := gather(t, reg)
	assert.Equal(t, figures{
		`llmqueue_endpoint_held_out{endpoint="good",model="gpt"}`: 0,
		`llmqueue_endpoint_held_out{endpoint="bad",model="gpt"}`:  1,
	}, got.with("held_out"))
	assert.Equal(t, figures{
		`llmqueue_endpoint_recent_calls{endpoint="good",kind="served",model="gpt"}`:  12.5,
		`llmqueue_endpoint_recent_calls{endpoint="good",kind="fault",model="gpt"}`:   0,
		`llmqueue_endpoint_recent_calls{endpoint="good",kind="failure",model="gpt"}`: .25,
		`llmqueue_endpoint_recent_calls{endpoint="good",kind="refusal",model="gpt"}`: 2,
		`llmqueue_endpoint_recent_calls{endpoint="bad",kind="served",model="gpt"}`:   0,
		`llmqueue_endpoint_recent_calls{endpoint="bad",kind="fault",model="gpt"}`:    4,
		`llmqueue_endpoint_recent_calls{endpoint="bad",kind="failure",model="gpt"}`:  0,
		`llmqueue_endpoint_recent_calls{endpoint="bad",kind="refusal",model="gpt"}`:  0,
	}, got.with("recent_calls"))
	assert.Equal(t, figures{`llmqueue_endpoint_first_output_seconds{endpoint="good",model="gpt"}`: 1.5}, got.with("first_output"))
	assert.Empty(t, got.with("401"), "error texts are in no label")
	assert.Equal(t, 3.0, got[`llmqueue_hedges_total{model="gpt"}`])

	infos = []llmqueue.QueueInfo{{ModelID: "gpt", Accepted: 1, Hedges: 1}}
	assert.Equal(t, 4.0, gather(t, reg)[`llmqueue_hedges_total{model="gpt"}`])
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	assert.Empty(t, problems, "promtool check metrics would complain")
}

func TestMisuseIsOneClearError(t *testing.T) {
	metrics := llmprom.New()
	a, b := newManager(t, "gpt", llmqueue.WithUnlimited()), newManager(t, "gpt", llmqueue.WithUnlimited())
	var none *manager
	require.NoError(t, metrics.Add(a))
	q, err := llmqueue.NewQueue("lone", process, llmqueue.WithUnlimited())
	require.NoError(t, err)
	t.Cleanup(func() { q.Shutdown(context.Background()) })
	require.NoError(t, metrics.AddQueue(q))
	for _, test := range []struct {
		name string
		err  error
		want string
	}{
		{"nil", metrics.Add(nil), "llmprom: Add got nil, give it a Manager"},
		{"nil pointer", metrics.Add(none), "llmprom: Add got nil, give it a Manager"},
		{"nil queue", metrics.AddQueue(nil), "llmprom: AddQueue got nil, give it a Queue"},
		{"again", metrics.Add(a), "llmprom: this manager or queue was added before, add it once"},
		{"queue again", metrics.AddQueue(q), "llmprom: this manager or queue was added before, add it once"},
		{"same model", metrics.Add(b), `llmprom: model "gpt" is in two of the collector's managers or queues: ` +
			"give each a collector of its own and register it with prometheus.WrapRegistererWith and a label that tells them apart"},
	} {
		assert.EqualError(t, test.err, test.want, test.name)
	}

	reg := registered(t, metrics)
	assert.ErrorAs(t, reg.Register(metrics), new(prometheus.AlreadyRegisteredError), "registered twice")
	assert.Error(t, reg.Register(llmprom.New()), "two collectors that no label tells apart")
	gather(t, reg) // what was refused changed nothing

	// Later, Add cannot tell; the scrape does, and only for this collector.
	register(t, a, "lone")
	families, err := reg.Gather()
	require.ErrorContains(t, err, `model "lone" is in two of the collector's managers or queues`)
	assert.Contains(t, read(families), `llmqueue_pending_requests{model="gpt"}`, "the other models are shown")
}

// As the error above says.
func TestSameModelInTwoManagers(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	for _, name := range []string{"chat", "batch"} {
		metrics := llmprom.New()
		m := newManager(t, "gpt", metrics.Observe(), llmqueue.WithUnlimited())
		require.NoError(t, metrics.Add(m))
		require.NoError(t, prometheus.WrapRegistererWith(prometheus.Labels{"manager": name}, reg).Register(metrics))
		do(t, m, "gpt", 0)
	}
	got := gather(t, reg)
	assert.Equal(t, 1.0, got[`llmqueue_accepted_requests_total{manager="chat",model="gpt"}`])
	assert.Equal(t, 1.0, got[`llmqueue_accepted_requests_total{manager="batch",model="gpt"}`])
}

var hostile = []string{
	"a\xff", "a\xfe", `a\xff`, `a\\xff`, "a\ufffd", "{}", `"} 1` + "\nllmqueue_slots 7", "\x00", " ", "<script>", "𝄞",
	strings.Repeat("x", 10_000),
}

// Names come from configurations and from customers.
//
// Faults seen to fail here: label returned as it is; ToValidUTF8 in its place, which
// makes one of the first two.
func TestNoNameBreaksTheScrape(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		metrics := llmprom.New(llmprom.WithTenants(100))
		m := newManager(t, "fine", metrics.Observe(), llmqueue.WithUnlimited())
		require.NoError(t, metrics.Add(m))
		reg := registered(t, metrics)
		for _, model := range hostile {
			register(t, m, model)
			q, _ := m.Queue(model)
			require.NoError(t, q.AddEndpoint(model+"2", process, llmqueue.WithUnlimited()))
			for _, tenant := range hostile {
				_, err := m.Submit(t.Context(), job{ModelID: model, Tenant: tenant, Params: time.Second})
				require.NoError(t, err)
			}
		}
		synctest.Wait()
		got := gather(t, reg)
		assert.Len(t, got.with("llmqueue_slots{"), len(hostile)+1)
		assert.Len(t, got.with("llmqueue_endpoint_slots{"), 2*len(hostile)+1)
		assert.Len(t, got.with("llmqueue_wait_seconds_count{"), len(hostile)*len(hostile))
		assert.Len(t, got.with(`llmqueue_processing_seconds_count{`), len(hostile)*len(hostile))
		for series, n := range got.with("llmqueue_wait_seconds_count{") {
			assert.Equal(t, 1.0, n, "%.100s", series)
		}
		assert.Equal(t, 0.0, got[`llmqueue_pending_requests{model="a\xff"}`], "an invalid byte is told")
		assert.Contains(t, got, `llmqueue_pending_requests{model="a\\xff"}`, "and not taken for its name")
	})
}

// A customer's id must not become a series unless the program wants it, and never
// without bound.
func TestTenantsOnlyOnDemandAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		without, with := llmprom.New(), llmprom.New(llmprom.WithTenants(2))
		m := newManager(t, "gpt", without.Observe(), with.Observe(), llmqueue.WithUnlimited())
		require.NoError(t, without.Add(m))
		require.NoError(t, with.Add(m))
		for _, tenant := range []string{"", "a", "b", "c", "d", "a", "d"} {
			_, err := m.Submit(t.Context(), job{ModelID: "gpt", Tenant: tenant, Params: time.Second, ID: "request-id-" + tenant})
			require.NoError(t, err)
			require.NoError(t, m.Unregister(t.Context(), "gpt"))
			register(t, m, "gpt")
		}
		synctest.Wait()
		for series := range gather(t, registered(t, without)) {
			assert.NotContains(t, series, "tenant")
			assert.NotContains(t, series, "request-id")
		}
		got := gather(t, registered(t, with))
		assert.Equal(t, figures{
			`llmqueue_wait_seconds_count{model="gpt"}`:                1,
			`llmqueue_wait_seconds_count{model="gpt",tenant="a"}`:     2,
			`llmqueue_wait_seconds_count{model="gpt",tenant="b"}`:     1,
			`llmqueue_wait_seconds_count{model="gpt",tenant="other"}`: 3,
		}, got.with("wait_seconds_count"))
		for series := range got {
			assert.NotContains(t, series, "request-id")
		}
	})
}

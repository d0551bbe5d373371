package llmqueue

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// idsOf are the ids of a list, in its order.
func idsOf(infos []RequestInfo) []string {
	ids := []string{}
	for _, i := range infos {
		ids = append(ids, i.ID)
	}
	return ids
}

// However many wait, what failed can be listed: latest first, with its error, back to
// where the history ends.
func TestRequestsThatEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager[int, int]()
		defer m.Shutdown(t.Context())
		q, err := m.Register("m", func(_ context.Context, r Request[int]) (int, error) {
			if r.Params%2 == 1 {
				return 0, fmt.Errorf("odd %d", r.Params)
			}
			return r.Params, nil
		}, WithLimits(RPM(1).Per(time.Second)), WithMargin(0), WithHistory(5, time.Hour))
		require.NoError(t, err)
		for i := range 500 {
			post(t, q, Request[int]{ID: fmt.Sprint(i), Params: i})
		}
		time.Sleep(7*time.Second + time.Millisecond) // 0 to 7 ended, 3 to 7 are remembered
		require.NoError(t, q.Cancel("20"))           // which forgets 3

		list := func(limit int, statuses ...Status) []string {
			return idsOf(q.Requests(RequestFilter{Limit: limit, Statuses: statuses}))
		}
		final := []Status{StatusCompleted, StatusFailed, StatusCanceled}
		assert.Equal(t, []string{"20", "7", "6", "5", "4"}, list(0, final...))
		assert.Equal(t, []string{"20", "7"}, list(2, final...))
		assert.Equal(t, []string{"7", "5"}, list(0, StatusFailed))
		assert.Equal(t, []string{"20", "6", "4"}, list(0, StatusCompleted, StatusCanceled))
		assert.Equal(t, []string{"8", "9"}, list(2, StatusPending), "what waits did not end")
		assert.Empty(t, list(0, "unknown"), "no request has such a status")

		failed, err := m.Requests("m", RequestFilter{Limit: 1, Statuses: []Status{StatusFailed}})
		require.NoError(t, err)
		require.Len(t, failed, 1)
		assert.Contains(t, failed[0].Error, "odd 7")
		assert.NotZero(t, failed[0].FinishedAt)

		q.Pause()
		time.Sleep(2 * time.Hour)
		assert.Empty(t, list(0, final...), "the history forgot them")
		require.NoError(t, q.Cancel("30"))
		assert.Equal(t, []string{"30"}, list(0, final...))
		m.Unregister(ended(), "m")
	})
}

// Requests lists what runs, what waits in order, then what ended; never params or
// results.
func TestRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager[string, string](WithLimits(Concurrent(1)))
		_, err := m.Register("m", func(_ context.Context, r Request[string]) (string, error) {
			time.Sleep(time.Second)
			return "secret result", nil
		})
		require.NoError(t, err)
		submit := func(r Request[string]) string {
			r.ModelID, r.NoWait, r.Params = "m", true, "secret params"
			resp, err := m.Submit(t.Context(), r)
			require.NoError(t, err)
			return resp.RequestID
		}
		var want []string
		want = append(want, submit(Request[string]{}), submit(Request[string]{}))
		time.Sleep(1500 * time.Millisecond) // the first ended, the second runs
		low := submit(Request[string]{Tenant: "t"})
		high := submit(Request[string]{Priority: 3})
		infos, err := m.Requests("m", RequestFilter{})
		require.NoError(t, err)
		assert.Equal(t, []string{want[1], high, low, want[0]}, idsOf(infos))
		assert.Equal(t, StatusProcessing, infos[0].Status)
		assert.Equal(t, []int{0, 1, 2, 0}, []int{infos[0].Position, infos[1].Position, infos[2].Position, infos[3].Position})
		assert.Equal(t, 3, infos[1].Priority)
		assert.Equal(t, "t", infos[2].Tenant)
		assert.Equal(t, StatusCompleted, infos[3].Status)
		assert.NotContains(t, fmt.Sprintf("%+v", infos), "secret")
		for n := 1; n <= 4; n++ {
			some, err := m.Requests("m", RequestFilter{Limit: n})
			require.NoError(t, err)
			assert.Equal(t, idsOf(infos)[:n], idsOf(some))
		}
		require.NoError(t, m.Shutdown(t.Context()))
	})
}

// What a filter leaves: each field by itself, and all together. Positions stay those of the
// whole line.
func TestRequestFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", sleeper, WithLimits(Concurrent(1)))
		require.NoError(t, err)
		for _, r := range []Request[int]{
			{ID: "job-done", Tenant: "a", Params: 1},
			{ID: "job-runs", Tenant: "b", Params: 10},
			{ID: "job-1", Tenant: "a", Params: 1},
			{ID: "job-2", Tenant: "b", Params: 1},
			{ID: "other", Tenant: "a", Params: 1},
			{ID: "nobody's", Params: 1},
		} {
			post(t, q, r)
			synctest.Wait()
		}
		time.Sleep(2 * time.Second) // the first ended, the second runs
		all := idsOf(q.Requests(RequestFilter{}))
		require.Len(t, all, 6)
		assert.Equal(t, "job-runs", all[0])
		assert.Equal(t, "job-done", all[5])

		for name, c := range map[string]struct {
			f    RequestFilter
			want []string
		}{
			"limit":              {RequestFilter{Limit: 1}, []string{"job-runs"}},
			"no limit":           {RequestFilter{Limit: -1}, all},
			"one status":         {RequestFilter{Statuses: []Status{StatusProcessing}}, []string{"job-runs"}},
			"statuses, in order": {RequestFilter{Statuses: []Status{StatusCompleted, StatusProcessing}}, []string{"job-runs", "job-done"}},
			"tenant":             {RequestFilter{Tenant: "b"}, []string{"job-runs", "job-2"}},
			"no such tenant":     {RequestFilter{Tenant: "c"}, []string{}},
			"prefix":             {RequestFilter{IDPrefix: "job-", Statuses: []Status{StatusPending}}, []string{"job-1", "job-2"}},
			"a whole id":         {RequestFilter{IDPrefix: "other"}, []string{"other"}},
			"limit after filter": {RequestFilter{Limit: 1, IDPrefix: "o"}, []string{"other"}},
			"all together": {
				RequestFilter{Limit: 5, Tenant: "a", IDPrefix: "job-", Statuses: []Status{StatusPending, StatusCompleted}},
				[]string{"job-1", "job-done"},
			},
		} {
			want := slices.DeleteFunc(slices.Clone(all), func(id string) bool { return !slices.Contains(c.want, id) })
			assert.Len(t, want, len(c.want), name)
			assert.Equal(t, want, idsOf(q.Requests(c.f)), name+": the order is that of the whole list")
		}
		positions := map[string]int{}
		for _, i := range q.Requests(RequestFilter{}) {
			positions[i.ID] = i.Position
		}
		for _, i := range q.Requests(RequestFilter{Tenant: "a"}) {
			assert.Equal(t, positions[i.ID], i.Position, "%s stands elsewhere in a filtered list", i.ID)
		}
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// Of a call that several requests share, each is listed by itself with the call's status.
func TestRequestFilterOfSharedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", sleeper, WithLimits(Concurrent(1)), byParams())
		require.NoError(t, err)
		post(t, q, Request[int]{ID: "one", Tenant: "a", Params: 5})
		post(t, q, Request[int]{ID: "two", Tenant: "b", Params: 5})
		synctest.Wait()
		assert.Equal(t, []string{"two"}, idsOf(q.Requests(RequestFilter{Tenant: "b", Statuses: []Status{StatusProcessing}})))
		assert.Empty(t, q.Requests(RequestFilter{Statuses: []Status{StatusPending}}))
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// The zero filter lists 100.
func TestRequestsListAHundred(t *testing.T) {
	q := newQueue(t, echo, WithLimits(RPM(1)))
	q.Pause()
	for range 120 {
		post(t, q, Request[int]{})
	}
	assert.Len(t, q.Requests(RequestFilter{}), 100)
	assert.Len(t, q.Requests(RequestFilter{Limit: 110}), 110)
}

// A page is as long as it was asked to be, however many requests that are.
func TestRequestsListsAsManyAsAsked(t *testing.T) {
	q := newQueue(t, echo, WithUnlimited())
	q.Pause()
	for range 12_000 {
		post(t, q, Request[int]{Tenant: "a"})
	}
	assert.Len(t, q.Requests(RequestFilter{Limit: 20_000}), 12_000)
	assert.Len(t, q.Requests(RequestFilter{Limit: 20_000, Tenant: "a"}), 10_000, "a filter looks at the first 10,000")
}

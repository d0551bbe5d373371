package llmqueue

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// known tells which of the ids the queue still remembers.
func known[P, T any](t *testing.T, q *Queue[P, T], ids ...string) (found []string) {
	t.Helper()
	for _, id := range ids {
		resp, err := q.Status(id)
		if resp.RequestID == "" {
			assert.ErrorIs(t, err, ErrRequestNotFound)
			assert.Zero(t, resp)
			_, err = q.Wait(t.Context(), id)
			assert.ErrorIs(t, err, ErrRequestNotFound)
			assert.ErrorIs(t, q.Cancel(id), ErrRequestNotFound)
			assert.ErrorIs(t, q.UpdateUsage(id, in(1)), ErrRequestNotFound)
			continue
		}
		found = append(found, id)
	}
	return found
}

// The last N to end stay readable, whatever their end.
func TestHistorySize(t *testing.T) {
	for size, want := range map[int][]string{
		0: nil,
		1: {"canceled"},
		3: {"done", "failed", "canceled"},
		9: {"first", "second", "done", "failed", "canceled"},
	} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
					if r.Params < 0 {
						return 0, errBoom
					}
					return sleeper(ctx, r)
				}, WithLimits(Concurrent(1)), WithHistory(size, time.Hour))
				for _, id := range []string{"first", "second", "done"} {
					post(t, q, Request[int]{ID: id, Params: 1})
				}
				time.Sleep(3 * time.Second)
				synctest.Wait()
				post(t, q, Request[int]{ID: "failed", Params: -1})
				synctest.Wait()
				post(t, q, Request[int]{ID: "running", Params: 10})
				post(t, q, Request[int]{ID: "canceled"})
				post(t, q, Request[int]{ID: "waiting"})
				require.NoError(t, q.Cancel("canceled"))
				assert.Equal(t, append(want, "running", "waiting"),
					known(t, q, "first", "second", "done", "failed", "canceled", "running", "waiting"))
				i := addsUp(t, q)
				assert.EqualValues(t, 3, i.Completed, "forgotten requests still count")
			})
		})
	}
}

// And no longer than their time, to the instant.
func TestHistoryTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithUnlimited(), WithHistory(100, time.Minute))
		post(t, q, Request[int]{ID: "a", Params: 1})
		post(t, q, Request[int]{ID: "b", Params: 2})
		time.Sleep(time.Minute)
		assert.Equal(t, []string{"a", "b"}, known(t, q, "a", "b"))
		time.Sleep(time.Second - 1)
		assert.Equal(t, []string{"a", "b"}, known(t, q, "a", "b"))
		time.Sleep(time.Nanosecond)
		assert.Equal(t, []string{"b"}, known(t, q, "a", "b"))
		time.Sleep(time.Second)
		assert.Empty(t, known(t, q, "a", "b"))
		assert.Empty(t, q.Requests(RequestFilter{}))
		assert.Zero(t, q.engine.Live(), "nothing stays in memory")
	})
}

func TestHistoryDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithUnlimited())
		for i := range 10_001 {
			_, err := q.Submit(t.Context(), Request[int]{ID: strconv.Itoa(i)})
			require.NoError(t, err)
		}
		assert.Equal(t, []string{"1", "10000"}, known(t, q, "0", "1", "10000"))
		time.Sleep(time.Hour)
		assert.Empty(t, known(t, q, "1", "10000"))
		assert.Zero(t, q.engine.Live())
	})
}

// A fire-and-forget request is kept with its result; a waited one was delivered.
func TestHistoryKeepsResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithUnlimited())
		resp, err := q.Submit(t.Context(), Request[int]{ID: "waited", Params: 7, Metadata: map[string]string{"k": "v"}})
		require.NoError(t, err)
		assert.Equal(t, 7, resp.Result)
		kept, err := q.Status("waited")
		require.ErrorIs(t, err, ErrRequestNotFound)
		assert.ErrorContains(t, err, "submit with NoWait")
		assert.Zero(t, kept.Result)
		kept.Result = 7
		assert.Equal(t, resp, kept, "all but the result")

		post(t, q, Request[int]{ID: "forgotten about", Params: 7})
		synctest.Wait()
		assert.Equal(t, 7, status(t, q, "forgotten about").Result)
		again, err := q.Wait(t.Context(), "forgotten about")
		require.NoError(t, err)
		assert.Equal(t, 7, again.Result)
	})
}

// Another Wait for a waited request gets the result too when it came before the end.
func TestWaitBesideSubmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithUnlimited())
		go func() { _, _ = q.Submit(t.Context(), Request[int]{ID: "r", Params: 7}) }()
		synctest.Wait()
		resp, err := q.Wait(t.Context(), "r")
		require.NoError(t, err)
		assert.Equal(t, 7, resp.Result)
	})
}

// An id may be used again only once it is forgotten.
func TestIDsAreUniqueWhileRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithLimits(Concurrent(1)), WithHistory(1, time.Minute))
		taken := func(id string) {
			t.Helper()
			_, err := q.Submit(t.Context(), Request[int]{ID: id})
			assert.ErrorIs(t, err, ErrDuplicateRequest)
		}
		post(t, q, Request[int]{ID: "a", Params: 1})
		taken("a") // running
		post(t, q, Request[int]{ID: "b", Params: 1})
		taken("b") // waiting
		time.Sleep(time.Second)
		synctest.Wait()
		taken("a") // finished
		time.Sleep(time.Second)
		synctest.Wait()
		taken("b")
		post(t, q, Request[int]{ID: "a", Params: 2}) // pushed out of the history
		assert.Equal(t, StatusProcessing, status(t, q, "a").Status)
		require.NoError(t, q.Cancel("a"))
		time.Sleep(time.Minute)
		post(t, q, Request[int]{ID: "a", Params: 3}) // too long ago
		resp, err := q.Wait(t.Context(), "a")
		require.NoError(t, err)
		assert.Equal(t, 3, resp.Result)
		assert.EqualValues(t, 4, addsUp(t, q).Accepted)
	})
}

// Assigned ids name one request each for as long as the queue lives.
func TestAssignedIDsAreUnique(t *testing.T) {
	q := newQueue(t, echo, WithUnlimited(), WithHistory(3, time.Minute))
	seen := map[string]bool{}
	for range 2000 {
		resp, err := q.Submit(t.Context(), Request[int]{NoWait: true})
		require.NoError(t, err)
		_, err = q.Wait(t.Context(), resp.RequestID)
		require.NoError(t, err)
		require.NotEmpty(t, resp.RequestID)
		require.False(t, seen[resp.RequestID], "%s was used twice", resp.RequestID)
		seen[resp.RequestID] = true
	}
	found := 0
	for id := range seen {
		if resp, err := q.Status(id); err == nil {
			found++
			assert.Equal(t, id, resp.RequestID)
		}
	}
	assert.Equal(t, 3, found)
	other := newQueue(t, echo, WithUnlimited())
	resp, err := other.Submit(t.Context(), Request[int]{})
	require.NoError(t, err)
	assert.False(t, seen[resp.RequestID])
}

// A caller who chooses an id that was assigned, or will be, gets no other request.
func TestIDsThatLookAssigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithUnlimited(), WithHistory(100, time.Minute))
		first := post(t, q, Request[int]{Params: 1})
		_, err := q.Submit(t.Context(), Request[int]{ID: first})
		require.ErrorIs(t, err, ErrDuplicateRequest)
		time.Sleep(2 * time.Minute)
		assert.Empty(t, known(t, q, first))

		// Forgotten, so it may be used again, by the caller this time.
		post(t, q, Request[int]{ID: first, Params: 2})
		resp, err := q.Wait(t.Context(), first)
		require.NoError(t, err)
		assert.Equal(t, 2, resp.Result)

		// All that the queue could assign next.
		parts := strings.Split(post(t, q, Request[int]{Params: 3}), "-")
		require.Len(t, parts, 3)
		seq, err := strconv.ParseUint(parts[1], 36, 64)
		require.NoError(t, err)
		chosen := map[string]bool{}
		for ds := range uint64(40) {
			for slot := range uint64(10) {
				id := fmt.Sprintf("%s-%s-%s", parts[0], strconv.FormatUint(seq+1+ds, 36), strconv.FormatUint(slot, 36))
				if _, err := q.Status(id); err == nil {
					continue // the queue has it
				}
				post(t, q, Request[int]{ID: id, Params: 60})
				chosen[id] = true
			}
		}
		for range 100 {
			id := post(t, q, Request[int]{Params: 4})
			assert.False(t, chosen[id])
			assert.Equal(t, id, status(t, q, id).RequestID)
			resp, err := q.Wait(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, 4, resp.Result)
		}
		// Nor is an id found by another spelling of it.
		id := post(t, q, Request[int]{Params: 1})
		parts = strings.Split(id, "-")
		for _, alias := range []string{
			parts[0] + "-0" + parts[1] + "-" + parts[2], parts[0] + "-" + parts[1] + "-0" + parts[2],
			strings.ToUpper(id), id + "-", id + "-0", parts[0] + "-" + parts[1], parts[0] + "-", "", parts[0] + "-zzzzzzzzzzzzzz-0",
			parts[0] + "-" + parts[1] + "-zzzzzz", parts[0] + "--", parts[0] + "-0-0",
		} {
			_, err := q.Status(alias)
			assert.ErrorIs(t, err, ErrRequestNotFound, alias)
		}
	})
}

// Status errs only when there is nothing to look up.
func TestStatusOfEachState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			switch r.ID {
			case "failed":
				return 0, errBoom
			case "retrying":
				return 0, Retryable(errBoom)
			}
			return sleeper(ctx, r)
		}, WithLimits(Concurrent(1)), WithRetry(RetryPolicy{BaseDelay: 1000 * time.Hour, MaxDelay: 1000 * time.Hour}))
		begin := time.Now()
		for _, id := range []string{"completed", "failed", "retrying"} {
			post(t, q, Request[int]{ID: id})
			synctest.Wait()
		}
		post(t, q, Request[int]{ID: "processing", Params: 60})
		post(t, q, Request[int]{ID: "pending"})
		post(t, q, Request[int]{ID: "canceled"})
		require.NoError(t, q.Cancel("canceled"))
		time.Sleep(time.Second)

		for id, want := range map[string]Status{
			"completed": StatusCompleted, "failed": StatusFailed, "retrying": StatusPending,
			"processing": StatusProcessing, "pending": StatusPending, "canceled": StatusCanceled,
		} {
			resp := status(t, q, id)
			assert.Equal(t, want, resp.Status, id)
			assert.Equal(t, want.Final(), !resp.FinishedAt.IsZero(), id)
			assert.Equal(t, want == StatusFailed || want == StatusCanceled, resp.Err != nil, id)
			assert.True(t, begin.Equal(resp.CreatedAt), id)
			assert.Equal(t, map[string]int{"pending": 1}[id], resp.Position, id)
		}
		retrying := status(t, q, "retrying")
		assert.Equal(t, 1, retrying.Attempts)
		assert.True(t, retrying.EstimatedStart.After(time.Now()))
		assert.Equal(t, 2, q.Len(), "what waits for its next attempt waits")
		assert.Equal(t, 2, addsUp(t, q).Pending)
	})
}

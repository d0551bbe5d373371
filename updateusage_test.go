package llmqueue

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestUpdateUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := NewSharedLimits(TPM(200))
		q := newQueue(t, sleeper, WithLimits(TPM(100), Concurrent(1)), WithMargin(0), WithSharedLimits(shared))
		used := func(want int64) {
			t.Helper()
			synctest.Wait()
			i := q.Info()
			assert.Equal(t, want, i.Limits[0].Used)
			assert.Equal(t, want, i.Endpoints[0].Shared[0].Used)
		}
		post(t, q, Request[int]{ID: "r", Params: 10, Estimate: in(50)})
		post(t, q, Request[int]{ID: "next", Params: 10, Estimate: in(90)})
		post(t, q, Request[int]{ID: "too big", Params: 10, Estimate: in(1)})

		// Waiting: it replaces the estimate.
		require.NoError(t, q.UpdateUsage("next", in(20)))
		assert.Zero(t, status(t, q, "next").Usage)
		require.NoError(t, q.UpdateUsage("too big", in(101)))
		tooBig := status(t, q, "too big")
		assert.Equal(t, StatusFailed, tooBig.Status)
		assert.ErrorIs(t, tooBig.Err, ErrRequestTooLarge)
		used(50)

		// Running: it equals ReportUsage.
		require.NoError(t, q.UpdateUsage("r", in(10)))
		require.NoError(t, q.UpdateUsage("r", in(30)))
		assert.Equal(t, in(30), status(t, q, "r").Usage)
		used(50)
		resp, err := q.Wait(t.Context(), "r")
		require.NoError(t, err)
		assert.Equal(t, in(30), resp.Usage)
		used(30 + 20)

		// Finished: it replaces, again and again.
		for _, n := range []int64{80, 5, 0, 40} {
			require.NoError(t, q.UpdateUsage("r", in(n)))
			assert.Equal(t, in(n), status(t, q, "r").Usage)
			assert.Equal(t, in(n), q.Info().Usage)
			used(n + 20)
		}
		require.NoError(t, q.UpdateUsage("too big", in(70)), "it never ran: there is nothing to charge")
		used(40 + 20)

		assert.ErrorIs(t, q.UpdateUsage("r", in(-1)), ErrInvalidParams)
		assert.ErrorIs(t, q.UpdateUsage("never seen", in(1)), ErrRequestNotFound)
		time.Sleep(2 * time.Hour)
		assert.ErrorIs(t, q.UpdateUsage("r", in(1)), ErrRequestNotFound, "forgotten")
	})
}

// A smaller estimate lets a waiting request start at that moment; a larger one makes
// it wait longer.
func TestUpdateUsageMovesTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithLimits(TPM(100)), WithMargin(0))
		post(t, q, Request[int]{Params: 1, Estimate: in(60)})
		post(t, q, Request[int]{ID: "a", Params: 1, Estimate: in(60)})
		post(t, q, Request[int]{ID: "b", Params: 1, Estimate: in(10)})
		time.Sleep(5 * time.Second)
		require.NoError(t, q.UpdateUsage("a", in(35)))
		a, err := q.Wait(t.Context(), "a")
		require.NoError(t, err)
		assert.Equal(t, 5*time.Second, a.WaitTime())
		b, err := q.Wait(t.Context(), "b")
		require.NoError(t, err)
		assert.Equal(t, time.Minute, b.WaitTime(), "35 + 60 + 10 is above 100")
	})
}

// UpdateUsage of a canceled request whose processor still runs is settled when that
// returns, and a report of the processor's own comes later and counts.
func TestUpdateUsageOfCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, deaf, WithLimits(TPM(100)))
		id := post(t, q, Request[int]{Params: 10, Estimate: in(50)})
		require.NoError(t, q.Cancel(id))
		require.NoError(t, q.UpdateUsage(id, in(20)))
		time.Sleep(11 * time.Second)
		assert.EqualValues(t, 20, q.Info().Limits[0].Used)
		assert.Equal(t, in(20), status(t, q, id).Usage)
		require.NoError(t, q.UpdateUsage(id, in(90)))
		assert.EqualValues(t, 90, q.Info().Limits[0].Used)
	})
}

// Figures that come later than the end teach the size of requests too.
func TestUpdateUsageTeachesTheMean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(TPM(100)), WithMargin(0))
		resp, err := q.Submit(t.Context(), Request[int]{ID: "r"})
		require.NoError(t, err)
		require.NoError(t, q.UpdateUsage(resp.RequestID, in(70)))
		require.NoError(t, q.UpdateUsage(resp.RequestID, in(40))) // it replaces
		post(t, q, Request[int]{})
		synctest.Wait()
		assert.EqualValues(t, 80, q.Info().Limits[0].Used)
		post(t, q, Request[int]{})
		assert.Equal(t, 1, q.Len())
	})
}

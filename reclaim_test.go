package llmqueue

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var errElsewhere = errors.New("handed in elsewhere")

// A request that waits, in line or for another attempt, leaves at once with the cause; one
// that runs or has ended stays. Faults that this test was seen to catch: running ones
// reclaimed, a slot not offered to the next in line, a retry that comes back, the cause
// lost.
func TestReclaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", func(ctx context.Context, r Request[int]) (int, error) {
			if r.Params < 0 {
				return 0, Retryable(errBoom)
			}
			return sleeper(ctx, r)
		}, WithLimits(Concurrent(1)), WithRetry(RetryPolicy{BaseDelay: time.Hour, MaxDelay: time.Hour}))
		require.NoError(t, err)

		retried := post(t, q, Request[int]{Params: -1})
		synctest.Wait() // it failed once and waits for its backoff
		running := post(t, q, Request[int]{Params: 10})
		first := make(chan error)
		go func() {
			_, err := q.Submit(t.Context(), Request[int]{ID: "first", Params: 1})
			first <- err
		}()
		synctest.Wait()
		second := post(t, q, Request[int]{Params: 2})

		done, err := q.Reclaim("first", errElsewhere)
		require.NoError(t, err)
		assert.True(t, done, "a request in line could not be reclaimed")
		got := <-first
		assert.ErrorIs(t, got, errElsewhere, "who waits for it is not told why")
		assert.ErrorIs(t, got, ErrCanceled)

		done, err = q.Reclaim(retried, nil)
		require.NoError(t, err)
		assert.True(t, done, "a request between two attempts could not be reclaimed")
		assert.Equal(t, StatusCanceled, status(t, q, retried).Status)

		done, err = q.Reclaim(running, errElsewhere)
		require.NoError(t, err)
		assert.False(t, done, "a running request was reclaimed: its call is paid for and lost")
		time.Sleep(15 * time.Second)
		assert.Equal(t, StatusCompleted, status(t, q, running).Status)
		assert.Equal(t, StatusCompleted, status(t, q, second).Status, "what stood behind a reclaimed request does not start")

		done, err = q.Reclaim(second, errElsewhere)
		require.NoError(t, err)
		assert.False(t, done, "a request that has ended was reclaimed")
		_, err = q.Reclaim("nobody", errElsewhere)
		assert.ErrorIs(t, err, ErrRequestNotFound)

		time.Sleep(2 * time.Hour)
		i := addsUp(t, q)
		assert.Zero(t, i.Retries, "a reclaimed request was tried again")
		assert.EqualValues(t, 2, i.Canceled)
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// Of requests that share a call, each leaves alone, and none once the call runs.
func TestReclaimShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", sleeper, WithLimits(Concurrent(1)), byParams())
		require.NoError(t, err)
		post(t, q, Request[int]{Params: 5})
		one := post(t, q, Request[int]{Params: 7})
		other := post(t, q, Request[int]{Params: 7})
		done, err := q.Reclaim(one, errElsewhere)
		require.NoError(t, err)
		assert.True(t, done)
		time.Sleep(6 * time.Second)
		done, err = q.Reclaim(other, errElsewhere)
		require.NoError(t, err)
		assert.False(t, done, "a request whose call runs was reclaimed")
		time.Sleep(10 * time.Second)
		assert.Equal(t, StatusCompleted, status(t, q, other).Status, "the reclaimed request took the shared call with it")
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

package llmqueue

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Queues in two bubbles and outside one, in one test: nothing package-level (a pool, a
// timer, an epoch, a worker) may pass from one to another, which is a fatal error.
func TestBubbles(t *testing.T) {
	outside := newManager[int, int](t, WithLimits(RPM(1<<40), TPM(1<<40), Concurrent(2)), WithTimeout(time.Hour), WithObserver(func(Event) {}))
	_, err := outside.Register("m", echo)
	require.NoError(t, err)
	use := func(t *testing.T) {
		for i := range 50 {
			r, err := outside.Submit(t.Context(), NewRequest("m", i))
			require.NoError(t, err)
			require.Equal(t, i, r.Result)
		}
	}
	bubble := func(t *testing.T) {
		m := NewManager[int, int](WithLimits(RPM(30), TPM(1000), Concurrent(2)), WithTimeout(time.Hour), WithMargin(0), WithObserver(func(Event) {}))
		q, err := m.Register("m", sleeper)
		require.NoError(t, err)
		begin := time.Now()
		assert.Equal(t, 2000, begin.Year(), "a bubble's own time")
		for range 40 {
			r, err := m.Submit(t.Context(), Request[int]{ModelID: "m", Estimate: in(1), MaxWait: time.Hour})
			require.NoError(t, err)
			require.False(t, r.CreatedAt.Before(begin))
		}
		assert.Equal(t, time.Minute, time.Since(begin))
		id := post(t, q, Request[int]{Params: 10, Estimate: in(1)})
		for range q.SubmitAll(t.Context(), count(20, nil)) {
			break
		}
		_, err = q.Wait(t.Context(), id)
		require.NoError(t, err)
		require.NoError(t, m.Shutdown(t.Context()))
	}
	use(t)
	synctest.Test(t, bubble)
	use(t)
	synctest.Test(t, bubble)
	use(t)
	t.Run("two at a time", func(t *testing.T) {
		for range 2 {
			t.Run("bubble", func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, bubble)
			})
		}
		t.Run("outside", func(t *testing.T) {
			t.Parallel()
			use(t)
		})
	})
	require.NoError(t, outside.Shutdown(t.Context()))
}

package llmqueue

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// However many wait, what failed can be listed: latest first, with its error, back to
// where the history ends.
func TestFinishedListsWhatEnded(t *testing.T) {
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

		ids := func(infos []RequestInfo) (ids []string) {
			for _, i := range infos {
				ids = append(ids, i.ID)
			}
			return ids
		}
		assert.Equal(t, []string{"20", "7", "6", "5", "4"}, ids(q.Finished(0)))
		assert.Equal(t, []string{"20", "7"}, ids(q.Finished(2)))
		assert.Equal(t, []string{"7", "5"}, ids(q.Finished(0, StatusFailed)))
		assert.Equal(t, []string{"20", "6", "4"}, ids(q.Finished(0, StatusCompleted, StatusCanceled)))
		assert.Empty(t, q.Finished(0, StatusPending), "what waits did not end")

		failed, err := m.Finished("m", 1, StatusFailed)
		require.NoError(t, err)
		require.Len(t, failed, 1)
		assert.Contains(t, failed[0].Error, "odd 7")
		assert.NotZero(t, failed[0].FinishedAt)

		q.Pause()
		time.Sleep(2 * time.Hour)
		assert.Empty(t, q.Finished(0), "the history forgot them")
		require.NoError(t, q.Cancel("30"))
		assert.Equal(t, []string{"30"}, ids(q.Finished(0)))
		m.Unregister(ended(), "m")
	})
}

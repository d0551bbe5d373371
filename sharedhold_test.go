package llmqueue

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A queue that waits for one shared set holds no other up.
func TestSharedSetsDoNotHoldEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, z := NewSharedLimits(RPM(10).Per(time.Second)), NewSharedLimits(RPM(1).Per(time.Hour))
		only := newQueue(t, echo, WithSharedLimits(x))
		both := newQueue(t, echo, WithSharedLimits(x), WithSharedLimits(z))
		_, err := both.Do(t.Context(), 1) // z is full for an hour
		require.NoError(t, err)
		for range 50 {
			post(t, only, Request[int]{})
		}
		post(t, both, Request[int]{})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Zero(t, only.Len(), "x has room and nobody uses it")
	})
}

package llmqueue_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// A request that finds a shared set full and starts on another endpoint does not wait for
// that set any more. A user of another queue would notice that his requests wait as long
// as that call takes, under a limit of one a second.
func TestSharedLineIsLeftByWhoStartsElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := llmqueue.NewSharedLimits(llmqueue.RPM(1).Per(time.Second))
		first := open(t, work, llmqueue.WithSharedLimits(set))
		require.NoError(t, first.AddEndpoint("own", work, llmqueue.WithUnlimited()))
		other := open(t, give, llmqueue.WithSharedLimits(set))

		_, err := first.Do(t.Context(), 0) // takes the set's only place of this second
		require.NoError(t, err)
		send(t, first, llmqueue.Request[int]{ID: "elsewhere", Params: 3600})
		resp, err := first.Status("elsewhere")
		require.NoError(t, err)
		require.Equal(t, llmqueue.StatusProcessing, resp.Status, "it runs on the endpoint that has room")

		resp, err = other.Submit(t.Context(), llmqueue.Request[int]{})
		require.NoError(t, err)
		assert.LessOrEqual(t, resp.WaitTime(), 2*time.Second, "another queue waited for a request that does not wait for the set any more")
	})
}

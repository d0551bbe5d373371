package llmqueue

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNothingPassesUnderSharedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, err := NewQueue("m", echo, WithLimits(TPM(1000)), WithSharedLimits(NewSharedLimits(RPM(100))), WithBackfill())
		require.NoError(t, err)
		post(t, q, Request[int]{Estimate: in(600)})
		post(t, q, Request[int]{Estimate: in(900)})
		small := post(t, q, Request[int]{Estimate: in(10)})
		assert.Equal(t, StatusPending, status(t, q, small).Status)
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

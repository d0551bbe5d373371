package llmredis

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmtest/limitertest"
)

// Every limiter here stands for a process: it has its own connections and leases.
func TestConformance(t *testing.T) {
	t.Parallel()
	client := shared(t)
	limitertest.Run(t, func(t *testing.T, limits ...llmqueue.Limit) func() llmqueue.SharedLimiter {
		prefix := fresh(t)
		return func() llmqueue.SharedLimiter {
			l := New(client, prefix, limits...)
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
				defer cancel()
				assert.NoError(t, l.Close(ctx))
			})
			return l
		}
	})
}

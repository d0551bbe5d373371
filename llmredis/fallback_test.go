package llmredis

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// Redis is gone for a while. Two processes with a share of 0.3 each go on with 60% of the limit,
// after a period without any; when Redis is back they go on with all of it. In no
// period do more requests start than the limit allows.
func TestLocalShare(t *testing.T) {
	t.Parallel()
	redisServer := private(t, "--appendonly", "yes", "--appendfsync", "always")
	const amount, period = 40, time.Second
	prefix := fresh(t)
	var (
		mu     sync.Mutex
		starts []time.Time
		log    lines
	)
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(starts)
	}
	grows := func(by int, complaint string) {
		t.Helper()
		from := count()
		require.Eventually(t, func() bool { return count() >= from+by }, 40*time.Second, 5*time.Millisecond, complaint)
	}
	for range 2 {
		client := redis.NewClient(&redis.Options{Addr: redisServer.address(), DialTimeout: time.Second, MaxRetries: -1})
		t.Cleanup(func() { _ = client.Close() })
		l := Options{LocalShare: 0.3, Logger: slog.New(slog.NewTextHandler(&log, nil))}.New(client, prefix, llmqueue.RPM(amount).Per(period))
		q, err := llmqueue.NewQueue("m", func(context.Context, llmqueue.Request[int]) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			starts = append(starts, time.Now())
			return 0, nil
		}, llmqueue.WithSharedLimits(l), llmqueue.WithoutDeadlineCheck())
		require.NoError(t, err)
		for range 3000 {
			_, err := q.Submit(t.Context(), llmqueue.Request[int]{NoWait: true})
			require.NoError(t, err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
			defer cancel()
			_ = q.Shutdown(ctx)
			ctx, cancel = context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			assert.NoError(t, l.Close(ctx))
		})
	}
	grows(amount, "nothing starts with Redis there")
	redisServer.stop(t)
	gone := time.Now()
	grows(amount, "nothing starts from the local shares")
	alone := time.Now()
	redisServer.start(t)
	grows(4*amount, "it does not go on when Redis is back")
	back := time.Now()

	mu.Lock()
	defer mu.Unlock()
	for i := amount; i < len(starts); i++ {
		require.GreaterOrEqual(t, starts[i].Sub(starts[i-amount]), period, "more than %d requests started within a period", amount)
	}
	t.Logf("Redis was gone for %v, then it took %v for %d requests", alone.Sub(gone).Round(time.Millisecond), back.Sub(alone).Round(time.Millisecond), 4*amount)
	assert.Contains(t, log.String(), "go on with 0.3 of the limits")
	assert.Contains(t, log.String(), "Redis is back")
}

package llmqueue_test

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// Queues in which nothing happens take next to no memory, however many look at them: a
// service with a hundred models would start with hundreds of megabytes.
func TestIdleQueuesTakeLittleMemory(t *testing.T) {
	heap := func() float64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	const queues, observers = 100, 3
	before := heap()
	m := manage(t)
	for i := range queues {
		opts := []llmqueue.Option{llmqueue.WithLimits(llmqueue.RPM(500), llmqueue.TPM(200_000))}
		for range observers {
			opts = append(opts, llmqueue.WithObserver(func(llmqueue.Event) {}))
		}
		register(t, m, fmt.Sprintf("model-%d", i), give, opts...)
	}
	assert.LessOrEqual(t, heap()-before, 10.0, "MB that %d idle queues with %d observers each take", queues, observers)
	runtime.KeepAlive(m)
}

// What a burst of calls needed is given back when the limit comes down: goroutines would
// stay for as long as the service runs.
func TestWorkersGoWhenTheLimitComesDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		q := open(t, work, llmqueue.WithLimits(llmqueue.Concurrent(1000)))
		for range 1000 {
			send(t, q, llmqueue.Request[int]{Params: 1})
		}
		time.Sleep(10 * time.Second)
		require.Zero(t, q.Info().Processing)
		require.NoError(t, q.SetLimits(llmqueue.Concurrent(1)))
		_, err := q.Do(t.Context(), 1)
		require.NoError(t, err)
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.LessOrEqual(t, runtime.NumGoroutine()-before, 20, "goroutines that stay though one call may run at a time")
	})
}

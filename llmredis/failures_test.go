package llmredis

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/llmtest"
)

// until waits until the provider has let in so many calls.
func until(t testing.TB, srv *llmtest.Server, accepted int64) {
	t.Helper()
	require.Eventually(t, func() bool { return srv.Stats().Accepted >= accepted }, 5*time.Minute, 20*time.Millisecond,
		"the load does not go on: %+v", srv.Stats())
}

// One of four processes is killed while it runs calls and holds leases. The others go
// on, with its slots and its quota.
func TestProcessKilled(t *testing.T) {
	t.Parallel()
	redis := private(t)
	l := sized(2)
	srv := l.provider(t)
	ws := l.start(t, 4, order{Redis: redis.address(), URL: srv.URL(), SlotTTL: 3 * time.Second})
	until(t, srv, l.requests/3)
	ws[0].kill()
	use := l.use(t, srv, time.Time{}, l.periods)
	l.check(t, srv, ws)
	t.Logf("used %.2f%% of the quota", 100*use)
	assert.GreaterOrEqual(t, use, l.wanted, "quota went unused after a process was killed")
}

// One of four processes hears nothing of Redis for some seconds: the others go on, it
// waits, and then goes on too.
func TestProcessCutOff(t *testing.T) {
	t.Parallel()
	redis := private(t)
	p := newProxy(t, redis.address())
	l := sized(2)
	srv := l.provider(t)
	o := order{Redis: redis.address(), URL: srv.URL(), Prefix: fresh(t), SlotTTL: 3 * time.Second}
	ws := l.start(t, 3, o)
	o.Redis = p.address()
	ws = append(ws, l.start(t, 1, o)...)
	until(t, srv, l.requests/3)
	p.cut(true)
	until(t, srv, l.requests+l.requests/4)
	p.cut(false)
	use := l.use(t, srv, time.Time{}, l.periods)
	counts := l.check(t, srv, ws)
	t.Logf("used %.2f%% of the quota; calls by process: %v", 100*use, counts)
	assert.GreaterOrEqual(t, use, l.wanted, "quota went unused while a process was cut off")
}

// Redis dies and comes back knowing nothing. What was granted before is not granted
// again: everything stands still for one period, and then goes on.
func TestRedisLosesItsData(t *testing.T) {
	t.Parallel()
	redis := private(t)
	l := sized(1)
	srv := l.provider(t)
	ws := l.start(t, 3, order{Redis: redis.address(), URL: srv.URL(), SlotTTL: 2 * time.Second})
	until(t, srv, l.requests/2)
	redis.kill()
	redis.start(t)
	back := time.Now()
	until(t, srv, l.requests+l.requests/2)
	t.Logf("it went on %v after Redis was back, with a period of %v", time.Since(back).Round(time.Millisecond), l.period)
	l.check(t, srv, ws)
	for _, w := range ws {
		assert.Contains(t, w.errs.String(), "Redis has lost what was granted", "nobody was told")
	}
}

// A Redis that is stopped properly and writes to disk loses nothing, and nothing
// stands still for longer than it was away.
func TestRedisRestartsWithItsData(t *testing.T) {
	t.Parallel()
	redis := private(t, "--appendonly", "yes", "--appendfsync", "always")
	l := sized(2)
	srv := l.provider(t)
	ws := l.start(t, 3, order{Redis: redis.address(), URL: srv.URL(), SlotTTL: 2 * time.Second})
	until(t, srv, l.requests/2)
	redis.stop(t)
	time.Sleep(500 * time.Millisecond) // that it is away for
	redis.start(t)
	use := l.use(t, srv, time.Time{}, l.periods)
	l.check(t, srv, ws)
	t.Logf("used %.2f%% of the quota although Redis was away for half a second", 100*use)
	for _, w := range ws {
		assert.NotContains(t, w.errs.String(), "lost", "it thinks that data was lost")
	}
	assert.GreaterOrEqual(t, use, l.wanted-0.07)
}

package llmredis

import (
	"bytes"
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

func TestWrongArguments(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer client.Close()
	rpm := llmqueue.RPM(10)
	var none *Limiter
	for name, l := range map[string]*Limiter{
		"no limiter":            none,
		"no client":             New(nil, "p", rpm),
		"no prefix":             New(client, "", rpm),
		"braces in the prefix":  New(client, "{p}", rpm),
		"no limits":             New(client, "p"),
		"a wrong limit":         New(client, "p", llmqueue.RPM(-1)),
		"a period of 1 ms":      New(client, "p", rpm.Per(time.Millisecond)),
		"a share above 1":       Options{LocalShare: 1.5}.New(client, "p", rpm),
		"a share below 0":       Options{LocalShare: -1}.New(client, "p", rpm),
		"a share of nothing":    Options{LocalShare: 0.01}.New(client, "p", rpm),
		"slots for 1 ns":        Options{SlotTTL: 1}.New(client, "p", rpm),
		"a margin of a day":     Options{Margin: 24 * time.Hour}.New(client, "p", rpm),
		"a negative slot time":  Options{SlotTTL: -time.Second}.New(client, "p", rpm),
		"a margin that is less": Options{Margin: -1}.New(client, "p", rpm),
	} {
		_, err := l.Join("m", func() {})
		assert.ErrorIs(t, err, llmqueue.ErrInvalidConfiguration, name)
	}
}

// lines is a log that may be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// A Redis that refuses the password is one that cannot be reached, and the log does not
// say the password.
func TestLogsDoNotShowThePassword(t *testing.T) {
	t.Parallel()
	server := private(t, "--requirepass", "something-else")
	const password = "a-secret-password"
	client := redis.NewClient(&redis.Options{Addr: server.address(), Password: password})
	defer client.Close()
	var log lines
	l := Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}.New(client, fresh(t), llmqueue.RPM(10))
	m, err := l.Join("m", func() {})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return log.String() != "" }, 20*time.Second, 5*time.Millisecond, "nobody is told that Redis refuses")
	assert.Contains(t, log.String(), "Redis cannot be reached")
	assert.NotContains(t, log.String(), password)
	assert.NotContains(t, l.redact(errorString("ERR AUTH "+password)).Error(), password)
	m.Leave()
	require.NoError(t, l.Close(t.Context()), "a limiter whose Redis is gone cannot be closed")
}

type errorString string

func (e errorString) Error() string { return string(e) }

// Models have limits of their own unless they are told to share them.
func TestAcrossModels(t *testing.T) {
	t.Parallel()
	client := shared(t)
	for _, across := range []bool{false, true} {
		prefix := fresh(t)
		l := Options{AcrossModels: across}.New(client, prefix, llmqueue.RPM(1).Per(time.Hour))
		q := func(model string) *llmqueue.Queue[int, int] {
			q, err := llmqueue.NewQueue(model, func(context.Context, llmqueue.Request[int]) (int, error) { return 1, nil },
				llmqueue.WithSharedLimits(l), llmqueue.WithoutDeadlineCheck())
			require.NoError(t, err)
			return q
		}
		a, b := q("a"), q("b")
		_, err := a.Do(t.Context(), 1)
		require.NoError(t, err)
		_, err = b.Submit(t.Context(), llmqueue.Request[int]{Params: 1, MaxWait: 3 * time.Second})
		if across {
			assert.ErrorIs(t, err, llmqueue.ErrQueueTimeout, "two models share one request an hour, and both start one")
		} else {
			assert.NoError(t, err, "models that share nothing wait for each other")
		}
		require.NoError(t, a.Shutdown(t.Context()))
		require.NoError(t, b.Shutdown(t.Context()))
		require.NoError(t, l.Close(t.Context()))
	}
}

package llmqueue

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// defaultLog takes what the default logger gets until the test ends.
func defaultLog(t *testing.T) *bytes.Buffer {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &log
}

// Token limits that nothing reports usage for are not enforced. That is said although nobody gave a
// logger, and it is said before the first answer comes: a program may end with it.
func TestTokenLimitsWithoutUsageAreNotSilent(t *testing.T) {
	log := defaultLog(t)
	q := newQueue(t, echo, WithLimits(TPM(1000)))
	for i := range 500 {
		_, err := q.Do(t.Context(), i)
		require.NoError(t, err)
		assert.Equal(t, 1, strings.Count(log.String(), "\n"), log.String())
	}
	assert.Contains(t, log.String(), "level=WARN")
	assert.Contains(t, log.String(), "ReportUsage")
	assert.Contains(t, log.String(), "model=m")
	assert.Contains(t, q.Info().NoUsage, "nothing is reserved")

	reports := newQueue(t, reportsOnly(1), WithLimits(TPM(1000)))
	_, err := reports.Do(t.Context(), 1)
	require.NoError(t, err)
	assert.Empty(t, reports.Info().NoUsage)
	assert.Equal(t, 1, strings.Count(log.String(), "\n"))
}

// A default logger that panics takes nothing with it.
func TestAPanickingDefaultLogger(t *testing.T) {
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(panicking{}))
	q := newQueue(t, echo, WithLimits(TPM(1000)))
	got, err := q.Do(t.Context(), 1)
	require.NoError(t, err)
	assert.Equal(t, 1, got)
}

type panicking struct{ slog.Handler }

func (panicking) Enabled(context.Context, slog.Level) bool { panic(errBoom) }

// slowLog is a handler that takes its time.
type slowLog struct {
	slog.Handler
	takes time.Duration
}

func (l slowLog) Handle(ctx context.Context, r slog.Record) error {
	time.Sleep(l.takes)
	return l.Handler.Handle(ctx, r)
}

// Who is told of a failure finds it in the log already: without Shutdown, the line is not lost. A
// logger that hangs holds nobody up for longer than a second.
func TestTheLastLineIsLogged(t *testing.T) {
	for name, c := range map[string]struct {
		takes time.Duration
		want  string
	}{
		"slow":  {500 * time.Millisecond, "level=ERROR"},
		"hangs": {time.Hour, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				q := newQueue(t, func(context.Context, Request[int]) (int, error) { return 0, errBoom }, WithUnlimited(),
					WithLogger(slog.New(slowLog{slog.NewTextHandler(&log, nil), c.takes})))
				begin := time.Now()
				_, err := q.Do(t.Context(), 1)
				assert.ErrorIs(t, err, errBoom)
				assert.LessOrEqual(t, time.Since(begin), time.Second)
				if c.want != "" { // else it is not written yet
					assert.Contains(t, log.String(), c.want)
				}
				time.Sleep(c.takes)
			})
		})
	}
}

// A processor that asks its own queue, and would hold the last slot while it waits for one, is told.
func TestWaitingForTheOwnQueue(t *testing.T) {
	type ask func(ctx context.Context, q *Queue[int, int]) error
	do := func(ctx context.Context, q *Queue[int, int]) error { _, err := q.Do(ctx, 0); return err }
	asks := map[string]ask{
		"Do": do,
		"derived context": func(ctx context.Context, q *Queue[int, int]) error {
			ctx, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			return do(ctx, q)
		},
		"SubmitAll": func(ctx context.Context, q *Queue[int, int]) (err error) {
			for _, err = range q.SubmitAll(ctx, func(yield func(Request[int]) bool) { yield(Request[int]{}) }) {
			}
			return err
		},
		"Stream": func(ctx context.Context, q *Queue[int, int]) error {
			_, err := Stream[int](ctx, q, Request[int]{}).Response()
			return err
		},
		"Acquire": func(ctx context.Context, q *Queue[int, int]) error { _, err := q.Acquire(ctx, Claim{}); return err },
		"Call": func(ctx context.Context, q *Queue[int, int]) error {
			return q.Call(ctx, Claim{}, func(context.Context) error { return nil })
		},
		"Wait": func(ctx context.Context, q *Queue[int, int]) error {
			resp, err := q.Submit(ctx, Request[int]{NoWait: true})
			if err == nil {
				_, err = q.Wait(ctx, resp.RequestID)
			}
			return err
		},
		"through another queue": func(ctx context.Context, q *Queue[int, int]) error {
			other, err := NewQueue("other", func(ctx context.Context, r Request[int]) (int, error) { return q.Do(ctx, 0) }, WithUnlimited())
			if err != nil {
				return err
			}
			defer func() { _ = other.Shutdown(context.WithoutCancel(ctx)) }()
			_, err = other.Do(ctx, 0)
			return err
		},
	}
	for name, ask := range asks {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var q *Queue[int, int]
				// As many as there are slots ask at once: all but one may wait.
				q = newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
					if r.Params == 0 {
						return 7, nil
					}
					time.Sleep(time.Second)
					return 7, ask(ctx, q)
				}, WithLimits(Concurrent(3)))
				var all sync.WaitGroup
				var mu sync.Mutex
				failed := 0
				for range 3 {
					all.Go(func() {
						if _, err := q.Do(t.Context(), 1); err != nil {
							assert.ErrorIs(t, err, ErrInvalidConfiguration)
							assert.ErrorContains(t, err, "raise Concurrent, or use another queue")
							mu.Lock()
							failed++
							mu.Unlock()
						}
					})
				}
				all.Wait()
				assert.Equal(t, 1, failed)
				for range 2 { // fewer than slots never fail
					_, err := q.Do(t.Context(), 1)
					assert.NoError(t, err)
				}
				synctest.Wait() // permits end with the processors that hold them
				i := addsUp(t, q)
				assert.Zero(t, i.Processing+i.Pending)
			})
		})
	}
}

// A processor cannot wait for itself, even where there are slots.
func TestWaitingForTheOwnRequest(t *testing.T) {
	for _, key := range []string{"", "key"} {
		var waits, same *Queue[int, int]
		waits = newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			resp, err := waits.Wait(ctx, r.ID)
			return resp.Result, err
		}, WithUnlimited(), WithCoalescing(func(Request[int]) string { return key }))
		_, err := waits.Do(t.Context(), 0)
		assert.ErrorContains(t, err, "wait for its own request")
		if key != "" {
			same = newQueue(t, func(ctx context.Context, r Request[int]) (int, error) { return same.Do(ctx, 1) },
				WithUnlimited(), WithCoalescing(func(Request[int]) string { return key }))
			_, err = same.Do(t.Context(), 0)
			assert.ErrorContains(t, err, "wait for its own request")
		}
	}
}

func TestShutdownFromWithinAProcessor(t *testing.T) {
	m := NewManager[int, int](WithUnlimited())
	process := func(ctx context.Context, r Request[int]) (int, error) {
		q, _ := m.Queue(r.ModelID)
		switch r.Params {
		case 1:
			return 1, m.Unregister(ctx, r.ModelID)
		case 2:
			return 1, m.Shutdown(ctx)
		}
		return 1, q.Shutdown(ctx)
	}
	for params, model := range []string{"queue", "unregister", "manager"} {
		q, err := m.Register(model, process)
		require.NoError(t, err)
		_, err = q.Do(t.Context(), params)
		assert.ErrorContains(t, err, "from within a processor")
		_, err = q.Submit(t.Context(), Request[int]{NoWait: true, Params: params})
		if params < 2 {
			assert.NoError(t, err, "it was not shut down")
		}
	}
	assert.NoError(t, m.Shutdown(t.Context()))
}

// Each model says why requests leave it, also where they complete elsewhere.
func TestAHandoffIsNotSilent(t *testing.T) {
	m := NewManager[int, int](WithUnlimited())
	defer m.Shutdown(t.Context())
	fails := func(context.Context, Request[int]) (int, error) { return 0, Elsewhere(errBoom) }
	for _, c := range []struct {
		model string
		of    Processor[int, int]
		to    []string
	}{{"a", fails, []string{"b", "c"}}, {"b", fails, nil}, {"c", echo, nil}} {
		_, err := m.Register(c.model, c.of, WithFallback(c.to...))
		require.NoError(t, err)
	}
	resp, err := m.Submit(t.Context(), Request[int]{ModelID: "a", Params: 3})
	require.NoError(t, err)
	assert.Equal(t, "c", resp.ModelID)
	info, err := m.Info("a")
	require.NoError(t, err)
	assert.EqualValues(t, 2, info.Fallbacks)
	assert.Contains(t, info.FallbackReason, "boom")
	info, err = m.Info("c")
	require.NoError(t, err)
	assert.Empty(t, info.FallbackReason)
}

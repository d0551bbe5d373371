package llmqueue_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// diary keeps events.
type diary struct {
	mu     sync.Mutex
	events []llmqueue.Event
}

func (d *diary) note(e llmqueue.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, e)
}

func (d *diary) all() []llmqueue.Event {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]llmqueue.Event(nil), d.events...)
}

// req is what the tests here submit.
type req = llmqueue.Request[int]

// gate is a breaker that is open when told so.
type gate struct {
	mu   sync.Mutex
	open bool
}

func (g *gate) isOpen() bool           { g.mu.Lock(); defer g.mu.Unlock(); return g.open }
func (g *gate) set(open bool)          { g.mu.Lock(); defer g.mu.Unlock(); g.open = open }
func (g *gate) TryAcquirePermit() bool { return !g.isOpen() }
func (g *gate) RecordSuccess()         {}
func (g *gate) RecordFailure()         {}
func (g *gate) IsClosed() bool         { return !g.isOpen() }
func (g *gate) RemainingDelay() time.Duration {
	if g.isOpen() {
		return time.Hour
	}
	return 0
}

// hang is a processor that returns when its context ends, and serve one that takes a second.
func hang(ctx context.Context, _ req) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func serve(_ context.Context, r req) (int, error) {
	time.Sleep(time.Second)
	return r.Params, nil
}

// refuse is a processor whose requests are at fault.
func refuse(context.Context, req) (int, error) { return 0, errors.New("bad") }

// registered makes a manager with these models.
func registered(t *testing.T, d *diary, models ...model) *llmqueue.Manager[int, int] {
	t.Helper()
	m := llmqueue.NewManager[int, int](llmqueue.WithUnlimited(), llmqueue.WithObserver(d.note))
	for _, one := range models {
		_, err := m.Register(one.name, one.process, one.opts...)
		require.NoError(t, err)
	}
	t.Cleanup(func() { assert.NoError(t, m.Shutdown(context.Background())) })
	return m
}

// model is what registered registers.
type model struct {
	name    string
	process llmqueue.Processor[int, int]
	opts    []llmqueue.Option
}

// post submits a request that nobody waits for.
func post(t *testing.T, m *llmqueue.Manager[int, int], r req) {
	t.Helper()
	r.NoWait = true
	_, err := m.Submit(t.Context(), r)
	require.NoError(t, err)
}

// pauses is a processor whose provider asks to pause for so long when the params are 1.
func pauses(d time.Duration) llmqueue.Processor[int, int] {
	return func(ctx context.Context, r req) (int, error) {
		if r.Params == 1 {
			time.Sleep(time.Second)
			return 0, llmqueue.RateLimited(errors.New("slow"), d)
		}
		return serve(ctx, r)
	}
}

// What a timeout leads to names the timeout.
func TestWhatATimeoutLeadsToSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, g := &diary{}, &gate{}
		m := registered(t, d,
			model{"a", hang, []llmqueue.Option{llmqueue.WithTimeout(5 * time.Second), llmqueue.WithFallback("b"), llmqueue.WithBreaker(func(string) llmqueue.Breaker { return g })}},
			model{"b", refuse, nil})
		time.AfterFunc(time.Second, func() { g.set(true) })
		_, err := m.Submit(t.Context(), req{ModelID: "a"})
		assert.ErrorContains(t, err, "the attempt took longer than 5s")
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		for _, e := range d.all() {
			if e.Type == llmqueue.EventFallback {
				assert.ErrorIs(t, e.Err, context.DeadlineExceeded)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		q, err := llmqueue.NewQueue("a", hang, llmqueue.WithUnlimited(), llmqueue.WithTimeout(5*time.Second))
		require.NoError(t, err)
		time.AfterFunc(time.Second, func() {
			q.Pause()
			assert.NoError(t, q.Shutdown(context.Background()))
		})
		_, err = q.Submit(t.Context(), req{})
		assert.ErrorIs(t, err, llmqueue.ErrQueueClosed)
		assert.ErrorContains(t, err, "the attempt took longer than 5s")
		synctest.Wait()
	})
}

// MaxWait is for the first start, at whichever model that is.
func TestMaxWaitIsOverOnceAFallbackStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := llmqueue.WithLimits(llmqueue.Concurrent(1))
		m := registered(t, &diary{},
			model{"a", func(context.Context, req) (int, error) { time.Sleep(time.Hour); return 0, nil }, []llmqueue.Option{one, llmqueue.WithFallback("b", "c")}},
			model{"b", func(context.Context, req) (int, error) {
				time.Sleep(10 * time.Second)
				return 0, llmqueue.Retryable(errors.New("down"))
			}, []llmqueue.Option{llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 1})}},
			model{"c", serve, []llmqueue.Option{one}})
		post(t, m, req{ModelID: "a"})
		time.AfterFunc(11500*time.Millisecond, func() { post(t, m, req{ModelID: "c"}) })
		r, err := m.Submit(t.Context(), req{ModelID: "a", Params: 2, MaxWait: 2 * time.Second})
		require.NoError(t, err)
		assert.Equal(t, "c", r.ModelID)
	})
}

// A request that goes on says truly why, in whatever way that became known.
func TestWhyARequestGoesOnForItsTime(t *testing.T) {
	one := llmqueue.WithLimits(llmqueue.Concurrent(1))
	for _, c := range []struct {
		name    string
		opts    []llmqueue.Option
		process llmqueue.Processor[int, int]
		within  time.Duration // of the context
		maxWait time.Duration
		says    string
	}{
		{"limits at Submit", []llmqueue.Option{llmqueue.WithLimits(llmqueue.RPM(1))}, serve, 20 * time.Second, 0, "(it waits for: 1 rpm)"},
		{"limits at Submit, MaxWait", []llmqueue.Option{llmqueue.WithLimits(llmqueue.RPM(1))}, serve, 0, 20 * time.Second, "(it waits for: 1 rpm)"},
		{"a pause that leaves little", []llmqueue.Option{one}, pauses(50 * time.Second), time.Minute, 0, "no room for it in time"},
		{"a pause that is too long", []llmqueue.Option{one}, pauses(50 * time.Second), 30 * time.Second, 0, "21s after its deadline (it waits for: pause)"},
		{"a pause, shared", []llmqueue.Option{one, llmqueue.WithCoalescing(func(r req) string { return fmt.Sprint(r.Params) })}, pauses(50 * time.Second), 0, 20 * time.Second, "no room for it in time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := registered(t, &diary{}, model{"a", c.process, append(c.opts, llmqueue.WithFallback("b"))}, model{"b", refuse, nil})
				post(t, m, req{ModelID: "a", Params: 1})
				ctx, cancel := t.Context(), func() {}
				if c.within > 0 {
					ctx, cancel = context.WithTimeout(ctx, c.within)
				}
				defer cancel()
				_, err := m.Submit(ctx, req{ModelID: "a", Params: 2, MaxWait: c.maxWait})
				assert.ErrorContains(t, err, c.says)
				assert.ErrorIs(t, err, llmqueue.ErrQueueTimeout)
				assert.NotContains(t, err.Error(), " -")
			})
		})
	}
}

// Who shares the call of a request that came from another model, and has none to go to, waits
// for the provider as without sharing.
func TestSharingWithARequestFromElsewhereCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		m := registered(t, &diary{},
			model{"a", func(context.Context, req) (int, error) { return 0, llmqueue.Elsewhere(errors.New("key")) }, []llmqueue.Option{llmqueue.WithFallback("b")}},
			model{"b", func(ctx context.Context, r req) (int, error) {
				time.Sleep(10 * time.Second)
				if time.Since(begun) < time.Minute {
					return 0, llmqueue.RateLimited(errors.New("slow"), 3*time.Minute)
				}
				return r.Params, nil
			}, []llmqueue.Option{llmqueue.WithCoalescing(func(r req) string { return fmt.Sprint(r.Params) })}})
		post(t, m, req{ModelID: "a", Params: 2})
		time.Sleep(time.Second)
		r, err := m.Submit(t.Context(), req{ModelID: "b", Params: 2})
		require.NoError(t, err)
		assert.Equal(t, 2, r.Result)
	})
}

// A request waits since its attempt timed out, also when its processor goes on for a while.
func TestWaitedCountsFromTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, calls := &diary{}, 0
		q, err := llmqueue.NewQueue("a", func(ctx context.Context, r req) (int, error) {
			if calls++; calls == 1 {
				time.Sleep(20 * time.Second)
				llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 7})
				return 1, nil
			}
			llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 3})
			return 2, nil
		}, llmqueue.WithLimits(llmqueue.Concurrent(1)), llmqueue.WithTimeout(5*time.Second), llmqueue.WithObserver(d.note))
		require.NoError(t, err)
		r, err := q.Submit(t.Context(), req{})
		require.NoError(t, err)
		assert.Equal(t, 2, r.Result, "that of the attempt which was waited for")
		assert.EqualValues(t, 10, r.Usage.Total(), "of both")
		for _, e := range d.all() {
			if e.Type == llmqueue.EventStarted && e.Attempt == 2 {
				assert.Equal(t, 15*time.Second, e.Waited)
			}
		}
		assert.Equal(t, 15*time.Second, q.Info().Waited)
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// An endpoint that takes the place of a removed one takes what that one failed.
func TestANewEndpointInheritsNoFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		revoked := func(d time.Duration) llmqueue.Processor[int, int] {
			return func(context.Context, req) (int, error) {
				time.Sleep(d)
				return 0, llmqueue.Elsewhere(errors.New("revoked"))
			}
		}
		q, err := llmqueue.NewQueue("a", revoked(30*time.Second), llmqueue.WithLimits(llmqueue.Concurrent(1)))
		require.NoError(t, err)
		two := llmqueue.WithLimits(llmqueue.Concurrent(2))
		require.NoError(t, q.AddEndpoint("eu", revoked(10*time.Second), two))
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				_, err := q.Submit(t.Context(), req{Params: i})
				assert.NoError(t, err)
			})
		}
		time.Sleep(15 * time.Second)
		require.NoError(t, q.RemoveEndpoint(t.Context(), "eu"))
		require.NoError(t, q.AddEndpoint("eu", serve, two))
		all.Wait()
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

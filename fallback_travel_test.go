package llmqueue_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// fails is a processor whose calls fail in a way that may pass.
func fails(context.Context, llmqueue.Request[int]) (int, error) {
	return 0, llmqueue.Retryable(errStory)
}

// once is the policy of a model that leaves further attempts to its fallbacks.
var once = llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 1})

// slowEstimator says how large a request is after d.
func slowEstimator(d time.Duration) llmqueue.Option {
	return llmqueue.WithEstimator(func(llmqueue.Request[int]) llmqueue.Usage {
		time.Sleep(d)
		return llmqueue.Usage{InputTokens: 1}
	})
}

// Who leaves, or cancels, while the request is on its way to a fallback is not charged for a
// call there: a user would find it on the bill of the other model.
func TestFallbackDoesNotRunWhatWasLeftOnTheWay(t *testing.T) {
	for name, leave := range map[string]func(m *llmqueue.Manager[int, int], cancel context.CancelFunc){
		"the caller leaves": func(_ *llmqueue.Manager[int, int], cancel context.CancelFunc) { cancel() },
		"Cancel":            func(m *llmqueue.Manager[int, int], _ context.CancelFunc) { _ = m.Cancel("m", "r") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := manage(t)
				register(t, m, "m", fails, llmqueue.WithUnlimited(), once, llmqueue.WithFallback("n"))
				var calls atomic.Int64
				register(t, m, "n", func(context.Context, llmqueue.Request[int]) (int, error) {
					calls.Add(1)
					return 0, nil
				}, llmqueue.WithUnlimited(), slowEstimator(2*time.Second))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() { _, _ = m.Submit(ctx, llmqueue.Request[int]{ModelID: "m", ID: "r"}) }()
				time.Sleep(time.Second) // n's estimator is at work
				leave(m, cancel)
				time.Sleep(time.Minute)
				resp, err := m.Status("m", "r")
				require.NoError(t, err)
				assert.Equal(t, llmqueue.StatusCanceled, resp.Status)
				assert.Zero(t, calls.Load(), "the fallback made a call that nobody waits for")
			})
		})
	}
}

// dawdling is a context whose Err takes a second once it is told to.
type dawdling struct {
	context.Context
	slow *atomic.Bool
}

func (c dawdling) Err() error {
	if c.slow.CompareAndSwap(true, false) {
		time.Sleep(time.Second)
	}
	return c.Context.Err()
}

// A request that a fallback sends on before the news of its arrival there is in: its user
// sees where it really is, and Cancel reaches it. He would see it pending at the model that
// gave it up, and the call that he canceled would go on.
func TestFallbackShowsAndCancelsWhereTheRequestIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Bool
		m := manage(t)
		register(t, m, "m", fails, llmqueue.WithUnlimited(), once, llmqueue.WithFallback("b", "d"))
		b := register(t, m, "b", func(ctx context.Context, _ llmqueue.Request[int]) (int, error) {
			time.Sleep(1500 * time.Millisecond)
			llmqueue.Observe(ctx, llmqueue.Observation{Outcome: llmqueue.OutcomeQuotaExhausted})
			return 0, errStory
		}, llmqueue.WithLimits(llmqueue.Concurrent(1)), llmqueue.WithEstimator(func(r llmqueue.Request[int]) llmqueue.Usage {
			slow.Store(r.ID == "r") // from here on: while the request arrives
			return llmqueue.Usage{InputTokens: 1}
		}))
		var ran, ended atomic.Bool
		register(t, m, "d", func(ctx context.Context, _ llmqueue.Request[int]) (int, error) {
			ran.Store(true)
			<-ctx.Done()
			ended.Store(true)
			return 0, ctx.Err()
		}, llmqueue.WithUnlimited())

		send(t, b, llmqueue.Request[int]{ID: "first"}) // finds in 1.5 s that the quota is used up
		time.Sleep(time.Second)
		go func() {
			_, _ = m.Submit(dawdling{t.Context(), &slow}, llmqueue.Request[int]{ModelID: "m", ID: "r"})
		}()
		time.Sleep(10 * time.Second)
		require.True(t, ran.Load(), "d runs it")
		resp, err := m.Status("m", "r")
		require.NoError(t, err)
		assert.Equal(t, "processing at d", string(resp.Status)+" at "+resp.ModelID, "what Status says while d runs it")
		require.NoError(t, m.Cancel("m", "r"))
		synctest.Wait()
		assert.True(t, ended.Load(), "the request was canceled, and its call at d goes on")
	})
}

// MaxWait bounds the wait of a request that shares its call also where a fallback has it:
// its user was told ten seconds and would wait an hour.
func TestFallbackKeepsTheMaxWaitOfASharedCall(t *testing.T) {
	for name, key := range map[string]string{"shared": "k", "alone": ""} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := manage(t)
				register(t, m, "m", func(ctx context.Context, _ llmqueue.Request[int]) (int, error) {
					time.Sleep(time.Second)
					llmqueue.Observe(ctx, llmqueue.Observation{Outcome: llmqueue.OutcomeQuotaExhausted})
					return 0, errStory
				}, llmqueue.WithLimits(llmqueue.Concurrent(1)), llmqueue.WithFallback("n"), llmqueue.WithoutDeadlineCheck(),
					llmqueue.WithCoalescing(func(r llmqueue.Request[int]) string { return key[:min(r.Params, len(key))] }))
				n := register(t, m, "n", give, llmqueue.WithLimits(llmqueue.RPM(1).Per(time.Hour)), llmqueue.WithoutDeadlineCheck())
				_, err := n.Do(t.Context(), 0) // n is full for an hour
				require.NoError(t, err)
				go func() { _, _ = m.Submit(t.Context(), llmqueue.Request[int]{ModelID: "m"}) }()
				synctest.Wait()
				begin := time.Now()
				_, err = m.Submit(t.Context(), llmqueue.Request[int]{ModelID: "m", Params: 1, MaxWait: 10 * time.Second})
				assert.Equal(t, 10*time.Second, time.Since(begin), "how long it waited under a MaxWait of 10 s")
				assert.ErrorIs(t, err, llmqueue.ErrQueueTimeout)
			})
		})
	}
}

// A Shutdown whose time is over does not wait for what a fallback does before it takes the
// request: a service would hang in its exit for as long as that takes.
func TestShutdownDoesNotWaitForAFallbacksEstimator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manage(t)
		q := register(t, m, "m", fails, llmqueue.WithUnlimited(), once, llmqueue.WithFallback("n"), llmqueue.WithShutdownGrace(time.Second))
		register(t, m, "n", give, llmqueue.WithUnlimited(), slowEstimator(time.Hour))
		send(t, q, llmqueue.Request[int]{})
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		begin := time.Now()
		require.Error(t, q.Shutdown(ctx))
		assert.LessOrEqual(t, time.Since(begin), 2*time.Second, "Shutdown had a grace of one second")
		time.Sleep(2 * time.Hour)
	})
}

package llmqueue_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// longTail is a provider of which one call in a hundred takes twenty times as long.
type longTail struct {
	mu     sync.Mutex
	rand   *rand.Rand
	tokens int64 // that were charged
	calls  int
}

func (p *longTail) ask(ctx context.Context, req llmqueue.Request[int]) (int, error) {
	p.mu.Lock()
	takes := 500*time.Millisecond + time.Duration(p.rand.Int64N(int64(time.Second)))
	if p.calls++; p.calls%100 == 0 {
		takes *= 20
	}
	p.tokens += req.Estimate.Total() // the provider charges a call that is cut off, too
	p.mu.Unlock()
	select {
	case <-time.After(takes):
		llmqueue.ReportUsage(ctx, req.Estimate)
		return req.Params, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// tailOf asks a queue 10 times a second and gives the times until the answers, sorted.
func tailOf(t *testing.T, opts ...llmqueue.Option) (times []time.Duration, p *longTail, info llmqueue.QueueInfo) {
	synctest.Test(t, func(t *testing.T) {
		p = &longTail{rand: rand.New(rand.NewPCG(1, 2))}
		q, err := llmqueue.NewQueue("m", p.ask, append(opts, llmqueue.WithLimits(llmqueue.RPM(1200), llmqueue.TPM(1_000_000)))...)
		require.NoError(t, err)
		require.NoError(t, q.AddEndpoint("eu", p.ask, llmqueue.WithLimits(llmqueue.RPM(1200), llmqueue.TPM(1_000_000))))
		var mu sync.Mutex
		var all sync.WaitGroup
		arrivals := rand.New(rand.NewPCG(3, 4))
		for i := range 6000 {
			time.Sleep(time.Duration(arrivals.ExpFloat64() * float64(100*time.Millisecond)))
			all.Go(func() {
				begun := time.Now()
				got, err := q.Submit(t.Context(), llmqueue.Request[int]{Params: i, Estimate: llmqueue.Usage{InputTokens: 300, OutputTokens: 100}})
				mu.Lock()
				defer mu.Unlock()
				assert.NoError(t, err)
				assert.Equal(t, i, got.Result)
				times = append(times, time.Since(begun))
			})
		}
		all.Wait()
		synctest.Wait() // those that were cut off return
		info = q.Info()
		require.NoError(t, q.Shutdown(t.Context()))
	})
	slices.Sort(times)
	return times, p, info
}

// With one call in a hundred that takes twenty times as long, hedging at least halves the time
// within which 99% are answered, for at most 5% more tokens.
func TestHedgingShortensTheTail(t *testing.T) {
	plain, without, _ := tailOf(t)
	hedged, with, info := tailOf(t, llmqueue.WithHedge(llmqueue.HedgePolicy{Quantile: 0.97}))
	quantile := func(times []time.Duration, q float64) time.Duration { return times[int(q*float64(len(times)))] }
	more := float64(with.tokens)/float64(without.tokens) - 1
	for _, q := range []float64{0.5, 0.95, 0.99, 0.999} {
		t.Logf("%5.1f%% within %8v without and %8v with hedges", 100*q, quantile(plain, q).Round(time.Millisecond), quantile(hedged, q).Round(time.Millisecond))
	}
	t.Logf("%d hedges beside %d calls, %.1f%% more tokens", info.Hedges, without.calls, 100*more)
	assert.LessOrEqual(t, 2*quantile(hedged, 0.99), quantile(plain, 0.99))
	assert.LessOrEqual(t, more, 0.05)
	assert.Positive(t, info.Hedges)
	assert.EqualValues(t, len(hedged), info.Completed, "each request ended once")
	assert.Zero(t, info.Abandoned)
	assert.EqualValues(t, with.calls, info.Attempts)
}

// A hedge takes only room that nobody waits for: with as many calls as the limits allow, there
// are none, and nothing starts later than without them.
func TestHedgesTakeNoRoomThatIsWaitedFor(t *testing.T) {
	starts := func(opts ...llmqueue.Option) (at []time.Duration, hedges int64) {
		synctest.Test(t, func(t *testing.T) {
			epoch := time.Now()
			var mu sync.Mutex
			q, err := llmqueue.NewQueue("m", func(context.Context, llmqueue.Request[int]) (int, error) {
				mu.Lock()
				at = append(at, time.Since(epoch))
				mu.Unlock()
				time.Sleep(20 * time.Second)
				return 0, nil
			}, append(opts, llmqueue.WithMargin(0), llmqueue.WithLimits(llmqueue.RPM(60), llmqueue.Concurrent(40)))...)
			require.NoError(t, err)
			for i := range 200 {
				_, err := q.Submit(t.Context(), llmqueue.Request[int]{Params: i, NoWait: true})
				require.NoError(t, err)
			}
			time.Sleep(2 * time.Minute)
			hedges = q.Info().Hedges
			require.NoError(t, q.Shutdown(t.Context()))
		})
		return at, hedges
	}
	plain, _ := starts()
	hedged, hedges := starts(llmqueue.WithHedge(llmqueue.HedgePolicy{After: time.Second, Share: 1}))
	assert.Zero(t, hedges, "as long as somebody waits")
	assert.Equal(t, plain, hedged[:len(plain)])
}

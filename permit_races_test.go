package llmqueue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Permits taken, ended twice, canceled and left at any moment, while limits change: each ends
// once, no slot is lost and nothing is left.
func TestStressPermits(t *testing.T) {
	const holders = 64
	rounds := max(much(60_000)/holders, 20)
	q, err := NewQueue("m", echo, WithLimits(Concurrent(8)), WithHistory(100, time.Hour), WithMaxQueued(40),
		WithRetry(RetryPolicy{MaxAttempts: 4, BaseDelay: time.Microsecond, MaxDelay: time.Microsecond, Budget: -1}))
	require.NoError(t, err)
	var completed, failed, canceled, accepted atomic.Int64
	count := func(err error) {
		switch {
		case err == nil:
			completed.Add(1)
		case errors.Is(err, ErrCanceled):
			canceled.Add(1)
		default:
			failed.Add(1)
		}
	}
	hold := func(r *rand.Rand, id string) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var all sync.WaitGroup
		defer all.Wait()
		meanwhile := func(f func()) {
			if r.IntN(4) == 0 {
				n := r.IntN(200)
				all.Go(func() {
					for range n {
						runtime.Gosched()
					}
					f()
				})
			}
		}
		meanwhile(cancel)
		meanwhile(func() { _ = q.Cancel(id) })
		meanwhile(func() {
			own, stop := context.WithTimeout(t.Context(), time.Millisecond)
			defer stop()
			_, _ = q.Wait(own, id)
		})
		claim := Claim{ID: id, Priority: r.IntN(3), Tenant: fmt.Sprint(r.IntN(5)), Estimate: in(r.Int64N(9))}
		if r.IntN(3) == 0 {
			_ = q.Call(ctx, claim, func(ctx context.Context) error {
				if r.IntN(2) == 0 {
					return Retryable(errBoom)
				}
				return ctx.Err()
			})
			return
		}
		p, err := q.Acquire(ctx, claim)
		if err != nil {
			return
		}
		accepted.Add(1)
		for {
			ReportUsage(p.Context(), in(r.Int64N(9)))
			_ = p.Endpoint()
			var how error
			if r.IntN(2) == 0 {
				how = Retryable(errBoom)
			}
			if r.IntN(20) == 0 {
				cancel() // and Done comes when it comes
			}
			var ends [2]error
			var both sync.WaitGroup
			for i := range ends {
				both.Go(func() { ends[i] = p.Done(how) })
			}
			both.Wait()
			first, second := ends[0], ends[1]
			if first != nil && first.Error() == errDone.Error() {
				first, second = second, first
			}
			if !assert.Equal(t, errDone, second, "one Done of two ends the attempt") {
				return
			}
			if first != ErrTryAgain {
				count(first)
				return
			}
			if err := p.Again(ctx); err != nil {
				count(err)
				return
			}
		}
	}
	stop := make(chan struct{})
	var changing, all sync.WaitGroup
	changing.Go(func() {
		for n := int64(0); ; n++ {
			select {
			case <-stop:
				return
			default:
				_ = q.SetLimits(Concurrent(1 + n%9))
				if n%7 == 0 {
					q.Pause()
					q.Resume()
				}
				_ = q.Requests(RequestFilter{})
				runtime.Gosched()
			}
		}
	})
	for h := range holders {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(h), 1))
			for n := range rounds {
				hold(r, fmt.Sprintf("%d-%d", h, n))
			}
		})
	}
	all.Wait()
	close(stop)
	changing.Wait()
	require.NoError(t, q.SetLimits(Concurrent(8)))
	i := addsUp(t, q)
	assert.Zero(t, i.Processing+i.Pending+i.Abandoned, "%+v", i)
	assert.Zero(t, i.Limits[0].Used, "a slot is lost")
	assert.GreaterOrEqual(t, i.Completed, completed.Load())
	assert.Equal(t, accepted.Load(), completed.Load()+failed.Load()+canceled.Load(), "each permit ends once")
	var last []*Permit
	for range 8 {
		last = append(last, acquire(t, q, Claim{}))
	}
	for _, p := range last {
		require.NoError(t, p.Done(nil))
	}
	require.NoError(t, q.Shutdown(t.Context()))
}

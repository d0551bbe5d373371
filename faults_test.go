package llmqueue

import (
	"context"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The faults of the original, one by one. That its concurrent mode ran one request at
// a time is in TestConcurrencyRunsInParallel.

// It polled every 100 ms. Here a start comes at the very instant at which there is
// room, whatever makes the room.
func TestFaultPolling(t *testing.T) {
	odd := 1234567*time.Microsecond + 891
	for name, c := range map[string]struct {
		opts []Option
		est  Usage
		want time.Duration
	}{
		"window":    {[]Option{WithLimits(RPM(1).Per(odd)), WithMargin(0)}, in(1), odd},
		"tokens":    {[]Option{WithLimits(TPM(10).Per(odd)), WithMargin(0)}, in(10), odd},
		"slot":      {[]Option{WithLimits(Concurrent(1))}, in(1), odd / 2},
		"shared":    {[]Option{WithSharedLimits(NewSharedLimits(Concurrent(1)))}, in(1), odd / 2},
		"with more": {[]Option{WithLimits(Concurrent(5), RPM(1).Per(odd), TPM(1<<40)), WithMargin(0)}, in(1), odd},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, func(context.Context, Request[int]) (int, error) {
					time.Sleep(odd / 2)
					return 0, nil
				}, c.opts...)
				post(t, q, Request[int]{Estimate: c.est})
				resp, err := q.Submit(t.Context(), Request[int]{Estimate: c.est})
				require.NoError(t, err)
				assert.Equal(t, c.want, resp.WaitTime())
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithUnlimited())
		q.Pause()
		id := post(t, q, Request[int]{})
		time.Sleep(odd)
		q.Resume()
		resp, err := q.Wait(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, odd, resp.WaitTime())
	})
}

// It booked a refund as an entry of its own with the time of the refund, which
// outlived what it refunded: a limit of 1,000 per 2 s admitted 1,900 at once.
func TestFaultRefundOutlivesItsEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a admissions
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			a.note(r.ID, r.Estimate)
			if r.ID == "refunded" {
				time.Sleep(1900 * time.Millisecond)
				ReportUsage(ctx, in(100))
			}
			return 0, nil
		}, WithLimits(TPM(1000).Per(2*time.Second)), WithMargin(0))
		post(t, q, Request[int]{ID: "refunded", Estimate: in(1000)})
		time.Sleep(2 * time.Second) // its entry leaves; the refund of 900 came 100 ms ago
		for range 19 {
			post(t, q, Request[int]{Estimate: in(100)})
		}
		synctest.Wait()
		assert.Equal(t, 9, q.Len(), "1,000 start, not 1,900")
		assert.EqualValues(t, 1000, q.Info().Limits[0].Used)
		require.NoError(t, q.Shutdown(t.Context()))
		a.log = a.log[1:]
		a.within(t, 2*time.Second, 1000, Usage.Total)
	})
}

// It dropped an overrun when the window was full.
func TestFaultOverrunDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, settling, WithLimits(TPM(100)), WithMargin(0))
		post(t, q, Request[[2]int64]{Params: [2]int64{10, 50}, Estimate: in(50)})
		post(t, q, Request[[2]int64]{Params: [2]int64{10, 150}, Estimate: in(50)}) // the window is full when it reports
		time.Sleep(11 * time.Second)
		assert.EqualValues(t, 200, q.Info().Limits[0].Used)
		assert.Zero(t, q.Info().Limits[0].Available)
		resp, err := q.Submit(t.Context(), Request[[2]int64]{Params: [2]int64{0, 0}, Estimate: in(1)})
		require.NoError(t, err)
		assert.Equal(t, 49*time.Second, resp.WaitTime())
	})
}

// It took limits one after the other: a request that waited for one held the others.
func TestFaultHoldsWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := NewSharedLimits(RPM(100), Concurrent(2))
		other := newQueue(t, echo, WithSharedLimits(shared))
		q := newQueue(t, echo, WithLimits(TPM(100), RPM(10)), WithSharedLimits(shared))
		_, err := q.Submit(t.Context(), Request[int]{Estimate: in(90)})
		require.NoError(t, err)
		waiting := post(t, q, Request[int]{Estimate: in(90)}) // for tokens
		i := q.Info()
		assert.EqualValues(t, 1, i.Limits[1].Used, "no request is charged")
		assert.EqualValues(t, 1, i.Endpoints[0].Shared[0].Used)
		assert.Zero(t, i.Endpoints[0].Shared[1].Used, "nor is a slot taken")
		for range 5 {
			resp, err := other.Submit(t.Context(), Request[int]{})
			require.NoError(t, err)
			assert.Zero(t, resp.WaitTime())
		}
		require.NoError(t, q.Cancel(waiting))
		resp, err := q.Submit(t.Context(), Request[int]{Estimate: in(10)})
		require.NoError(t, err)
		assert.Zero(t, resp.WaitTime())
	})
}

// There was no way to cancel.
func TestFaultNoCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithLimits(RPM(1)), WithoutDeadlineCheck())
		running := post(t, q, Request[int]{Params: 3600})
		waiting := post(t, q, Request[int]{Params: 3600})
		begin := time.Now()
		for _, id := range []string{waiting, running} {
			require.NoError(t, q.Cancel(id))
			_, err := q.Wait(t.Context(), id)
			assert.ErrorIs(t, err, ErrCanceled)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := q.Do(ctx, 3600)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Second, time.Since(begin))
	})
}

// A request larger than a limit waited for ever.
func TestFaultLargerThanTheLimitWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(TPM(1000)))
		begin := time.Now()
		_, err := q.Submit(t.Context(), Request[int]{Estimate: in(1001)})
		require.ErrorIs(t, err, ErrRequestTooLarge)
		_, err = q.Submit(t.Context(), Request[int]{Estimate: in(1001), NoWait: true})
		require.ErrorIs(t, err, ErrRequestTooLarge)
		assert.Zero(t, time.Since(begin))
	})
}

// One request cost as many steps as there were requests in the window. Time is for the
// benchmarks; here it is what the window keeps, which bounds what can be walked.
func TestFaultCostGrowsWithTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(RPM(1<<40), TPM(1<<40)), WithHistory(0, 0))
		submit := func(n int) {
			for range n {
				if _, err := q.Submit(t.Context(), Request[int]{Estimate: in(10)}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(100 * time.Microsecond)
			}
		}
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		submit(10_000)
		before := heap()
		submit(40_000)
		assert.EqualValues(t, 50_000, q.Info().Limits[0].Used, "all are within the window")
		assert.Less(t, heap(), before+1<<20, "and cost no memory of their own")
	})
}

// A queue printed errors to standard output.
func TestFaultPrints(t *testing.T) {
	var printed [2][]byte
	streams := [2]**os.File{&os.Stdout, &os.Stderr}
	var done [2]chan struct{}
	var writers, originals [2]*os.File
	for i, stream := range streams {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		writers[i], originals[i] = w, *stream
		*stream = w
		done[i] = make(chan struct{})
		go func() {
			defer close(done[i])
			printed[i], _ = io.ReadAll(r)
			_ = r.Close()
		}()
	}
	func() {
		defer func() {
			for i, stream := range streams {
				*stream = originals[i]
			}
		}()
		var n atomic.Int64
		q, err := NewQueue("m", func(context.Context, Request[int]) (int, error) {
			switch n.Add(1) % 5 {
			case 0:
				panic(errBoom)
			case 1:
				runtime.Goexit()
			case 2:
				return 0, RateLimited(errBoom, time.Nanosecond)
			case 3:
				return 0, Retryable(errBoom)
			}
			return 0, errBoom
		}, WithLimits(TPM(1<<40)), WithObserver(func(Event) { panic(errBoom) }),
			WithRetry(RetryPolicy{MaxAttempts: 2, BaseDelay: 1, MaxDelay: 1, Budget: -1}))
		if err != nil {
			t.Error(err)
			return
		}
		for range 50 {
			_, _ = q.Submit(t.Context(), Request[int]{Estimate: in(1)})
		}
		_, _ = q.Do(ended(), 1)
		_ = q.Shutdown(t.Context())
	}()
	for i := range writers {
		_ = writers[i].Close()
		<-done[i]
	}
	assert.Empty(t, string(printed[0]), "standard output")
	assert.Empty(t, string(printed[1]), "standard error")
}

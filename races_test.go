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
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whoever takes the lock first decides: a request that finished gives its result,
// even though its caller's context ended at the same moment or before.
func TestFinishedBeatsCanceled(t *testing.T) {
	var completed, canceled int
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(t, sleeper, WithUnlimited())
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			resp, err := q.Submit(ctx, Request[int]{ID: "r", Params: 1}) // both at the same instant
			switch resp.Status {
			case StatusCompleted:
				completed++
				assert.NoError(t, err)
				assert.Equal(t, 1, resp.Result)
			case StatusCanceled:
				canceled++
				assert.ErrorIs(t, err, ErrCanceled)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.Zero(t, resp.Result)
			default:
				t.Errorf("ended as %q", resp.Status)
			}
			assert.Equal(t, resp.Status, status(t, q, "r").Status)
			synctest.Wait()
			addsUp(t, q)
		})
	}
	t.Logf("%d completed, %d canceled", completed, canceled)
}

// Wait gives the answer of a finished request even to a caller whose time is over.
func TestResultStandsThoughTheContextEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithUnlimited())
		id := post(t, q, Request[int]{Params: 7})
		synctest.Wait()
		resp, err := q.Wait(ended(), id)
		require.NoError(t, err)
		assert.Equal(t, 7, resp.Result)
	})
}

func TestCancelOfFinishedIsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, func(_ context.Context, r Request[int]) (int, error) {
			if r.Params < 0 {
				return 0, errBoom
			}
			return r.Params, nil
		}, WithUnlimited())
		for _, params := range []int{7, -1} {
			id := post(t, q, Request[int]{Params: params})
			before, _ := q.Wait(t.Context(), id)
			require.NoError(t, q.Cancel(id))
			require.NoError(t, q.Cancel(id))
			assert.Equal(t, before, status(t, q, id))
		}
		assert.Zero(t, addsUp(t, q).Canceled)
		assert.ErrorIs(t, q.Cancel("never seen"), ErrRequestNotFound)
	})
}

// A canceled attempt still cost what it cost.
func TestCanceledAttemptSettles(t *testing.T) {
	ways := map[string]func(q *Queue[int, int], id string, giveUp func()){
		"Cancel":         func(q *Queue[int, int], id string, _ func()) { _ = q.Cancel(id) },
		"caller gone":    func(_ *Queue[int, int], _ string, giveUp func()) { giveUp() },
		"timeout":        func(*Queue[int, int], string, func()) { time.Sleep(10 * time.Second) },
		"Shutdown":       func(q *Queue[int, int], _ string, _ func()) { _ = q.Shutdown(ended()) },
		"Cancel, forgot": nil,
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shared := NewSharedLimits(TPM(1000))
				opts := []Option{WithLimits(TPM(100)), WithSharedLimits(shared), WithTimeout(10 * time.Second)}
				if way == nil {
					opts = append(opts, WithHistory(0, 0))
					way = ways["Cancel"]
				}
				q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
					<-ctx.Done()
					time.Sleep(time.Second) // it takes a moment to stop
					ReportUsage(ctx, in(30))
					return 0, ctx.Err()
				}, opts...)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() { _, _ = q.Submit(ctx, Request[int]{ID: "r", Estimate: in(80)}) }()
				synctest.Wait()
				assert.EqualValues(t, 80, q.Info().Limits[0].Used)
				way(q, "r", cancel)
				time.Sleep(5 * time.Second)
				i := addsUp(t, q)
				assert.EqualValues(t, 30, i.Limits[0].Used, "the refund is there")
				assert.EqualValues(t, 30, i.Endpoints[0].Shared[0].Used, "also in the shared limits")
				assert.Equal(t, in(30), i.Usage)
				if resp, err := q.Status("r"); err == nil {
					assert.Equal(t, in(30), resp.Usage)
				}
			})
		})
	}
}

// A Wait registered before the end gets its answer, whatever is forgotten.
func TestWaitAlwaysGetsItsAnswer(t *testing.T) {
	for _, size := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(t, sleeper, WithUnlimited(), WithHistory(size, time.Nanosecond))
			const requests, waiters = 20, 5
			var answers atomic.Int64
			for i := range requests {
				id := post(t, q, Request[int]{Params: 1 + i%2})
				for range waiters {
					go func() {
						resp, err := q.Wait(t.Context(), id)
						assert.NoError(t, err)
						assert.Equal(t, id, resp.RequestID)
						assert.Equal(t, 1+i%2, resp.Result)
						answers.Add(1)
					}()
				}
			}
			synctest.Wait()
			time.Sleep(3 * time.Second)
			synctest.Wait()
			assert.EqualValues(t, requests*waiters, answers.Load())
			assert.EqualValues(t, requests, addsUp(t, q).Completed)
		})
	}
}

// The same when the id is used again at once.
func TestWaitIsForThatRequestOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithUnlimited(), WithHistory(0, 0))
		post(t, q, Request[int]{ID: "same", Params: 1})
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		var first Response[int]
		go func() { first, _ = q.Wait(ctx, "same") }()
		time.Sleep(time.Second)
		synctest.Wait()
		post(t, q, Request[int]{ID: "same", Params: 2})
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, 1, first.Result)
		resp, err := q.Wait(t.Context(), "same")
		require.NoError(t, err)
		assert.Equal(t, 2, resp.Result)
	})
}

// Giving up a Wait gives up nothing else.
func TestEndOfWaitCancelsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, sleeper, WithLimits(Concurrent(1)))
		running, waiting := post(t, q, Request[int]{Params: 10}), post(t, q, Request[int]{Params: 10})
		for id, want := range map[string]Status{running: StatusProcessing, waiting: StatusPending} {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errCause)
			patient := make(chan Response[int], 1)
			go func() {
				resp, _ := q.Wait(t.Context(), id)
				patient <- resp
			}()
			resp, err := q.Wait(ctx, id)
			cancel()
			require.ErrorIs(t, err, errCause)
			assert.Equal(t, want, resp.Status, "it says where the request is")
			assert.NoError(t, resp.Err)
			defer func() { assert.Equal(t, StatusCompleted, (<-patient).Status, "another Wait goes on") }()
		}
		resp, err := q.Wait(t.Context(), waiting)
		require.NoError(t, err)
		assert.Equal(t, 20*time.Second, resp.FinishedAt.Sub(resp.CreatedAt))
		_, err = q.Wait(t.Context(), "never seen")
		assert.ErrorIs(t, err, ErrRequestNotFound)
	})
}

// Submit races Shutdown: what was accepted ends, what was not says so.
func TestSubmitRacesShutdown(t *testing.T) {
	for range 50 {
		q, err := NewQueue("m", echo, WithLimits(Concurrent(4)))
		require.NoError(t, err)
		var accepted, refused atomic.Int64
		var wg sync.WaitGroup
		var ids sync.Map
		for i := range 8 {
			wg.Go(func() {
				for n := range 50 {
					resp, err := q.Submit(t.Context(), Request[int]{Params: n, NoWait: i%2 == 0})
					switch {
					case err == nil:
						accepted.Add(1)
						if i%2 == 0 {
							ids.Store(resp.RequestID, true)
						} else {
							assert.Equal(t, StatusCompleted, resp.Status)
						}
					case errors.Is(err, ErrQueueClosed):
						refused.Add(1)
						assert.Zero(t, resp)
					default:
						assert.NoError(t, err)
					}
				}
			})
		}
		var errs [2]error
		for i := range errs {
			wg.Go(func() {
				runtime.Gosched()
				errs[i] = q.Shutdown(t.Context())
			})
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs[:]...), "Shutdown twice is fine")
		i := addsUp(t, q)
		assert.Equal(t, accepted.Load(), i.Accepted)
		assert.Equal(t, accepted.Load(), i.Completed)
		assert.EqualValues(t, 400, accepted.Load()+refused.Load())
		ids.Range(func(id, _ any) bool {
			return assert.Equal(t, StatusCompleted, status(t, q, id.(string)).Status)
		})
	}
}

// Cancel races the end: one of the two wins, for everybody alike.
func TestCancelRacesCompletion(t *testing.T) {
	q := newQueue(t, echo, WithLimits(Concurrent(4)))
	var completed, canceled atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				resp, err := q.Submit(t.Context(), Request[int]{Params: 7, NoWait: true})
				require.NoError(t, err)
				id := resp.RequestID
				var both sync.WaitGroup
				both.Go(func() { assert.NoError(t, q.Cancel(id)) })
				resp, err = q.Wait(t.Context(), id)
				both.Wait()
				again, errAgain := q.Wait(t.Context(), id)
				assert.Equal(t, resp, again)
				assert.Equal(t, err, errAgain)
				switch resp.Status {
				case StatusCompleted:
					completed.Add(1)
					assert.NoError(t, err)
					assert.Equal(t, 7, resp.Result)
				case StatusCanceled:
					canceled.Add(1)
					assert.ErrorIs(t, err, ErrCanceled)
					assert.Zero(t, resp.Result)
				default:
					t.Errorf("ended as %q", resp.Status)
				}
			}
		})
	}
	wg.Wait()
	i := addsUp(t, q)
	assert.Equal(t, completed.Load(), i.Completed)
	assert.Equal(t, canceled.Load(), i.Canceled)
	assert.EqualValues(t, 4000, i.Accepted)
}

// Every fourth processor panics, exits its goroutine, fails or outlives its caller;
// the queue goes on and counts each once.
func TestCrashesUnderConcurrency(t *testing.T) {
	q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
		switch r.Params % 8 {
		case 0:
			panic(errBoom)
		case 1:
			runtime.Goexit()
		case 2:
			return 0, errBoom
		case 3:
			<-ctx.Done()
			return 0, ctx.Err()
		case 4:
			return 0, Retryable(errBoom)
		}
		ReportUsage(ctx, in(1))
		return r.Params, nil
	}, WithLimits(Concurrent(8), TPM(1<<40)), WithHistory(10, time.Minute),
		WithRetry(RetryPolicy{MaxAttempts: 2, BaseDelay: 1, MaxDelay: 1, Budget: -1}),
		WithMiddleware(func(ctx context.Context, _ Attempt, next func(context.Context) error) error { return next(ctx) }))
	var wg sync.WaitGroup
	var want [3]atomic.Int64
	for c := range 16 {
		wg.Go(func() {
			for n := range 200 {
				params := 200*c + n
				ctx, cancel := context.WithCancel(t.Context())
				if params%8 == 3 {
					go func() {
						runtime.Gosched()
						cancel()
					}()
				}
				resp, err := q.Submit(ctx, Request[int]{Params: params, Estimate: in(1)})
				cancel()
				if errors.Is(err, ErrCanceled) && resp.Status == "" {
					continue // it was gone before it came
				}
				var failed *ProcessingError
				var crashed *PanicError
				assert.Equal(t, resp.Err, err)
				switch params % 8 {
				case 0, 1:
					want[1].Add(1)
					assert.ErrorAs(t, err, &failed)
					assert.ErrorAs(t, err, &crashed)
				case 2, 4:
					want[1].Add(1)
					assert.ErrorAs(t, err, &failed)
					assert.ErrorIs(t, err, errBoom)
					assert.False(t, errors.As(err, &crashed))
				case 3:
					want[2].Add(1)
					assert.ErrorIs(t, err, ErrCanceled)
				default:
					want[0].Add(1)
					assert.NoError(t, err)
					assert.Equal(t, params, resp.Result)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, q.Shutdown(t.Context()))
	i := addsUp(t, q)
	assert.Equal(t, want[0].Load(), i.Completed)
	assert.Equal(t, want[1].Load(), i.Failed)
	assert.Equal(t, want[2].Load(), i.Canceled)
	assert.Zero(t, i.Abandoned)
	assert.Zero(t, i.Limits[0].Limit.Period)
}

// A crash between the processor and its answer is the request's, not the queue's.
func TestCrashesAroundTheProcessor(t *testing.T) {
	ways := map[string]func(ctx context.Context, a Attempt, next func(context.Context) error) error{
		"panic before":  func(context.Context, Attempt, func(context.Context) error) error { panic(errBoom) },
		"Goexit before": func(context.Context, Attempt, func(context.Context) error) error { runtime.Goexit(); return nil },
		"panic after": func(ctx context.Context, _ Attempt, next func(context.Context) error) error {
			_ = next(ctx)
			panic(errBoom)
		},
		"Goexit after": func(ctx context.Context, _ Attempt, next func(context.Context) error) error {
			_ = next(ctx)
			runtime.Goexit()
			return nil
		},
		"not called": func(context.Context, Attempt, func(context.Context) error) error { return nil },
	}
	for name, mw := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(t, echo, WithLimits(Concurrent(1)), WithMiddleware(func(ctx context.Context, a Attempt, next func(context.Context) error) error {
					if a.RequestID == "fine" {
						return next(ctx)
					}
					return mw(ctx, a, next)
				}))
				for range 3 {
					resp, err := q.Submit(t.Context(), Request[int]{Params: 7})
					var failed *ProcessingError
					require.ErrorAs(t, err, &failed)
					assert.Equal(t, StatusFailed, resp.Status)
					assert.Zero(t, resp.Result)
				}
				resp, err := q.Submit(t.Context(), Request[int]{ID: "fine", Params: 7})
				require.NoError(t, err)
				assert.Equal(t, 7, resp.Result)
				addsUp(t, q)
			})
		})
	}
}

// A processor returns at the instant at which a MaxWait ends: the request that starts
// before and the one that starts after the request that leaves both run.
func TestMaxWaitEndsWhileAWorkerIsFree(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
				time.Sleep(time.Second)
				if r.ID == "refund" {
					ReportUsage(ctx, in(10))
				}
				return r.Params, nil
			}, WithLimits(TPM(100)), WithMargin(0), WithoutDeadlineCheck())
			post(t, q, Request[int]{ID: "refund", Estimate: in(90)})
			post(t, q, Request[int]{ID: "a", Estimate: in(20)})
			post(t, q, Request[int]{ID: "too long", Estimate: in(90), MaxWait: time.Second})
			post(t, q, Request[int]{ID: "b", Estimate: in(20)})
			time.Sleep(10 * time.Second)
			for id, want := range map[string]Status{"refund": StatusCompleted, "a": StatusCompleted, "too long": StatusFailed, "b": StatusCompleted} {
				assert.Equal(t, want, status(t, q, id).Status, id)
			}
		})
	}
}

// Everything at once, on queues that share limits: every request ends once, every
// slot comes back, no limit is exceeded by what was known.
func TestEverythingAtOnce(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { everything(t, rand.New(rand.NewPCG(seed, 7))) })
		})
		if t.Failed() {
			return
		}
	}
}

func everything(t *testing.T, rng *rand.Rand) {
	var mu sync.Mutex // of rng
	roll := func(n int64) int64 {
		mu.Lock()
		defer mu.Unlock()
		return rng.Int64N(n)
	}
	var ax, ay admissions
	x := NewSharedLimits(RPM(20).Per(10*time.Second), Concurrent(6))
	y := NewSharedLimits(TPM(1000).Per(10*time.Second).WithBurst(400), Concurrent(5))
	process := func(inX, inY bool) Processor[int, int] {
		return func(ctx context.Context, r Request[int]) (int, error) {
			if inX {
				ax.note("", r.Estimate)
			}
			if inY {
				ay.note("", r.Estimate)
			}
			select {
			case <-time.After(time.Duration(roll(8000)) * time.Millisecond):
			case <-ctx.Done():
				if roll(2) == 0 {
					time.Sleep(time.Second)
				}
			}
			if roll(3) > 0 { // never an overrun, so that the limits are kept to the token
				ReportUsage(ctx, in(roll(r.Estimate.Total()+1)))
			}
			switch roll(12) {
			case 0:
				panic(errBoom)
			case 1:
				runtime.Goexit()
			case 2:
				return 0, errBoom
			case 3:
				return 0, Retryable(errBoom)
			case 4:
				return 0, RateLimited(nil, time.Duration(roll(3000))*time.Millisecond)
			}
			return 0, nil
		}
	}
	hist := WithHistory(int(roll(30)), time.Minute)
	queues := []*Queue[int, int]{
		newQueue(t, process(true, true), WithSharedLimits(x), WithSharedLimits(y), WithLimits(RPM(10).Per(7*time.Second).WithBurst(3)), hist),
		newQueue(t, process(true, true), WithSharedLimits(y), WithSharedLimits(x), WithTimeout(6*time.Second), hist),
		newQueue(t, process(true, false), WithSharedLimits(x), WithLimits(TPM(600).Per(5*time.Second), Concurrent(3)), hist),
		newQueue(t, process(false, true), WithSharedLimits(y), WithMaxQueued(20), hist),
	}
	var wg sync.WaitGroup
	for i, q := range queues {
		for range 3 {
			wg.Go(func() {
				var ids []string
				for range 40 {
					req := Request[int]{Priority: int(roll(2)), Tenant: fmt.Sprint(roll(3)), Estimate: in(1 + roll(400)), NoWait: roll(3) > 0}
					if roll(4) == 0 {
						req.MaxWait = time.Duration(roll(20)) * time.Second
					}
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+roll(60))*time.Second)
					resp, err := q.Submit(ctx, req)
					cancel()
					if err == nil {
						ids = append(ids, resp.RequestID)
					}
					if len(ids) > 0 {
						id := ids[roll(int64(len(ids)))]
						switch roll(8) {
						case 0:
							_ = q.Cancel(id)
						case 1:
							if r, err := q.Status(id); err == nil && r.Status == StatusPending {
								_ = q.UpdateUsage(id, in(1+roll(500)))
							}
						case 2:
							ctx, cancel := context.WithTimeout(context.Background(), time.Duration(roll(5))*time.Second)
							_, _ = q.Wait(ctx, id)
							cancel()
						}
					}
					switch roll(60) {
					case 0:
						q.Pause()
						time.Sleep(time.Duration(roll(5)) * time.Second)
						q.Resume()
					case 1:
						if i == 2 {
							_ = q.SetLimits(TPM(300+roll(300)).Per(5*time.Second), Concurrent(1+roll(4)))
						}
					}
					time.Sleep(time.Duration(roll(4000)) * time.Millisecond)
					addsUp(t, q)
				}
			})
		}
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Hour)
	defer cancel()
	for i, q := range queues {
		q.Resume()
		require.NoError(t, q.Shutdown(ctx), "queue %d hangs: %+v", i, q.Info())
		info := addsUp(t, q)
		assert.Zero(t, info.Pending+info.Processing+info.Abandoned)
	}
	assert.Zero(t, x.Info()[1].Used, "slots of x")
	assert.Zero(t, y.Info()[1].Used, "slots of y")
	assert.Zero(t, x.set.Waiting())
	assert.Zero(t, y.set.Waiting())
	ax.within(t, 10*time.Second, 20, one)
}

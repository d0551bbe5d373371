package llmqueue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// byParams coalesces requests whose params are equal; 0 shares nothing.
func byParams() Option {
	return WithCoalescing(func(r Request[int]) string {
		if r.Params == 0 {
			return ""
		}
		return fmt.Sprint(r.Params)
	})
}

// slow is a processor that counts its runs, takes a minute and uses ten tokens.
type slow struct {
	mu   sync.Mutex
	runs []Request[int]
	err  error
}

// asked are the params of the runs so far.
func (s *slow) asked() (params []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runs {
		params = append(params, r.Params)
	}
	return params
}

func (s *slow) process(ctx context.Context, r Request[int]) (string, error) {
	s.mu.Lock()
	s.runs = append(s.runs, r)
	s.mu.Unlock()
	nap(ctx, time.Minute)
	ReportUsage(ctx, in(10))
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	return fmt.Sprint("answer ", r.Params), s.err
}

// dice are random numbers for several goroutines.
type dice struct {
	mu  sync.Mutex
	rnd *rand.Rand
}

func (d *dice) IntN(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rnd.IntN(n)
}

func TestIdenticalRequestsShareACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s slow
		q := newQueue(t, s.process, WithLimits(RPM(100), Concurrent(1)), byParams())
		begin := time.Now()
		first := post(t, q, Request[int]{ID: "first", Params: 7, Metadata: map[string]string{"n": "1"}})
		time.Sleep(30 * time.Second)
		second := post(t, q, Request[int]{ID: "second", Params: 7, Metadata: map[string]string{"n": "2"}})
		other := post(t, q, Request[int]{ID: "other", Params: 8})
		post(t, q, Request[int]{ID: "other too", Params: 8})
		i := addsUp(t, q)
		assert.Equal(t, 2, i.Processing)
		assert.Equal(t, 2, i.Pending)
		assert.Equal(t, 2, q.Len())
		r := status(t, q, second)
		assert.Equal(t, StatusProcessing, r.Status)
		r = status(t, q, "other too")
		assert.Equal(t, StatusPending, r.Status)
		assert.Equal(t, 1, r.Position)
		got, err := q.Submit(t.Context(), Request[int]{Params: 7})
		require.NoError(t, err)
		assert.Equal(t, "answer 7", got.Result)
		assert.Equal(t, time.Minute, time.Since(begin), "it came late and is answered with the first")
		assert.Zero(t, got.Usage)
		var usage Usage
		for n, id := range []string{first, second} {
			r, err := q.Wait(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, "answer 7", r.Result)
			assert.Equal(t, id, r.RequestID)
			assert.Equal(t, map[string]string{"n": fmt.Sprint(n + 1)}, r.Metadata)
			assert.Equal(t, 1, r.Attempts)
			assert.Equal(t, begin, r.StartedAt)
			usage = usage.plus(r.Usage)
		}
		assert.Equal(t, in(10), usage, "what was used is told once")
		_, err = q.Wait(t.Context(), other)
		require.NoError(t, err)
		i = addsUp(t, q)
		assert.EqualValues(t, 5, i.Completed)
		assert.EqualValues(t, 3, i.Coalesced)
		assert.Equal(t, in(20), i.Usage)
		assert.Len(t, s.asked(), 2, "two calls")
		_, err = q.Submit(t.Context(), Request[int]{Params: 7})
		require.NoError(t, err)
		assert.Len(t, s.asked(), 3, "what ended is not shared")
		require.NoError(t, q.UpdateUsage(first, in(500)))
		assert.Equal(t, in(500), status(t, q, first).Usage)
		require.ErrorIs(t, q.UpdateUsage(second, in(5)), ErrRequestNotFound)
	})
}

// The call goes on while anybody waits, whoever leaves first, in line and running.
func TestACallStopsWhenItsLastWaiterLeaves(t *testing.T) {
	for _, running := range []bool{false, true} {
		for leaves := range 4 { // so many of three leave, the first first
			t.Run(fmt.Sprint("running ", running, ", leave ", leaves), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var s slow
					q := newQueue(t, s.process, WithLimits(Concurrent(1)), byParams())
					if !running {
						post(t, q, Request[int]{Params: 1})
					}
					answers := make([]Response[string], 3)
					var all sync.WaitGroup
					var cancels []context.CancelFunc
					for i := range answers {
						ctx, cancel := context.WithCancel(t.Context())
						cancels = append(cancels, cancel)
						all.Go(func() { answers[i], _ = q.Submit(ctx, Request[int]{ID: fmt.Sprint(i), Params: 7}) })
						synctest.Wait()
					}
					time.Sleep(10 * time.Second)
					for i := range leaves {
						cancels[i]()
						synctest.Wait()
						assert.Equal(t, StatusCanceled, answers[i].Status)
						assert.ErrorIs(t, answers[i].Err, ErrCanceled)
						addsUp(t, q)
					}
					calls := len(s.asked())
					all.Wait()
					for i := leaves; i < 3; i++ {
						assert.Equal(t, "answer 7", answers[i].Result, "who stays is answered")
					}
					for _, cancel := range cancels {
						cancel()
					}
					i := addsUp(t, q)
					assert.EqualValues(t, leaves, i.Canceled)
					assert.Equal(t, 1, calls)
					if leaves == 3 {
						assert.Equal(t, map[bool]int{true: 0, false: 1}[running], i.Processing, "its call has stopped")
						require.NoError(t, q.Shutdown(t.Context()))
						assert.Len(t, s.asked(), 1)
					}
				})
			})
		}
	}
}

func TestAFailureIsEverybodys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slow{err: errBoom}
		q := newQueue(t, s.process, WithUnlimited(), byParams())
		ids := []string{post(t, q, Request[int]{Params: 7}), post(t, q, Request[int]{Params: 7})}
		for _, id := range ids {
			_, err := q.Wait(t.Context(), id)
			require.ErrorIs(t, err, errBoom)
			pe := (*ProcessingError)(nil)
			require.ErrorAs(t, err, &pe)
			assert.Equal(t, id, pe.RequestID)
		}
		assert.EqualValues(t, 2, addsUp(t, q).Failed)
	})
}

// MaxWait is each one's own, and so is the room in the queue.
func TestWhatACallDoesNotShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s slow
		q := newQueue(t, s.process, WithLimits(Concurrent(1)), byParams(), WithMaxQueued(1), WithoutDeadlineCheck())
		post(t, q, Request[int]{Params: 1})
		patient := post(t, q, Request[int]{ID: "patient", Params: 7})
		hasty := post(t, q, Request[int]{ID: "hasty", Params: 7, MaxWait: 10 * time.Second})
		_, err := q.Submit(t.Context(), Request[int]{Params: 8})
		require.ErrorIs(t, err, ErrQueueFull)
		_, err = q.Submit(t.Context(), Request[int]{ID: "hasty", Params: 7})
		require.ErrorIs(t, err, ErrDuplicateRequest)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.ErrorIs(t, status(t, q, hasty).Err, ErrQueueTimeout)
		late := post(t, q, Request[int]{Params: 7, MaxWait: 55 * time.Second})
		time.Sleep(50 * time.Second)
		joins := post(t, q, Request[int]{Params: 7, MaxWait: time.Second})
		for _, id := range []string{patient, late, joins} {
			r, err := q.Wait(t.Context(), id)
			require.NoError(t, err, "MaxWait bounds the start, and it had started")
			assert.Equal(t, "answer 7", r.Result)
		}
		assert.Len(t, s.asked(), 2)
		addsUp(t, q)
	})
}

// Who is in a hurry takes the call along.
func TestACallIsAsUrgentAsItsMostUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s slow
		q := newQueue(t, s.process, WithLimits(Concurrent(1)), byParams())
		for i := range 4 {
			post(t, q, Request[int]{Params: i + 1})
		}
		r, err := q.Submit(t.Context(), Request[int]{Params: 4, Priority: 1})
		require.NoError(t, err)
		assert.Equal(t, "answer 4", r.Result)
		assert.Equal(t, 4, s.asked()[1])
		addsUp(t, q)
	})
}

func TestACallEndsWithItsQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s slow
		q := newQueue(t, s.process, WithLimits(Concurrent(1)), byParams())
		var ids []string
		for i := range 6 {
			ids = append(ids, post(t, q, Request[int]{Params: 7 + i/3}))
		}
		infos := q.Requests(RequestFilter{})
		require.Len(t, infos, 6)
		for i, info := range infos {
			assert.Equal(t, ids[i], info.ID)
			assert.Equal(t, map[bool]int{true: 1}[i >= 3], info.Position)
		}
		require.Len(t, q.Requests(RequestFilter{Limit: 2}), 2)
		require.ErrorIs(t, q.Shutdown(ended()), context.Canceled)
		for _, id := range ids {
			assert.ErrorIs(t, status(t, q, id).Err, ErrQueueClosed)
		}
		addsUp(t, q)
	})
}

func TestCoalescedRequestsAtAFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := managerOf(t, served{"a", down, []Option{byParams(), WithFallback("b")}}, served{"b", answering, nil})
		a, _ := m.Queue("a")
		first, second := post(t, a, Request[int]{Params: 7}), post(t, a, Request[int]{Params: 7})
		time.Sleep(3 * time.Second)
		assert.Equal(t, 2, addsUp(t, a).Forwarded)
		assert.Equal(t, StatusProcessing, status(t, a, second).Status)
		require.NoError(t, a.Cancel(first))
		r, err := a.Wait(t.Context(), second)
		require.NoError(t, err)
		assert.Equal(t, "b", r.ModelID)
		assert.Equal(t, "b", r.Result)
		assert.Equal(t, 3, r.Attempts)
		assert.EqualValues(t, 12, r.Usage.Total(), "the first left, so this one has it")
		b, _ := m.Info("b")
		assert.EqualValues(t, 1, b.Accepted)
	})
}

func TestCoalescingConfiguration(t *testing.T) {
	for _, o := range []Option{
		WithCoalescing(func(Request[string]) string { return "" }),
		WithCoalescing[int](nil),
	} {
		_, err := NewQueue("m", echo, WithUnlimited(), o)
		require.ErrorIs(t, err, ErrInvalidConfiguration)
	}
	q := newQueue(t, echo, WithUnlimited(), WithCoalescing(func(Request[int]) string { panic("no key") }))
	_, err := q.Submit(t.Context(), Request[int]{})
	require.ErrorIs(t, err, ErrInvalidParams)
}

// In random stories every request ends exactly once, equal ones that overlap share one
// call, and the counts add up at every moment.
func TestCoalescingStories(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			rnd := &dice{rnd: rand.New(rand.NewPCG(seed, 11))}
			var mu sync.Mutex
			running := map[int]context.Context{}
			q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
				mu.Lock()
				before := running[r.Params]
				assert.True(t, r.Params == 0 || before == nil || before.Err() != nil, "seed %d: two calls of one key at once", seed)
				running[r.Params] = ctx
				fate, d := rnd.IntN(6), time.Duration(rnd.IntN(3000))*time.Millisecond
				mu.Unlock()
				nap(ctx, d)
				mu.Lock()
				if running[r.Params] == ctx {
					delete(running, r.Params)
				}
				mu.Unlock()
				switch fate {
				case 0:
					return 0, Retryable(errDown)
				case 1:
					return 0, errBoom
				}
				return r.Params, ctx.Err()
			}, WithLimits(RPM(60), Concurrent(2)), byParams(), WithRetry(RetryPolicy{MaxAttempts: 3}), WithoutDeadlineCheck())
			ends := make(map[string]int)
			const total = 150
			for i := range total {
				id, params := fmt.Sprint(i), rnd.IntN(5)
				req := Request[int]{ID: id, Params: params, Priority: rnd.IntN(2), NoWait: rnd.IntN(2) == 0,
					MaxWait: time.Duration(rnd.IntN(3)) * 5 * time.Second, Tenant: fmt.Sprint(rnd.IntN(2))}
				ctx, cancel := context.WithCancel(t.Context())
				go func() {
					defer cancel()
					r, err := q.Submit(ctx, req)
					if err == nil && r.Status == StatusPending {
						r, _ = q.Wait(context.Background(), id)
					}
					mu.Lock()
					defer mu.Unlock()
					if r.Status == "" || r.Status.Final() { // refused: its context had ended
						ends[id]++
					}
					if r.Status == StatusCompleted {
						assert.Equal(t, params, r.Result, "seed %d", seed)
					}
				}()
				time.Sleep(time.Duration(rnd.IntN(500)) * time.Millisecond)
				switch rnd.IntN(6) {
				case 0:
					cancel()
				case 1:
					_ = q.Cancel(fmt.Sprint(rnd.IntN(i + 1)))
				case 2:
					_ = q.UpdateUsage(fmt.Sprint(rnd.IntN(i+1)), in(3))
				}
				addsUp(t, q)
				q.Requests(RequestFilter{})
			}
			time.Sleep(time.Hour)
			mu.Lock()
			defer mu.Unlock()
			require.Len(t, ends, total, "seed %d", seed)
			for id, n := range ends {
				require.Equal(t, 1, n, "seed %d: %s", seed, id)
			}
			i := addsUp(t, q)
			assert.Zero(t, i.Pending+i.Processing, "seed %d", seed)
			assert.Empty(t, q.calls.byKey)
			assert.Empty(t, q.calls.byFollower)
			assert.Empty(t, q.calls.byRecord)
		})
	}
}

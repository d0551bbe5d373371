package llmqueue

import (
	"context"
	"errors"
	"iter"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// counter is a processor that emits 1, 2, … up to its params, and gives their sum.
func counter(ctx context.Context, r Request[int]) (sum int, err error) {
	for i := range r.Params {
		if err := Emit(ctx, i+1); err != nil {
			return sum, err
		}
		sum += i + 1
	}
	return sum, nil
}

// take collects the chunks of a stream and the error at its end.
func take[C any](chunks iter.Seq2[C, error]) (all []C, err error) {
	for chunk, e := range chunks {
		if err = e; err == nil {
			all = append(all, chunk)
		}
	}
	return all, err
}

func TestStreamGivesChunksThenTheResponse(t *testing.T) {
	q := newQueue(t, counter, WithUnlimited())
	s := Stream[int](t.Context(), q, Request[int]{ID: "s", Params: 4, NoWait: true, Metadata: map[string]string{"k": "v"}})
	assert.Zero(t, q.Info().Accepted, "nothing is submitted before somebody listens")
	var got []int
	for chunk, err := range s.Chunks() {
		require.NoError(t, err)
		got = append(got, chunk)
		_, err = s.Response()
		assert.ErrorContains(t, err, "after it")
	}
	assert.Equal(t, []int{1, 2, 3, 4}, got)
	resp, err := s.Response()
	require.NoError(t, err)
	assert.Equal(t, StatusCompleted, resp.Status)
	assert.Equal(t, 10, resp.Result)
	assert.Equal(t, "s", resp.RequestID)
	assert.Equal(t, map[string]string{"k": "v"}, resp.Metadata)
	again, err := take(s.Chunks())
	assert.NoError(t, err)
	assert.Empty(t, again)
	assert.EqualValues(t, 1, addsUp(t, q).Completed)
}

// Who wants no chunks asks for the response only.
func TestStreamWithoutTheLoopDropsTheChunks(t *testing.T) {
	q := newQueue(t, counter, WithUnlimited())
	resp, err := Stream[int](t.Context(), q, Request[int]{Params: 4}).Response()
	require.NoError(t, err)
	assert.Equal(t, 10, resp.Result)
}

// What goes wrong comes as the last pair of the loop and from Response, also on a second look.
func TestStreamsEndWithTheirError(t *testing.T) {
	broken := func(ctx context.Context, r Request[int]) (int, error) {
		if err := Emit(ctx, 1); err != nil {
			return 0, err
		}
		return 0, Retryable(errBoom)
	}
	closed := newQueue(t, counter, WithUnlimited())
	require.NoError(t, closed.Shutdown(t.Context()))
	for name, c := range map[string]struct {
		q      *Queue[int, int]
		req    Request[int]
		chunks []int
		is     error
		want   Status
	}{
		"failed after the first chunk, which is not tried again": {newQueue(t, broken, WithUnlimited()), Request[int]{}, []int{1}, errBoom, StatusFailed},
		"refused":       {closed, Request[int]{}, nil, ErrQueueClosed, ""},
		"another model": {newQueue(t, counter, WithUnlimited()), Request[int]{ModelID: "other"}, nil, ErrModelNotRegistered, ""},
		"no queue":      {nil, Request[int]{}, nil, ErrInvalidConfiguration, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := Stream[int](t.Context(), c.q, c.req)
			got, err := take(s.Chunks())
			assert.Equal(t, c.chunks, got)
			assert.ErrorIs(t, err, c.is)
			resp, again := s.Response()
			assert.Equal(t, err, again)
			assert.Equal(t, c.want, resp.Status)
			if c.want != "" {
				assert.Equal(t, 1, resp.Attempts)
				assert.Equal(t, err, resp.Err)
			}
			_, again = take(s.Chunks())
			assert.Equal(t, err, again)
		})
	}
}

// A consumer that stops in the middle ends the request: its processor is told, at its Emit, and
// the slot is free when that returns. However it stops, its own code is never run again.
func TestLeavingAStreamStopsTheProcessor(t *testing.T) {
	for name, leave := range map[string]func(cancel func()) (goOn bool){
		"break":    func(func()) bool { return false },
		"panic":    func(func()) bool { panic(errBoom) },
		"canceled": func(cancel func()) bool { cancel(); return true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan error, 1)
				q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
					for {
						if err := Emit(ctx, "chunk"); err != nil {
							ended <- err
							return 0, err
						}
					}
				}, WithLimits(Concurrent(1)))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := Stream[string](ctx, q, Request[int]{ID: "s"})
				taken := 0
				func() {
					defer func() {
						if p := recover(); p != nil {
							assert.Equal(t, errBoom, p)
						}
					}()
					for _, err := range s.Chunks() {
						if err != nil {
							assert.ErrorIs(t, err, ErrCanceled)
							break
						}
						if taken++; taken == 3 && !leave(cancel) {
							break
						}
						assert.LessOrEqual(t, taken, 4, "one may have been on its way")
					}
				}()
				assert.ErrorIs(t, <-ended, context.Canceled)
				synctest.Wait()
				resp, err := s.Response()
				assert.ErrorIs(t, err, ErrCanceled)
				assert.ErrorIs(t, err, context.Canceled)
				assert.Equal(t, StatusCanceled, resp.Status)
				i := addsUp(t, q)
				assert.Zero(t, i.Abandoned)
				assert.EqualValues(t, 1, i.Canceled)
			})
		})
	}
}

// The end of the caller's context reaches the processor also while the loop's body hangs.
func TestACanceledStreamDoesNotWaitForItsConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			defer close(ended)
			return counter(ctx, r)
		}, WithUnlimited())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for _, err := range Stream[int](ctx, q, Request[int]{Params: 9}).Chunks() {
			require.NoError(t, err)
			cancel()
			<-ended
			break
		}
	})
}

// A slow consumer slows the processor down: never is more than one chunk on its way. That is not
// taken for a provider that stalls; WithTimeout bounds it.
func TestStreamsHoldTheProviderBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		emitted := 0
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			for i := range r.Params {
				if err := Emit(ctx, i); err != nil {
					return 0, err
				}
				mu.Lock()
				emitted++
				mu.Unlock()
			}
			time.Sleep(time.Duration(r.Priority) * time.Second)
			return 0, ctx.Err()
		}, WithUnlimited(), WithStallTimeout(2*time.Second), WithTimeout(time.Hour-30*time.Second))
		taken := 0
		for _, err := range Stream[int](t.Context(), q, Request[int]{Params: 10}).Chunks() {
			require.NoError(t, err)
			taken++
			time.Sleep(time.Minute)
			synctest.Wait()
			mu.Lock()
			assert.Equal(t, taken, emitted)
			mu.Unlock()
		}
		assert.Equal(t, 10, taken)

		_, err := take(Stream[int](t.Context(), q, Request[int]{Params: 1, Priority: 9}).Chunks())
		assert.ErrorContains(t, err, "nothing more of the answer came for 2s", "a provider that stalls is told from that")

		begin := time.Now()
		for _, err = range Stream[int](t.Context(), q, Request[int]{Params: 99}).Chunks() {
			time.Sleep(time.Minute)
		}
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 61*time.Minute, time.Since(begin), "at the next chunk after the timeout")
	})
}

// Of two attempts of a request the first to emit goes on; the other's Emit fails, and none of
// its chunks comes.
func TestTheFirstChunkDecidesAHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := make(chan error, 1)
		ask := func(first, chunks time.Duration) Processor[int, string] {
			return func(ctx context.Context, r Request[int]) (string, error) {
				name := map[bool]string{true: "slow", false: "fast"}[first > 5*time.Second]
				time.Sleep(first) // deaf, so that only Emit can stop it
				for range 3 {
					if err := Emit(ctx, name); err != nil {
						lost <- err
						return "", err
					}
					time.Sleep(chunks)
				}
				return name, nil
			}
		}
		q := newQueue(t, ask(10*time.Second, time.Second), WithLimits(Concurrent(1)), WithHedge(HedgePolicy{After: 2 * time.Second, Share: 1}))
		require.NoError(t, q.AddEndpoint("other", ask(time.Second, 20*time.Second), WithLimits(Concurrent(1))))
		hedged := false
		for i := 0; i < 100 && !hedged; i++ { // which endpoint is first is decided by chance
			s := Stream[string](t.Context(), q, Request[int]{})
			got, err := take(s.Chunks())
			require.NoError(t, err)
			assert.Equal(t, []string{"fast", "fast", "fast"}, got)
			resp, err := s.Response()
			require.NoError(t, err)
			assert.Equal(t, "fast", resp.Result)
			if resp.Attempts == 2 {
				hedged = true
				assert.ErrorIs(t, <-lost, context.Canceled)
			}
			time.Sleep(time.Minute)
		}
		assert.True(t, hedged)
		assert.Zero(t, addsUp(t, q).Abandoned)
	})
}

// Two attempts that emit at the same instant, on several goroutines: the chunks are of one of them.
func TestAttemptsThatEmitTogetherDoNotMix(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			attempts := 0
			q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
				mu.Lock()
				attempts++
				me := attempts
				mu.Unlock()
				if me == 1 {
					time.Sleep(5 * time.Second)
				} else {
					time.Sleep(4 * time.Second)
				}
				var all sync.WaitGroup
				for range 4 {
					all.Go(func() { _ = Emit(ctx, me) })
				}
				all.Wait()
				return me, ctx.Err()
			}, WithUnlimited(), WithHedge(HedgePolicy{After: time.Second, Share: 1}))
			got, err := take(Stream[int](t.Context(), q, Request[int]{}).Chunks())
			require.NoError(t, err)
			require.Len(t, got, 4)
			for _, of := range got {
				assert.Equal(t, got[0], of)
			}
			mu.Lock()
			defer mu.Unlock()
			assert.Equal(t, 2, attempts)
		})
	}
}

// An Emit that nobody can take says what to do, and is no reason to try again.
func TestEmitWithoutAConsumer(t *testing.T) {
	q := newQueue(t, counter, WithUnlimited(), WithRetry(RetryPolicy{MaxAttempts: 3}))
	chunkless := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) { return 0, Emit(context.Background(), 1) }, WithUnlimited())
	one := Request[int]{Params: 1}
	for name, c := range map[string]struct {
		call func() error
		says string
	}{
		"outside an attempt": {func() error { return Emit(t.Context(), 1) }, "call Stream instead"},
		"Do":                 {func() error { _, err := q.Do(t.Context(), 1); return err }, "call Stream instead"},
		"SubmitAll": {func() (err error) {
			for _, err = range q.SubmitAll(t.Context(), func(yield func(Request[int]) bool) { yield(one) }) {
			}
			return err
		}, "call Stream instead"},
		"fire and forget": {func() error { _, err := q.Wait(t.Context(), post(t, q, one)); return err }, "call Stream instead"},
		"Call": {func() error {
			return q.Call(t.Context(), Claim{}, func(ctx context.Context) error { return Emit(ctx, 1) })
		}, "call Stream instead"},
		"permit": {func() error {
			p := acquire(t, q, Claim{})
			return p.Done(Emit(p.Context(), 1))
		}, "call Stream instead"},
		"another context": {func() error { _, err := take(Stream[int](t.Context(), chunkless, one).Chunks()); return err }, "the processor's context"},
		"another type": {func() error { _, err := take(Stream[string](t.Context(), q, one).Chunks()); return err },
			"Emit got a chunk of type int, but the consumer called Stream[string]: give both the same type"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.call()
			assert.ErrorContains(t, err, c.says)
			if failed := (*ProcessingError)(nil); errors.As(err, &failed) {
				assert.Equal(t, 1, failed.Attempts)
			}
		})
	}
}

// A stream goes where its request goes: after a refusal to a fallback, and no further once a chunk
// was taken.
func TestStreamsFollowAFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager[int, int](WithUnlimited())
		defer m.Shutdown(t.Context())
		q, err := m.Register("large", func(ctx context.Context, r Request[int]) (int, error) {
			for i := range r.Priority {
				if err := Emit(ctx, -i-1); err != nil {
					return 0, err
				}
			}
			return 0, Elsewhere(errBoom)
		}, WithFallback("small"))
		require.NoError(t, err)
		_, err = m.Register("small", counter, WithCoalescing(func(Request[int]) string { return "all" }))
		require.NoError(t, err)

		got, err := take(Stream[int](t.Context(), q, Request[int]{Params: 3, Priority: 1}).Chunks())
		assert.ErrorIs(t, err, errBoom)
		assert.Equal(t, []int{-1}, got, "half an answer of one model is not completed by another")

		s := Stream[int](t.Context(), q, Request[int]{Params: 3})
		got, err = take(s.Chunks())
		require.NoError(t, err)
		assert.Equal(t, []int{1, 2, 3}, got)
		resp, err := s.Response()
		require.NoError(t, err)
		assert.Equal(t, "small", resp.ModelID)
		assert.Equal(t, 6, resp.Result)

		for range Stream[int](t.Context(), q, Request[int]{Params: 3}).Chunks() {
			break
		}
		synctest.Wait()
		small, _ := m.Queue("small")
		assert.EqualValues(t, 1, addsUp(t, small).Canceled, "leaving reaches the fallback")
		assert.Zero(t, small.Info().Abandoned)
	})
}

// A stream has a call of its own, also beside others of its key.
func TestStreamsShareNoCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		var mu sync.Mutex
		q := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			mu.Lock()
			calls++
			mu.Unlock()
			time.Sleep(time.Second)
			return counter(ctx, r)
		}, WithUnlimited(), WithCoalescing(func(Request[int]) string { return "key" }))
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				got, err := take(Stream[int](t.Context(), q, Request[int]{Params: 2}).Chunks())
				assert.NoError(t, err)
				assert.Equal(t, []int{1, 2}, got)
			})
		}
		all.Wait()
		assert.Equal(t, 3, calls)
		assert.Zero(t, q.Info().Coalesced)
	})
}

// What a processor asks of another queue may emit to the stream around both, and a failure after
// that is tried again by neither.
func TestNestedCallsEmitToTheStreamAround(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		inner := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			tries++
			if err := Emit(ctx, strings.Repeat("i", r.Params)); err != nil {
				return 0, err
			}
			return 0, Retryable(errBoom)
		}, WithUnlimited(), WithCoalescing(func(r Request[int]) string { return strings.Repeat("k", r.Params-1) }))
		var nested error
		outer := newQueue(t, func(ctx context.Context, r Request[int]) (int, error) {
			if r.Params == 0 {
				nested = inner.Call(ctx, Claim{}, func(ctx context.Context) error {
					tries++
					return errors.Join(Emit(ctx, "c"), Retryable(errBoom))
				})
			} else {
				_, nested = inner.Do(ctx, r.Params)
			}
			if err := Emit(ctx, "o"); err != nil {
				return 0, err
			}
			return 0, Retryable(nested)
		}, WithUnlimited())
		for params, want := range [][]string{{"c", "o"}, {"i", "o"}} {
			tries = 0
			got, err := take(Stream[string](t.Context(), outer, Request[int]{Params: params}).Chunks())
			assert.ErrorIs(t, err, errBoom)
			assert.Equal(t, want, got)
			assert.Equal(t, 1, tries)
		}
		got, err := take(Stream[string](t.Context(), outer, Request[int]{Params: 2}).Chunks())
		assert.ErrorContains(t, err, "call Stream instead", "others may wait for a shared call")
		assert.Equal(t, []string{"o"}, got)
	})
}

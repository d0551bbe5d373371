package llmqueue

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The tests of this file were seen to fail with arm looking again in an hour instead of a
// minute, and without the engine's Adjust.

// sleepThrough lets the machine sleep: the wall clock goes on, while timers and the
// monotonic clock, which q's instants count on, stand still.
func sleepThrough[P, T any](q *Queue[P, T], d time.Duration) {
	q.mu.Lock()
	armed := q.armed != 0 && q.timer.Stop()
	left := time.Duration(q.armed - q.clock.Since(time.Now()))
	q.mu.Unlock()
	time.Sleep(d)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.clock.Epoch = q.clock.Epoch.Add(d)
	if armed {
		q.timer.Reset(left)
	}
}

// startOf submits a request and returns when it starts.
func startOf(t *testing.T, q *Queue[int, int]) <-chan time.Time {
	t.Helper()
	started := make(chan time.Time, 1)
	go func() {
		resp, err := q.Submit(t.Context(), Request[int]{})
		assert.NoError(t, err)
		started <- resp.StartedAt
	}()
	synctest.Wait()
	return started
}

func TestAfterTheMachinesSleepALongLimitGoesByTheWallClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t, echo, WithLimits(RPM(1).Per(8*time.Hour)), WithMargin(0))
		_, err := q.Submit(t.Context(), Request[int]{})
		require.NoError(t, err)
		started := startOf(t, q)
		sleepThrough(q, 8*time.Hour)
		woke := time.Now()
		<-started
		assert.LessOrEqual(t, time.Since(woke), time.Minute,
			"the eight hours had passed in the machine's sleep, and the request waited on after it woke")
	})
}

func TestAPauseGoesOnWhileTheMachineSleeps(t *testing.T) {
	for name, c := range map[string]struct{ before, slept, after, want time.Duration }{
		"slept for a part of it":    {0, 2 * time.Hour, 0, time.Hour},
		"slept until after its end": {0, 4 * time.Hour, 0, 0},
		"slept before it began":     {5 * time.Hour, 0, 0, 3 * time.Hour},
		"slept twice":               {5 * time.Hour, time.Hour, time.Hour, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refused := false
				process := func(_ context.Context, r Request[int]) (int, error) {
					if !refused {
						refused = true
						return 0, RateLimited(errors.New("come back in three hours"), 3*time.Hour)
					}
					return r.Params, nil
				}
				q := newQueue(t, process, WithLimits(RPM(100)), WithMargin(0), WithMaxPause(3*time.Hour))
				sleepThrough(q, c.before)
				started := startOf(t, q)
				sleepThrough(q, c.slept)
				sleepThrough(q, c.after)
				woke := time.Now()
				late := (<-started).Sub(woke) - c.want
				assert.True(t, late >= 0 && late <= time.Minute,
					"paused for 3h, the queue starts %v after waking instead of about %v", late+c.want, c.want)
			})
		})
	}
}

// What a response and an event say of one instant is the same, also after a sleep.
func TestDatesFollowTheWallClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []Event
		q := newQueue(t, sleeper, WithLimits(Concurrent(1)), WithObserver(func(e Event) { events = append(events, e) }))
		first := post(t, q, Request[int]{Params: 1})
		r, err := q.Wait(t.Context(), first)
		require.NoError(t, err)
		created := r.CreatedAt
		sleepThrough(q, 3*time.Hour)
		before := time.Now()
		second := post(t, q, Request[int]{Params: 1})
		s, err := q.Wait(t.Context(), second)
		require.NoError(t, err)
		synctest.Wait()
		assert.True(t, s.CreatedAt.Equal(before), "created at %v, and the clock said %v", s.CreatedAt, before)
		assert.True(t, s.StartedAt.Equal(before))
		assert.Equal(t, time.Second, s.FinishedAt.Sub(s.StartedAt))
		assert.True(t, status(t, q, first).CreatedAt.Equal(created), "what was before the sleep stays where it was")
		for _, e := range events {
			if e.RequestID == second && e.Type == EventStarted {
				assert.True(t, e.Time.Equal(s.StartedAt), "the event says %v, the response %v", e.Time, s.StartedAt)
			}
		}
	})
}

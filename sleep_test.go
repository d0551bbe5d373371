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
// minute, without wakeFromSleep, and without its call in pauseUntil.

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
				q := newQueue(t, process, WithLimits(RPM(100)), WithMargin(0))
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

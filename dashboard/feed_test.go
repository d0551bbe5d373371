package dashboard

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// All who watch share one snapshot a second, and nobody is asked when nobody watches.
func TestOneSnapshotATickForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := &counted{Inspector: newManager(t, "m", llmqueue.Concurrent(1))}
		p := Handler(in)
		time.Sleep(time.Hour)
		assert.Zero(t, in.asked.Load(), "nobody watched yet")

		var readers [3]reader
		var leave [3]func()
		for i := range readers {
			leave[i] = watch(t, p, &readers[i])
		}
		time.Sleep(10*time.Second + time.Millisecond)
		assert.EqualValues(t, 11, in.asked.Load(), "once at the start and once a second")
		for i := range readers {
			_, snapshots := readers[i].events(t)
			assert.Len(t, snapshots, 11)
			leave[i]()
		}
		synctest.Wait()
		time.Sleep(time.Hour)
		assert.EqualValues(t, 11, in.asked.Load(), "nobody watches any more")

		defer watch(t, p, &readers[0])()
		time.Sleep(time.Millisecond)
		assert.EqualValues(t, 12, in.asked.Load(), "who comes back need not wait for a tick")
	})
}

// Who comes later sees at once what was last shown.
func TestALaterViewerWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Handler(newManager(t, "m", llmqueue.Concurrent(1)))
		var first, second reader
		defer watch(t, p, &first)()
		time.Sleep(1500 * time.Millisecond)
		defer watch(t, p, &second)()
		synctest.Wait()
		_, snapshots := second.events(t)
		assert.Len(t, snapshots, 1)
	})
}

// A viewer that takes five seconds for each event gets the latest one, not all of
// them, and delays nobody.
func TestASlowViewerSkipsTicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Handler(newManager(t, "m", llmqueue.Concurrent(1)))
		slow, quick := reader{delay: 5 * time.Second}, reader{}
		leaveSlow, leaveQuick := watch(t, p, &slow), watch(t, p, &quick)
		time.Sleep(20*time.Second + time.Millisecond)
		leaveQuick()
		leaveSlow()
		_, few := slow.events(t)
		_, all := quick.events(t)
		assert.Len(t, all, 21)
		require.Len(t, few, 4) // begun at 5, 10, 15 and 20 s
		for i, at := range []int{5, 10, 15, 20} {
			age := all[at].Time - few[i].Time
			assert.LessOrEqual(t, age, int64(1000), "the snapshot sent at %d s is %d ms old", at, age)
		}
	})
}

// The server's own timeouts do not end a stream, a viewer that takes nothing does, and
// a writer without deadlines is fine.
func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := Handler(newManager(t, "m", llmqueue.Concurrent(1)))
		var r reader
		begin := time.Now()
		leave := watch(t, p, &r)
		time.Sleep(2500 * time.Millisecond)
		leave()
		synctest.Wait()
		assert.Equal(t, []time.Time{{}}, r.deadline.read, "the deadline for reading is lifted")
		require.Len(t, r.deadline.write, 4)
		for i, sent := range []time.Duration{0, 0, time.Second, 2 * time.Second} {
			assert.Equal(t, begin.Add(sent+writePatience), r.deadline.write[i])
		}

		plain := reader{noLimits: true}
		leave = watch(t, p, &plain)
		time.Sleep(1500 * time.Millisecond)
		leave()
		synctest.Wait()
		_, snapshots := plain.events(t)
		assert.Len(t, snapshots, 2)

		gone := reader{}
		watch(t, p, &gone) // ends by itself, or the bubble would not
		time.Sleep(1500 * time.Millisecond)
		gone.mu.Lock()
		gone.broken = errors.New("connection reset")
		gone.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Empty(t, p.feed.viewers)
	})
}

// A real server with short timeouts does not cut the stream.
func TestStreamOutlivesTheServersTimeouts(t *testing.T) {
	p := Handler(newManager(t, "m", llmqueue.Concurrent(1)))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	server := &http.Server{
		Handler: p, ReadTimeout: time.Second, WriteTimeout: time.Second, // the third snapshot comes after two
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	res, err := http.Get("http://" + listener.Addr().String() + "/stream")
	require.NoError(t, err)
	defer res.Body.Close()
	assert.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
	snapshots := 0
	for lines := bufio.NewScanner(res.Body); snapshots < 3; {
		require.True(t, lines.Scan(), "the stream ended after %d snapshots: %v", snapshots, lines.Err())
		if strings.HasPrefix(lines.Text(), "event: snapshot") {
			snapshots++
		}
	}
	cancel()
	require.NoError(t, server.Shutdown(t.Context()), "it waits for nobody once the base context has ended")
	assert.ErrorIs(t, <-served, http.ErrServerClosed)
	http.DefaultClient.CloseIdleConnections()
}

// The history has throughput and wait as the queue made them, and a page opened later
// gets it.
func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, "m", llmqueue.RPM(2).Per(time.Second).WithBurst(1))
		p := Handler(m)
		var first reader
		leave := watch(t, p, &first)
		synctest.Wait()
		time.Sleep(100 * time.Millisecond) // between two ticks
		for range 60 {
			post(t, m, job{}) // start twice a second and end at once
		}
		time.Sleep(20 * time.Second)
		var later reader
		leaveLater := watch(t, p, &later)
		synctest.Wait()
		leaveLater()
		hello, _ := later.events(t)
		require.Len(t, hello.History, 1)
		h := hello.History[0]
		assert.Equal(t, "m", h.Model)
		require.Len(t, h.Times, 21)
		assert.InDelta(t, 20, h.Times[20]-h.Times[0], 0.01)
		assert.Nil(t, h.Throughput[0], "one point makes no rate")
		assert.InDelta(t, 120, *h.Throughput[20], 0.1, "two a second")
		// Over the last 10 s those started that came first and had waited for 10 to 20 s.
		assert.InDelta(t, 15, *h.Wait[20], 0.5)

		_, snapshots := first.events(t)
		last := snapshots[len(snapshots)-1].Models[0]
		assert.Equal(t, h.Throughput[20], last.Throughput)
		assert.Equal(t, h.Wait[20], last.Wait)

		// Paused, nothing starts: the wait is that of the next one, and grows.
		require.NoError(t, m.Pause("m"))
		time.Sleep(15 * time.Second)
		_, snapshots = first.events(t)
		last = snapshots[len(snapshots)-1].Models[0]
		assert.Zero(t, *last.Throughput)
		assert.InDelta(t, 35, *last.Wait, 1)

		// A time in which nobody watched is a gap, not a line across it.
		leave()
		time.Sleep(time.Minute)
		defer watch(t, p, &reader{})()
		time.Sleep(1500 * time.Millisecond)
		var again reader
		defer watch(t, p, &again)()
		synctest.Wait()
		hello, _ = again.events(t)
		h = hello.History[0]
		n := len(h.Times)
		assert.InDelta(t, 60, h.Times[n-2]-h.Times[n-4], 1.1)
		assert.Nil(t, h.Throughput[n-3], "the gap")
		assert.Nil(t, h.Wait[n-3], "the gap")
		assert.Nil(t, h.Throughput[n-2], "no rate across the gap")
		assert.NotNil(t, h.Throughput[n-1])
	})
}

// The wait is the mean of all attempts, not of those that a snapshot lists, and a queue
// that took another's place begins anew.
//
// More are posted than a snapshot lists, and fewer than the race detector follows at once (its 256 slots: beyond
// them Go 1.26.8 may crash in a bubble).
//
// Faults seen to fail here: only what is listed counted; the other queue's counts
// taken for those of the first.
func TestHistoryCountsEveryAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, "m", llmqueue.RPM(210).Per(2*time.Second))
		var r reader
		defer watch(t, Handler(m), &r)()
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
		for range 231 {
			post(t, m, job{})
		}
		time.Sleep(3 * time.Second)
		last := func() (wait, throughput *float64) {
			t.Helper()
			_, snapshots := r.events(t)
			require.NotEmpty(t, snapshots)
			last := snapshots[len(snapshots)-1].Models[0]
			return last.Wait, last.Throughput
		}
		wait, _ := last()
		require.NotNil(t, wait)
		assert.InDelta(t, (210*0.0+21*2.0)/231, *wait, 0.001)

		require.NoError(t, m.Unregister(t.Context(), "m"))
		_, err := m.Register("m", process, llmqueue.WithUnlimited())
		require.NoError(t, err)
		post(t, m, job{})
		time.Sleep(time.Second)
		_, throughput := last()
		assert.Nil(t, throughput, "one point makes no rate")
		post(t, m, job{})
		time.Sleep(time.Second)
		_, throughput = last()
		require.NotNil(t, throughput)
		assert.InDelta(t, 60, *throughput, 0.1)
	})
}

// The history has a bound, and that of a model that is gone goes too.
func TestHistoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, "m", llmqueue.Concurrent(1))
		p := Handler(m)
		var r reader
		defer watch(t, p, &r)()
		time.Sleep((maxSamples + 2) * tick)
		synctest.Wait() // for the sample of this instant
		assert.Len(t, p.feed.past[key{0, "m"}].samples, maxSamples)
		p.feed.look()
		synctest.Wait()
		samples := p.feed.past[key{0, "m"}].samples
		assert.Equal(t, tick, samples[maxSamples-1].at.Sub(samples[maxSamples-2].at), "an extra look is no sample")
		require.NoError(t, m.Unregister(t.Context(), "m"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		assert.Empty(t, p.feed.past)
		_, snapshots := r.events(t)
		assert.Empty(t, snapshots[len(snapshots)-1].Models)
		assert.NotNil(t, snapshots[len(snapshots)-1].Models)
	})
}

package fanout

import (
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestEventsComeInOrderAndSurviveTheFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dropped atomic.Int64
		var got []int
		o := New(func(i int) {
			got = append(got, i)
			switch i % 10 {
			case 3:
				panic("boom")
			case 7:
				runtime.Goexit()
			}
		}, 64, &dropped)
		var want []int
		for i := range 60 {
			o.Offer(&i)
			if want = append(want, i); i%20 == 0 {
				synctest.Wait()
			}
		}
		o.Stop()
		<-o.Done()
		assert.Equal(t, want, got, "what waited at Stop is handled")
		assert.Zero(t, dropped.Load())
	})
}

func TestASlowFunctionLosesWhatThereIsNoRoomFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dropped atomic.Int64
		var got []int
		release := make(chan struct{})
		o := New(func(i int) {
			<-release
			got = append(got, i)
		}, 32, &dropped)
		for i := range 40 {
			o.Offer(&i)
			synctest.Wait() // the first is with the function
		}
		assert.EqualValues(t, 40-33, dropped.Load())
		assert.Len(t, o.ring, 32)
		close(release)
		o.Stop()
		<-o.Done()
		assert.Len(t, got, 33)
		assert.Equal(t, 32, got[32], "the latest are the lost ones")
	})
}

func TestStopAllWaitsForAllAndNoLongerThanTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dropped atomic.Int64
		begin := time.Now()
		StopAll([]*Observer[time.Duration]{}, time.Minute)
		var all []*Observer[time.Duration]
		for range 3 {
			all = append(all, New(func(d time.Duration) { time.Sleep(d) }, 16, &dropped))
		}
		for i, o := range all {
			took := time.Duration(i) * time.Second
			o.Offer(&took)
		}
		StopAll(all, time.Minute)
		assert.Equal(t, 2*time.Second, time.Since(begin), "as long as the slowest takes")

		hangs, hour := New(func(d time.Duration) { time.Sleep(d) }, 16, &dropped), time.Hour
		hangs.Offer(&hour)
		StopAll([]*Observer[time.Duration]{hangs}, time.Minute)
		assert.Equal(t, time.Minute+2*time.Second, time.Since(begin))
		<-hangs.Done()
	})
}

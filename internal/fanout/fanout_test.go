package fanout

import (
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"

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

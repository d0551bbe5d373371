package batch

import (
	"testing"
	"testing/synctest"
	"time"
)

// A refused attempt waits for what is under way, and no longer.
func TestTrial(t *testing.T) {
	for name, c := range map[string]struct {
		passes bool
		others int // under way beside the one that is held
		takes  time.Duration
		want   bool
	}{
		"alone":                         {false, 0, 0, false},
		"another one is answered":       {true, 1, time.Minute, true},
		"another one is refused, later": {false, 1, time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := trial{passed: make(chan struct{})}
				for range c.others {
					end := tr.start()
					go func() {
						defer end()
						time.Sleep(c.takes)
						if c.passes {
							tr.pass()
						}
					}()
				}
				defer tr.start()()
				begin := time.Now()
				if got := tr.hold(t.Context()); got != c.want {
					t.Errorf("it says %v", got)
				}
				if took := time.Since(begin); took < c.takes || took > c.takes+2*settling {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

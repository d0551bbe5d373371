package llmriver

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/assert"
)

// However River starts what it fetched, jobs enter in the store's order, those of a later
// fetch after those of an earlier one; and one that River never starts holds nobody for long.
// Faults seen to fail here: wait that does not wait; wait without a bound.
func TestJobsEnterInTheOrderOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := order{turns: make(map[int64]*turn), last: make(map[string]*turn)}
		o.fetched("a", []*rivertype.JobRow{{ID: 1}, {ID: 2}, {ID: 3}})
		o.fetched("b", []*rivertype.JobRow{{ID: 10}})
		o.fetched("a", []*rivertype.JobRow{{ID: 4}, {ID: 5}})
		var mu sync.Mutex
		var entered []int64
		start := func(id int64) {
			turn := o.take(id)
			go func() {
				defer turn.leave()
				turn.wait(t.Context())
				mu.Lock()
				defer mu.Unlock()
				entered = append(entered, id)
			}()
		}
		for _, id := range []int64{5, 3, 2, 10} {
			start(id)
			synctest.Wait()
		}
		assert.Equal(t, []int64{10}, entered, "the others have one before them, and another model does not wait for them")
		start(1)
		synctest.Wait()
		assert.Equal(t, []int64{10, 1, 2, 3}, entered)
		time.Sleep(missing)
		synctest.Wait()
		assert.Equal(t, []int64{10, 1, 2, 3, 5}, entered, "4 was never started")
		start(4)
		start(7) // none that a fetch brought
		synctest.Wait()
		assert.Len(t, entered, 7)
		assert.Empty(t, o.turns)
	})
}

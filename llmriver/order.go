package llmriver

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/riverqueue/river/rivertype"
)

// order brings jobs of one model that were fetched together into the queue one after the
// other, as they stood in the store: River starts each on a goroutine of its own, so that
// they come in any order.
type order struct {
	// mu guards the rest.
	mu    sync.Mutex
	turns []*turn
	busy  bool
}

// turn is a job that waits to enter the queue.
type turn struct {
	job   *rivertype.JobRow
	pass  chan struct{} // closed when it may
	enter sync.Once
	done  chan struct{} // closed when it has, or will not
}

// entered says that the next may go.
func (t *turn) entered() { t.enter.Do(func() { close(t.done) }) }

// gathering is how long the first of a batch waits for the others.
const gathering = time.Millisecond

func (o *order) queue(job *rivertype.JobRow) *turn {
	t := &turn{job: job, pass: make(chan struct{}), done: make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.turns = append(o.turns, t)
	if !o.busy {
		o.busy = true
		time.AfterFunc(gathering, o.run)
	}
	return t
}

func (o *order) run() {
	for {
		o.mu.Lock()
		if len(o.turns) == 0 {
			o.busy = false
			o.mu.Unlock()
			return
		}
		batch := o.turns
		o.turns = nil
		o.mu.Unlock()
		slices.SortFunc(batch, func(a, b *turn) int {
			return cmp.Or(cmp.Compare(a.job.Priority, b.job.Priority), a.job.ScheduledAt.Compare(b.job.ScheduledAt), cmp.Compare(a.job.ID, b.job.ID))
		})
		for _, t := range batch {
			close(t.pass)
			<-t.done
		}
	}
}

// entering is a context that tells when a queue's Submit has taken the request: it listens
// for the end of the context from then on, and not before.
type entering struct {
	context.Context
	turn *turn
}

func (e entering) Done() <-chan struct{} {
	e.turn.entered()
	return e.Context.Done()
}

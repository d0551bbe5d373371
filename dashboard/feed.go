package dashboard

import (
	"encoding/json"
	"sync"
	"time"
)

// tick is how often a snapshot is taken while somebody watches.
const tick = time.Second

// viewer is one open stream. It holds the latest snapshot that was not sent yet.
type viewer chan []byte

// feed takes snapshots for all viewers, on one goroutine that runs only while there
// are any.
type feed struct {
	settings *settings

	mu      sync.Mutex // guards what follows; no inspector is asked under it
	viewers map[viewer]bool
	wake    chan struct{} // of the goroutine that runs; nil when none does
	last    []byte        // the latest snapshot, nil until the goroutine has made one
	past    map[key]*past
}

func newFeed(s *settings) *feed {
	return &feed{settings: s, viewers: map[viewer]bool{}, past: map[key]*past{}}
}

// join returns a new viewer and the history so far.
func (f *feed) join() (viewer, []pastJSON) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := make(viewer, 1)
	f.viewers[v] = true
	if f.wake == nil {
		f.wake = make(chan struct{}, 1)
		go f.run(f.wake)
	} else if f.last != nil {
		v <- f.last // it has room
	}
	history := []pastJSON{}
	for k, p := range f.past {
		history = append(history, p.json(k))
	}
	return v, history
}

// leave ends a viewer, and the goroutine with the last one.
func (f *feed) leave(v viewer) {
	f.mu.Lock()
	delete(f.viewers, v)
	empty := len(f.viewers) == 0
	f.mu.Unlock()
	if empty {
		f.look()
	}
}

// look makes the goroutine, if it runs, take a snapshot at once.
func (f *feed) look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case f.wake <- struct{}{}: // a nil channel is never ready
	default:
	}
}

func (f *feed) run(wake <-chan struct{}) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for sample := true; f.watched(); {
		now := time.Now()
		s := collect(f.settings, now)
		f.record(s, now, sample)
		data, _ := json.Marshal(s)
		f.publish(data)
		select {
		case <-ticker.C:
			sample = true
		case <-wake:
			sample = false // the history has one sample a tick, whatever happens
		}
	}
}

// watched reports whether the goroutine has to go on; if not, it counts as ended.
func (f *feed) watched() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.viewers) > 0 {
		return true
	}
	f.wake, f.last = nil, nil
	return false
}

// publish hands a snapshot to every viewer, in place of one that it did not take yet.
func (f *feed) publish(data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = data
	for v := range f.viewers {
		select {
		case <-v:
		default:
		}
		v <- data // it has room: nobody else sends, and never without the lock
	}
}

// record adds a sample to the history and writes the latest figures into the
// snapshot. The history of a model that is gone goes too.
func (f *feed) record(s *snapshotJSON, now time.Time, sample bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.past
	f.past = make(map[key]*past, len(old))
	for _, m := range s.Models {
		k := key{m.Manager, m.Model}
		p := old[k]
		if p == nil {
			p = &past{}
		}
		f.past[k] = p
		if sample {
			p.add(now, m)
		}
		if n := len(p.samples); n > 0 {
			m.Throughput, m.Wait = p.samples[n-1].throughput, p.samples[n-1].wait
		}
	}
}

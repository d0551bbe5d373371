package batch

import (
	"time"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
)

// recordEvery is how long a record may wait for others that are written with it: a run that is
// killed meanwhile loses it, like what is in flight.
const recordEvery = 2 * time.Millisecond

// record takes in how a request ended. It counts once it is in the file.
func (r *run) record(rec *results.Record) error {
	full, err := r.file.Add(rec)
	if err == nil && full {
		err = r.flush()
	}
	return err
}

// flush writes what was recorded, and counts it.
func (r *run) flush() error {
	r.flushing.Lock()
	defer r.flushing.Unlock()
	written, err := r.file.Flush()
	for _, rec := range written {
		if rec.Run.FromCache {
			r.hits.Add(1)
		} else {
			r.ran.Add(1)
		}
	}
	r.done.Store(r.file.Done)
	r.failed.Store(r.file.Failed)
	return err
}

// keepRecording writes what is recorded, what comes within a short time together, and what the
// journal has of it.
func (r *run) keepRecording(ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case <-r.file.Added():
		}
		time.Sleep(recordEvery)
		if err := r.flush(); err != nil {
			r.lose(err)
		}
		if err := r.journal.Flush(); err != nil {
			r.stop(CannotWrite, err)
		}
	}
}

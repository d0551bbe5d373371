package llmriver

import (
	"context"
	"log/slog"
	"time"
)

// signalLife tells the others that this process lives, and takes the jobs of those that do
// not. It does the latter only when the database was there for a whole lease: after an
// outage the signals of all are old.
func (j *Jobs[P, T]) signalLife() {
	lease := j.settings.lease
	tick := time.NewTicker(lease / 3)
	defer tick.Stop()
	since, looked := time.Now(), time.Now()
	for {
		select {
		case <-j.life.Done():
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(j.life, lease/3)
		freed, err := j.database.signal(ctx, j.database.db, j.name, lease.Seconds(), time.Since(since) >= lease)
		if err == nil && j.mayHaveLost(lease, looked) {
			looked = time.Now()
			var own int64
			own, err = j.freeLost(ctx)
			freed += own
		}
		cancel()
		switch {
		case err != nil && j.life.Err() == nil:
			since = time.Now()
			j.trouble.Store(since.UnixNano())
			j.settings.logger.Warn("llmriver: the database did not take this process's sign of life", slog.String("error", err.Error()))
		case freed > 0:
			j.settings.logger.Warn("llmriver: jobs that a dead process or connection held start again", slog.Int64("jobs", freed))
		}
	}
}

// mayHaveLost reports whether it is time to look for jobs that this process has fetched
// without knowing it: a while after River met an error, and now and then.
func (j *Jobs[P, T]) mayHaveLost(lease time.Duration, looked time.Time) bool {
	at := j.trouble.Load()
	if at != 0 && time.Since(time.Unix(0, at)) > 3*lease/2 {
		return j.trouble.CompareAndSwap(at, 0)
	}
	return time.Since(looked) > 20*lease
}

// freeLost makes jobs available again that are this process's by the table, but not in fact:
// the database took the fetch, and the answer was lost.
func (j *Jobs[P, T]) freeLost(ctx context.Context) (int64, error) {
	ids, err := j.database.mine(ctx, j.database.db, j.name, j.settings.lease.Seconds())
	if err != nil {
		return 0, err
	}
	var lost []int64
	j.mu.Lock()
	for _, id := range ids {
		if j.held[id] == nil {
			lost = append(lost, id)
		}
	}
	j.mu.Unlock()
	if len(lost) == 0 {
		return 0, nil
	}
	return j.database.free(ctx, j.database.db, j.name, lost)
}

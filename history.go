package llmqueue

import (
	"fmt"
	"time"
)

// history remembers in which order requests ended, so that the oldest are forgotten
// first. Guarded by the queue's lock.
type history struct {
	size  int
	ttl   int64 // ns
	ring  []instant
	first int // index of the oldest
	count int
}

// expiry is when the oldest is to be forgotten, 0 when there is none.
func (h *history) expiry() int64 {
	if h.count == 0 {
		return 0
	}
	return after(h.ring[h.first].at, h.ttl)
}

func (h *history) push(e instant) {
	if h.count == len(h.ring) {
		bigger := make([]instant, max(16, min(2*len(h.ring), h.size)))
		for i := range h.count {
			bigger[i] = h.ring[(h.first+i)%len(h.ring)]
		}
		h.ring, h.first = bigger, 0
	}
	i := h.first + h.count
	if i >= len(h.ring) {
		i -= len(h.ring)
	}
	h.ring[i] = e
	h.count++
}

func (h *history) pop() ref {
	r := h.ring[h.first].ref
	h.count--
	if h.first++; h.first == len(h.ring) {
		h.first = 0
	}
	return r
}

// remember keeps a finished request for the history, or forgets it at once.
func (q *Queue[P, T]) remember(rec *record[P, T]) {
	if q.history.size == 0 {
		q.records.forget(rec)
		return
	}
	if q.history.count == q.history.size {
		q.records.forget(q.records.get(q.history.pop()))
	}
	q.history.push(instant{rec.account.ended, rec.ref()})
}

// expireHistory forgets what ended longer ago than the history's time.
func (q *Queue[P, T]) expireHistory(ns int64) {
	for q.history.count > 0 && q.history.expiry() <= ns {
		q.records.forget(q.records.get(q.history.pop()))
	}
}

// kept is the result that the history keeps of rec, nil when it keeps none.
func kept[T, P any](rec *record[P, T]) *T {
	if rec.account == nil {
		return nil
	}
	result, _ := rec.account.result.(*T)
	return result
}

// response is a snapshot of rec. result is nil where there is none to give.
func (q *Queue[P, T]) response(now time.Time, rec *record[P, T], result *T) (r Response[T]) {
	q.respond(&r, now, rec, result)
	return r
}

// respond writes a snapshot of rec into r, which is empty.
func (q *Queue[P, T]) respond(r *Response[T], now time.Time, rec *record[P, T], result *T) {
	if rec.state == stateFollowing {
		q.respond(r, now, q.calls.byFollower[rec.ref()].rec, nil)
		r.RequestID, r.Usage = rec.id, Usage{}
		r.Metadata, r.CreatedAt = rec.metadata, q.epoch.Add(time.Duration(rec.created))
		return
	}
	r.RequestID, r.ModelID, r.Status = rec.id, q.modelID, rec.state.status()
	r.Metadata, r.CreatedAt = rec.metadata, q.epoch.Add(time.Duration(rec.created))
	if a := rec.account; a != nil {
		r.Usage, r.Attempts = a.usage(), a.number
		started := a.started
		if a.away != nil {
			a.away.overlay(&r.Usage, &r.Attempts, &r.ModelID)
			started = max(started, a.away.started)
		}
		if r.Attempts > 0 {
			r.StartedAt = q.epoch.Add(time.Duration(started))
		}
		if rec.state.final() {
			r.FinishedAt, r.Err = q.epoch.Add(time.Duration(a.ended)), a.failure
		}
	}
	switch rec.state {
	case stateCompleted:
		if result != nil {
			r.Result = *result
		}
	case stateInLine:
		r.Position = q.line.Rank(rec.handle)
		f := q.forecastAt(now, rec, r.Position)
		r.EstimatedStart, r.WaitsFor = f.at, f.waitsFor
	case stateRetrying:
		r.EstimatedStart = q.retryAt(rec)
	}
}

// retryAt is when a request between two attempts goes back in line.
func (q *Queue[P, T]) retryAt(rec *record[P, T]) time.Time {
	for _, e := range q.retries.heap {
		if e.ref == rec.ref() {
			return q.date(e.at)
		}
	}
	return time.Time{}
}

// waitedTooLong is the error of a request whose MaxWait passed.
func (q *Queue[P, T]) waitedTooLong(rec *record[P, T]) error {
	return fmt.Errorf("%w: model %q could not start %q within its MaxWait of %v, allow more time or raise the limits",
		ErrQueueTimeout, q.modelID, rec.id, rec.maxWait)
}

package llmqueue

import (
	"cmp"
	"slices"
	"time"
)

// Info is a snapshot of the queue.
func (q *Queue[P, T]) Info() QueueInfo {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	pending, processing, forwarded := q.alike()
	info := QueueInfo{
		ModelID: q.modelID, Pending: q.pending() + pending, Processing: q.count.processing + processing,
		Accepted: q.count.accepted, Completed: q.count.completed, Failed: q.count.failed,
		Canceled: q.count.canceled, Retries: q.count.retries, Abandoned: q.count.abandoned,
		Attempts: q.count.attempts, Refused: q.count.refused,
		Waited: time.Duration(q.count.waited), Worked: time.Duration(q.count.worked),
		Forwarded: len(q.forwarded) + forwarded, Coalesced: q.count.coalesced, Fallbacks: q.count.fallbacks, Paused: q.paused, Closed: q.closed, Dropped: q.dropped.Load(), Usage: q.count.usage,
	}
	for _, e := range q.endpoints {
		i := q.endpointInfo(now, e)
		info.Endpoints = append(info.Endpoints, i)
		info.Slots += i.Slots
	}
	info.Limits, info.Since = info.Endpoints[0].Limits, q.epoch
	info.PausedUntil = slices.MinFunc(info.Endpoints, func(a, b EndpointInfo) int { return a.PausedUntil.Compare(b.PausedUntil) }).PausedUntil
	return info
}

func (q *Queue[P, T]) endpointInfo(now time.Time, e *endpoint) EndpointInfo {
	info := EndpointInfo{
		Name: e.name, Processing: e.running, Slots: e.slotsNow(), Open: e.open(),
		Limits: limitInfos(now, e.limits, e.own, e.running),
	}
	if e.pausedUntil > q.since(now) {
		info.PausedUntil = q.date(e.pausedUntil)
		if e.pausedBy != nil {
			info.PauseReason = e.pausedBy.Error()
		}
	}
	for _, m := range e.shared {
		info.Shared = append(info.Shared, m.Limits(now)...)
	}
	return info
}

// Requests lists the requests that the filter lets through, without their params and
// results: first what runs, longest first, then what a fallback model has (ModelID says
// which), then what waits, in order, then what is between two attempts, then what ended,
// latest first, as far back as the history goes (see WithHistory). The zero filter is all
// of them, at most 100. Positions are those in the whole line, whatever the filter leaves
// out. None is an empty list.
func (q *Queue[P, T]) Requests(f RequestFilter) []RequestInfo {
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	q.expireHistory(q.since(now))
	infos := []RequestInfo{}
	var add func(rec *record[P, T]) bool
	add = func(rec *record[P, T]) bool {
		switch {
		case rec != nil && rec.call:
			for _, follower := range q.sharing(rec) {
				add(follower)
			}
		case rec != nil && len(infos) < limit && f.takes(rec.id, rec.tenant, q.statusOf(rec)):
			infos = append(infos, q.requestInfo(now, rec))
		}
		return len(infos) < limit
	}
	if f.wants(StatusProcessing) {
		for _, rec := range q.runningRecords() {
			add(rec)
		}
	}
	if f.wants(StatusPending) {
		for _, rec := range q.awayNow() {
			add(rec)
		}
		ahead := 0
		for rec := range q.waiting() {
			if len(infos) == limit {
				break
			}
			from := len(infos)
			add(rec)
			if ahead++; rec.state == stateInLine {
				for i := range infos[from:] {
					infos[from+i].Position = ahead
				}
			}
		}
	}
	if f.wants(StatusCompleted) || f.wants(StatusFailed) || f.wants(StatusCanceled) {
		for i := q.history.count - 1; i >= 0; i-- {
			if !add(q.records.get(q.history.ring[(q.history.first+i)%len(q.history.ring)].ref)) {
				break
			}
		}
	}
	return infos
}

// statusOf is rec's status; one that shares a call has the call's.
func (q *Queue[P, T]) statusOf(rec *record[P, T]) Status {
	if rec.state == stateFollowing {
		rec = q.calls.byFollower[rec.ref()].rec
	}
	return rec.state.status()
}

// runningRecords are the requests whose processor runs, longest first.
func (q *Queue[P, T]) runningRecords() []*record[P, T] {
	var running []*record[P, T]
	for _, w := range q.workers {
		if w.attempt == nil {
			continue
		}
		if rec := q.records.get(w.ref); rec != nil && rec.state == stateRunning {
			running = append(running, rec)
		}
	}
	slices.SortFunc(running, func(a, b *record[P, T]) int {
		return cmp.Or(cmp.Compare(a.account.started, b.account.started), cmp.Compare(a.seq, b.seq))
	})
	return running
}

func (q *Queue[P, T]) requestInfo(now time.Time, rec *record[P, T]) RequestInfo {
	r := q.response(now, rec, nil)
	info := RequestInfo{
		ID: r.RequestID, ModelID: r.ModelID, Status: r.Status, Tenant: rec.tenant,
		Priority: rec.priority, Estimate: rec.estimate, Usage: r.Usage, Attempts: r.Attempts,
		Position: r.Position, EstimatedStart: r.EstimatedStart, WaitsFor: r.WaitsFor,
		CreatedAt: r.CreatedAt, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
	}
	if a := rec.account; a != nil && a.endpoint != nil {
		info.Endpoint = a.endpoint.name
	}
	if r.Err != nil {
		info.Error = r.Err.Error()
	}
	return info
}

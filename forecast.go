package llmqueue

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/accounting"
)

// This file predicts when requests start.

// demand is what waits in line, summed by priority.
type demand []level

type level struct {
	priority      int
	requests      int64
	input, output int64 // of those whose size is known
	unsized       int64
}

func (d *demand) add(priority int, n int64, u Usage, sized bool) {
	i := 0
	for i < len(*d) && (*d)[i].priority > priority {
		i++
	}
	if i == len(*d) || (*d)[i].priority != priority {
		*d = slices.Insert(*d, i, level{priority: priority})
	}
	l := &(*d)[i]
	l.requests += n
	if sized {
		l.input += n * u.InputTokens
		l.output += n * u.OutputTokens
	} else {
		l.unsized += n
	}
	if l.requests == 0 && len(*d) > 1 {
		*d = slices.Delete(*d, i, i+1)
	}
}

// times is a part of l.
func (l level) times(part float64) level {
	l.requests = int64(math.Round(float64(l.requests) * part))
	l.input = int64(float64(l.input) * part)
	l.output = int64(float64(l.output) * part)
	l.unsized = int64(float64(l.unsized) * part)
	return l
}

// before is what starts before a request that comes now with this priority.
func (d demand) before(priority int) (ahead level) {
	for _, l := range d {
		if l.priority >= priority {
			ahead.requests += l.requests
			ahead.input += l.input
			ahead.output += l.output
			ahead.unsized += l.unsized
		}
	}
	return ahead
}

// forecastLast is when rec, the last of its priority, starts if nothing else comes.
func (q *Queue[P, T]) forecastLast(now time.Time, rec *record[P, T]) forecast {
	ahead := q.demand.before(rec.priority)
	ahead.requests--
	if rec.sized {
		ahead.input -= rec.estimate.InputTokens
		ahead.output -= rec.estimate.OutputTokens
	} else {
		ahead.unsized--
	}
	return q.forecast(now, rec.estimate, ahead)
}

// exactForecast bounds how far the line is walked for one forecast; beyond it the
// requests ahead count with their average.
const exactForecast = 10_000

// forecastAt is when rec, anywhere in line, starts if nothing else comes.
func (q *Queue[P, T]) forecastAt(now time.Time, rec *record[P, T], rank int) forecast {
	var ahead level
	for handle := range q.line.All() {
		if handle == rec.handle || ahead.requests == exactForecast {
			break
		}
		other := q.records.at(handle)
		ahead.requests++
		if other.sized {
			ahead.input += other.estimate.InputTokens
			ahead.output += other.estimate.OutputTokens
		} else {
			ahead.unsized++
		}
	}
	if ahead.requests == exactForecast {
		scale := float64(rank-1) / exactForecast
		ahead.requests = int64(rank - 1)
		ahead.input = int64(float64(ahead.input) * scale)
		ahead.output = int64(float64(ahead.output) * scale)
		ahead.unsized = int64(float64(ahead.unsized) * scale)
	}
	return q.forecast(now, rec.estimate, ahead)
}

// forecast says when a request starts if nothing else comes, and what it waits for.
type forecast struct {
	at       time.Time // zero: unknown
	waitsFor string
	guessed  bool // it rests on means of what was seen, not on limits and sizes alone
}

// What a request may wait for, besides a limit.
const (
	waitsForResume  = "resume"
	waitsForPause   = "pause"
	waitsForShared  = "shared limits"
	waitsForBreaker = "breaker"
	waitsForSlot    = string(KindConcurrent)
)

// forecast is when a request with this estimate starts behind what is ahead of it: on
// the endpoint that is soonest, when all take their share of it.
func (q *Queue[P, T]) forecast(now time.Time, estimate Usage, ahead level) (f forecast) {
	if q.paused {
		return forecast{waitsFor: waitsForResume}
	}
	if len(q.endpoints) == 1 {
		return q.forecastOn(q.endpoints[0], now, estimate, ahead)
	}
	ns := q.since(now)
	mean := charge(q.sizes.mean())
	rates, all := make([]float64, len(q.endpoints)), 0.0
	for _, held := range []bool{false, true} { // those that are held back count when all are
		for i, e := range q.endpoints {
			if _, never := e.exceeds(q.reservation(e, estimate)); !never && (held || e.pausedUntil <= ns && !e.open()) {
				rates[i] = e.perSecond(mean)
				all += rates[i]
			}
		}
		if all > 0 {
			break
		}
	}
	for i, e := range q.endpoints {
		if rates[i] == 0 {
			continue
		}
		g := q.forecastOn(e, now, estimate, ahead.times(rates[i]/all))
		if f.at.IsZero() || !g.at.IsZero() && g.at.Before(f.at) {
			f = g
		}
	}
	f.guessed = f.guessed || ahead.requests > 0
	return f
}

// forecastOn is forecast for one endpoint: the latest of what its limits, the shared
// ones, a pause and the slots allow.
func (q *Queue[P, T]) forecastOn(e *endpoint, now time.Time, estimate Usage, ahead level) (f forecast) {
	load := Usage{InputTokens: ahead.input, OutputTokens: ahead.output}
	if ahead.unsized > 0 {
		mean := e.capped(q.sizes.mean())
		load.InputTokens += ahead.unsized * mean.InputTokens
		load.OutputTokens += ahead.unsized * mean.OutputTokens
		f.guessed = true
	}
	if e.accounting != (accounting.Policy{}) && ahead.requests > 0 {
		load = reserved(e.accounting, load, ahead.requests, q.sizes.mean())
		f.guessed = true
	}
	own := q.reservation(e, estimate)
	all := charge(load)
	all.Requests = ahead.requests
	var limit int
	if f.at, limit = e.own.Forecast(now, all, charge(own)); limit >= 0 {
		f.waitsFor = e.names[limit]
	}
	for _, m := range e.shared {
		if t := m.Forecast(now, ahead.requests, load, own); t.After(f.at) {
			f.at, f.waitsFor = t, waitsForShared
		}
	}
	if t := q.date(e.pausedUntil); t.After(f.at) {
		f.at, f.waitsFor = t, waitsForPause
	}
	if e.open() {
		if t := now.Add(e.breaker.RemainingDelay()); t.After(f.at) {
			f.at, f.waitsFor = t, waitsForBreaker
		}
	}
	if late := e.running + ahead.requests - e.slots + 1; late > 0 {
		switch {
		case q.duration.n > 0:
			t := now.Add(time.Duration(q.duration.value * float64(late) / float64(e.slots)))
			if t.After(f.at) {
				f = forecast{t, waitsForSlot, true}
			}
		case !f.at.After(now):
			return forecast{waitsFor: waitsForSlot, guessed: true} // and nothing ended yet
		}
	}
	return f
}

// Forecast says when a request would start if nothing else arrived.
type Forecast struct {
	// Position is the rank in line that the request would have; 0 when it would
	// start at once.
	Position int `json:"position"`
	// EstimatedStart is zero when unknown: while the queue is paused, or when only
	// slots are missing and nothing has ended yet.
	EstimatedStart time.Time `json:"estimated_start,omitzero"`
	// WaitsFor is what holds it longest: a limit such as "500 rpm", "concurrent",
	// "shared limits", "pause" (by the provider), "breaker" or "resume" (after Pause). Empty
	// when it would start at once.
	WaitsFor string `json:"waits_for,omitempty"`
}

// Forecast says when req would start if it were submitted now and nothing else
// arrived, without submitting it. It refuses what Submit would refuse, for its size,
// its params, an exhausted quota or its deadline. What a fallback would do it does not say.
func (q *Queue[P, T]) Forecast(ctx context.Context, req Request[P]) (Forecast, error) {
	if _, err := q.prepare(ctx, &req); err != nil {
		return Forecast{}, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if err := q.refuse(now, &req, false); err != nil {
		return Forecast{}, err
	}
	if err := q.unserved(ctx, now, &req); err != nil && len(q.settings.fallback) == 0 {
		return Forecast{}, err
	}
	ahead := q.demand.before(req.Priority)
	f := q.forecastNew(now, &req)
	if f.waitsFor == "" && ahead.requests == 0 {
		return Forecast{EstimatedStart: now}, nil
	}
	return Forecast{Position: int(ahead.requests) + 1, EstimatedStart: f.at, WaitsFor: f.waitsFor}, nil
}

// forecastNew is the forecast of a request that is not in line yet.
func (q *Queue[P, T]) forecastNew(now time.Time, req *Request[P]) forecast {
	f := q.forecast(now, req.Estimate, q.demand.before(req.Priority))
	f.guessed = f.guessed || req.Estimate.isZero() && q.tokens
	return f
}

// tooLate refuses a request whose time is over before it can start, as far as that is
// known and not guessed.
func (q *Queue[P, T]) tooLate(ctx context.Context, now time.Time, req *Request[P], f forecast) error {
	if q.settings.hopeful || f.guessed || !f.at.After(now) {
		return nil
	}
	var deadline time.Time
	var cause error
	if req.MaxWait > 0 {
		deadline = now.Add(req.MaxWait)
	}
	if d, ok := ctx.Deadline(); ok && !req.NoWait && (deadline.IsZero() || d.Before(deadline)) {
		deadline, cause = d, context.DeadlineExceeded
	}
	if deadline.IsZero() || !f.at.After(deadline) {
		return nil
	}
	return &DeadlineError{ModelID: q.modelID, Deadline: deadline, EstimatedStart: f.at, WaitsFor: f.waitsFor, cause: cause}
}

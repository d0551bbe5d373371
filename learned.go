package llmqueue

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/internal/window"
)

// This file corrects the queue's limits by what the provider's answers say. It runs
// under the queue's lock.

// learned is what a queue knows of its limits from answers.
type learned struct {
	limits  []Limit   // as the provider states them
	latest  time.Time // when the call was sent that changed them last
	none    bool      // it answers without stating any
	watched bool      // some answer stated limits: attempts note what was booked before them
	version int       // of the limits in force
	others  []share   // by window, of this version
}

// share is how much of a limit others hold.
type share struct {
	most     int64     // that they were seen to hold in this period
	expected int64     // after the periods before
	real     bool      // there are others
	since    time.Time // when this period began
}

func (s *share) held() int64 { return max(s.most, s.expected) }

// like reports whether a and b count the same over the same period.
func (l Limit) like(o Limit) bool {
	return l.Kind != KindConcurrent && o.Kind != KindConcurrent &&
		kinds[l.Kind].counts == kinds[o.Kind].counts && l.period() == o.period()
}

func indexLike(limits []Limit, l Limit) int { return slices.IndexFunc(limits, l.like) }

// limit is the limit that o speaks of, if it makes sense.
func (o ObservedLimit) limit() (Limit, error) {
	l := Limit{Kind: o.Kind, Amount: o.Amount, Period: o.Period}
	if o.Kind == KindConcurrent {
		return l, errors.New("answers do not state concurrency")
	}
	if o.Reset < 0 {
		return l, fmt.Errorf("reset %v is in the past", o.Reset)
	}
	return l, l.validate()
}

// ignorant reports whether the endpoint still has to learn its first limit: until then
// it runs one request at a time. A bound on concurrency says nothing of requests or
// tokens.
func (e *endpoint) ignorant() bool {
	return e.learn && len(e.shared) == 0 && !e.learned.none &&
		!slices.ContainsFunc(e.limits, func(l Limit) bool { return l.Kind != KindConcurrent })
}

// noneStated notes that an answer came without limits: waiting for one helps nobody.
func (q *Queue[P, T]) noneStated(now time.Time, e *endpoint) {
	if e.ignorant() {
		e.learned.none = true
		q.emit(Event{Type: EventNoLimits, Time: now, Endpoint: e.name})
	}
}

// learn takes over what an answer says about the limits.
func (q *Queue[P, T]) learn(now time.Time, w *worker[P, T], o Observation) {
	e, changed, sent := w.endpoint, false, w.sentAt(o)
	first := e.ignorant()
	for _, seen := range o.Limits {
		l, err := seen.limit()
		if err != nil {
			q.emit(Event{Type: EventLimitIgnored, Time: now, Endpoint: e.name, Err: fmt.Errorf("limit %s %d: %w", seen.Kind, seen.Amount, err)})
			continue
		}
		switch i := indexLike(e.learned.limits, l); {
		case indexLike(e.configured, l) < 0 && q.learnShared(now, e, sent, l, seen):
		case i < 0:
			// Figures reveal a longer period only after some use: until then the
			// same limit was taken for one of the usual period.
			e.learned.limits = slices.DeleteFunc(e.learned.limits, func(o Limit) bool {
				return kinds[o.Kind].counts == kinds[l.Kind].counts && o.Amount == l.Amount
			})
			e.learned.limits = append(e.learned.limits, l)
			changed = true
		case l.Amount < e.learned.limits[i].Amount && !sent.Before(e.learned.latest),
			l.Amount > e.learned.limits[i].Amount && sent.After(e.learned.latest.Add(reordering)):
			// Answers overtake each other: one to an earlier call tells of how it was.
			e.learned.limits[i].Amount = l.Amount
			changed = true
		}
	}
	if changed && sent.After(e.learned.latest) {
		e.learned.latest = sent
	}
	if changed && q.adopt(now, e) {
		if first {
			e.chargeAnew(now, &w.attempt.account.charge)
		}
		q.tellLimits(now, e, true, nil)
	}
	for _, seen := range o.Limits {
		if l, err := seen.limit(); err == nil && seen.Remaining >= 0 && seen.Remaining <= seen.Amount {
			q.heedOthers(now, w, o, l, seen)
		}
	}
	e.learned.watched = e.learned.watched || len(o.Limits) > 0
}

// chargeAnew books the call that taught the first limits in them: it started before
// they were there to count it, but the provider counted it.
func (e *endpoint) chargeAnew(now time.Time, r *window.Reservation) {
	c := r.Charge()
	if anew, ok := e.own.Reserve(now, c); ok {
		*r = anew
	} else {
		e.own.Add(now, c) // larger than a limit: nothing of it is given back
	}
}

// learnShared tells a shared set that has this limit. Observers of this queue hear of a
// change, with the limits of that set.
func (q *Queue[P, T]) learnShared(now time.Time, e *endpoint, sent time.Time, l Limit, seen ObservedLimit) (has bool) {
	for _, m := range e.shared {
		learner, ok := m.(limitLearner)
		if !ok {
			continue
		}
		knows, changed := learner.learn(now, sent, l, seen)
		has = has || knows
		if changed && len(q.observers) > 0 {
			var limits []Limit
			for _, info := range m.Limits(now) {
				limits = append(limits, info.Limit)
			}
			q.emit(Event{Type: EventLimitLearned, Time: now, Endpoint: e.name, Limits: limits})
		}
	}
	return has
}

// limitLearner is a shared set that answers correct: it lowers the limit that is like
// l, and reports whether it has one, and whether that changed. sent is when the call
// went out that was answered.
type limitLearner interface {
	learn(now, sent time.Time, l Limit, seen ObservedLimit) (has, changed bool)
}

// inForce is what the configured limits come to: corrected by what was learned, and
// with shorter bursts after calls came too fast.
func (e *endpoint) inForce() []Limit {
	limits := slices.Clone(e.configured)
	for i := range limits {
		l := &limits[i]
		if j := indexLike(e.learned.limits, *l); j >= 0 {
			if said := e.learned.limits[j].Amount; e.learn || said < l.Amount {
				l.Amount = said
			}
		}
	}
	for _, l := range e.learned.limits {
		if indexLike(limits, l) < 0 && (e.learn || e.refines(l)) {
			limits = append(limits, l)
		}
	}
	for i := range limits {
		limits[i].Burst = e.pacing.burst(limits[i])
	}
	return limits
}

// refines reports whether l says how a configured limit is enforced within its period,
// as by servers that count in slices of it. A longer period that is not configured is
// left alone: were it misread, a queue would stand still for a day.
func (e *endpoint) refines(l Limit) bool {
	return slices.ContainsFunc(e.configured, func(c Limit) bool {
		return c.Kind != KindConcurrent && kinds[c.Kind].counts == kinds[l.Kind].counts && l.period() < c.period()
	})
}

// adopt brings what is in force up to date, and reports whether that changed
// anything.
func (q *Queue[P, T]) adopt(now time.Time, e *endpoint) bool {
	limits := e.inForce()
	if slices.Equal(limits, e.limits) {
		return false
	}
	e.own.SetLimits(now, windowLimits(limits, e.margin))
	e.setLimits(now, limits)
	q.sumUp()
	e.learned.version++
	e.learned.others = nil
	q.failImpossible(now)
	return true
}

// sentAt is when the call went out that o answers.
func (w *worker[P, T]) sentAt(o Observation) time.Time {
	if o.SentAt.Before(w.started) {
		return w.started
	}
	return o.SentAt
}

// reordering is how long after it was sent the provider may have counted other calls
// before this one.
const reordering = 250 * time.Millisecond

// noise is the part of a limit by which the provider's count and ours may differ
// without anybody else: it rounds, and it estimates tokens in its own way.
const noise = 0.01

// heedOthers finds out from what remains of l how much of it others took.
//
// The provider counted everything that this queue started before the call, and
// perhaps some of what it started shortly after; what is more than that is not ours.
// Answers to the first call of an attempt are compared with what was booked when it
// started, later ones with what is booked now, which may hide others but never
// invents any.
func (q *Queue[P, T]) heedOthers(now time.Time, w *worker[P, T], o Observation, l Limit, seen ObservedLimit) {
	e := w.endpoint
	i := windowOf(e.limits, l)
	if i < 0 {
		return
	}
	own := e.own.Booked(nil)[i]
	refused := o.Outcome == OutcomeRateLimited || o.Outcome == OutcomeSlowDown
	compared := len(w.booked) > i && w.bookedAs == e.learned.version && !w.observed
	if compared {
		own = w.booked[i] + e.own.ChargedAfter(i, &w.attempt.account.charge, w.sentAt(o).Add(reordering))
		if refused {
			own = min(own, e.own.Booked(nil)[i])
		}
	}
	taken := seen.Amount - seen.Remaining
	others := taken - own
	if float64(others) <= noise*float64(seen.Amount) {
		others = 0
	}
	period := l.period()
	if period <= steady {
		e.heedShare(now, i, others, l, o.Delay, compared || refused)
		return
	}
	until, evenly := min(seen.Reset, period), false
	if until == 0 {
		until = period
	}
	if taken > 0 && seen.Reset > 0 {
		// A bucket that refills evenly is whole again in proportion to what is missing.
		whole := time.Duration(float64(period) * float64(taken) / float64(seen.Amount))
		evenly = (seen.Reset - whole).Abs() <= time.Second+whole/20
	}
	e.own.Others(now, i, others, now.Add(until), evenly)
}

// steady bounds the periods over which others are expected to go on as they did: they
// get in the next minute what they took in the last one. Were they only given what
// they hold now, all who share a key would start at once when a window opens, each as
// if alone.
const steady = time.Hour

// heedShare expects others, who took n of the amount just now, to go on with it.
//
// What they take is seen only when a call of this queue's looks, so it is easily missed
// in part. It counts as more at once and as less little by little: what looks free to
// one that shares a key looks free to all of them, so each takes as large a part of it
// as it has of the limit. And a part of the rest is left to them, so that there is some
// room for what was missed, and that who has much comes down and who has little goes up.
//
// Unless it is real, n may be what this queue took before it knew of the limit.
func (e *endpoint) heedShare(now time.Time, i int, n int64, l Limit, delay time.Duration, real bool) {
	for len(e.learned.others) <= i {
		e.learned.others = append(e.learned.others, share{})
	}
	s, period := &e.learned.others[i], l.period()
	switch age := now.Sub(s.since); {
	case age >= 2*period:
		*s = share{since: now}
	case age >= period:
		fewer, ours := max(s.held()-s.most, 0), 1-float64(s.held())/float64(l.Amount)
		*s = share{expected: s.held() - int64(math.Ceil(max(ours, 1.0/8)*float64(fewer))), real: s.real, since: now}
	}
	s.most, s.real = max(s.most, n), s.real || real && n > 0
	held := s.held()
	if s.real && held > 0 {
		held += (l.Amount - held + leftToOthers - 1) / leftToOthers
	}
	// Never all of it for long: who waits for others to leave all at once would then
	// come as if alone.
	least := l.Amount - (l.Amount+leftToOthers-1)/leftToOthers
	if until := now.Add(2 * period); held <= least {
		e.own.Others(now, i, held, until, false)
	} else {
		if delay <= 0 || delay > period {
			delay = period
		}
		e.own.Others(now, i, held, now.Add(delay), false)
		e.own.OthersLater(now, i, least, until)
	}
}

// leftToOthers is the part of what others do not hold that is left to them: one in so
// many.
const leftToOthers = 24

// windowOf is the index among the windows of limits of the one that is like l, or -1.
func windowOf(limits []Limit, l Limit) int {
	i := indexLike(limits, l)
	for _, before := range limits[:max(i, 0)] {
		if before.Kind == KindConcurrent {
			i--
		}
	}
	return i
}

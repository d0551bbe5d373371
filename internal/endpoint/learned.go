package endpoint

import (
	"math"
	"slices"
	"time"

	"github.com/llmqueue/llmqueue/internal/window"
)

// Outcome is what the provider's answer means.
type Outcome uint8

// The outcomes of an answer; Unknown when it was not said.
const (
	Unknown Outcome = iota
	Served
	RateLimited
	SlowDown
	Overloaded
	QuotaExhausted
	Retryable
	Elsewhere // the endpoint's own fault
	Fatal
)

// Refused reports whether the provider did not take the call, for its limits or its
// capacity.
func (o Outcome) Refused() bool { return o >= RateLimited && o <= QuotaExhausted }

// Observation is what the provider said about one call.
type Observation struct {
	SentAt  int64 // 0: when the attempt started
	Outcome Outcome
	Marked  bool  // it was not observed: the processor says so
	Delay   int64 // how long it asks to wait; 0: it did not say
	Backoff int64 // how long to wait when it did not say
	Limits  []Stated
}

// Stated is one limit as an answer states it.
type Stated struct {
	Senseless bool // it cannot be: it is told, and ignored
	Limit     Limit
	Remaining int64 // negative: it did not say
	Reset     int64 // until Remaining is Amount again; 0: it did not say
}

// sent is when the call went out that o answers.
func (o *Observation) sent(l *Lease) int64 { return max(o.SentAt, l.Started) }

// exhausted reports whether o says itself that a limit is used up.
func (o *Observation) exhausted() bool {
	return slices.ContainsFunc(o.Limits, func(s Stated) bool { return s.Limit.Amount > 0 && s.Remaining == 0 })
}

// exhaustedFor is how long an endpoint stays paused for an exhausted quota when the
// provider does not say when it is renewed: one call an hour hammers nobody.
const exhaustedFor = int64(time.Hour)

// Observe takes in what the provider said about the call of an attempt. It reports
// whether a limit became smaller, so that something that waits may never fit any more.
func (l *Lease) Observe(now int64, o *Observation) (lowered bool) {
	e := l.Endpoint
	if o.Outcome != Unknown {
		e.answered(now, l, o)
	}
	delay := o.Delay
	if delay <= 0 {
		delay = o.Backoff
	}
	switch o.Outcome {
	case Served:
		lowered = e.relax(now)
		if len(o.Limits) == 0 {
			e.noneStated()
		}
	case RateLimited:
		// Where the answer says that a limit is used up, the windows know what may start when.
		e.pause(After(now, delay), !o.exhausted())
		if !o.exhausted() && !o.Marked {
			lowered = e.shorten(now, l.Started) // there was room in every limit, here and there
		}
	case SlowDown:
		e.Pause(After(now, delay))
		lowered = e.shorten(now, l.Started)
	case Overloaded:
		e.tellLimits(e.concurrency.cut(now, l.Started, e.running), true)
		if o.Delay > 0 || e.concurrency.limit <= 1 {
			e.Pause(After(now, delay)) // else what waits takes turns at being turned away
		}
	case QuotaExhausted:
		if o.Delay <= 0 {
			delay = exhaustedFor
		}
		e.Pause(After(now, delay))
		e.Exhaust(After(now, delay))
	}
	if len(o.Limits) == 0 {
		return lowered
	}
	if o.Outcome == RateLimited || o.Outcome == SlowDown {
		// Whether it counted the refused call, the provider's own figures tell.
		e.windows.SettleAt(now, &l.charge, window.Charge{})
	}
	lowered = e.learnFrom(now, l, o) || lowered
	l.compared = true
	return lowered
}

// learned is what is known of the limits from answers.
type learned struct {
	limits  []Limit // as the provider states them
	latest  int64   // when the call was sent that changed them last
	none    bool    // it answers without stating any
	watched bool    // some answer stated limits: attempts note what was booked before them
	version int     // of the limits in force
	others  []share // by window, of this version
}

// share is how much of a limit others hold.
type share struct {
	most     int64 // that they were seen to hold in this period
	expected int64 // after the periods before
	real     bool  // there are others
	since    int64 // when this period began
	seen     bool
}

func (s *share) held() int64 { return max(s.most, s.expected) }

// ignorant reports whether the endpoint still has to learn its first limit: until then it
// runs one request at a time. A limit on concurrency says nothing of requests or tokens.
func (e *Endpoint) ignorant() bool {
	return e.learn && len(e.shared) == 0 && !e.learned.none &&
		!slices.ContainsFunc(e.limits, func(l Limit) bool { return l.Kind != Concurrent })
}

// noneStated notes that an answer came without limits: waiting for one helps nobody.
func (e *Endpoint) noneStated() {
	if e.ignorant() {
		e.learned.none = true
		e.emit(Event{Kind: NoLimits, Endpoint: e})
	}
}

// reordering is how long after it was sent the provider may have counted other calls
// before this one.
const reordering = int64(250 * time.Millisecond)

// learnFrom takes over what an answer says about the limits.
func (e *Endpoint) learnFrom(now int64, l *Lease, o *Observation) (lowered bool) {
	changed, sent := false, o.sent(l)
	first := e.ignorant()
	for _, s := range o.Limits {
		if s.Senseless {
			e.emit(Event{Kind: LimitIgnored, Endpoint: e})
			continue
		}
		stated := s.Limit
		switch i := indexLike(e.learned.limits, stated); {
		case indexLike(e.configured, stated) < 0 && e.learnShared(now, sent, s):
		case i < 0:
			// Figures reveal a longer period only after some use: until then the
			// same limit was taken for one of the usual period.
			e.learned.limits = slices.DeleteFunc(e.learned.limits, func(o Limit) bool {
				return kinds[o.Kind].counts == kinds[stated.Kind].counts && o.Amount == stated.Amount
			})
			e.learned.limits = append(e.learned.limits, stated)
			changed = true
		case stated.Amount < e.learned.limits[i].Amount && sent >= e.learned.latest,
			stated.Amount > e.learned.limits[i].Amount && sent > e.learned.latest+reordering:
			// Answers overtake each other: one to an earlier call tells of how it was.
			e.learned.limits[i].Amount = stated.Amount
			changed = true
		}
	}
	if changed {
		e.learned.latest = max(e.learned.latest, sent)
		if changed, lowered = e.adopt(now); changed {
			if first {
				e.chargeAnew(now, &l.charge)
			}
			e.tellLimits(true, false)
		}
	}
	for _, s := range o.Limits {
		if !s.Senseless && s.Remaining >= 0 && s.Remaining <= s.Limit.Amount {
			e.compare(now, l, o, s)
		}
	}
	e.learned.watched = true
	return lowered
}

// chargeAnew books the call that taught the first limits in them: it started before they
// were there to count it, but the provider counted it.
func (e *Endpoint) chargeAnew(now int64, r *window.Reservation) {
	c := r.Charge()
	if anew, ok := e.windows.ReserveAt(now, c); ok {
		*r = anew
	} else {
		e.windows.AddAt(now, c) // larger than a limit: nothing of it is given back
	}
}

// learnShared tells a shared set that has this limit. A change is told with the limits of
// that set.
func (e *Endpoint) learnShared(now, sent int64, stated Stated) (has bool) {
	for _, s := range e.shared {
		knows, changed := s.Learn(now, sent, stated)
		has = has || knows
		if changed {
			e.emit(Event{Kind: LimitsLearned, Endpoint: e, Limits: s.Limits(now)})
		}
	}
	return has
}

// tellLimits tells what is in force, if that changed.
func (e *Endpoint) tellLimits(changed, refused bool) {
	if !changed {
		return
	}
	limits := slices.Clone(e.limits)
	if e.concurrency.limit > 0 {
		limits = slices.DeleteFunc(limits, func(l Limit) bool { return l.Kind == Concurrent })
		limits = append(limits, Limit{Kind: Concurrent, Amount: min(e.slots, int64(e.concurrency.limit))})
	}
	e.emit(Event{Kind: LimitsLearned, Endpoint: e, Limits: limits, Refused: refused})
}

// SetLimits replaces the configured limits. It reports whether what is in force became
// smaller.
func (e *Endpoint) SetLimits(now int64, limits []Limit) (lowered bool) {
	e.configured = limits
	_, lowered = e.adopt(now)
	return lowered
}

// inForce is what the configured limits come to: corrected by what was learned, and with
// shorter bursts after calls came too fast.
func (e *Endpoint) inForce() []Limit {
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

// refines reports whether l says how a configured limit is enforced within its period, as
// by servers that count in slices of it. A longer period that is not configured is left
// alone: were it misread, a queue would stand still for a day.
func (e *Endpoint) refines(l Limit) bool {
	return slices.ContainsFunc(e.configured, func(c Limit) bool {
		return c.Kind != Concurrent && kinds[c.Kind].counts == kinds[l.Kind].counts && l.period() < c.period()
	})
}

// adopt brings what is in force up to date. lowered says that some limit is new or has
// become smaller.
func (e *Endpoint) adopt(now int64) (changed, lowered bool) {
	limits := e.inForce()
	if slices.Equal(limits, e.limits) {
		return false, false
	}
	for _, l := range limits {
		i := slices.IndexFunc(e.limits, l.Like)
		lowered = lowered || l.Kind != Concurrent && (i < 0 || l.Amount < e.limits[i].Amount)
	}
	e.windows.SetLimitsAt(now, Windows(limits, e.margin))
	e.take(now, limits)
	e.learned.version++
	e.learned.others = nil
	return true, lowered
}

// noise is the part of a limit by which the provider's count and ours may differ without
// anybody else: it rounds, and it estimates tokens in its own way.
const noise = 0.01

// compare finds out from what remains of a limit how much of it others took.
//
// The provider counted everything that was started here before the call, and perhaps some
// of what was started shortly after; what is more than that is not ours. Answers to the
// first call of an attempt are compared with what was booked when it started, later ones
// with what is booked now, which may hide others but never invents any.
func (e *Endpoint) compare(now int64, l *Lease, o *Observation, s Stated) {
	i := WindowOf(e.limits, s.Limit)
	if i < 0 {
		return
	}
	ours := e.windows.Booked(nil)[i]
	refused := o.Outcome == RateLimited || o.Outcome == SlowDown
	compared := len(l.booked) > i && l.version == e.learned.version && !l.compared
	if compared {
		ours = l.booked[i] + e.windows.ChargedAfterAt(i, &l.charge, o.sent(l)+reordering)
		if refused {
			ours = min(ours, e.windows.Booked(nil)[i])
		}
	}
	amount := s.Limit.Amount
	taken := amount - s.Remaining
	others := taken - ours
	if float64(others) <= noise*float64(amount) {
		others = 0
	}
	period := int64(s.Limit.period())
	if period <= steady {
		e.expectOthers(now, i, others, s.Limit, o.Delay, compared || refused)
		return
	}
	until, evenly := min(s.Reset, period), false
	if until == 0 {
		until = period
	}
	if taken > 0 && s.Reset > 0 {
		// A bucket that refills evenly is whole again in proportion to what is missing.
		whole := int64(float64(period) * float64(taken) / float64(amount))
		off := s.Reset - whole
		evenly = max(off, -off) <= int64(time.Second)+whole/20
	}
	e.windows.OthersAt(now, i, others, now+until, evenly)
}

// steady bounds the periods over which others are expected to go on as they did: they get
// in the next minute what they took in the last one. Were they only given what they hold
// now, all who share a key would start at once when a window opens, each as if alone.
const steady = int64(time.Hour)

// leftToOthers is the part of what others do not hold that is left to them: one in so
// many.
const leftToOthers = 24

// expectOthers expects others, who took n of the limit just now, to go on with it.
//
// What they take is seen only when a call of ours looks, so it is easily missed in part.
// It counts as more at once and as less little by little: what looks free to one that
// shares a key looks free to all of them, so each takes as large a part of it as it has of
// the limit. And a part of the rest is left to them, so that there is some room for what
// was missed, and that who has much comes down and who has little goes up.
//
// Unless it is real, n may be what was taken here before the limit was known.
func (e *Endpoint) expectOthers(now int64, i int, n int64, l Limit, delay int64, real bool) {
	for len(e.learned.others) <= i {
		e.learned.others = append(e.learned.others, share{})
	}
	s, period := &e.learned.others[i], int64(l.period())
	switch age := now - s.since; {
	case !s.seen || age >= 2*period:
		*s = share{since: now, seen: true}
	case age >= period:
		fewer, ours := max(s.held()-s.most, 0), 1-float64(s.held())/float64(l.Amount)
		*s = share{expected: s.held() - int64(math.Ceil(max(ours, 1.0/8)*float64(fewer))), real: s.real, since: now, seen: true}
	}
	s.most, s.real = max(s.most, n), s.real || real && n > 0
	held := s.held()
	if s.real && held > 0 {
		held += (l.Amount - held + leftToOthers - 1) / leftToOthers
	}
	// Never all of it for long: who waits for others to leave all at once would then come
	// as if alone.
	least := l.Amount - (l.Amount+leftToOthers-1)/leftToOthers
	if until := now + 2*period; held <= least {
		e.windows.OthersAt(now, i, held, until, false)
	} else {
		if delay <= 0 || delay > period {
			delay = period
		}
		e.windows.OthersAt(now, i, held, now+delay, false)
		e.windows.OthersLaterAt(now, i, least, until)
	}
}

// Version counts the changes of the limits in force.
func (e *Endpoint) Version() int { return e.learned.version }

// CountRefusal counts that the call of an attempt was refused, and gives how many were in a
// row. Calls that were under way together count once.
func (e *Endpoint) CountRefusal(now int64, l *Lease) int {
	if e.refusals == 0 || l.Started > e.refusedAt {
		e.refusals, e.refusedAt = e.refusals+1, now
	}
	return e.refusals
}

// Compared reports whether an answer to the attempt's call stated limits.
func (l *Lease) Compared() bool { return l.compared }

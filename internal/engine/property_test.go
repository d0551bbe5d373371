package engine

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/line"
)

// TestEngineKeepsItsPromises plays random stories to engines in virtual time: arrivals, sizes
// known and unknown, refunds, overruns, calls longer than their windows, retries, refusals, pauses
// by providers and by hand, cancelations, new limits, revised usage, MaxWait, deadlines, several
// endpoints that are unlike, that come, go, fail and are held out, shared sets, requests that
// stay, permits, calls that are shared, requests that fallbacks have and give back, requests that
// other models sent, attempts that time out and go on, output, hedges, shutdowns. After each input
// it looks whether what was started fits all limits, whether something waits that may start
// somewhere, whether the counts and the usage add up, whether the attempts under way are those that
// it says, whether hedges take what others wait for, whether each effect is about something that is
// there, and whether the timer is right.
func TestEngineKeepsItsPromises(t *testing.T) {
	seeds := uint64(3000)
	if testing.Short() {
		seeds = 300
	}
	for seed := range seeds {
		w := newWorld(t, seed)
		w.run()
		w.checkEnd()
		if seed%8 == 0 {
			again := newWorld(t, seed)
			again.run()
			sameTrace(t, seed, w.trace.String(), again.trace.String())
		}
	}
}

func sameTrace(t *testing.T, seed uint64, a, b string) {
	if a == b {
		return
	}
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		require.Equal(t, x[i], y[i], "seed %d: the same inputs have other effects", seed)
	}
	t.Fatalf("seed %d: the same inputs have more effects", seed)
}

// check looks whether all is as it should be between two inputs.
func (w *world) check() {
	w.checkCounts()
	w.checkLine()
	w.checkPlaces()
	next := w.next
	if next != 0 && next <= w.now && !w.q.Sweeping() && !w.q.crowded {
		w.fail("the next instant is %v and has come", time.Duration(next))
	}
	for _, s := range w.sets {
		if s.fault != "" {
			w.fail("shared set: %s", s.fault)
		}
	}
	held := map[*set]int{}
	for _, t := range w.attempts {
		for _, m := range t.road.members {
			held[m.set]++
		}
	}
	for _, s := range w.sets {
		if s.held != held[s] {
			w.fail("%d attempts under way hold %d of a shared set", held[s], s.held)
		}
	}
	for _, r := range w.ends {
		for _, m := range r.members {
			if m.ticket != 0 && (!r.Queued() || w.q.inLine() == 0) {
				w.fail("endpoint %d stands in the line of a shared set and nobody waits for it", r.ID)
			}
		}
	}
}

func (w *world) checkCounts() {
	var want Counts
	for _, s := range w.accepted {
		if s.in.Call {
			if !s.ended && len(s.shares) > 0 && !slices.ContainsFunc(s.shares, func(o *story) bool { return !o.ended }) {
				w.fail("call %d goes on, and everybody left it", s.h)
			}
			continue
		}
		want.Accepted++
		state := s.state
		if s.ended {
			switch state {
			case Completed:
				want.Completed++
			case Failed:
				want.Failed++
			default:
				want.Canceled++
			}
			continue
		}
		of := s
		if s.call != nil {
			of = s.call
		}
		if state = w.q.State(of.h); of.ended { // its followers count as where it was
			state = w.q.calls[of.h].state
		}
		switch state {
		case Running:
			want.Processing++
		case HandedOff:
			want.Forwarded++
		default:
			want.Pending++
		}
	}
	running := map[uint32]int64{}
	for _, t := range w.attempts {
		running[t.road.ID]++
		if t.cut {
			want.Abandoned++
		}
	}
	got := w.q.Counts()
	want.Attempts, want.Retries, want.Refused, want.Coalesced = got.Attempts, got.Retries, got.Refused, got.Coalesced
	want.Waited, want.Worked = got.Waited, got.Worked
	want.Usage, want.Hedges = w.used, int64(w.hedges)
	if got != want {
		w.fail("counts are %+v, should be %+v", got, want)
	}
	if sum := int64(got.Pending+got.Processing+got.Forwarded) + got.Completed + got.Failed + got.Canceled; sum != got.Accepted {
		w.fail("%d accepted, and %d in all states together", got.Accepted, sum)
	}
	if w.q.Running() != int64(len(w.attempts)) {
		w.fail("%d attempts are under way, it says %d", len(w.attempts), w.q.Running())
	}
	for _, r := range w.ends {
		if r.Running() != running[r.ID] {
			w.fail("%d attempts are under way on endpoint %d, it says %d", running[r.ID], r.ID, r.Running())
		}
	}
}

// checkLine compares the sums over the line with what waits, and looks whether somebody waits
// for too long.
func (w *world) checkLine() {
	var sum line.Size
	waiting := 0
	for h, s := range w.requests {
		if s.gone || s.call != nil {
			continue
		}
		switch r := w.q.records.at(h); r.state {
		case InLine:
			n := r.size()
			sum = line.Size{Requests: sum.Requests + n.Requests, Input: sum.Input + n.Input, Output: sum.Output + n.Output, Unsized: sum.Unsized + n.Unsized}
			waiting++
			if s.in.Sized && (s.in.Estimate.Input > w.q.largest.Input || s.in.Estimate.Output > w.q.largest.Output) {
				w.fail("request %d of %v waits, the largest is said to be %v", h, s.in.Estimate, w.q.largest)
			}
			if !w.cfg.NoDeadlineCheck && s.in.Deadline > w.now && (w.mayLeave(s) || !w.cfg.Fallback && !w.guests) && s.in.Deadline < w.heldUntil(!w.mayLeave(s)) && !w.q.Sweeping() {
				w.fail("request %d waits, and can only start when its time is over", h)
			}
			if s.in.Sized && s.count == 0 && !s.kept && w.q.tooLarge(s.in.Estimate) != nil && !w.q.Sweeping() { // who comes back from an attempt is told at the head
				w.fail("request %d can never start and waits", h)
			}
		case BackingOff:
			waiting++
		case Running:
			w.checkAttempts(s)
		}
	}
	if got := w.q.line.Ahead(math.MinInt); got != sum {
		w.fail("the sizes in line come to %+v, it says %+v", sum, got)
	}
	if got := w.q.Waiting(); got != waiting {
		w.fail("%d wait, it says %d", waiting, got)
	}
	for _, s := range w.accepted {
		if s.ended || s.expires == 0 || s.count > 0 || w.now <= s.expires {
			continue
		}
		if state := w.q.State(s.h); state == InLine || state == Following && w.q.State(s.call.h) == InLine && s.call.count == 0 && !s.call.elsewhere {
			w.fail("request %d waits for longer than its MaxWait", s.h)
		}
	}
}

// checkAttempts looks at the attempts of a request that runs: which it has, and whether one of
// them takes too long.
func (w *world) checkAttempts(s *story) {
	if v := w.q.View(s.h); v.Attempt != s.try.number || !v.UnderWay || v.Attempts != s.count || v.Endpoint != s.try.road.Endpoint {
		w.fail("attempt %d of request %d is under way, it says %+v", s.try.number, s.h, v)
	}
	for _, t := range []*try{s.try, s.hedge} {
		switch {
		case t == nil || s.in.Held:
		case t.over || t.cut:
			w.fail("request %d runs, and its attempt %d is over", s.h, t.number)
		case w.cfg.Timeout > 0 && w.now > t.began+w.cfg.Timeout,
			w.cfg.FirstByte > 0 && !t.begun && w.now > t.began+w.cfg.FirstByte,
			w.cfg.Stall > 0 && t.begun && w.now > t.heard+w.cfg.Stall:
			w.fail("attempt %d of request %d runs for too long", t.number, s.h)
		}
	}
}

// inOrder gives what waits in line, in the order in which it starts: of each priority first what
// stepped aside.
func (w *world) inOrder() []uint32 {
	priority := func(h uint32) int { return w.q.records.at(h).priority }
	aside := slices.SortedFunc(maps.Keys(w.q.asideOrder), func(a, b uint32) int {
		return cmp.Or(cmp.Compare(priority(b), priority(a)), cmp.Compare(w.q.asideOrder[a], w.q.asideOrder[b]))
	})
	var all []uint32
	for h := range w.q.line.All() {
		for len(aside) > 0 && priority(aside[0]) >= priority(h) {
			all, aside = append(all, aside[0]), aside[1:]
		}
		all = append(all, h)
	}
	return append(all, aside...)
}

// mayUse gives the endpoints where a request may start as soon as there is room, and those that it
// may probe before that.
func (w *world) mayUse(r *record) (use, probe []*road) {
	all := w.current()
	if len(all) == 1 {
		return all, nil
	}
	avoids, faults, left := uint64(0), uint64(0), w.cfg.MaxAttempts+1
	if a := w.q.attemptOf(r); a != nil {
		if avoids, faults, left = a.avoid, a.faulty, left-1-int(a.spent); !a.probed {
			left++ // a probe is free
		}
	}
	failed := func(e *road) bool { return (avoids|faults)&e.Bit != 0 }
	faulty := func(e *road) bool { return faults&e.Bit != 0 }
	held := func(e *road) bool {
		return w.now < e.PausedUntil() || e.breaker != nil && e.breaker.RemainingDelay() > 0
	}
	var fit, sound, due []*road
	for _, e := range all {
		if _, never := e.Exceeds(e.Reservation(r.estimate, r.sized(), w.q.sizes.mean())); never && r.sized() {
			continue
		}
		fit = append(fit, e)
		switch {
		case !e.HeldOut():
			sound = append(sound, e)
		case e.ProbeDue(w.now, false):
			due = append(due, e)
		}
		if !failed(e) && e.ProbeDue(w.now, true) && (left > 1 || e.AtFault()) {
			probe = append(probe, e)
		}
	}
	without := func(list []*road, drop func(*road) bool) []*road {
		return slices.DeleteFunc(slices.Clone(list), drop)
	}
	use = sound
	best := without(sound, held)
	switch {
	case len(without(sound, faulty)) == 0: // it has nowhere else to go
		use, best = fit, fit
	case avoids|faults == 0:
		use = slices.Concat(sound, due)
	}
	switch {
	case len(without(best, failed)) > 0:
		return without(use, failed), probe
	case len(probe) > 0:
		return probe, nil
	case len(without(use, faulty)) > 0:
		return without(use, faulty), probe
	}
	return use, probe
}

// checkPlaces looks at all that waits in line, in order, whether it may start somewhere that
// nothing before it may use, and whether somebody looks again when it may.
func (w *world) checkPlaces() {
	order := w.inOrder()
	h, wait, waits := w.q.Head(0)
	if waits != (len(order) > 0) || waits && h != order[0] {
		w.fail("the head of the line is said to be %d, should be %v", h, order)
	}
	if got := slices.Collect(w.q.allInLine()); !slices.Equal(got, order) {
		w.fail("in line are %v, it says %v", order, got)
	}
	if !waits || w.q.Sweeping() || w.q.crowded {
		return
	}
	if w.paused {
		if wait.Cause != endpoint.ManualPause {
			w.fail("request %d waits for %d during a pause by hand", h, wait.Cause)
		}
		return
	}
	if w.cutOff {
		w.fail("request %d waits after all was cut off", h)
	}
	taken := map[*road]bool{}
	for i, h := range order {
		if rank := w.q.rank(h); rank < i+1 {
			w.fail("request %d is told that it is number %d, it is %d", h, rank, i+1)
		}
		if len(taken) == len(w.current()) {
			continue
		}
		r := w.q.records.at(h)
		use, probes := w.mayUse(r)
		for _, e := range slices.Concat(use, probes) {
			if !taken[e] {
				w.checkWait(h, r, e, i > 0)
			}
		}
		for _, e := range use {
			taken[e] = true
		}
	}
	if len(w.current()) == 1 {
		e, r := w.current()[0], w.q.records.at(h)
		if may := e.Check(w.now, endpoint.Load{}, r.estimate, r.sized(), w.q.sizes.mean(), endpoint.Ends{Mean: w.q.duration.value}); wait != may {
			w.fail("the head waits for %+v, and is said to wait for %+v", may, wait)
		}
	}
}

// checkWait looks whether something holds a request on an endpoint, and whether somebody looks
// again when that is over. behind says that others go first.
func (w *world) checkWait(h uint32, r *record, e *road, behind bool) {
	switch {
	case len(e.members) > 0, e.breaker != nil && e.breaker.half, e.Running() >= e.SlotsNow():
		// What Check does not know: shared sets wake, breakers let one probe through at a time,
		// and what is learned holds more back than the slots do.
		return
	case behind && e.HeldOut():
		return // room there makes nobody step aside
	}
	mean := w.q.sizes.mean()
	if _, never := e.Exceeds(e.Reservation(r.estimate, r.sized(), mean)); never {
		return
	}
	may := e.Check(w.now, endpoint.Load{}, r.estimate, r.sized(), mean, endpoint.Ends{})
	switch {
	case may.At <= w.now:
		w.fail("request %d waits and nothing holds it on endpoint %d", h, e.ID)
	case may.At != endpoint.Never && (w.next == 0 || w.next > may.At):
		w.fail("request %d may start at %v on endpoint %d, and the next look is at %v", h, time.Duration(may.At), e.ID, time.Duration(w.next))
	}
}

// checkEnd looks what is left when all is over.
func (w *world) checkEnd() {
	w.input = "the end"
	if !w.q.Done() {
		w.fail("it hangs: %+v, %d in line, %d between attempts, %d run", w.q.Counts(), w.q.line.Len(), w.q.backoff.Len(), w.q.running)
	}
	for _, s := range w.accepted {
		w.forget(s)
		if !s.ended || !s.gone {
			w.fail("request %d is left over: it has ended: %v, it is gone: %v", s.h, s.ended, s.gone)
		}
	}
	if n := w.q.Live(); n != 0 {
		w.fail("%d requests are left over", n)
	}
	if len(w.q.free) != len(w.q.attempts) || len(w.q.underWay) != 0 || len(w.q.calls) != 0 {
		w.fail("attempts or calls are left over")
	}
	if w.q.backoff.Len()+w.q.expiry.Len()+w.q.patient.Len()+w.q.timeouts.Len()+w.q.hedges.due.Len() != 0 {
		w.fail("instants are left over")
	}
	if len(w.q.aside)+len(w.q.asideOrder)+w.q.line.Len() != 0 {
		w.fail("the line holds what is gone")
	}
}

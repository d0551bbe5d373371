package engine

import (
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
// by providers and by hand, cancelations, new limits, revised usage, MaxWait, several endpoints
// that come, go and fail, shared sets, requests that stay, calls that are shared, requests that
// fallbacks have, timeouts, shutdowns. After each input it looks whether what was started fits
// all limits, whether something waits that may start, whether the counts add up, whether each
// effect is about something that is there, and whether the timer is right.
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
	w.t.Helper()
	w.checkCounts()
	w.checkLine()
	w.checkHead()
	next := w.next
	if next != 0 && next <= w.now && !w.q.Sweeping() {
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
			if m.ticket != 0 && (!r.Queued() || w.q.line.Len() == 0) {
				w.fail("endpoint %d stands in the line of a shared set and nobody waits for it", r.ID)
			}
		}
	}
}

func (w *world) checkCounts() {
	w.t.Helper()
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
		if t.of.ended {
			want.Abandoned++
		}
	}
	got := w.q.Counts()
	want.Attempts, want.Retries, want.Refused, want.Coalesced = got.Attempts, got.Retries, got.Refused, got.Coalesced
	want.Waited, want.Worked, want.Usage = got.Waited, got.Worked, got.Usage
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
	w.t.Helper()
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
			if s.in.Sized && s.count == 0 && w.q.tooLarge(s.in.Estimate) != nil && !w.q.Sweeping() { // who comes back from an attempt is told at the head
				w.fail("request %d can never start and waits", h)
			}
		case BackingOff:
			waiting++
		case Running:
			if w.cfg.Timeout > 0 && w.now > s.try.began+w.cfg.Timeout {
				w.fail("request %d runs for too long", h)
			}
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
		if state := w.q.State(s.h); state == InLine || state == Following && w.q.State(s.call.h) == InLine && s.call.count == 0 {
			w.fail("request %d waits for longer than its MaxWait", s.h)
		}
	}
}

// checkHead looks whether the head of the line waits for something, and whether somebody will
// look again when that has come.
func (w *world) checkHead() {
	w.t.Helper()
	h, wait, waits := w.q.Head(0)
	if !waits || w.q.Sweeping() {
		return
	}
	r := w.q.records.at(h)
	if w.paused {
		if wait.Cause != endpoint.ManualPause {
			w.fail("request %d waits for %d during a pause by hand", h, wait.Cause)
		}
		return
	}
	if w.cutOff {
		w.fail("request %d waits after all was cut off", h)
	}
	for _, e := range w.current() {
		// What Check does not know: shared sets wake, breakers let one probe through at a time,
		// and what is learned holds more back than the slots do.
		if len(e.members) > 0 || e.breaker != nil && e.breaker.half || e.Running() >= e.SlotsNow() {
			continue
		}
		mean := w.q.sizes.mean()
		if _, never := e.Exceeds(e.Reservation(r.estimate, r.sized(), mean)); never {
			continue
		}
		may := e.Check(w.now, endpoint.Load{}, r.estimate, r.sized(), mean, endpoint.Ends{})
		switch {
		case may.At <= w.now:
			w.fail("request %d waits and nothing holds it on endpoint %d", h, e.ID)
		case may.At != endpoint.Never && (w.next == 0 || w.next > may.At):
			w.fail("request %d may start at %v, and the next look is at %v", h, time.Duration(may.At), time.Duration(w.next))
		case len(w.current()) == 1 && wait != may:
			w.fail("the head waits for %+v, and is said to wait for %+v", may, wait)
		}
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
	if w.q.backoff.Len()+w.q.expiry.Len()+w.q.timeouts.Len() != 0 {
		w.fail("instants are left over")
	}
}

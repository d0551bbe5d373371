package llmqueue_test

import (
	"errors"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llmqueue/llmqueue"
)

var (
	adversarySeed  = flag.Int64("adversary.seed", -1, "play this story of TestAdversary alone until it fails, 200 times at most, and tell all of it")
	adversarySeeds = flag.Int("adversary.seeds", 10_000, "how many stories TestAdversary plays")
)

// TestAdversary plays random stories in virtual time: one to four endpoints and up to two
// fallbacks die, hang, refuse, lose their keys, slow down and recover, while requests come.
// Whatever happens,
//
//   - every request ends once, and is told once;
//   - none fails while an endpoint or a fallback was healthy and had room for all of its time;
//   - an endpoint that is down gets no more than a probe's share while another one is not;
//   - after the last fault, all quota is used again within two periods.
//
// Each is claimed only where it is certain: see the functions. A story that fails is told;
// go test -run TestAdversary -adversary.seed=N . plays it again.
func TestAdversary(t *testing.T) {
	if *adversarySeed >= 0 {
		for range 200 { // the queue's own dice fall differently each time
			if d := adversary(t, uint64(*adversarySeed)); t.Failed() {
				for _, a := range d.asks {
					t.Log(a)
				}
				return
			}
		}
		return
	}
	n := *adversarySeeds
	if testing.Short() || llmqueue.RaceEnabled {
		n = min(n, 500)
	}
	shards := runtime.GOMAXPROCS(0)
	for shard := range shards {
		t.Run(fmt.Sprint(shard+1, " of ", shards), func(t *testing.T) {
			t.Parallel()
			for seed := shard; seed < n && !t.Failed(); seed += shards {
				adversary(t, uint64(seed))
			}
		})
	}
}

func adversary(t *testing.T, seed uint64) *drama {
	d := writeDrama(seed)
	synctest.Test(t, func(t *testing.T) {
		d.play(t)
		synctest.Wait()
	})
	d.endsOnce()
	d.servedIfPossible()
	d.probesOnly()
	d.quotaIsUsed()
	if len(d.errors) > 0 {
		t.Errorf("%s%s\nAgain: go test -run TestAdversary -adversary.seed=%d .", d, strings.Join(d.errors[:min(len(d.errors), 5)], "\n"), d.seed)
	}
	return d
}

// endsOnce: each request that was accepted ended once, and one that was not did not.
func (d *drama) endsOnce() {
	for _, a := range d.asks {
		want, returns := 1, 1
		if a.refused != nil {
			want, returns = 0, 0
		}
		if a.noWait {
			returns = 0
		}
		if a.ends != want || a.returns != returns {
			d.errorf("%d ends were told and %d came back, want %d and %d: %s", a.ends, a.returns, want, returns, a)
		}
	}
}

// servedIfPossible: no request failed although one that could serve it was there for all of
// its time. It is none of the queue's fault when the deadline passed during a call.
func (d *drama) servedIfPossible() {
	for _, a := range d.asks {
		if a.err == nil || errors.Is(a.err, llmqueue.ErrQueueClosed) || a.runningAtTheEnd() {
			continue
		}
		candidates := slices.Clone(d.foes)
		switch limited := a.deadline > 0 || a.maxWait > 0; {
		case !limited:
			candidates = append(candidates, d.backups...)
		case len(d.backups) > 0 && !d.tight && !d.waitedForASlot(a):
			// A second one comes after the first has failed, and when that has room is not known.
			candidates = append(candidates, d.backups[0])
		}
		for _, f := range candidates {
			if a.deadline > 0 && a.deadline < 3*f.takes {
				continue // it would hardly be answered in time
			}
			if f.able(a.at, a.ended) && (len(d.backups) == 0 || f.settled(a.at)) {
				d.errorf("%s was healthy and had room all the time: %s", f.name, a)
				break
			}
		}
	}
}

// runningAtTheEnd reports whether the time of a request was up during a call.
func (a *dramaRequest) runningAtTheEnd() bool {
	if a.deadline == 0 || a.ended < a.at+a.deadline || len(a.attempts) == 0 {
		return false
	}
	last := a.attempts[len(a.attempts)-1]
	return last.end == 0 || last.end >= a.ended
}

// waitedForASlot reports whether a request with a deadline may have waited, when that passed, for
// the end of a call: when that comes, nobody knows before.
func (d *drama) waitedForASlot(a *dramaRequest) bool {
	return a.deadline > 0 && a.ended >= a.at+a.deadline && slices.ContainsFunc(d.foes, func(f *foe) bool {
		return slices.ContainsFunc(f.calls, func(c foeCall) bool { return c.start <= a.ended && (c.end == 0 || c.end >= a.ended) })
	})
}

// noticed is how long it takes at most until a probe notices that an endpoint works again.
const noticed = time.Second

// able reports whether f could certainly serve what came all that time: it had no fault, had
// refused nothing, or not for a period where no limit holds it, so that nothing that was learned
// from refusals is left, and at most half of its limit was used.
func (f *foe) able(from, to time.Duration) bool {
	for _, s := range f.spells {
		if s.from <= to && s.to >= from-noticed {
			return false
		}
		if (s.fault == refuses || s.fault == limps) && s.from <= to && (f.rpm > 0 || s.to >= from-dramaPeriod) {
			return false
		}
	}
	n, slots := int64(0), 0
	for _, c := range f.calls {
		if c.start >= from-dramaPeriod && c.start <= to {
			n++
		}
		if c.start <= to && (c.end == 0 || c.end >= from) {
			slots++
		}
	}
	return slots < 128 && (f.rpm == 0 || n <= f.rpm/2)
}

// settled reports whether all faults of f have been over for so long that probes have noticed,
// however seldom they come: they come sooner only from who can start nowhere else, and a request
// that a fallback has taken in, though it cannot serve it either, does not probe.
func (f *foe) settled(at time.Duration) bool {
	const betweenProbes = 30 * time.Second
	return !slices.ContainsFunc(f.spells, func(s spell) bool { return s.from <= at && s.to+betweenProbes+dramaTimeout > at })
}

// probesOnly: while an endpoint is down and another one or the first fallback could take
// everything, it gets, once that can be known, one call a second at most.
func (d *drama) probesOnly() {
	if d.tight {
		return // the others have no room for everything
	}
	for _, f := range d.foes {
		for _, s := range f.spells {
			known := map[fault]int{dies: 12, hangs: 12, loses: 2}[s.fault]
			if known == 0 || !d.othersAble(f, s) {
				continue
			}
			if at, ok := f.noticed(s, known); ok && at < s.to {
				n, most := 0, 2+int((s.to-at)/time.Second)
				for _, c := range f.calls {
					if c.start > at && c.start < s.to {
						n++
					}
				}
				if n > most {
					d.errorf("%s, which %s from %v, got %d calls from %v to %v, want at most %d", f.name, s.fault, s.from, n, at, s.to, most)
				}
			}
		}
	}
}

// othersAble reports whether another endpoint, or the first fallback, could serve all that time.
func (d *drama) othersAble(f *foe, s spell) bool {
	others := slices.Concat(d.foes, d.backups[:min(len(d.backups), 1)])
	return slices.ContainsFunc(others, func(o *foe) bool { return o != f && o.able(s.from-dramaPeriod, s.to) })
}

// noticed is when so many calls have failed in a spell.
func (f *foe) noticed(s spell, calls int) (at time.Duration, ok bool) {
	var ends []time.Duration
	for _, c := range f.calls {
		if c.start >= s.from && c.start < s.to && c.end != 0 {
			ends = append(ends, c.end)
		}
	}
	if len(ends) < calls {
		return 0, false
	}
	slices.Sort(ends)
	return ends[calls-1], true
}

// quotaIsUsed: in the second period after the last fault, with enough waiting, the endpoints
// of the model take at least 95% of what their limits allow.
func (d *drama) quotaIsUsed() {
	if !d.tight {
		return
	}
	var used, all int64
	for _, f := range d.foes {
		all += f.rpm
		for _, c := range f.calls {
			if c.start >= d.over+dramaPeriod && c.start < d.over+2*dramaPeriod {
				used++
			}
		}
	}
	if used < all*95/100 {
		d.errorf("in the second period after the last fault %d calls started, of %d that the limits allow", used, all)
	}
}

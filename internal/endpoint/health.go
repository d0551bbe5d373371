package endpoint

import (
	"math"
	"time"
)

// Result is what the end of a call says about its endpoint.
type Result uint8

// What the end of a call may say.
const (
	Nothing     Result = iota
	Answered           // the endpoint works
	OwnFault           // a wrong key, an unknown model: it serves nobody
	Failed             // a passing fault
	RefusedCall        // for a limit, a quota or want of capacity
)

const (
	halfLife = float64(30 * time.Second) // of what is remembered
	// decayStep is how often it fades: what comes together need not be told apart.
	decayStep = int64(100 * time.Millisecond)
	// memory is how many calls decide whether nearly all fail.
	memory = 6.0
	// heldShare is the share of failures of an endpoint that is held out, and heldInRow how
	// many of them have to be the latest.
	heldShare, heldInRow = 0.75, 3
	// badShare is the share of failures from which on others go first.
	badShare = 0.2

	firstProbe      = int64(time.Second)
	lastProbe       = int64(5 * time.Second)  // between two probes after passing faults
	lastProbeOfKeys = int64(30 * time.Second) // and after faults of the endpoint's own
)

// health is how the calls of an endpoint ended of late, and whether it is held out for that.
type health struct {
	recent  Recent
	at      int64   // when recent was brought up to date
	calls   float64 // that share is of, at most memory
	share   float64 // of failures among them
	failing int     // calls in a row that failed
	faults  int     // calls in a row that the endpoint was at fault for
	started int64   // the latest of those that failed, by its start

	held     bool
	own      bool  // for a fault of its own
	probed   int   // probes that failed in a row
	failedAt int64 // the latest
	probeAt  int64
	probing  bool
}

// Recent is how calls ended of late. Each counts 1 at first, and half as much 30 s later.
type Recent struct {
	Served, Faults, Failures, Refusals float64
	FirstOutput                        int64 // the mean time to first output, ns; 0: unknown
}

// Recent is how calls ended of late.
func (e *Endpoint) Recent(now int64) Recent {
	e.health.decay(now)
	return e.health.recent
}

func (h *health) decay(now int64) {
	if now-h.at < decayStep {
		return
	}
	part := math.Exp2(-float64(now-h.at) / halfLife)
	h.at = now
	h.calls *= part
	r := &h.recent
	r.Served, r.Faults, r.Failures, r.Refusals = r.Served*part, r.Faults*part, r.Failures*part, r.Refusals*part
}

// count takes in whether a call failed.
func (h *health) count(failed bool) {
	x := 0.0
	if failed {
		x = 1
		h.failing++
	} else {
		h.failing, h.faults = 0, 0
	}
	h.calls = min(h.calls+1, memory)
	h.share += (x - h.share) / h.calls
}

// Ended takes in how the call of an attempt ended. l may be under way still.
func (e *Endpoint) Ended(now int64, l *Lease, r Result) {
	h := &e.health
	h.decay(now)
	switch r {
	case Answered:
		h.recent.Served++
		h.count(false)
		if h.held && l.Started > h.started {
			e.letIn(now)
		}
	case OwnFault:
		h.recent.Faults++
		h.count(true)
		h.faults++
		e.failed(now, l, h.faults > 1 || h.recent.Served < 0.5, true)
	case Failed:
		h.recent.Failures++
		h.count(true)
		e.failed(now, l, h.failing >= heldInRow && h.share >= heldShare, false)
	case RefusedCall:
		h.recent.Refusals++
		if h.held && l.probe {
			h.failedAt, h.probeAt = now, After(now, firstProbe)
		}
	case Nothing:
		return
	}
	if l.probe && !l.told { // it has told, though it may be under way for long
		l.told, h.probing = true, false
	}
}

// failed holds the endpoint out if enough calls failed, or until a later probe.
func (e *Endpoint) failed(now int64, l *Lease, enough, own bool) {
	h := &e.health
	switch {
	case !h.held && enough:
		h.held, h.own, h.probed = true, own, 0
	case h.held && l.probe:
		h.own = own
		h.probed++
	default:
		h.started = max(h.started, l.Started)
		return
	}
	h.started = max(h.started, l.Started)
	longest := lastProbe
	if h.own {
		longest = lastProbeOfKeys
	}
	h.failedAt = now
	h.probeAt = After(now, min(firstProbe<<min(h.probed, 10), longest))
	e.emit(Event{Kind: HeldOut, Endpoint: e, Until: h.probeAt})
}

// letIn ends that the endpoint is held out.
func (e *Endpoint) letIn(now int64) {
	h := &e.health
	own := h.own
	h.held, h.calls, h.share = false, 0, 0
	if !own {
		e.startSlowly(now)
	}
	e.emit(Event{Kind: LetIn, Endpoint: e})
}

// HeldOut reports whether calls fail here, so that only a probe goes here while there is
// somewhere else to go.
func (e *Endpoint) HeldOut() bool { return e.health.held }

// AtFault reports whether an endpoint that is held out is so for a fault of its own.
func (e *Endpoint) AtFault() bool { return e.health.held && e.health.own }

// ProbeDue reports whether a probe may go to an endpoint that is held out; eager is for what
// can start nowhere else now.
func (e *Endpoint) ProbeDue(now int64, eager bool) bool {
	at := e.ProbeAt(eager)
	return e.health.held && at != 0 && now >= at
}

// ProbeAt is when a probe may go to an endpoint that is held out, 0 when one is under way.
func (e *Endpoint) ProbeAt(eager bool) int64 {
	h := &e.health
	switch {
	case h.probing:
		return 0
	case eager:
		return min(h.probeAt, After(h.failedAt, firstProbe))
	}
	return h.probeAt
}

// ProbeNow lets a probe go to an endpoint that is held out without more delay.
func (e *Endpoint) ProbeNow(now int64) {
	e.health.probeAt, e.health.probed = min(e.health.probeAt, now), 0
}

// Rank orders endpoints that have room: those that work go before slow ones, and these before
// those whose calls fail. fastest is the least time to first output of any, 0 when unknown.
func (e *Endpoint) Rank(now, fastest int64) int {
	h := &e.health
	h.decay(now)
	switch {
	case h.calls > 0 && h.share >= badShare && h.failing > 0:
		return 2
	case fastest > 0 && h.recent.FirstOutput > slow*fastest:
		return 1
	}
	return 0
}

// slow is how many times as long as at the fastest endpoint output takes at a slow one.
const slow = 3

// FirstOutput takes in how long an attempt took until output came.
func (e *Endpoint) FirstOutput(took int64) {
	r := &e.health.recent
	if r.FirstOutput == 0 {
		r.FirstOutput = max(took, 1)
		return
	}
	r.FirstOutput = max(r.FirstOutput+(took-r.FirstOutput)/int64(memory), 1)
}

// Package engine decides for one queue: which request starts next and on which endpoint,
// what follows from how an attempt ended, and when to look again.
//
// It is a pure state machine. Its inputs are methods that take the time, as nanoseconds
// since the owner's epoch; its outputs are Effects, which the owner carries out. It calls
// no clock, timer or random source, starts no goroutine, takes no lock, sees no error and
// runs nothing that a user wrote, except the methods of endpoint.Breaker and
// endpoint.Shared. The owner's lock guards an Engine.
//
// A request is named by its handle from Submit until Forget. Handles are small numbers,
// so that an owner keeps what else it knows of a request in pages of its own.
package engine

import (
	"math/rand/v2"
	"slices"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/line"
	"github.com/llmqueue/llmqueue/internal/timeline"
)

// Config is how an engine decides.
type Config struct {
	MaxAttempts     int
	BaseDelay       int64 // of the backoff, ns
	MaxDelay        int64
	RetryBudget     float64 // of a retry that a served call earns; negative: no bound
	Timeout         int64   // of one attempt; 0: none
	FirstByte       int64   // until its answer begins; 0: no bound
	Stall           int64   // until more of it comes; 0: no bound
	MaxPause        int64   // a longer pause is an exhausted quota; 0: no bound
	Hedge           Hedge
	MaxQueued       int // 0: no bound
	Backfill        bool
	WaitForQuota    bool // an exhausted quota fails nothing
	NoDeadlineCheck bool // requests are taken although they would start after their deadline
	Fallback        bool // there is somewhere to hand requests off to
	Seed            uint64
}

// Hedge says when a second attempt may start beside one of which nothing has come.
type Hedge struct {
	After    int64   // ns; 0: the quantile alone
	Quantile float64 // of the times to first output; 0: none
	Share    float64 // of all calls
}

// Counts are what happened so far, and where requests are. Accepted = Pending +
// Processing + Forwarded + Completed + Failed + Canceled.
type Counts struct {
	Accepted, Completed, Failed, Canceled int64
	Attempts, Retries, Refused, Coalesced int64
	Hedges                                int64
	Waited, Worked                        int64 // ns
	Pending, Processing, Forwarded        int
	Abandoned                             int // attempts under way that nobody waits for
	Usage                                 endpoint.Usage
}

// Engine decides for one queue. Make one with New.
type Engine struct {
	Effects []Effect // what the inputs so far caused, in order; the owner empties it

	cfg          Config
	now          int64 // the latest instant: time that goes back counts as that
	rand         *rand.Rand
	counts       Counts
	records      records
	attempts     []*attempt // by number; nil while free
	free         []uint32   // numbers of attempts
	pool         []*attempt // for reuse
	line         line.Line
	largest      endpoint.Usage // no request in line, or to return to it, is larger in any figure
	endpoints    []*endpoint.Endpoint
	order        []*endpoint.Endpoint // for byLoad
	slots        int64                // of all endpoints
	tokens       bool                 // some limit counts tokens
	accounts     bool                 // some endpoint charges by an accounting of its own
	running      int64                // attempts under way
	aside        []*group             // requests that wait for some endpoints only
	asideOrder   map[uint32]uint64    // the order in which they left the line
	asideSeq     uint64
	headsBuf     []head            // for heads
	crowded      bool              // more has to be set aside
	backoff      timeline.Timeline // requests between two attempts
	expiry       timeline.Timeline // by when a request in line has to start
	patient      timeline.Timeline // the same, of those that nothing but their own time ends
	timeouts     timeline.Timeline // of attempts, by number
	hedges       hedges
	budget       budget
	guests       int // requests that other models handed off
	hadGuests    bool
	moved        Code  // why what waited was handed off last; OK when it is not any more
	servedStart  int64 // the latest start of an attempt that was served
	refusedCalls int64
	retryAt      int64 // when the budget allows the next retry; 0 when it does
	backfillAt   int64 // when a request may pass the head; 0 when none is known to
	candidates   []uint32
	sizes        sizes
	silent       int              // calls of known size that were served without a report, before any reported
	duration     mean             // of attempts, ns
	calls        map[uint32]*call // what several requests share, by the handle of the call
	sweeps       []sweep
	roomMade     bool
	paused       bool
	closed       bool
	cutOff       bool
	refusal      Refusal
	next         *attempt // for who starts next
	underWay     []uint32 // numbers of the attempts under way, in no order
}

// New makes an engine without an endpoint: add one before anything else.
func New(cfg Config) *Engine {
	q := &Engine{cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Seed, 0))}
	q.budget.left = budgetAllowance
	q.hedges.left = hedgesAtOnce
	return q
}

// An Effect is one thing that the owner has to do, or may tell others of.
type Effect struct {
	Kind      EffectKind
	Code      Code
	State     State              // of End
	Unserved  bool               // of End: another model may yet serve the request
	Handle    uint32             // of the request, or the call
	Attempt   uint32             // the number of the attempt: of Start, Cut, and Retry
	Count     int                // of the request's attempts so far: of Start and Retry
	Endpoint  *endpoint.Endpoint // of the attempt: of Start and Retry
	Hedge     bool               // of Start: beside another attempt
	At        int64              // of Retry: the next attempt starts no earlier; of Handoff: nor does the request here, 0 when that is not known
	Waited    int64              // for the attempt that starts, or until a request left the line without one
	Took      int64              // how long the attempt ran that ended with this
	PageFreed bool               // of Gone: nothing else is in the page of the handle
	Event     *endpoint.Event
}

// EffectKind says what the owner has to do.
type EffectKind uint8

// What the owner has to do.
const (
	Start          EffectKind = iota // run an attempt
	Retry                            // tell that an attempt failed and another one follows
	End                              // answer who waits, and Forget the request in time
	Cut                              // end the context of an attempt whose request has ended
	Handoff                          // submit the request to another model, then Finish it, or TakeBack
	CheckStall                       // tell with Stalled when output of the attempt came last
	EndpointEvent                    // tell what happened to an endpoint
	NoUsage                          // tell that token limits are set but nothing reports usage, and nothing is reserved where there is no estimate
	EstimatesAlone                   // tell that token limits are set but nothing reports usage, so that estimates alone hold them
	PausedByHand                     // tell that Pause holds the line
	ResumedByHand                    // tell that it does not any more
	LimitsSet                        // tell that SetLimits changed an endpoint's limits
	Gone                             // a request that was forgotten has no attempt under way any more
	AskElsewhere                     // the MaxWait of a request passed that shares a call which a fallback has
)

// Code says why a request ended, is handed off, or is refused.
type Code uint8

// Why a request ended, is handed off, or is refused.
const (
	OK                Code = iota
	AttemptFailed          // by the error of its last attempt
	InvalidResult          // its result breaks its tags
	CallerLeft             // its context ended
	Canceled               // by Cancel or Reclaim
	NobodyWaits            // all who shared the call have left
	TooLarge               // it can never fit: see Limit and Usage
	WaitedTooLong          // its MaxWait passed
	DeadlinePasses         // it could start only after its deadline: see Wait
	QuotaExhausted         // before it was tried: see At
	QuotaRefused           // by its last attempt
	BreakersOpen           // before it was tried
	BreakersOpened         // by its last attempt
	TimedOut               // its attempt took too long
	FirstByteLate          // its answer did not begin in time
	StalledCode            // no more of its answer came in time
	HeldOut                // calls fail at all endpoints
	PausedLong             // by the provider, until At
	BudgetSpent            // there is nothing left for its retry
	RunsOut                // there may be no time left for it before its deadline
	Outrun                 // another attempt of the request was faster
	ShutDown               // while it waited
	ShutDownRunning        // while it ran
	ShutDownElsewhere      // while a fallback had it
	ShutDownRetry          // before another attempt
	Closed                 // the queue takes nothing any more
	Full                   // nor at present
	Elsewhere              // as another model ended it
)

// Refusal says why a request is not taken.
type Refusal struct {
	Code     Code
	Limit    endpoint.Limit // of TooLarge
	Usage    endpoint.Usage // of TooLarge: what it would reserve
	At       int64          // of QuotaExhausted and PausedLong: when that is over at the first endpoint
	Deadline int64          // of DeadlinePasses
	Context  bool           // of DeadlinePasses: it is the caller's
	Wait     endpoint.Wait  // of DeadlinePasses
}

// AddEndpoint adds a way to the provider. The config's Emit is the engine's.
func (q *Engine) AddEndpoint(now int64, e *endpoint.Endpoint) {
	q.advance(now)
	e.Bit = q.freeBit()
	q.endpoints = append(q.endpoints[:len(q.endpoints):len(q.endpoints)], e)
	q.limitsChanged(false)
	q.pump()
}

// freeBit names an endpoint in sets of endpoints. Those beyond the first 63 share a name.
func (q *Engine) freeBit() uint64 {
	bit := uint64(1)
	for bit < 1<<63 && slices.ContainsFunc(q.endpoints, func(e *endpoint.Endpoint) bool { return e.Bit == bit }) {
		bit <<= 1
	}
	return bit
}

// RemoveEndpoint starts nothing more on e, which must not be the last one.
func (q *Engine) RemoveEndpoint(now int64, e *endpoint.Endpoint) {
	q.advance(now)
	e.Remove(q.now)
	for _, a := range q.attempts {
		if a != nil { // another endpoint may get the name
			a.avoid, a.faulty = a.avoid&^e.Bit, a.faulty&^e.Bit
		}
	}
	e.Bit = 0
	kept := make([]*endpoint.Endpoint, 0, len(q.endpoints))
	for _, o := range q.endpoints {
		if o != e {
			kept = append(kept, o)
		}
	}
	q.endpoints = kept
	q.limitsChanged(true)
	q.pump()
}

// Emit takes what an endpoint tells; it is every endpoint's Config.Emit.
func (q *Engine) Emit(ev endpoint.Event) {
	if (ev.Kind == endpoint.HeldOut || ev.Kind == endpoint.LetIn) && q.Alone() {
		return // calls go there all the same
	}
	q.Effects = append(q.Effects, Effect{Kind: EndpointEvent, Event: &ev})
}

// Alone reports whether requests have nowhere else to go than to the only endpoint, so that it
// is not held out whatever happens.
func (q *Engine) Alone() bool { return len(q.endpoints) == 1 && !q.cfg.Fallback && !q.hadGuests }

// SetLimits replaces the limits of an endpoint.
func (q *Engine) SetLimits(now int64, e *endpoint.Endpoint, limits []endpoint.Limit) {
	q.advance(now)
	lowered := e.SetLimits(q.now, limits)
	q.limitsChanged(lowered)
	q.Effects = append(q.Effects, Effect{Kind: LimitsSet, Event: &endpoint.Event{Endpoint: e, Limits: e.Limits()}})
	q.pump()
}

// limitsChanged follows a change of the endpoints or their limits.
func (q *Engine) limitsChanged(lowered bool) {
	q.sumUp()
	for _, g := range q.aside {
		g.stale = true
	}
	if lowered {
		q.beginSweep(sweepTooLarge)
	}
}

// sumUp brings up to date what is known of all endpoints.
func (q *Engine) sumUp() {
	q.slots, q.tokens, q.accounts = 0, false, false
	for _, e := range q.endpoints {
		q.slots += e.Slots()
		q.tokens = q.tokens || e.CountsTokens()
		q.accounts = q.accounts || e.Accounts()
	}
}

// Pause stops starting requests until Resume. It is idempotent.
func (q *Engine) Pause(now int64) {
	q.advance(now)
	if q.paused {
		return
	}
	q.paused = true
	q.Effects = append(q.Effects, Effect{Kind: PausedByHand})
	if q.closed {
		q.beginSweep(sweepShutDown)
	}
	q.pump()
}

// Resume ends a manual pause. Without one it ends the provider's pauses, and lets endpoints
// that are held out be probed at once.
func (q *Engine) Resume(now int64) {
	q.advance(now)
	if q.paused {
		q.paused = false
		q.Effects = append(q.Effects, Effect{Kind: ResumedByHand})
		q.pump()
		return
	}
	for _, e := range q.endpoints {
		e.EndPause(q.now)
		if e.HeldOut() {
			e.ProbeNow(q.now)
		}
	}
	q.pump()
}

// Wake looks again: a shared set may have room, or an instant that Next gave has come.
func (q *Engine) Wake(now int64) {
	q.advance(now)
	q.expireAttempts()
	q.pump()
}

// Adjust says that at now the wall clock read wall (Unix ns), and that it ran ahead of the
// monotonic clock by slept since the last call.
func (q *Engine) Adjust(now, wall, slept int64) {
	q.advance(now)
	for _, e := range q.endpoints {
		e.Adjust(q.now, wall, slept)
	}
}

// WallClock reports whether some limit counts on the wall clock, so that Adjust must be
// called with each reading of it.
func (q *Engine) WallClock() bool {
	for _, e := range q.endpoints {
		if e.WallClock() {
			return true
		}
	}
	return false
}

func (q *Engine) advance(now int64) { q.now = max(q.now, now) }

// Counts is a snapshot.
func (q *Engine) Counts() Counts { return q.counts }

// Waiting is how many requests wait, those that share a call counted once.
func (q *Engine) Waiting() int { return q.inLine() + q.backoff.Len() }

// Slots is how many attempts the limits allow at once, on all endpoints.
func (q *Engine) Slots() int64 { return q.slots }

// Running is how many attempts are under way.
func (q *Engine) Running() int64 { return q.running }

// Paused reports whether Pause holds the line.
func (q *Engine) Paused() bool { return q.paused }

// Endpoints are the endpoints. They must not be changed.
func (q *Engine) Endpoints() []*endpoint.Endpoint { return q.endpoints }

// RoomMade reports, once, whether the line became shorter.
func (q *Engine) RoomMade() bool {
	made := q.roomMade
	q.roomMade = false
	return made
}

// Done reports whether a closed engine has nothing left to do.
func (q *Engine) Done() bool {
	return q.closed && q.running == 0 && q.inLine() == 0 && q.backoff.Len() == 0 &&
		q.counts.Pending == 0 && q.counts.Processing == 0 && q.counts.Forwarded == 0
}

// Close takes no new requests. A paused engine fails what waits.
func (q *Engine) Close(now int64) {
	q.advance(now)
	q.closed = true
	q.roomMade = true
	if q.paused {
		q.beginSweep(sweepShutDown)
	}
	q.pump()
}

// CutOff ends everything: what waits, what runs and what fallbacks have.
func (q *Engine) CutOff(now int64) {
	q.advance(now)
	q.cutOff = true
	q.beginSweep(sweepCutOff)
	q.pump()
}

package llmqueue

import (
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/engine"
)

// QueueInfo is a snapshot of one queue. At any moment
// Accepted = Pending + Processing + Forwarded + Completed + Failed + Canceled.
type QueueInfo struct {
	ModelID    string `json:"model_id"`
	Pending    int    `json:"pending"`    // in line, or between two attempts
	Processing int    `json:"processing"` // requests whose processor runs and that did not end yet
	Forwarded  int    `json:"forwarded"`  // requests that a fallback model has (WithFallback)
	Accepted   int64  `json:"accepted"`
	Completed  int64  `json:"completed"`
	Failed     int64  `json:"failed"`
	Canceled   int64  `json:"canceled"`
	Attempts   int64  `json:"attempts"` // that started
	Retries    int64  `json:"retries"`  // attempts after the first, hedges not counted
	// Refused counts calls that the provider refused for a limit, a quota or want of
	// capacity: as observed, several in one attempt perhaps, or else as marked by
	// RateLimited.
	Refused   int64 `json:"refused"`
	Coalesced int64 `json:"coalesced"` // requests that shared the call of an earlier one (WithCoalescing)
	Fallbacks int64 `json:"fallbacks"` // requests handed to a fallback model, once for each such model
	// FallbackReason is why the latest of them was: a failure here of which a request that
	// completed elsewhere says nothing.
	FallbackReason string `json:"fallback_reason,omitempty"`
	Hedges         int64  `json:"hedges"` // attempts that started beside a slow one (WithHedge)
	// Abandoned counts processors that still run although nobody waits for them any more:
	// their request was canceled, their attempt timed out, or another attempt was faster.
	// Each holds its slot until it returns.
	Abandoned int `json:"abandoned"`
	// Waited is how long requests waited for the attempts that started, together: over
	// Attempts it is the mean. Worked is how long processors ran that returned.
	Waited      time.Duration `json:"waited_ns"`
	Worked      time.Duration `json:"worked_ns"`
	Paused      bool          `json:"paused"`                // by Pause
	PausedUntil time.Time     `json:"paused_until,omitzero"` // in the future; by the provider, when no endpoint may start before
	Slots       int64         `json:"slots"`                 // processors that may run at present, on all endpoints
	Closed      bool          `json:"closed"`                // Shutdown was called
	Dropped     int64         `json:"dropped_events"`        // events that observers were too slow for
	Usage       Usage         `json:"usage"`                 // reported by all attempts so far
	// NoUsage says that limits on tokens are set and not enforced, because nothing reports usage,
	// and what holds them. Empty while that is not so, or not known.
	NoUsage string `json:"no_usage,omitempty"`
	// Limits are those of the first endpoint, the only one unless AddEndpoint was
	// called; concurrency comes last. Shared ones stand in Endpoints.
	Limits    []LimitInfo    `json:"limits"`
	Endpoints []EndpointInfo `json:"endpoints"` // in the order in which they were added
	// Since is when the queue was made: another one tells that the counts began anew,
	// because the model was unregistered and registered again.
	Since time.Time `json:"since"`
}

// EndpointInfo is a snapshot of one endpoint.
type EndpointInfo struct {
	Name       string `json:"name"`
	Processing int64  `json:"processing"` // processors that run there
	Slots      int64  `json:"slots"`      // that may run at present, at most the concurrent limit
	Open       bool   `json:"open"`       // its circuit breaker lets no call through
	// HeldOut says that calls fail there, for HeldOutReason: while another endpoint or a fallback
	// can serve, nothing but a probe goes there, at NextProbe and then less often.
	HeldOut       bool      `json:"held_out"`
	HeldOutReason string    `json:"held_out_reason,omitempty"`
	NextProbe     time.Time `json:"next_probe,omitzero"`
	// How calls ended of late: each counts one at first, and half as much after 30 s.
	RecentServed   float64 `json:"recent_served"`
	RecentFaults   float64 `json:"recent_faults"`   // its own: a wrong key, an unknown model
	RecentFailures float64 `json:"recent_failures"` // passing: 5xx, broken answers, timeouts
	RecentRefusals float64 `json:"recent_refusals"` // for a limit, a quota or want of capacity
	// FirstOutput is how long calls took of late until output came, 0 while that is unknown.
	FirstOutput time.Duration `json:"first_output_ns"`
	PausedUntil time.Time     `json:"paused_until,omitzero"`  // by the provider, in the future
	PauseReason string        `json:"pause_reason,omitempty"` // what it said
	Limits      []LimitInfo   `json:"limits"`                 // concurrency last
	Shared      []LimitInfo   `json:"shared_limits,omitempty"`
}

// LimitInfo is a snapshot of one limit. For a concurrent limit Used counts running
// processors and ResetAt is zero.
type LimitInfo struct {
	Limit     Limit     `json:"limit"`
	Used      int64     `json:"used"`              // may exceed the amount after an overrun
	Available int64     `json:"available"`         // never negative
	ResetAt   time.Time `json:"reset_at,omitzero"` // when what is charged now no longer counts; zero when nothing is
}

// RequestInfo is what may be shown of a request: neither params nor result.
type RequestInfo struct {
	ID             string    `json:"id"`
	ModelID        string    `json:"model_id"`
	Endpoint       string    `json:"endpoint,omitempty"` // of the last attempt
	Status         Status    `json:"status"`
	Tenant         string    `json:"tenant,omitempty"`
	Priority       int       `json:"priority,omitempty"`
	Estimate       Usage     `json:"estimate"`
	Usage          Usage     `json:"usage"`
	Attempts       int       `json:"attempts"`
	Position       int       `json:"position,omitempty"`
	EstimatedStart time.Time `json:"estimated_start,omitzero"`
	WaitsFor       string    `json:"waits_for,omitempty"`
	CreatedAt      time.Time `json:"created_at"`
	StartedAt      time.Time `json:"started_at,omitzero"`
	FinishedAt     time.Time `json:"finished_at,omitzero"`
	Error          string    `json:"error,omitempty"`
}

// RequestFilter says which requests Requests lists. All of its conditions must hold.
type RequestFilter struct {
	// Limit bounds how many are listed. Defaults to 100.
	Limit int
	// Statuses are those to list. Defaults to all.
	Statuses []Status
	// Tenant lists the requests of one tenant. Defaults to those of all.
	Tenant string
	// IDPrefix lists requests whose id begins so. Defaults to all.
	IDPrefix string
}

// Inspector is what a dashboard or metrics need of a Manager, of any P and T: reading, not
// control. Safe for concurrent use.
type Inspector interface {
	Models() []string
	Info(modelID string) (QueueInfo, error)
	InfoAll() []QueueInfo
	Requests(modelID string, f RequestFilter) ([]RequestInfo, error)
}

// Controller is what an operator may do to the queues of a Manager, of any P and T. Safe for
// concurrent use.
type Controller interface {
	Pause(modelID string) error
	Resume(modelID string) error
	Cancel(modelID, requestID string) error
	SetLimits(modelID string, limits ...Limit) error
}

// Info is a snapshot of the queue.
func (c *core) Info() QueueInfo {
	if !c.made {
		return QueueInfo{}
	}
	now := time.Now()
	ns := c.lockAt(now)
	n := c.engine.Counts()
	info := QueueInfo{
		ModelID: c.modelID, Pending: n.Pending, Processing: n.Processing, Forwarded: n.Forwarded,
		Accepted: n.Accepted, Completed: n.Completed, Failed: n.Failed, Canceled: n.Canceled,
		Attempts: n.Attempts, Retries: n.Retries, Refused: n.Refused, Coalesced: n.Coalesced, Fallbacks: c.fallbacks, Hedges: n.Hedges,
		Abandoned: n.Abandoned, Waited: duration(n.Waited), Worked: duration(n.Worked),
		Paused: c.engine.Paused(), Closed: c.closed, Dropped: c.dropped.Load(), Usage: fromEngineUsage(n.Usage), Since: c.clock.At(1),
	}
	var reasons [][2]error
	for _, e := range c.engine.Endpoints() {
		i, paused, held := c.endpointInfo(ns, now, e)
		info.Endpoints, reasons = append(info.Endpoints, i), append(reasons, [2]error{paused, held})
		info.Slots += i.Slots
	}
	fellBack, noUsage := c.fellBack, c.noUsage
	c.mu.Unlock()
	if info.FallbackReason = textOf(fellBack); info.Usage.isZero() {
		info.NoUsage = textOf(noUsage)
	}
	info.Limits = info.Endpoints[0].Limits
	info.PausedUntil = info.Endpoints[0].PausedUntil
	for i, e := range info.Endpoints {
		if e.PausedUntil.Before(info.PausedUntil) {
			info.PausedUntil = e.PausedUntil
		}
		info.Endpoints[i].PauseReason, info.Endpoints[i].HeldOutReason = textOf(reasons[i][0]), textOf(reasons[i][1])
	}
	return info
}

// textOf asks an error for its text, which no lock may be held for: it may be a user's.
func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (c *core) endpointInfo(ns int64, now time.Time, e *endpoint.Endpoint) (info EndpointInfo, paused, held error) {
	w, recent := c.wayOf(e), e.Recent(ns)
	info = EndpointInfo{
		Name: w.name, Processing: e.Running(), Slots: e.SlotsNow(), Open: e.Open(),
		Limits: limitInfos(fromEngineLimits(e.Limits()), e.Running(), func(i int) (used, available int64, resetAt time.Time) {
			used, available, reset := e.WindowUsage(ns, i)
			if reset > ns {
				resetAt = c.clock.At(reset)
			}
			return used, available, resetAt
		}),
	}
	if e.PausedUntil() > ns {
		info.PausedUntil, paused = c.clock.At(e.PausedUntil()), w.pausedBy
	}
	info.RecentServed, info.RecentFaults, info.RecentFailures, info.RecentRefusals = recent.Served, recent.Faults, recent.Failures, recent.Refusals
	info.FirstOutput = duration(recent.FirstOutput)
	if info.HeldOut = e.HeldOut() && !c.engine.Alone(); info.HeldOut {
		held = w.heldBy
		if at := e.ProbeAt(false); at > 0 {
			info.NextProbe = c.clock.At(max(at, ns))
		}
	}
	for _, m := range w.shared {
		info.Shared = append(info.Shared, m.Limits(now)...)
	}
	return info, paused, held
}

// limitInfos says how much of limits is used. window is that of the i-th but the concurrent.
func limitInfos(limits []Limit, running int64, window func(i int) (used, available int64, resetAt time.Time)) []LimitInfo {
	infos := make([]LimitInfo, 0, len(limits)+1)
	var slots *LimitInfo
	i := 0
	for _, l := range limits {
		if l.Kind == KindConcurrent {
			slots = &LimitInfo{Limit: l, Used: running, Available: max(l.Amount-running, 0)}
			continue
		}
		used, available, reset := window(i)
		infos = append(infos, LimitInfo{Limit: l, Used: used, Available: available, ResetAt: reset})
		i++
	}
	if slots != nil {
		infos = append(infos, *slots)
	}
	return infos
}

// view is where a request is. What is asked of another queue, and what needs words, is added
// by follow without the lock.
type view struct {
	RequestInfo
	state    engine.State
	err      error
	metadata map[string]string
	rank     int
	wait     endpoint.Wait // of one in line
	at       location      // where a fallback has it
}

// look takes a view of a request. Callers hold the lock.
func (c *core) look(h uint32) (v view) { return c.lookAs(h, c.engine.View(h)) }

func (c *core) lookAs(h uint32, of engine.View) (v view) {
	e := c.entries.At(h)
	v.state, v.metadata, v.err = of.State, e.metadata, c.failures[h]
	v.ID, v.ModelID, v.Tenant, v.Priority, v.Estimate = c.idOf(h), c.modelID, e.tenant, of.Priority, fromEngineUsage(of.Estimate)
	v.CreatedAt = c.clock.At(of.Created)
	if of.State == engine.Following {
		shared := c.look(of.Call)
		v.state, v.Attempts, v.StartedAt, v.Endpoint, v.at = shared.state, shared.Attempts, shared.StartedAt, shared.Endpoint, shared.at
		v.ModelID, v.rank, v.wait, v.EstimatedStart = shared.ModelID, shared.rank, shared.wait, shared.EstimatedStart
		if v.state.Final() { // the call has ended, and this one is about to
			v.state = engine.Running
		}
		return v
	}
	v.Usage, v.Attempts = c.usageOf(&of), of.Attempts
	started := of.Started
	if hand := c.forwardings[h]; hand != nil {
		hand.overlay(&v.Usage, &v.Attempts, &v.ModelID, &started)
		if hop := hand.hop; hop != nil && hop.arrived && of.State == engine.HandedOff {
			v.at = location{hop.target, hop.at}
		}
	}
	if v.Attempts > 0 {
		v.StartedAt = c.clock.At(started)
	}
	if of.Endpoint != nil {
		v.Endpoint = c.wayOf(of.Endpoint).name
	}
	switch {
	case of.State.Final():
		v.FinishedAt = c.clock.At(of.Ended)
	case of.State == engine.InLine:
		v.rank, v.wait = c.engine.ForecastOf(h)
	case of.State == engine.BackingOff:
		v.EstimatedStart = c.clock.Date(c.engine.RetryAt(h))
	}
	return v
}

// follow completes a view without the lock: it asks the queue that has the request, and
// errors for their text.
func (c *core) follow(v *view) {
	v.Status = statusOf(v.state)
	if v.rank > 0 {
		v.Position, v.EstimatedStart, v.WaitsFor = v.rank, c.startOf(v.wait), waitsFor(v.wait)
	}
	if v.at.core == nil {
		return
	}
	there, ok := v.at.core.lookThere(v.at.ref)
	if !ok {
		return // it ended there, and is about to end here
	}
	v.ModelID, v.Status, v.WaitsFor = there.ModelID, there.Status, there.WaitsFor
	v.Position, v.EstimatedStart = there.Position, there.EstimatedStart
}

// lookThere is a view of a request that came from another model, false when it has ended.
func (c *core) lookThere(r ref) (v view, ok bool) {
	c.mu.Lock()
	if ok = c.known(r) && !c.engine.State(r.handle).Final(); ok {
		v = c.look(r.handle)
	}
	c.mu.Unlock()
	if ok {
		c.follow(&v)
	}
	return v, ok
}

package llmqueue

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/llmqueue/llmqueue/internal/engine"
	"github.com/llmqueue/llmqueue/internal/fanout"
)

// EventType says what happened.
type EventType string

// The events of a queue.
const (
	EventQueued        EventType = "queued"         // a request was accepted
	EventStarted       EventType = "started"        // an attempt started
	EventRetried       EventType = "retried"        // an attempt failed and another follows, not before Until
	EventCompleted     EventType = "completed"      // a request ended with a result
	EventFailed        EventType = "failed"         // a request ended with Err
	EventCanceled      EventType = "canceled"       // a request was canceled
	EventPaused        EventType = "paused"         // by Pause; or, with an Endpoint, by its provider: nothing starts there before Until, again when that gets later
	EventResumed       EventType = "resumed"        // such a pause is over, by Resume or, with an Endpoint, because its time was up
	EventLimitsChanged EventType = "limits_changed" // SetLimits
	EventLimitLearned  EventType = "limit_learned"  // an answer changed the limits in force, now Limits; Err says why if a refusal did: shorter bursts, or fewer at once until they all fit again
	EventLimitIgnored  EventType = "limit_ignored"  // an answer stated a limit that makes no sense: Err says which
	EventNoLimits      EventType = "no_limits"      // limits were to be learned, but the provider states none; sent once
	EventOpened        EventType = "opened"         // an endpoint is held out because calls fail there, by its breaker or by itself: before Until nothing starts there that can go elsewhere
	EventClosed        EventType = "closed"         // it is not any more: a call was served there
	EventFallback      EventType = "fallback"       // a request goes to the model Fallback, because of Err
	EventNoUsage       EventType = "no_usage"       // token limits are set but nothing reports usage: Err says what holds them; sent once
)

// Event is one thing that happened in a queue. Fields that do not apply are zero.
//
// Of requests that share a call (WithCoalescing), each is queued and ends; what happens
// to the call in between is told of the first of them that still waits for it.
type Event struct {
	Type      EventType
	Time      time.Time
	ModelID   string
	Endpoint  string // where the last attempt started, or what happened to an endpoint
	RequestID string
	Tenant    string
	Priority  int
	NoWait    bool      // fire and forget
	Attempt   int       // the attempts started so far
	Usage     Usage     // of all attempts here together, at the end; what a fallback used is told by its own queue
	Fallback  string    // the other model: where the request goes, and at its end which one answered
	Err       error     // why it failed, was canceled, retried or paused, or what the type says
	Until     time.Time // for EventRetried, EventPaused and EventOpened
	Limits    []Limit   // for EventLimitLearned and EventLimitsChanged: those in force, the queue's own or of the shared set that changed
	// Waited is how long the request waited for the attempt that starts, from its
	// acceptance, or from the end of the attempt before: a backoff and a pause are part
	// of it. For a request that leaves the line without another attempt, until then.
	Waited time.Duration
	// Took is how long the attempt ran that ended with this event; of a request that
	// was canceled or timed out while its processor goes on, until now. An attempt is
	// told once: of requests that share a call, by the first.
	Took time.Duration
	// Outcome is what that attempt came to: see OutcomeOf.
	Outcome Outcome
	// Hedge says that the attempt which starts is a second one beside a slow one (WithHedge).
	Hedge bool
	// Context is that of the request's Submit, for the values that it carries, such as
	// a trace. It may have ended. Nil for events of the queue.
	Context context.Context `json:"-"`
}

// observerBuffer is how many events may wait for one observer.
const observerBuffer = 4096

// startObservers begins to hand out events.
func (c *core) startObservers() {
	for _, handle := range c.settings.observers {
		c.observers = append(c.observers, fanout.New(handle, observerBuffer, &c.dropped))
	}
	if c.settings.logger != nil {
		c.logs = fanout.New(logEvents(c.settings.logger), observerBuffer, &c.dropped)
		c.observers = append(c.observers, c.logs)
	}
}

// stopObservers lets the observers handle what they have and end. One that hangs is left
// behind after the grace.
func (c *core) stopObservers() {
	c.mu.Lock()
	observers := c.observers
	c.observers = nil
	c.mu.Unlock()
	fanout.StopAll(observers, max(c.settings.grace, time.Second))
}

// tell writes what must not be lost into the log. It comes before the answers: a program may end
// with the answer that it waits for.
func (c *core) tell(t *rareTodo) {
	if t.unlogged != nil {
		_ = recovered(func() { logEvents(slog.Default())(*t.unlogged) })
	}
	if t.flush && c.logs != nil {
		c.logs.Flush(time.Second)
	}
}

// applyNoUsage says that token limits are not enforced, to whom it may concern.
func (c *core) applyNoUsage(e Event) {
	c.noUsage = e.Err
	c.emit(e)
	if more := c.todo.more(); c.logs != nil {
		more.flush = true
	} else {
		more.unlogged = &e
	}
}

// emit hands an event to the observers, in order. Callers hold the lock.
func (c *core) emit(e Event) {
	e.ModelID = c.modelID
	for _, o := range c.observers {
		o.Offer(&e)
	}
}

// emitFor is emit for a request; for a call it tells of the first that shares it.
func (c *core) emitFor(h uint32, e Event) {
	v := c.engine.View(h)
	if e.Attempt == 0 && e.Type != EventQueued && v.Attempts > 0 {
		e.Attempt, e.Endpoint = v.Attempts, c.wayOf(v.Endpoint).name
	}
	if shared := c.shared[h]; shared != nil {
		if first, ok := c.follower(shared); ok {
			h, v = first, c.engine.View(first)
		}
	}
	who := c.entries.At(h)
	e.RequestID, e.Tenant, e.Priority, e.Context = c.idOf(h), who.tenant, v.Priority, who.ctx
	e.NoWait = c.engine.Tag(h)&tagNoWait != 0
	c.emit(e)
}

// emitEnd tells of a request's end.
func (c *core) emitEnd(h uint32, end *engine.Effect, err error, usage Usage, hand *forwarding) {
	e := Event{
		Type: EventCompleted, Time: c.clock.At(c.engine.View(h).Ended), Err: err, Usage: usage,
		Waited: duration(end.Waited), Took: duration(end.Took),
	}
	switch end.State {
	case engine.Failed:
		e.Type = EventFailed
	case engine.CanceledState:
		e.Type = EventCanceled
	}
	e.Outcome = c.outcomeOf(h)
	if hand != nil {
		hand.overlay(new(Usage), new(int), &e.Fallback, new(int64))
		e.Waited, e.Took = max(e.Waited, duration(hand.waited)), max(e.Took, duration(hand.took))
		if hand.outcome != "" {
			e.Outcome = hand.outcome
		}
		hand.waited, hand.took, hand.outcome = 0, 0, ""
	}
	c.emitFor(h, e)
}

// outcomeOf is what the attempt of a request came to, when it is that whose end is being
// decided.
func (c *core) outcomeOf(h uint32) Outcome {
	if r := c.input.ended; r.seq != 0 && r.handle == h {
		return c.input.outcome
	}
	return ""
}

func duration(ns int64) time.Duration { return time.Duration(ns) }

// logEvents is the observer behind WithLogger, whose comment says what it logs.
func logEvents(l *slog.Logger) func(Event) {
	return func(e Event) {
		level := e.Type.level()
		ctx := e.Context
		if ctx == nil {
			ctx = context.Background()
		}
		if !l.Enabled(ctx, level) {
			return
		}
		attrs := []slog.Attr{slog.String("model", e.ModelID)}
		if e.Endpoint != "" && e.Endpoint != e.ModelID {
			attrs = append(attrs, slog.String("endpoint", e.Endpoint))
		}
		if e.RequestID != "" {
			attrs = append(attrs, slog.String("request", e.RequestID), slog.Int("attempt", e.Attempt))
		}
		if e.Hedge {
			attrs = append(attrs, slog.Bool("hedge", true))
		}
		if e.Fallback != "" {
			attrs = append(attrs, slog.String("fallback", e.Fallback))
		}
		if e.Tenant != "" {
			attrs = append(attrs, slog.String("tenant", e.Tenant))
		}
		if !e.Until.IsZero() {
			attrs = append(attrs, slog.Time("until", e.Until))
		}
		if e.Waited > 0 {
			attrs = append(attrs, slog.Duration("waited", e.Waited))
		}
		if e.Took > 0 {
			attrs = append(attrs, slog.Duration("took", e.Took))
		}
		if e.Outcome != "" && e.Outcome != OutcomeServed {
			attrs = append(attrs, slog.String("outcome", string(e.Outcome)))
		}
		if e.Err != nil {
			attrs = append(attrs, slog.String("error", e.Err.Error()))
		}
		for _, limit := range e.Limits {
			attrs = append(attrs, slog.String("limit", limit.String()))
		}
		if e.Type == EventCompleted {
			attrs = append(attrs, slog.Int64("tokens", e.Usage.Total()))
		}
		l.LogAttrs(ctx, level, e.Type.message(), attrs...)
	}
}

// What holds token limits where nothing reports usage.
var (
	errReservesNothing = errors.New("nothing is reserved for requests without an estimate")
	errEstimatesAlone  = errors.New("token limits are held by estimates alone")
)

// level is how noteworthy an event is.
func (t EventType) level() slog.Level {
	switch t {
	case EventFailed:
		return slog.LevelError
	case EventRetried, EventFallback, EventPaused, EventOpened, EventNoLimits, EventNoUsage:
		return slog.LevelWarn
	case EventResumed, EventClosed, EventLimitsChanged, EventLimitLearned:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// message is what its line in the log says.
func (t EventType) message() string {
	switch t {
	case EventPaused, EventResumed:
		return "queue " + string(t)
	case EventLimitsChanged:
		return "queue limits changed"
	case EventLimitLearned:
		return "queue limits learned"
	case EventLimitIgnored:
		return "limit in an answer ignored"
	case EventOpened:
		return "endpoint held out"
	case EventClosed:
		return "endpoint takes calls again"
	case EventNoLimits:
		return "limits were to be learned but the provider states none: use WithLimits"
	case EventNoUsage:
		return "token limits are set but no attempt reports its usage: call ReportUsage in the processor, or use the transport of package llmhttp"
	}
	return "request " + string(t)
}

package llmqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/llmqueue/llmqueue/internal/cycle"
	"github.com/llmqueue/llmqueue/internal/engine"
)

// This file hands requests that a model cannot serve to the next one. What happens at the
// other model comes back as an answer, like that to any who wait.

// forwarding is what a queue knows of a request that it handed to other models. Guarded by the
// queue's lock.
type forwarding struct {
	reason   error // why this model did not serve it
	code     engine.Code
	until    int64    // ns, when this model may serve it, as far as that is known and matters
	failure  error    // what the latest other model said, if anything
	next     int      // in the list of fallbacks
	tried    []string // models, this one first
	unable   []string // of them those that refused it because they serve nothing at present
	again    []string // those that are asked once more, and have to try
	hop      *hop     // where it is, or is on the way to; nil between two models
	modelID  string   // where it is, or which model answered; "" while there is none
	usage    Usage    // there
	attempts int
	started  int64 // ns, the last attempt there

	// For the next event.
	waited, took int64
	outcome      Outcome
}

// hop is a request's stay at one other model.
type hop struct {
	from    *core
	ref     ref // in from
	model   string
	target  *core
	at      ref  // in target, once it has arrived
	arrived bool // guarded by from's lock, like back
	back    bool
	insists bool        // the target has to try
	unable  bool        // it did not, because it serves nothing at present
	ended   atomic.Bool // the request ended in from: the target must not take it any more

	// The request, for the target.
	ctx     context.Context
	request Request[struct{}] // all but its params
	params  any               // P
}

func (h *hop) put(w *waiter) { h.from.receiveReply(h, w) }

// location is where a request is.
type location struct {
	core *core
	ref  ref
}

var errWithdrawn = fmt.Errorf("%w: its own queue gave it up", ErrCanceled)

func (c *core) keepForwarding(h uint32, hand *forwarding) {
	if c.forwardings == nil {
		c.forwardings = make(map[uint32]*forwarding)
	}
	c.forwardings[h] = hand
}

// applyHandoff sends a request on its way.
func (c *core) applyHandoff(e *engine.Effect) {
	hand := &forwarding{
		reason: c.reason(e.Handle, e.Code), code: e.Code, until: e.At, tried: []string{c.modelID},
		waited: e.Waited, took: e.Took, outcome: c.outcomeOf(e.Handle),
	}
	if before := c.forwardings[e.Handle]; before != nil { // it was handed off before, and taken back
		hand.usage, hand.attempts, hand.started = before.usage, before.attempts, before.started
	}
	c.keepForwarding(e.Handle, hand)
	more := c.todo.more()
	more.forwardings = append(more.forwardings, c.ref(e.Handle))
}

// forwardAll submits requests to other models, on a goroutine of its own because that runs the
// caller's estimator and validation.
func (c *core) forwardAll(requests []ref) {
	for _, r := range requests {
		for c.tryNext(r) {
		}
	}
}

// tryNext submits a request to the next model. It reports whether to try another one.
func (c *core) tryNext(r ref) (again bool) {
	h := c.nextModel(r)
	if h == nil {
		return false
	}
	var err error
	if h.target, err = c.registry.find(h.model); err == nil {
		err = c.types.forward(h)
	}
	if !h.request.NoWait && h.ctx.Err() != nil {
		c.abandon(h.ctx, r) // and arrive takes it back
	}
	return c.arrive(h, err)
}

// nextModel begins the hop to the next model, or ends the request when there is none. nil
// says that nothing is left to do.
func (c *core) nextModel(r ref) *hop {
	ns := c.lock()
	defer c.unlock(ns)
	if !c.known(r) || c.engine.State(r.handle) != engine.HandedOff {
		return nil // it was canceled
	}
	hand, models, v := c.forwardings[r.handle], c.settings.fallback, c.engine.View(r.handle)
	hand.skip(models)
	if hand.next == len(models) {
		if c.nobodyTakes(ns, r.handle, hand) {
			return nil
		}
		hand.skip(models)
	}
	e, tag := c.entries.At(r.handle), c.engine.Tag(r.handle)
	h := &hop{from: c, ref: r, model: models[hand.next], ctx: e.ctx, params: c.types.params(r.handle)}
	h.request = Request[struct{}]{
		ID: c.idOf(r.handle), ModelID: h.model, NoWait: tag&tagNoWait != 0, Priority: v.Priority,
		Tenant: e.tenant, Estimate: fromEngineUsage(v.Estimate), Metadata: e.metadata,
	}
	if v.Attempts == 0 && hand.attempts == 0 && v.MaxWait > 0 {
		// One whose time is over may yet start there at once.
		h.request.MaxWait = time.Duration(max(v.MaxWait-(ns-v.Created), 1))
	}
	if left := time.Duration(hand.until - ns); left > 0 && (h.request.MaxWait == 0 || left < h.request.MaxWait) {
		h.request.MaxWait = left // later it is served here
	}
	if h.request.NoWait {
		h.ctx = context.WithoutCancel(h.ctx)
	}
	h.insists = slices.Contains(hand.again, h.model)
	hand.hop = h
	hand.next++
	hand.tried = append(hand.tried, h.model)
	c.fallbacks++
	c.fellBack = cmp.Or(hand.failure, hand.reason)
	if len(c.observers) > 0 {
		c.emitFor(r.handle, Event{
			Type: EventFallback, Time: c.clock.At(ns), Fallback: h.model, Err: c.fellBack,
			Waited: duration(hand.waited), Took: duration(hand.took), Outcome: hand.outcome,
		})
	}
	hand.waited, hand.took, hand.outcome = 0, 0, ""
	return h
}

// skip passes over models that were tried.
func (hand *forwarding) skip(models []string) {
	for hand.next < len(models) && !slices.Contains(hand.again, models[hand.next]) && slices.Contains(hand.tried, models[hand.next]) {
		hand.next++
	}
}

// nobodyTakes ends a request that no other model took, or lets it wait here after all when only
// time is against that. It reports false when it is to be offered once more, to models that did
// not even try. Callers hold the lock.
func (c *core) nobodyTakes(ns int64, h uint32, hand *forwarding) bool {
	if hand.code != engine.QuotaExhausted && c.engine.TakeBack(ns, h, hand.attempts > 0) {
		hand.modelID = ""
		return true
	}
	if len(hand.unable) > 0 { // once more, to those that could not serve it then
		hand.next, hand.again, hand.unable = 0, hand.unable, nil
		return false
	}
	c.input.err = hand.err()
	c.engine.Finish(ns, h, engine.Failed, true)
	return true
}

// forward submits the request of a hop to its target.
func (q *Queue[P, T]) forward(h *hop) error {
	target := h.target.types.(*Queue[P, T])
	params, _ := h.params.(P)
	r := &h.request
	req := Request[P]{
		ID: r.ID, ModelID: r.ModelID, Params: params, NoWait: r.NoWait, Priority: r.Priority,
		Tenant: r.Tenant, Estimate: r.Estimate, MaxWait: r.MaxWait, Metadata: r.Metadata,
	}
	w := &typedWaiter[T]{waiter: waiter{sink: h}}
	w.typed, w.answer = w, &w.reply
	var in intake
	if err := target.prepareHere(h.ctx, &req, &in); err != nil {
		return err
	}
	in.hop, in.Guest = h, !h.insists
	in.Tag |= tagHop
	h.at = target.accept(&in, &req.Params, &w.waiter)
	if errors.Is(in.err, ErrDuplicateRequest) {
		in.id = "" // it keeps its id here
		h.at = target.accept(&in, &req.Params, &w.waiter)
	}
	return in.err
}

// arrive notes where a request is now, or that the model did not take it: then it reports
// that another one is to be tried. One that ended on the way is canceled there.
func (c *core) arrive(h *hop, err error) (again bool) {
	ns := c.lock()
	defer c.unlock(ns)
	hand := c.forwardings[h.ref.handle]
	here := c.known(h.ref) && c.engine.State(h.ref.handle) == engine.HandedOff && hand.hop == h
	switch {
	case err != nil && here:
		if hand.hop, hand.failure = nil, err; h.unable {
			hand.unable = append(hand.unable, h.model)
		}
		return true
	case err != nil || h.back:
	case here:
		h.arrived, hand.modelID = true, h.model
	default:
		more := c.todo.more()
		more.withdrawals = append(more.withdrawals, location{h.target, h.at})
	}
	return false
}

// err is the error of a request that no model served.
func (hand *forwarding) err() error {
	if hand.failure == nil {
		return &noFallback{hand.reason, hand.tried}
	}
	return &joinedError{hand.failure, "; before that, ", hand.reason}
}

// receiveReply ends a request with the answer of another model, or lets it go on to the next.
func (c *core) receiveReply(h *hop, w *waiter) {
	ns := c.lock()
	defer c.unlock(ns)
	h.back = true
	hand := c.forwardings[h.ref.handle]
	if !c.known(h.ref) || c.engine.State(h.ref.handle) != engine.HandedOff || hand.hop != h {
		return
	}
	a := w.answer
	hand.hop = nil
	if hand.modelID = a.model; a.model == "" {
		hand.modelID = h.model
	}
	hand.usage, hand.attempts = hand.usage.plus(a.usage), hand.attempts+a.attempts
	if a.attempts > 0 {
		hand.started = c.clock.Since(h.target.clock.At(a.started))
	}
	if a.unserved != nil {
		hand.failure = a.err
		hand.tried = append(hand.tried, a.unserved...)
		more := c.todo.more()
		more.forwardings = append(more.forwardings, h.ref)
		return
	}
	switch c.input.err = a.err; a.state {
	case engine.Completed:
		c.types.receive(h.ref.handle, w)
	case engine.Failed:
		hand.failure = a.err
		c.input.err = hand.err()
	}
	c.engine.Finish(ns, h.ref.handle, a.state, false)
}

// withdraw cancels a request at the model that has it, because it has ended here. Callers hold
// the lock.
func (c *core) withdraw(hand *forwarding) {
	if h := hand.hop; h != nil {
		hand.hop = nil
		h.ended.Store(true)
		if h.arrived && !h.back {
			more := c.todo.more()
			more.withdrawals = append(more.withdrawals, location{h.target, h.at})
		}
	}
}

// unservedBy are the models that could not serve a request.
func (c *core) unservedBy(hand *forwarding) []string {
	if hand == nil {
		return []string{c.modelID}
	}
	return hand.tried
}

// overlay adds what happened at other models.
func (hand *forwarding) overlay(usage *Usage, attempts *int, modelID *string, started *int64) {
	*usage, *attempts, *started = usage.plus(hand.usage), *attempts+hand.attempts, max(*started, hand.started)
	if hand.modelID != "" {
		*modelID = hand.modelID
	}
}

// expireElsewhere ends a request whose MaxWait passed while a fallback has the call that it
// shares, unless that was started there.
func (c *core) expireElsewhere(r ref) {
	c.mu.Lock()
	var at location
	if c.known(r) && c.engine.State(r.handle) == engine.Following {
		if hand := c.forwardings[c.engine.View(r.handle).Call]; hand != nil && hand.hop != nil && hand.hop.arrived {
			at = location{hand.hop.target, hand.hop.at}
		}
	}
	c.mu.Unlock()
	if at.core != nil && at.core.started(at.ref) {
		return
	}
	ns := c.lock()
	if c.known(r) {
		c.engine.ExpireElsewhere(ns, r.handle)
	}
	c.unlock(ns)
}

// started reports whether a request that came from another model was started, here or
// further on.
func (c *core) started(r ref) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.known(r) || c.look(r.handle).Attempts > 0
}

func fallbackMissing(model, fallback string) error {
	return inModel(model, &joinedError{ErrInvalidConfiguration, fmt.Sprintf(": its fallback %q: ", fallback), errorf(ErrModelNotRegistered, "Register it too, or take it out of WithFallback")})
}

// checkFallbacks says which fallback that c reaches was never registered, or nil. It looks once
// for each change of the registry.
func (r *registry) checkFallbacks(c *core) error {
	version := r.version.Load()
	if c.checked.Load() == version {
		return nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if err := r.missingFrom(c, make(map[*core]bool)); err != nil {
		return err
	}
	c.checked.Store(version)
	return nil
}

func (r *registry) missingFrom(c *core, seen map[*core]bool) error {
	seen[c] = true
	for _, model := range c.settings.fallback {
		if !r.known[model] {
			return fallbackMissing(c.modelID, model)
		}
		if next := r.queues[model]; next != nil && !seen[next] {
			if err := r.missingFrom(next, seen); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkCycles finds a circle of fallbacks, or nil.
func checkCycles(queues map[string]*core) error {
	circle := cycle.Find(slices.Sorted(maps.Keys(queues)), func(model string) []string {
		if c, ok := queues[model]; ok {
			return c.settings.fallback
		}
		return nil
	})
	if circle != nil {
		return inModel(circle[0], invalid("fallbacks go in a circle: %s, take one out", strings.Join(circle, " → ")))
	}
	return nil
}

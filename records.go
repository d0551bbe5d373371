package llmqueue

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/engine"
	"github.com/llmqueue/llmqueue/internal/ids"
)

// entry is what a queue knows of a request besides what the engine knows, its params and
// its result. While an attempt is under way its worker reads it without the lock, waiters
// excepted, so it stays as it is until then.
type entry struct {
	ctx      context.Context // nil once the request and its last attempt have ended
	tenant   string
	id       *string // the caller's; nil for an assigned one
	metadata map[string]string
	waiters  *waiter
}

// Tags of a request in the engine.
const (
	tagNoWait  = 1 << iota // fire and forget
	tagPermit              // the caller makes the call itself
	tagCall                // no request, but what several share
	tagAwaited             // of a call: who asked for it first waits
	tagHop                 // it came from another model
)

// ref names a request for as long as the queue remembers it.
type ref struct {
	seq    uint64
	handle uint32
}

func (c *core) ref(h uint32) ref { return ref{c.engine.Seq(h), h} }

// known reports whether r is not forgotten.
func (c *core) known(r ref) bool { return r.seq != 0 && c.engine.Seq(r.handle) == r.seq }

// assignedID is the id of a request to which the caller gave none.
func (c *core) assignedID(r ref) string { return ids.New(c.prefix, r.seq, r.handle) }

// idOf is the id of a request. Callers hold the lock.
func (c *core) idOf(h uint32) string {
	if id := c.entries.At(h).id; id != nil {
		return *id
	}
	return c.assignedID(c.ref(h))
}

// find gives the request with this id, and false when there is none. Callers hold the
// lock.
func (c *core) find(id string) (h uint32, ok bool) {
	if h, ok := c.ids[id]; ok {
		return h, true
	}
	seq, handle, ok := ids.Parse(c.prefix, id)
	r := ref{seq, handle}
	if !ok || !c.known(r) || c.entries.At(r.handle).id != nil || c.engine.Tag(r.handle)&tagCall != 0 { // a call that several share has none
		return 0, false
	}
	return r.handle, true
}

// lookup is find, with an error that says what is wrong. Callers hold the lock.
func (c *core) lookup(ns int64, requestID string) (uint32, error) {
	c.expireHistory(ns)
	if h, ok := c.find(requestID); ok {
		return h, nil
	}
	return 0, inModel(c.modelID, errorf(ErrRequestNotFound, "never accepted, or ended and forgotten (see WithHistory; at once when a Submit waited for it under an assigned id)"), "request", requestID)
}

// holder is the queue of a model, or without one the queue that was asked for the request. What
// came from another model is that model's.
func (r *registry) holder(modelID, requestID string) (found *core, err error) {
	if modelID != "" || !r.made {
		return r.find(modelID)
	}
	for _, c := range r.all() {
		ns := c.lock()
		h, err := c.lookup(ns, requestID)
		has := err == nil && c.engine.Tag(h)&tagHop == 0
		c.unlock(ns)
		if has && found != nil {
			return nil, errorf(ErrInvalidParams, "models %q and %q both have a request %q, name the model", found.modelID, c.modelID, requestID)
		}
		if has {
			found = c
		}
	}
	if found == nil {
		return nil, errorf(ErrRequestNotFound, "no model knows a request %q: never accepted, or ended and forgotten (see WithHistory)", requestID)
	}
	return found, nil
}

// remember keeps a request that has ended for the history, or forgets it at once.
func (c *core) remember(ns int64, h uint32) {
	if c.history.Size == 0 {
		c.forget(h)
		return
	}
	if c.history.Full() {
		c.forget(c.history.Pop())
	}
	c.history.Push(ns, h)
	c.stripEnded(c.ref(h))
}

// stripEnded is strip for a request that has ended, once none of its attempts is under way.
func (c *core) stripEnded(r ref) {
	if c.known(r) && c.engine.State(r.handle).Final() && !c.engine.View(r.handle).Busy {
		c.strip(r.handle)
	}
}

// strip lets go of what only a processor needs, and of a result that was delivered: the
// history must not keep what the caller's context holds alive.
func (c *core) strip(h uint32) {
	c.entries.At(h).ctx = nil
	c.types.stripSlot(h, c.engine.State(h) == engine.Completed && c.engine.Tag(h)&tagNoWait != 0)
}

// expireHistory forgets what ended longer ago than the history's time.
func (c *core) expireHistory(ns int64) {
	for at := c.history.Expiry(); at != 0 && at <= ns; at = c.history.Expiry() {
		c.forget(c.history.Pop())
	}
}

// forget lets go of a request that has ended.
func (c *core) forget(h uint32) {
	if id := c.entries.At(h).id; id != nil {
		if c.ids[*id] == h {
			delete(c.ids, *id)
		}
		if strings.HasPrefix(*id, c.prefix) {
			c.reserved--
		}
	}
	if len(c.failures) > 0 {
		delete(c.failures, h)
	}
	if len(c.forwardings) > 0 {
		delete(c.forwardings, h)
	}
	if gone, pageFreed := c.engine.Forget(h); gone {
		c.clear(h, pageFreed)
	}
}

// clear forgets what was kept of a handle that the engine has forgotten.
func (c *core) clear(h uint32, pageFreed bool) {
	c.entries.Clear(h, pageFreed)
	c.types.clearSlot(h, pageFreed)
}

// mostLookedAt bounds how many requests of a kind are looked at for one page.
const mostLookedAt = 10_000

// Requests lists requests without their params and results: first what runs, longest first,
// then what a fallback model has (ModelID says which), then what waits, in order, then what is
// between two attempts, then what ended, latest first. The zero filter lists the first 100. A
// filter by tenant or id looks at the first 10,000 that wait and as many that ended.
func (c *core) Requests(f RequestFilter) []RequestInfo {
	if !c.made {
		return nil
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	ns := c.lock()
	c.expireHistory(ns)
	l := lister{core: c, filter: &f}
	l.list()
	c.unlock(ns)
	infos := make([]RequestInfo, len(l.views))
	for i := range l.views {
		v := &l.views[i]
		at := v.at
		v.at = location{}
		c.follow(v)
		if at.core != nil {
			v.ModelID = at.core.modelID
		}
		if v.err != nil {
			v.Error = v.err.Error()
		}
		infos[i] = v.RequestInfo
	}
	return infos
}

// lister collects the views of a page.
type lister struct {
	core   *core
	filter *RequestFilter
	views  []view
	seen   int
}

func (l *lister) list() {
	c := l.core
	if l.wants(StatusProcessing) {
		for _, h := range c.engine.UnderWay() {
			l.add(h, nil)
		}
	}
	if l.wants(StatusPending) {
		most := max(l.filter.Limit, mostLookedAt)
		for _, h := range c.handedOff(most) {
			l.add(h, nil)
		}
		l.seen = 0
		for h, forecast := range c.engine.InLine() {
			if !l.add(h, forecast) {
				break
			}
		}
		for _, h := range c.backingOff(most) {
			l.add(h, nil)
		}
	}
	l.seen = 0
	if l.wants(StatusCompleted) || l.wants(StatusFailed) || l.wants(StatusCanceled) {
		for h := range c.history.Latest {
			if !l.add(h, nil) {
				break
			}
		}
	}
}

func (l *lister) wants(s Status) bool {
	return len(l.filter.Statuses) == 0 || slices.Contains(l.filter.Statuses, s)
}

// searches reports whether requests are looked at that are not listed.
func (l *lister) searches() bool { return l.filter.Tenant != "" || l.filter.IDPrefix != "" }

// add adds a request, or those that share a call, and reports whether there is room for more.
func (l *lister) add(h uint32, forecast func() (int, endpoint.Wait)) bool {
	c := l.core
	if l.seen++; len(l.views) == l.filter.Limit || l.seen > mostLookedAt && l.searches() {
		return false
	}
	if shared := c.shared[h]; shared != nil {
		for _, r := range shared.followers[shared.first:] {
			if l.seen++; len(l.views) == l.filter.Limit || l.seen > mostLookedAt && l.searches() {
				return false
			}
			if c.known(r) && c.engine.State(r.handle) == engine.Following {
				l.addOne(r.handle, forecast)
			}
		}
		return true
	}
	l.addOne(h, forecast)
	return true
}

func (l *lister) addOne(h uint32, forecast func() (int, endpoint.Wait)) {
	c := l.core
	e, f := c.entries.At(h), l.filter
	if f.Tenant != "" && e.tenant != f.Tenant || f.IDPrefix != "" && !strings.HasPrefix(c.idOf(h), f.IDPrefix) {
		return
	}
	of := c.engine.View(h)
	if of.State.Final() && !l.wants(statusOf(of.State)) {
		return
	}
	var v view
	if forecast != nil && of.State == engine.InLine {
		of.State = engine.BackingOff // not asked for its place: that is known
		v = c.lookAs(h, of)
		v.EstimatedStart, v.state = time.Time{}, engine.InLine
	} else {
		v = c.lookAs(h, of)
	}
	if forecast != nil {
		v.rank, v.wait = forecast()
	}
	l.views = append(l.views, v)
}

// handedOff are requests that other models have, in order of arrival, at most so many.
func (c *core) handedOff(most int) (handles []uint32) {
	for h := range c.forwardings {
		if len(handles) == most {
			break
		}
		if c.engine.State(h) == engine.HandedOff {
			handles = append(handles, h)
		}
	}
	slices.SortFunc(handles, func(a, b uint32) int { return cmp.Compare(c.engine.Seq(a), c.engine.Seq(b)) })
	return handles
}

// backingOff are requests between two attempts, at most so many.
func (c *core) backingOff(most int) (handles []uint32) {
	for h := range c.engine.BackingOff() {
		if handles = append(handles, h); len(handles) == most {
			break
		}
	}
	slices.SortFunc(handles, func(a, b uint32) int { return cmp.Compare(c.engine.RetryAt(a), c.engine.RetryAt(b)) })
	return handles
}

package llmqueue

import (
	"context"
	"strconv"
	"strings"
	"unsafe"

	"github.com/llmqueue/llmqueue/internal/engine"
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
)

// ref names a request for as long as the queue remembers it.
type ref struct {
	seq    uint64
	handle uint32
}

func (c *core) ref(h uint32) ref { return ref{c.engine.Seq(h), h} }

// known reports whether r is not forgotten.
func (c *core) known(r ref) bool { return r.seq != 0 && c.engine.Seq(r.handle) == r.seq }

// idBase writes the numbers in an id: a power of two costs no division.
const idBase = 32

// maxIDLength is that of an assigned id.
const maxIDLength = 9 + 13 + 1 + 7

func (c *core) appendID(b []byte, r ref) []byte {
	b = append(b, c.prefix...)
	b = strconv.AppendUint(b, r.seq, idBase)
	b = append(b, '-')
	return strconv.AppendUint(b, uint64(r.handle), idBase)
}

// assignedID is the id of a request to which the caller gave none. It says where the
// request is kept, so that finding it needs no map.
func (c *core) assignedID(r ref) string {
	var b [maxIDLength]byte
	return string(c.appendID(b[:0], r))
}

// idBlock is how many bytes of ids are made at once for the requests of a worker.
const idBlock = 1024

// cutID is assignedID, cut from a block.
func (c *core) cutID(block *[]byte, r ref) string {
	b := *block
	if cap(b)-len(b) < maxIDLength {
		b = make([]byte, 0, idBlock)
	}
	n := len(b)
	b = c.appendID(b, r)
	*block = b
	return unsafe.String(&b[n], len(b)-n) // nothing writes to these bytes again
}

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
	rest, ok := strings.CutPrefix(id, c.prefix)
	if !ok {
		return 0, false
	}
	seq, handle, ok := strings.Cut(rest, "-")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(seq, idBase, 64)
	if err != nil {
		return 0, false
	}
	index, err := strconv.ParseUint(handle, idBase, 32)
	if err != nil {
		return 0, false
	}
	r := ref{n, uint32(index)}
	// Numbers can be written in several ways; only the id itself counts, and a call that
	// several share has none.
	if !c.known(r) || c.entries.At(r.handle).id != nil || c.engine.Tag(r.handle)&tagCall != 0 || c.assignedID(r) != id {
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
	return 0, errorf(ErrRequestNotFound, "model %q knows no request %q: never accepted, or ended and forgotten (see WithHistory)", c.modelID, requestID)
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
	if !c.engine.View(h).UnderWay {
		c.strip(h)
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
		delete(c.ids, *id)
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

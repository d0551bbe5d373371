package line

import "iter"

// keepSteps is how many steps of a walk are kept for the next one.
const keepSteps = 4096

// All returns the requests in the order in which they would start if nothing
// else arrived. It changes nothing that can be seen. The line must not be
// changed while the sequence runs.
//
// It is worked out while it is consumed: the first k requests take O(k log n)
// and memory for k, however many tenants and requests there are. Where requests
// were removed from the middle of a tenant's queue, their places are passed by
// one by one.
func (l *Line) All() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		w := walk{line: l, steps: l.steps}
		l.steps = nil // should another sequence run meanwhile
		for lv := l.top; lv != nil && w.returned(lv, yield) && w.ready(lv, yield); {
			lv = l.tree.below(lv.priority)
		}
		if cap(w.steps) <= keepSteps {
			l.steps = w.steps[:0]
		}
	}
}

// A walk goes through a heap in order without changing it. It keeps a heap of
// its own, of what may come next: an entry of the heap joins it when the one
// above has been taken, and a tenant that was taken joins again with its next
// request and the tag that Pop would give it.
type walk struct {
	line  *Line
	base  uint64 // as in heap
	steps []step
}

type step struct {
	tag    uint64
	seq    uint32
	place  uint32 // in the heap, or gone for a tenant that joined again
	tenant uint32 // its number, and
	ticket uint32 // that of its request, if it joined again
}

// returned yields the returned requests of a level in order. It returns false
// when the caller has stopped.
func (w *walk) returned(lv *level, yield func(uint32) bool) bool {
	for s, ok := w.begin(&lv.back); ok; s, ok = w.next(&lv.back) {
		if !yield(lv.back.entries[s.place].id) {
			return false
		}
	}
	return true
}

// ready yields the requests of a level that have not started, in order. It
// returns false when the caller has stopped.
func (w *walk) ready(lv *level, yield func(uint32) bool) bool {
	l := w.line
	for s, ok := w.begin(&lv.ready); ok; s, ok = w.next(&lv.ready) {
		owed := uint64(0)
		if s.place != gone {
			s.tenant = lv.ready.entries[s.place].id
			t := l.tenants[s.tenant]
			s.ticket, owed = t.queue.head, t.owed
		}
		q := &l.tenants[s.tenant].queue
		if !yield(*q.at(s.ticket)) {
			return false
		}
		for s.ticket++; s.ticket != q.tail && *q.at(s.ticket) == gone; s.ticket++ {
		}
		if s.ticket == q.tail {
			continue
		}
		n := &l.nodes[*q.at(s.ticket)]
		now := heap{base: s.tag}
		s.tag, s.seq, s.place = now.ahead(s.tag, owed)+units(n.cost), n.seq, gone
		w.push(s)
	}
	return true
}

// begin starts a walk through h and returns its first step.
func (w *walk) begin(h *heap) (step, bool) {
	w.base, w.steps = h.base, w.steps[:0]
	w.enter(h, 0)
	return w.next(h)
}

// next takes the first step off, lets join what it kept back, and returns it.
func (w *walk) next(h *heap) (s step, ok bool) {
	if len(w.steps) == 0 {
		return s, false
	}
	s = w.pop()
	w.base = s.tag
	if s.place != gone {
		w.enter(h, 2*int(s.place)+1)
		w.enter(h, 2*int(s.place)+2)
	}
	return s, true
}

// enter lets the entry at place i of h join, if there is one.
func (w *walk) enter(h *heap, i int) {
	if i < len(h.entries) {
		e := &h.entries[i]
		w.push(step{tag: e.tag, seq: e.seq, place: uint32(i)})
	}
}

func (w *walk) less(a, b *step) bool {
	if a.tag != b.tag {
		return a.tag-w.base < b.tag-w.base
	}
	return int32(a.seq-b.seq) < 0
}

func (w *walk) push(s step) {
	w.steps = append(w.steps, s)
	i := len(w.steps) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !w.less(&s, &w.steps[parent]) {
			break
		}
		w.steps[i] = w.steps[parent]
		i = parent
	}
	w.steps[i] = s
}

func (w *walk) pop() step {
	first, last := w.steps[0], len(w.steps)-1
	s := w.steps[last]
	w.steps = w.steps[:last]
	for i := 0; last > 0; {
		child := 2*i + 1
		if child >= last {
			w.steps[i] = s
			break
		}
		if right := child + 1; right < last && w.less(&w.steps[right], &w.steps[child]) {
			child = right
		}
		if !w.less(&w.steps[child], &s) {
			w.steps[i] = s
			break
		}
		w.steps[i] = w.steps[child]
		i = child
	}
	return first
}

package llmqueue

// timeline orders instants of requests: when a retry is due, when a wait is over.
// Entries whose request moved on stay until they surface or until they are more
// than half, so that removing costs no search. Guarded by the queue's lock.
type timeline struct {
	heap []instant
	live int
}

type instant struct {
	at int64 // ns since the queue's epoch
	ref
}

func (t *timeline) add(at int64, r ref) {
	t.live++
	t.heap = append(t.heap, instant{at, r})
	for i := len(t.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if t.heap[parent].at <= t.heap[i].at {
			break
		}
		t.heap[parent], t.heap[i] = t.heap[i], t.heap[parent]
		i = parent
	}
}

// first is the earliest instant, 0 when there is none.
func (t *timeline) first() int64 {
	if len(t.heap) == 0 {
		return 0
	}
	return t.heap[0].at
}

func (t *timeline) pop() ref {
	top := t.heap[0].ref
	last := len(t.heap) - 1
	t.heap[0] = t.heap[last]
	t.heap = t.heap[:last]
	t.down(0)
	return top
}

func (t *timeline) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(t.heap) {
			return
		}
		if child+1 < len(t.heap) && t.heap[child+1].at < t.heap[child].at {
			child++
		}
		if t.heap[i].at <= t.heap[child].at {
			return
		}
		t.heap[i], t.heap[child] = t.heap[child], t.heap[i]
		i = child
	}
}

// drop says that one entry's request moved on. stale finds them when it is worth it.
func (t *timeline) drop(stale func(ref) bool) {
	t.live--
	if len(t.heap) < 64 || len(t.heap) < 2*t.live {
		return
	}
	kept := t.heap[:0]
	for _, e := range t.heap {
		if !stale(e.ref) {
			kept = append(kept, e)
		}
	}
	t.heap = kept
	for i := len(t.heap)/2 - 1; i >= 0; i-- {
		t.down(i)
	}
}

// Package history remembers in which order requests ended, so that the oldest are forgotten
// first.
package history

import "github.com/llmqueue/llmqueue/internal/endpoint"

// History is a ring of the handles of requests that ended, at most Size of them, each for TTL.
// Its owner's lock guards it.
type History struct {
	Size  int
	TTL   int64 // ns
	ring  []past
	first int // index of the oldest
	count int
}

type past struct {
	ended  int64
	handle uint32
}

// Full reports whether the oldest must go before another one is pushed.
func (h *History) Full() bool { return h.count == h.Size }

// Expiry is when the oldest is to be forgotten, 0 when there is none.
func (h *History) Expiry() int64 {
	if h.count == 0 {
		return 0
	}
	return endpoint.After(h.ring[h.first].ended, h.TTL)
}

// Push adds a request that ended. There must be room.
func (h *History) Push(ended int64, handle uint32) {
	if h.count == len(h.ring) {
		bigger := make([]past, max(16, min(2*len(h.ring), h.Size)))
		for i := range h.count {
			bigger[i] = h.ring[(h.first+i)%len(h.ring)]
		}
		h.ring, h.first = bigger, 0
	}
	i := h.first + h.count
	if i >= len(h.ring) {
		i -= len(h.ring)
	}
	h.ring[i] = past{ended, handle}
	h.count++
}

// Pop takes the oldest out. There must be one.
func (h *History) Pop() (handle uint32) {
	handle = h.ring[h.first].handle
	h.count--
	if h.first++; h.first == len(h.ring) {
		h.first = 0
	}
	return handle
}

// Latest gives the handles, latest first.
func (h *History) Latest(yield func(uint32) bool) {
	for i := h.count - 1; i >= 0; i-- {
		if !yield(h.ring[(h.first+i)%len(h.ring)].handle) {
			return
		}
	}
}

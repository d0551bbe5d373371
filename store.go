package llmqueue

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"
)

// record is all a queue knows of one request, from Submit until it is forgotten.
// Records live in pages that never move, so a handle is an index and a waiting
// request costs no allocation of its own.
//
// The request's fields stand here one by one: without ModelID, which is the queue's,
// and with the flags together, a million of them take 24 MB less.
type record[P, T any] struct {
	id       string
	params   P
	tenant   string
	metadata map[string]string
	estimate Usage
	priority int
	maxWait  time.Duration
	ctx      context.Context
	seq      uint64   // counts all requests of the queue; 0 while the slot is free
	created  int64    // ns since the queue's epoch
	account  *account // nil while it never started
	waiters  *waiter[T]
	handle   uint32
	state    recordState
	noWait   bool
	sized    bool // estimate is known, not the mean
	call     bool // no request, but what several share: see coalesce.go
	awaited  bool // of a call: who asked for it first waits
	named    bool // the id is the caller's, found through store.ids
}

type recordState uint8

const (
	stateFree recordState = iota
	stateInLine
	stateRetrying // waits for its next attempt, not in line
	stateRunning
	stateForwarded // a fallback has it
	stateFollowing // shares a call, which says where it is
	stateCompleted
	stateFailed
	stateCanceled
)

func (s recordState) final() bool { return s >= stateCompleted }

func (s recordState) status() Status {
	switch s {
	case stateRunning:
		return StatusProcessing
	case stateCompleted:
		return StatusCompleted
	case stateFailed:
		return StatusFailed
	case stateCanceled:
		return StatusCanceled
	default:
		return StatusPending
	}
}

// pageSize balances what an empty page wastes against how often one is made.
const pageSize = 128

type page[P, T any] struct {
	records [pageSize]record[P, T]
	free    []uint8 // the free slots
}

// ref names a record for as long as it is the same request.
type ref struct {
	seq    uint64
	handle uint32
}

// store keeps the records and finds them by id. An id it assigns says where the
// record lies, so only ids that callers chose need a map. Guarded by the queue's
// lock.
type store[P, T any] struct {
	prefix string // of assigned ids, with the dash
	pages  []*page[P, T]
	open   []uint32 // pages with a free slot; the last is used next
	closed []uint32 // indexes of pages that were given back
	ids    map[string]ref
	seq    uint64
	live   int
	spare  []*account // for reuse
}

// maxSpare bounds how many accounts wait for reuse.
const maxSpare = 1024

// account gives rec an empty account.
func (s *store[P, T]) account(rec *record[P, T]) *account {
	if n := len(s.spare); n > 0 {
		rec.account, s.spare = s.spare[n-1], s.spare[:n-1]
	} else {
		rec.account = new(account)
	}
	return rec.account
}

func (s *store[P, T]) at(handle uint32) *record[P, T] {
	return &s.pages[handle/pageSize].records[handle%pageSize]
}

// get returns the record that r names, or nil when it is forgotten.
func (s *store[P, T]) get(r ref) *record[P, T] {
	if int(r.handle/pageSize) >= len(s.pages) || s.pages[r.handle/pageSize] == nil {
		return nil
	}
	if rec := s.at(r.handle); rec.seq == r.seq && r.seq != 0 {
		return rec
	}
	return nil
}

// add takes a free slot.
func (s *store[P, T]) add() *record[P, T] {
	if n := len(s.open); n > 0 {
		i := s.open[n-1]
		return s.take(i, s.pages[i])
	}
	p := &page[P, T]{free: make([]uint8, pageSize)}
	for i := range p.free {
		p.free[i] = uint8(pageSize - 1 - i)
	}
	var i uint32
	if n := len(s.closed); n > 0 {
		i, s.closed = s.closed[n-1], s.closed[:n-1]
		s.pages[i] = p
	} else {
		i = uint32(len(s.pages))
		s.pages = append(s.pages, p)
	}
	s.open = append(s.open, i)
	return s.take(i, p)
}

func (s *store[P, T]) take(i uint32, p *page[P, T]) *record[P, T] {
	n := len(p.free) - 1
	slot := p.free[n]
	if p.free = p.free[:n]; n == 0 {
		s.open = s.open[:len(s.open)-1]
	}
	rec := &p.records[slot]
	s.seq++
	s.live++
	rec.seq, rec.handle = s.seq, i*pageSize+uint32(slot)
	return rec
}

// forget frees the record's slot, and its page when nothing else is in it and
// another page has room.
func (s *store[P, T]) forget(rec *record[P, T]) {
	if rec.named {
		delete(s.ids, rec.id)
	}
	if a := rec.account; a != nil && a.attempt == nil && len(s.spare) < maxSpare {
		*a = account{}
		s.spare = append(s.spare, a)
	}
	handle := rec.handle
	*rec = record[P, T]{}
	s.live--
	i := handle / pageSize
	p := s.pages[i]
	p.free = append(p.free, uint8(handle%pageSize))
	switch len(p.free) {
	case 1:
		s.open = append(s.open, i)
	case pageSize:
		if at := len(s.open) - 1; at > 0 {
			for s.open[at] != i {
				at-- // near the end: it opened not long ago
			}
			s.open = slices.Delete(s.open, at, at+1)
			s.pages[i] = nil
			s.closed = append(s.closed, i)
		}
	}
}

// idBase writes the numbers in an id: a power of two costs no division.
const idBase = 32

// assign makes an id that tells where the record is.
func (s *store[P, T]) assign(rec *record[P, T]) {
	for {
		var buf [40]byte
		b := append(buf[:0], s.prefix...)
		b = strconv.AppendUint(b, rec.seq, idBase)
		b = append(b, '-')
		b = strconv.AppendUint(b, uint64(rec.handle), idBase)
		rec.id = string(b)
		if _, taken := s.ids[rec.id]; !taken {
			return
		}
		s.seq++ // a caller chose this very id
		rec.seq = s.seq
	}
}

// name records an id that the caller chose.
func (s *store[P, T]) name(rec *record[P, T], id string) {
	if s.ids == nil {
		s.ids = make(map[string]ref)
	}
	rec.id, rec.named = id, true
	s.ids[id] = rec.ref()
}

func (r *record[P, T]) ref() ref { return ref{r.seq, r.handle} }

// find returns the record with this id, or nil.
func (s *store[P, T]) find(id string) *record[P, T] {
	if r, ok := s.ids[id]; ok {
		return s.get(r)
	}
	rest, ok := strings.CutPrefix(id, s.prefix)
	if !ok {
		return nil
	}
	seq, handle, ok := strings.Cut(rest, "-")
	if !ok {
		return nil
	}
	n, err := strconv.ParseUint(seq, idBase, 64)
	if err != nil {
		return nil
	}
	h, err := strconv.ParseUint(handle, idBase, 32)
	if err != nil {
		return nil
	}
	// Numbers can be written in several ways; only the id itself counts.
	if rec := s.get(ref{n, uint32(h)}); rec != nil && rec.id == id {
		return rec
	}
	return nil
}

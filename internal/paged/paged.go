// Package paged keeps what an owner knows of its requests besides the engine, by the engine's
// handles.
package paged

import (
	"sync/atomic"

	"github.com/llmqueue/llmqueue/internal/engine"
)

// Table holds an R for each handle, in pages that never move. The owner's lock guards it. At
// may be called without it for a handle that is not cleared meanwhile. The zero value is empty.
type Table[R any] struct {
	pages atomic.Pointer[[]*[engine.PageSize]R]
}

// At is what is kept of a handle whose page is there.
func (t *Table[R]) At(h uint32) *R { return &(*t.pages.Load())[h/engine.PageSize][h%engine.PageSize] }

// Has reports whether the page of a handle is there.
func (t *Table[R]) Has(h uint32) bool {
	pages, i := t.pages.Load(), int(h/engine.PageSize)
	return pages != nil && i < len(*pages) && (*pages)[i] != nil
}

// Grow makes the page of a handle, unless it is there.
func (t *Table[R]) Grow(h uint32) {
	if !t.Has(h) {
		t.add(h)
	}
}

func (t *Table[R]) add(h uint32) {
	var pages []*[engine.PageSize]R
	if p := t.pages.Load(); p != nil {
		pages = *p
	}
	i := int(h / engine.PageSize)
	for len(pages) <= i {
		pages = append(pages, nil)
	}
	pages[i] = new([engine.PageSize]R)
	t.pages.Store(&pages)
}

// Clear forgets what is kept of a handle, and its page when the engine gave that back. A
// handle may have no page, where nothing was kept of it.
func (t *Table[R]) Clear(h uint32, pageFreed bool) {
	if !t.Has(h) {
		return
	}
	var none R
	if *t.At(h) = none; pageFreed {
		(*t.pages.Load())[h/engine.PageSize] = nil
	}
}

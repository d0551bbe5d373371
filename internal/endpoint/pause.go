package endpoint

import (
	"math"

	"github.com/llmqueue/llmqueue/internal/window"
)

// MayStart reports whether a slot is free and nothing holds the endpoint back.
func (e *Endpoint) MayStart(now int64) bool {
	return e.running < e.SlotsNow() && now >= e.pausedUntil && !e.Open()
}

// HasRoom reports whether a small request may start here, and else notes when.
func (e *Endpoint) HasRoom(now int64) bool {
	if !e.MayStart(now) {
		return false
	}
	at, limit := e.windows.NextAt(now, window.Charge{Requests: 1})
	if limit >= 0 && at != Never {
		e.lookAt(at)
	}
	return limit < 0
}

// SlotsNow is how many attempts may be under way at present.
func (e *Endpoint) SlotsNow() int64 {
	slots := e.slots
	switch {
	case e.ignorant():
		return 1
	case e.concurrency.limit > 0:
		slots = min(slots, int64(e.concurrency.limit))
	}
	if e.slowStart.allowed > 0 {
		slots = min(slots, e.running-(e.unanswered-e.slowStart.before)+e.slowStart.allowed)
	}
	return slots
}

// Next is when the head of the line may find room here: at the end of a pause, of a
// breaker's delay, or when the limits have room; 0 when something else will tell.
func (e *Endpoint) Next(now int64) int64 {
	switch {
	case e.pausedUntil > now:
		return e.pausedUntil
	case e.Open():
		return After(now, int64(e.breaker.RemainingDelay()))
	case e.slowStart.doublesAt > now && e.running >= e.SlotsNow():
		return e.slowStart.doublesAt
	}
	return e.roomAt
}

// Pause holds everything back until the given instant. It only ever lengthens a pause,
// and reports whether it did. After it calls start slowly.
func (e *Endpoint) Pause(until int64) bool { return e.pause(until, true) }

// pause is Pause; slowly is whether calls start slowly after it.
func (e *Endpoint) pause(until int64, slowly bool) bool {
	e.slowly = e.slowly || slowly
	if until <= e.pausedUntil {
		return false
	}
	e.pausedUntil, e.announces = until, true
	e.emit(Event{Kind: Paused, Endpoint: e, Until: until})
	return true
}

// Exhaust notes that a quota is used up until the given instant.
func (e *Endpoint) Exhaust(until int64) { e.exhaustedUntil = max(e.exhaustedUntil, until) }

// EndPause ends the provider's pause, if there is one.
func (e *Endpoint) EndPause(now int64) {
	if e.pausedUntil > now {
		e.pausedUntil, e.exhaustedUntil = 0, 0
		e.resumed(now)
	}
}

// Advance brings up to date what time alone changes, and tells of a pause that has ended.
func (e *Endpoint) Advance(now int64) {
	if e.announces && e.pausedUntil <= now {
		e.resumed(e.pausedUntil)
	}
	e.slowStart.advance(now, e.slots)
}

// resumed tells that a pause ended at the given instant.
func (e *Endpoint) resumed(at int64) {
	e.announces = false
	if e.slowly {
		e.startSlowly(at)
	}
	e.slowly = false
	e.emit(Event{Kind: Resumed, Endpoint: e})
}

// HeldUntil is until when a pause or the breaker lets nothing start, now when nothing holds.
func (e *Endpoint) HeldUntil(now int64) int64 {
	until := max(e.pausedUntil, now)
	if e.Open() {
		until = max(until, After(now, int64(e.breaker.RemainingDelay())))
	}
	return until
}

// PausedUntil is when the provider's pause ends; in the past when there is none.
func (e *Endpoint) PausedUntil() int64 { return e.pausedUntil }

// Announces is when the end of a pause is to be told, 0 when none is.
func (e *Endpoint) Announces() int64 {
	if e.announces {
		return e.pausedUntil
	}
	return 0
}

// ExhaustedUntil is until when a quota is used up; in the past when none is.
func (e *Endpoint) ExhaustedUntil() int64 { return e.exhaustedUntil }

// Open reports whether the breaker lets no call through.
func (e *Endpoint) Open() bool { return e.breaker != nil && e.breaker.RemainingDelay() > 0 }

// Ballot is what an attempt's end means for the breaker.
type Ballot uint8

// What an attempt's end may mean for the breaker.
const (
	Success Ballot = iota
	Failure
	Left // it failed because who asked has gone: that says nothing, unless a probe hangs on it
)

// Judge tells the breaker how a call ended, and reports whether that opened it.
func (e *Endpoint) Judge(now int64, b Ballot) (opened bool) {
	if e.breaker == nil || b == Left && e.breaker.IsClosed() {
		return false
	}
	if b == Success {
		e.breaker.RecordSuccess()
	} else {
		e.breaker.RecordFailure()
	}
	switch d := e.breaker.RemainingDelay(); {
	case d > 0 && (b != Success || !e.opened):
		e.opened = true
		e.emit(Event{Kind: Opened, Endpoint: e, Until: After(now, int64(d))})
		return true
	case e.opened && e.breaker.IsClosed():
		e.opened = false
		e.emit(Event{Kind: Closed, Endpoint: e})
	}
	return false
}

// After is at + d, for d of any size.
func After(at, d int64) int64 {
	if d > 0 && at > math.MaxInt64-d {
		return math.MaxInt64
	}
	return at + d
}

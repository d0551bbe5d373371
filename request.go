package llmqueue

import (
	"context"
	"time"
)

// Request is one call that waits for its turn. It is a plain value: the queue
// copies it at Submit, so changing it afterwards changes nothing, except through
// what Params and Metadata point to.
type Request[P any] struct {
	// ID names the request. Assigned when empty; unique per queue for as long as
	// the queue remembers it (see WithHistory).
	ID string
	// ModelID names the queue. Empty in Queue.Submit means that queue's model.
	ModelID string
	// Params is handed to the processor. Validated at Submit when P is a struct,
	// or a pointer to one, with `validate` tags.
	Params P
	// NoWait makes the request fire and forget: Submit returns StatusPending at
	// once, and the request no longer depends on the caller's cancellation.
	NoWait bool
	// Priority orders the line: higher starts first. Defaults to 0.
	Priority int
	// Tenant is the fair-share key within a priority; "" is a tenant too.
	Tenant string
	// Estimate is how many tokens to reserve. Zero means unknown: then the
	// queue's estimator, Params' own EstimateUsage or the running mean of what
	// earlier attempts used takes its place. Never negative.
	Estimate Usage
	// MaxWait makes the request fail with ErrQueueTimeout when its first attempt
	// did not start in time. Defaults to 0, no bound; never negative.
	MaxWait time.Duration
	// Metadata comes back in the response. The queue never reads it.
	Metadata map[string]string
}

// NewRequest returns a request for modelID with params and every other field at
// its default.
func NewRequest[P any](modelID string, params P) Request[P] {
	return Request[P]{ModelID: modelID, Params: params}
}

// Processor does the work of one attempt: it calls the provider and returns the
// typed result. It runs on a goroutine of the queue, many at a time.
//
// ctx ends when the request is canceled, when its attempt times out and when a
// Shutdown runs out of time; it carries the values of the context given to
// Submit. req.Estimate holds what was reserved.
//
// A processor that streams returns when its stream ends and hands its chunks out
// through a callback in Params: the slot and the reservation are held until it
// returns. Errors marked with RateLimited or Retryable are tried again; any other
// error fails the request. A panic fails only its own request.
type Processor[P, T any] func(ctx context.Context, req Request[P]) (T, error)

// Forecast says when a request would start if nothing else arrived.
type Forecast struct {
	// Position is the rank in line that the request would have; 0 when it would
	// start at once.
	Position int `json:"position"`
	// EstimatedStart is zero when unknown: while the queue is paused, or when only
	// slots are missing and nothing has ended yet.
	EstimatedStart time.Time `json:"estimated_start,omitzero"`
	// WaitsFor is what holds it longest: a limit such as "500 rpm", "concurrent",
	// "shared limits", "pause" (by the provider), "breaker" or "resume" (after Pause). Empty
	// when it would start at once.
	WaitsFor string `json:"waits_for,omitempty"`
}

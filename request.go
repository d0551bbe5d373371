package llmqueue

import (
	"context"
	"encoding/json"
	"errors"
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
	// earlier attempts used takes its place; while none has told, a sixteenth of the
	// smallest limit on tokens, at least 1,000. Never negative.
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
// A processor that streams hands its chunks out with Emit and returns when its stream
// ends: the slot and the reservation are held until it returns. It must not write to an
// http.ResponseWriter, or to anything else of its caller's: it may run on when the caller's
// handler has returned. Errors marked with RateLimited, Retryable or Elsewhere are tried again, as are
// those that what was observed explains so, and broken connections; any other error fails
// the request. nil is success unless nothing was served: see Observation.Outcome. A panic
// fails only its own request.
//
// After a timeout, and with WithHedge, it may run twice at once for a request.
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

// Response says where a request is, and how it ended. It is a snapshot: a pending
// response does not change when the request moves on. Beside the error of a refused
// request it is the zero Response, whose Status is empty.
type Response[T any] struct {
	RequestID string
	ModelID   string
	Status    Status
	// Result is what the processor returned; the zero T unless Status is completed.
	Result T
	// Err says why Status is failed or canceled; nil otherwise.
	Err error
	// Usage is what was really used, all attempts together, as far as it is known.
	Usage Usage
	// Attempts counts the attempts that were started.
	Attempts int
	Metadata map[string]string
	// Position is the rank in line, 1 is next; 0 when the request does not wait.
	// With several tenants it may be an upper bound.
	Position int
	// EstimatedStart is when a waiting request will start if nothing else
	// arrives; zero when unknown. It is good to within one period of the limits
	// where requests are small beside them, and rough where one takes a third.
	EstimatedStart time.Time
	// WaitsFor is what holds a waiting request longest: see Forecast.
	WaitsFor   string
	CreatedAt  time.Time // when Submit accepted the request
	StartedAt  time.Time // when the last attempt started; zero before the first
	FinishedAt time.Time // when the request ended; zero before
}

// WaitTime is how long the request waited before its last attempt: StartedAt −
// CreatedAt. 0 before it started.
func (r Response[T]) WaitTime() time.Duration {
	if r.StartedAt.IsZero() {
		return 0
	}
	return r.StartedAt.Sub(r.CreatedAt)
}

// ProcessingTime is how long the last attempt ran: FinishedAt − StartedAt. 0 when
// the request did not start or did not end yet.
func (r Response[T]) ProcessingTime() time.Duration {
	if r.StartedAt.IsZero() || r.FinishedAt.IsZero() {
		return 0
	}
	return r.FinishedAt.Sub(r.StartedAt)
}

type responseJSON[T any] struct {
	RequestID      string            `json:"request_id"`
	ModelID        string            `json:"model_id"`
	Status         Status            `json:"status"`
	Result         *T                `json:"result,omitempty"`
	Error          string            `json:"error,omitempty"`
	ErrorCode      string            `json:"error_code,omitempty"`
	Attempts       int               `json:"attempts"`
	Usage          Usage             `json:"usage"`
	Metadata       map[string]string `json:"metadata,omitempty"`
	Position       int               `json:"position,omitempty"`
	EstimatedStart time.Time         `json:"estimated_start,omitzero"`
	WaitsFor       string            `json:"waits_for,omitempty"`
	CreatedAt      time.Time         `json:"created_at,omitzero"`
	StartedAt      time.Time         `json:"started_at,omitzero"`
	FinishedAt     time.Time         `json:"finished_at,omitzero"`
	// Failed marks a ProcessingError, whose own error the code may name.
	Failed bool `json:"processor_failed,omitempty"`
}

// MarshalJSON writes the response with Err as its text ("error") and a code
// ("error_code"); UnmarshalJSON reads both back.
func (r Response[T]) MarshalJSON() ([]byte, error) {
	j := responseJSON[T]{
		RequestID: r.RequestID, ModelID: r.ModelID, Status: r.Status, Attempts: r.Attempts,
		Usage: r.Usage, Metadata: r.Metadata, Position: r.Position, EstimatedStart: r.EstimatedStart, WaitsFor: r.WaitsFor,
		CreatedAt: r.CreatedAt, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt,
	}
	if r.Status == StatusCompleted {
		j.Result = &r.Result
	}
	if r.Err != nil {
		j.Error, j.ErrorCode = r.Err.Error(), errorCode(r.Err)
		if pe := (*ProcessingError)(nil); errors.As(r.Err, &pe) && pe.Err != nil {
			j.Failed, j.Error = true, pe.Err.Error()
		}
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote. Err answers errors.Is for the
// package's sentinels, context.Canceled and context.DeadlineExceeded, and
// errors.As for *ProcessingError, as the original did; other types are text only.
func (r *Response[T]) UnmarshalJSON(data []byte) error {
	var j responseJSON[T]
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	*r = Response[T]{
		RequestID: j.RequestID, ModelID: j.ModelID, Status: j.Status, Attempts: j.Attempts,
		Usage: j.Usage, Metadata: j.Metadata, Position: j.Position, EstimatedStart: j.EstimatedStart, WaitsFor: j.WaitsFor,
		CreatedAt: j.CreatedAt, StartedAt: j.StartedAt, FinishedAt: j.FinishedAt,
	}
	if j.Result != nil {
		r.Result = *j.Result
	}
	if j.ErrorCode != "" || j.Error != "" {
		r.Err = errorCodes.Decode(j.Error, j.ErrorCode)
		if j.Failed {
			r.Err = &ProcessingError{ModelID: j.ModelID, RequestID: j.RequestID, Attempts: j.Attempts, Err: r.Err}
		}
	}
	return nil
}

// Status tells where a request is in its life. A request is pending while it
// waits (also between two attempts), processing while a processor runs it, and
// ends in exactly one of the three final statuses.
type Status string

// The statuses of a request.
const (
	StatusPending    Status = "pending"    // waits in line, or for its next attempt
	StatusProcessing Status = "processing" // a processor runs it
	StatusCompleted  Status = "completed"  // ended with a result
	StatusFailed     Status = "failed"     // ended with an error
	StatusCanceled   Status = "canceled"   // ended by Cancel or by its caller's context
)

// Final reports whether s is a status that never changes again.
func (s Status) Final() bool {
	return s == StatusCompleted || s == StatusFailed || s == StatusCanceled
}

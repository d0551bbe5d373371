package llmqueue

import (
	"slices"
	"strings"
	"time"
)

// QueueInfo is a snapshot of one queue. At any moment
// Accepted = Pending + Processing + Forwarded + Completed + Failed + Canceled.
type QueueInfo struct {
	ModelID    string `json:"model_id"`
	Pending    int    `json:"pending"`    // in line, or between two attempts
	Processing int    `json:"processing"` // requests whose processor runs and that did not end yet
	Forwarded  int    `json:"forwarded"`  // requests that a fallback model has (WithFallback)
	Accepted   int64  `json:"accepted"`
	Completed  int64  `json:"completed"`
	Failed     int64  `json:"failed"`
	Canceled   int64  `json:"canceled"`
	Attempts   int64  `json:"attempts"` // that started
	Retries    int64  `json:"retries"`  // attempts after the first
	// Refused counts calls that the provider refused for a limit, a quota or want of
	// capacity: as observed, several in one attempt perhaps, or else as marked by
	// RateLimited.
	Refused   int64 `json:"refused"`
	Coalesced int64 `json:"coalesced"` // requests that shared the call of an earlier one (WithCoalescing)
	Fallbacks int64 `json:"fallbacks"` // requests handed to a fallback model, once for each such model
	// Abandoned counts processors that still run although their request ended
	// (canceled or timed out). Each holds its slot until it returns.
	Abandoned int `json:"abandoned"`
	// Waited is how long requests waited for the attempts that started, together: over
	// Attempts it is the mean. Worked is how long processors ran that returned.
	Waited      time.Duration `json:"waited_ns"`
	Worked      time.Duration `json:"worked_ns"`
	Paused      bool          `json:"paused"`                // by Pause
	PausedUntil time.Time     `json:"paused_until,omitzero"` // in the future; by the provider, when no endpoint may start before
	Slots       int64         `json:"slots"`                 // processors that may run at present, on all endpoints
	Closed      bool          `json:"closed"`                // Shutdown was called
	Dropped     int64         `json:"dropped_events"`        // events that observers were too slow for
	Usage       Usage         `json:"usage"`                 // reported by all attempts so far
	// Limits are the first endpoint's own, the only one's unless AddEndpoint was called;
	// concurrency comes last. Shared limits, and why the provider paused, stand at Endpoints.
	Limits    []LimitInfo    `json:"limits"`
	Endpoints []EndpointInfo `json:"endpoints"` // in the order in which they were added
	// Since is when the queue was made: another one tells that the counts began anew,
	// because the model was unregistered and registered again.
	Since time.Time `json:"since"`
}

// EndpointInfo is a snapshot of one endpoint.
type EndpointInfo struct {
	Name        string      `json:"name"`
	Processing  int64       `json:"processing"`             // processors that run there
	Slots       int64       `json:"slots"`                  // that may run at present, at most the concurrent limit
	Open        bool        `json:"open"`                   // its circuit breaker lets no call through
	PausedUntil time.Time   `json:"paused_until,omitzero"`  // by the provider, in the future
	PauseReason string      `json:"pause_reason,omitempty"` // what it said
	Limits      []LimitInfo `json:"limits"`                 // concurrency last
	Shared      []LimitInfo `json:"shared_limits,omitempty"`
}

// LimitInfo is a snapshot of one limit. For a concurrent limit Used counts running
// processors and ResetAt is zero.
type LimitInfo struct {
	Limit     Limit     `json:"limit"`
	Used      int64     `json:"used"`              // may exceed the amount after an overrun
	Available int64     `json:"available"`         // never negative
	ResetAt   time.Time `json:"reset_at,omitzero"` // when what is charged now no longer counts; zero when nothing is
}

// RequestInfo is what may be shown of a request: neither params nor result.
type RequestInfo struct {
	ID             string    `json:"id"`
	ModelID        string    `json:"model_id"`
	Endpoint       string    `json:"endpoint,omitempty"` // of the last attempt
	Status         Status    `json:"status"`
	Tenant         string    `json:"tenant,omitempty"`
	Priority       int       `json:"priority,omitempty"`
	Estimate       Usage     `json:"estimate"`
	Usage          Usage     `json:"usage"`
	Attempts       int       `json:"attempts"`
	Position       int       `json:"position,omitempty"`
	EstimatedStart time.Time `json:"estimated_start,omitzero"`
	WaitsFor       string    `json:"waits_for,omitempty"`
	CreatedAt      time.Time `json:"created_at"`
	StartedAt      time.Time `json:"started_at,omitzero"`
	FinishedAt     time.Time `json:"finished_at,omitzero"`
	Error          string    `json:"error,omitempty"`
}

// RequestFilter says which requests to list. Its fields combine: a request has to pass all
// of them. The zero value lets every request through, and lists at most 100.
type RequestFilter struct {
	// Limit bounds how many are listed. Defaults to 100, also when it is negative.
	Limit int
	// Statuses are those to list. Defaults to all.
	Statuses []Status
	// Tenant is whose requests to list. Defaults to everybody's.
	Tenant string
	// IDPrefix is what the ids of those to list begin with. Defaults to any.
	IDPrefix string
}

// wants reports whether requests with this status may pass.
func (f *RequestFilter) wants(s Status) bool {
	return len(f.Statuses) == 0 || slices.Contains(f.Statuses, s)
}

// takes reports whether a request passes.
func (f *RequestFilter) takes(id, tenant string, s Status) bool {
	return f.wants(s) && (f.Tenant == "" || f.Tenant == tenant) && strings.HasPrefix(id, f.IDPrefix)
}

// Inspector is what a Manager of any P and T shows: what a dashboard or metrics need. It
// changes nothing; see Controller. Implementations must be safe for concurrent use.
type Inspector interface {
	Models() []string
	Info(modelID string) (QueueInfo, error)
	InfoAll() []QueueInfo
	Requests(modelID string, f RequestFilter) ([]RequestInfo, error)
}

// Controller is what an operator may change at a Manager of any P and T: what a
// dashboard's buttons or an admin command need. Implementations must be safe for
// concurrent use.
type Controller interface {
	Pause(modelID string) error
	Resume(modelID string) error
	Cancel(modelID, requestID string) error
	SetLimits(modelID string, limits ...Limit) error
}

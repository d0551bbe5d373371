// Package batch runs a file of requests: through the queues of their models, into a file
// of results, and on from where an earlier run stopped.
package batch

import (
	"io"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/accounting"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/cache"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/prices"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/schema"
)

// Config says what to run and how.
type Config struct {
	Input   string // "-" is standard input
	Stdin   io.Reader
	Output  string
	Format  requests.Format
	Retry   bool     // run what failed, instead of what is missing
	Only    []string // with Retry: the codes of the failures that run again; none: all
	Restart bool     // put an output that is there aside, and run everything
	Changed bool     // run what is recorded of another request of the same id, too
	Ordered bool

	Schema *schema.Schema // that answers have to fit; nil: none
	Reask  int            // how often a request is asked once more whose answer does not fit

	Cache *cache.Cache // nil: none

	Caller       caller.Config
	Endpoints    []Endpoint                          // beside that of Caller
	Fallback     []string                            // models that take over, in this order, what a model cannot serve
	Limits       func(model string) []llmqueue.Limit // without concurrency; empty: to be learned
	Learn        func(model string) bool             // the provider's answers may raise limits, too
	Accounting   func(model string) accounting.Policy
	Margin       time.Duration // negative: the default
	Concurrency  int64
	Attempts     int
	MaxFailures  int64 // of one kind and model in a row, that stop the run; 0: none do
	WaitForQuota bool
	Via          ViaBatch

	Prices prices.Table
	Budget float64 // USD; 0: none
	// AssumedOutput is how many tokens an answer is taken to have, for cost and time,
	// when its request does not bound it.
	AssumedOutput int64
	MaxCost       float64 // USD; 0: none

	// Notice gets what a person should know, a line at a time. Progress gets a function
	// that says how the run stands, once it begins, and returns one that ends the showing.
	Notice   func(format string, args ...any)
	Progress func(snapshot func() Snapshot) (stop func())
}

// Reason is why a run ended.
type Reason string

// The reasons.
const (
	Finished    Reason = "finished"
	Interrupted Reason = "interrupted"
	OverBudget  Reason = "budget"
	NoQuota     Reason = "quota"
	Unusable    Reason = "provider"
	Failing     Reason = "failures"
	BadInput    Reason = "input"
	CannotWrite Reason = "output"
	Taken       Reason = "output_changed"
)

// Summary is how a run ended.
type Summary struct {
	Reason   Reason `json:"reason"`
	Total    int64  `json:"total"`    // requests of the input, as far as it was read
	Before   int64  `json:"before"`   // recorded by earlier runs
	Ran      int64  `json:"ran"`      // recorded by this one
	Done     int64  `json:"done"`     // of the file, in the end
	Failed   int64  `json:"failed"`   // of the file, in the end
	Refused  int64  `json:"refused"`  // answers 429 that this run met
	Attempts int64  `json:"attempts"` // that this run made
	Input    int64  `json:"input_tokens"`
	Output   int64  `json:"output_tokens"`

	Hits       int64 `json:"cache_hits"` // answers that this run took from the cache, besides those that ran
	Reasked    int64 `json:"reasked"`    // requests asked once more for the schema, each time counted
	Mismatched int64 `json:"mismatched"` // of those that this run recorded, failed by the schema

	Cost    float64       `json:"cost_usd"` // of the file, all runs together; 0 without prices
	Elapsed time.Duration `json:"elapsed_ns"`
}

// Snapshot is how a run stands.
type Snapshot struct {
	Time     time.Time  `json:"time"`
	Total    int64      `json:"total"` // 0: not known
	Before   int64      `json:"before"`
	Done     int64      `json:"done"`   // of the file
	Failed   int64      `json:"failed"` // of the file
	Hits     int64      `json:"cache_hits"`
	Running  int        `json:"running"`
	Waiting  int        `json:"waiting"`
	Input    int64      `json:"input_tokens"`
	Output   int64      `json:"output_tokens"`
	Cost     float64    `json:"cost_usd"`
	Limits   []LimitUse `json:"limits"`
	ETA      float64    `json:"eta_seconds"`         // 0: not known
	Until    time.Time  `json:"until,omitzero"`      // when the pause ends, or the next request starts
	Paused   string     `json:"paused,omitempty"`    // why nothing starts, if the provider said so
	WaitsFor string     `json:"waits_for,omitempty"` // what holds the next request otherwise
	HeldOut  string     `json:"held_out,omitempty"`  // the model whose calls fail now, and why
	Failing  string     `json:"failing,omitempty"`   // the last error, while no call is answered
	Stopping Reason     `json:"stopping,omitempty"`
	Tokens   int64      `json:"tokens_per_minute"` // charged in the last minute, of all models
}

// LimitUse is how much of a limit is used.
type LimitUse struct {
	Model  string `json:"model"`
	Limit  string `json:"limit"`
	Kind   string `json:"kind"`
	Used   int64  `json:"used"`
	Amount int64  `json:"amount"`
}

// Error is why a run could not do its work.
type Error struct {
	Reason Reason
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

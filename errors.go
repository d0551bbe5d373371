package llmqueue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue/internal/wirerror"
)

// The errors that callers tell apart with errors.Is. What a function returns
// wraps one of them and says in one line what to do about it.
var (
	ErrModelNotRegistered   = errors.New("llmqueue: model not registered")
	ErrModelRegistered      = errors.New("llmqueue: model already registered")
	ErrInvalidConfiguration = errors.New("llmqueue: invalid configuration")
	ErrInvalidParams        = errors.New("llmqueue: invalid params")
	ErrInvalidResult        = errors.New("llmqueue: invalid result")
	ErrDuplicateRequest     = errors.New("llmqueue: duplicate request id")
	ErrRequestNotFound      = errors.New("llmqueue: request not found")
	ErrQueueFull            = errors.New("llmqueue: queue full")
	ErrQueueClosed          = errors.New("llmqueue: queue closed")
	ErrQueueTimeout         = errors.New("llmqueue: request waited too long")
	ErrRequestTooLarge      = errors.New("llmqueue: request too large, it can never fit its limits")
	ErrCanceled             = errors.New("llmqueue: request canceled")
	ErrQuotaExhausted       = errors.New("llmqueue: provider quota exhausted")
)

// ProcessingError says that a processor ran and the request failed. Unwrap gives
// the processor's own error, a *PanicError, or context.DeadlineExceeded when the
// attempt timed out.
type ProcessingError struct {
	ModelID   string
	RequestID string
	Attempts  int // how many attempts were made, at least 1
	Err       error
}

func (e *ProcessingError) Error() string {
	return fmt.Sprintf("llmqueue: model %q, request %q: failed after %s: %v", e.ModelID, e.RequestID, several(e.Attempts, "attempt"), strings.TrimPrefix(fmt.Sprint(e.Err), "llmqueue: "))
}

func (e *ProcessingError) Unwrap() error { return e.Err }

// DeadlineError refuses a request whose deadline or MaxWait ends before its limits let
// it start, as far as that is certain when it is submitted. It is an ErrQueueTimeout,
// and context.DeadlineExceeded when the deadline is the context's.
type DeadlineError struct {
	ModelID        string
	Deadline       time.Time // the sooner of the context's and MaxWait's
	EstimatedStart time.Time
	WaitsFor       string // what holds it longest: see Forecast

	cause error
}

func (e *DeadlineError) Error() string {
	return fmt.Sprintf("llmqueue: model %q: the request could start only %v after its deadline (it waits for: %s): allow more time or raise the limits",
		e.ModelID, e.EstimatedStart.Sub(e.Deadline).Round(time.Millisecond), e.WaitsFor)
}

func (e *DeadlineError) Unwrap() []error {
	if e.cause == nil {
		return []error{ErrQueueTimeout}
	}
	return []error{ErrQueueTimeout, e.cause}
}

// PanicError is the error of a request whose processor, middleware or result
// method panicked or called runtime.Goexit. Unwrap gives Value when it is an error.
type PanicError struct {
	Value any    // what the processor panicked with
	Stack []byte // the panicking goroutine's stack, as runtime/debug.Stack gives it
}

func (e *PanicError) Error() string { return fmt.Sprintf("processor panicked: %v", e.Value) }

func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// errGoexit is the PanicError.Value of a processor that called runtime.Goexit.
var errGoexit = errors.New("processor called runtime.Goexit")

// errorCodes name errors on the wire.
var errorCodes = wirerror.Codes{
	{"canceled", ErrCanceled},
	{"queue_closed", ErrQueueClosed},
	{"queue_timeout", ErrQueueTimeout},
	{"queue_full", ErrQueueFull},
	{"request_too_large", ErrRequestTooLarge},
	{"quota_exhausted", ErrQuotaExhausted},
	{"invalid_result", ErrInvalidResult},
	{"invalid_params", ErrInvalidParams},
	{"invalid_configuration", ErrInvalidConfiguration},
	{"duplicate_request", ErrDuplicateRequest},
	{"request_not_found", ErrRequestNotFound},
	{"model_not_registered", ErrModelNotRegistered},
	{"model_registered", ErrModelRegistered},
	{"deadline_exceeded", context.DeadlineExceeded},
	{"context_canceled", context.Canceled},
}

func errorCode(err error) string {
	code := errorCodes.Of(err)
	if pe := (*ProcessingError)(nil); code == "" && errors.As(err, &pe) {
		return "processing_error"
	}
	return cmp.Or(code, "error")
}

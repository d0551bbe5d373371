package llmhttp

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/llmqueue/llmqueue"
)

// statusClientClosed is what servers note of a client that left (nginx's 499): nobody reads it.
const statusClientClosed = 499

// errorStatuses are the HTTP statuses of the queue's errors: the first that errors.Is finds counts.
var errorStatuses = []struct {
	err    error
	status int
}{
	{llmqueue.ErrInvalidParams, http.StatusBadRequest},
	{llmqueue.ErrModelNotRegistered, http.StatusNotFound},
	{llmqueue.ErrRequestNotFound, http.StatusNotFound},
	{llmqueue.ErrDuplicateRequest, http.StatusConflict},
	{llmqueue.ErrRequestTooLarge, http.StatusRequestEntityTooLarge},
	{llmqueue.ErrQuotaExhausted, http.StatusTooManyRequests},
	{llmqueue.ErrQueueFull, http.StatusTooManyRequests},
	{llmqueue.ErrQueueTimeout, http.StatusTooManyRequests},
	{llmqueue.ErrQueueClosed, http.StatusServiceUnavailable},
	{llmqueue.ErrInvalidResult, http.StatusBadGateway},
	{llmqueue.ErrCanceled, statusClientClosed},
	{context.Canceled, statusClientClosed},
	{context.DeadlineExceeded, http.StatusGatewayTimeout},
}

// StatusOf is the HTTP status with which a service answers for err, an error of the queue, and
// after which time the client may try again (the header Retry-After), zero when that is not
// known or senseless. nil is 200; a request that failed at its provider is 502, or 504 when that
// took too long; an error with a method HTTPStatus() int is what that says, and any other that is
// not the queue's is 500. 429 stands for a queue that is full, a
// wait that takes too long, and a quota that is used up; 503 for one that is closed; 499 for a
// caller that left.
func StatusOf(err error) (status int, retryAfter time.Duration) {
	if err == nil {
		return http.StatusOK, 0
	}
	status = http.StatusInternalServerError
	if failed := (*llmqueue.ProcessingError)(nil); errors.As(err, &failed) {
		status = http.StatusBadGateway
	}
	for _, s := range errorStatuses {
		if errors.Is(err, s.err) {
			status = s.status
			break
		}
	}
	if own := (interface{ HTTPStatus() int })(nil); errors.As(err, &own) {
		status = own.HTTPStatus()
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		retryAfter = retryAfterOf(err)
	}
	return status, retryAfter
}

// retryAfterOf is at least a second: sooner nothing has changed.
func retryAfterOf(err error) time.Duration {
	var after time.Duration
	var known interface{ RetryAt() time.Time }
	switch late := (*llmqueue.DeadlineError)(nil); {
	case errors.As(err, &late):
		after = late.EstimatedStart.Sub(late.Deadline) // then the same patience suffices
	case errors.As(err, &known):
		after = time.Until(known.RetryAt())
	}
	return max(after, time.Second)
}

// isQuota reports whether err says that a quota is used up.
func isQuota(err error) bool { return errors.Is(err, llmqueue.ErrQuotaExhausted) }

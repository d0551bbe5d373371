package llmqueue

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

package llmtest

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// A Fault is one way for a server to fail a request that its limits let in.
// The zero Fault is none: the request is answered as usual.
type Fault struct {
	Status     int           // the answer's status, 400 to 599, with the provider's error body for it
	RetryAfter time.Duration // sent as Retry-After in whole seconds, rounded up; 0 sends none
}

func (f Fault) check() error {
	if f == (Fault{}) || f.Status >= 400 && f.Status <= 599 {
		return nil
	}
	return fmt.Errorf("llmtest: fault has status %d: want 400 to 599", f.Status)
}

// code returns the type and code of OpenAI's error body for the status.
// server_is_overloaded and rate_limit_exceeded are documented by OpenAI; the
// others follow the same pattern.
func (f Fault) code() (kind, code string) {
	switch {
	case f.Status == http.StatusTooManyRequests:
		return "requests", "rate_limit_exceeded"
	case f.Status == http.StatusServiceUnavailable:
		return "service_unavailable_error", "server_is_overloaded"
	case f.Status >= 500:
		return "server_error", ""
	}
	return "invalid_request_error", ""
}

// faultShare fails a share of all accepted requests.
type faultShare struct {
	share float64
	fault Fault
}

// faults decides the fate of the n-th accepted request: first what was
// written for it, then by share.
type faults struct {
	script []Fault
	shares []faultShare
}

// draw returns the fault for the n-th accepted request, counted from zero. It
// draws exactly once.
func (f faults) draw(n int64, r *rand.Rand) Fault {
	u := r.Float64()
	if n < int64(len(f.script)) {
		return f.script[n]
	}
	for _, s := range f.shares {
		if u < s.share {
			return s.fault
		}
		u -= s.share
	}
	return Fault{}
}

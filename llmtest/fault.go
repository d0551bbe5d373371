package llmtest

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// A FaultKind is what goes wrong.
type FaultKind string

// The kinds of faults. Those of an answer's body happen in its middle.
const (
	FaultStatus  FaultKind = ""        // Status is answered instead, with the provider's error body for it
	FaultSlow    FaultKind = "slow"    // the headers come Delay late, or never if it is zero
	FaultStall   FaultKind = "stall"   // the body stops for Delay, or for good if it is zero
	FaultCut     FaultKind = "cut"     // the body ends and the connection with it
	FaultReset   FaultKind = "reset"   // the connection is reset before the headers
	FaultStream  FaultKind = "stream"  // an error event after a 200; a unary answer gets Status instead
	FaultBody    FaultKind = "body"    // as FaultStream, but a unary answer too is a 200, with the error as its body
	FaultAnswer  FaultKind = "answer"  // as FaultBody, but the answer carries the error where the protocol lets it: see Fault
	FaultQuota   FaultKind = "quota"   // the account has no money left: OpenAI's insufficient_quota
	FaultSpend   FaultKind = "spend"   // a spend limit is reached
	FaultFull    FaultKind = "full"    // the provider has no capacity: what Load.Capacity answers
	FaultHeaders FaultKind = "headers" // rate limit headers say Value, or are missing if it is empty
)

// A Fault is one way for a server to fail a request that its limits let in.
// The zero Fault is none: the request is answered as usual.
//
// Status chooses what an error says, in the provider's words, also where no status
// is sent any more: 429 that a limit is reached, 500 that something inside broke,
// and the provider's status for overload, which is the default, that it is
// overloaded. [OpenAI] says with FaultFull and 429 that its tier flex has no room. Bedrock has more exceptions within a stream: 424 is its
// modelStreamErrorException and 400 its validationException.
//
// With FaultAnswer the error is the choice's own in a chat completion, with the
// finish reason error, as OpenRouter does it
// (openrouter.ai/docs/api/reference/overview); a response has the status failed,
// and its stream ends with response.failed, as OpenAI documents; a message of
// Cohere has the finish reason ERROR. Half the text is there. Bedrock, and Cohere in
// an answer's place, are not known to send an error after a 200 but in streams: there
// FaultBody and FaultAnswer are as FaultStream.
type Fault struct {
	Kind       FaultKind
	Status     int           // 400 to 599; needed by FaultStatus, and optional for FaultStream, FaultBody, FaultAnswer and FaultFull
	RetryAfter time.Duration // of answers with an error status: sent as the provider does it, rounded up; 0 sends none
	Delay      time.Duration // of FaultSlow and FaultStall
	Value      string        // of FaultHeaders, such as "-1", "0" or "soon"
}

// String returns the fault in a few words, and nothing for the zero Fault.
func (f Fault) String() string {
	switch {
	case f == Fault{}:
		return ""
	case f.Kind == FaultStatus:
		return fmt.Sprint("status ", f.Status)
	case f.Status != 0:
		return fmt.Sprintf("%s %d", f.Kind, f.Status)
	case f.Delay != 0:
		return fmt.Sprintf("%s %v", f.Kind, f.Delay)
	case f.Kind == FaultHeaders:
		return fmt.Sprintf("%s %q", f.Kind, f.Value)
	}
	return string(f.Kind)
}

func (f Fault) check() error {
	switch {
	case f == Fault{}:
		return nil
	case f.Delay < 0 || f.RetryAfter < 0:
		return fmt.Errorf("llmtest: fault %q has a negative duration", f.Kind)
	case f.Kind == FaultStatus || f.says() && f.Status != 0:
		if f.Status < 400 || f.Status > 599 {
			return fmt.Errorf("llmtest: fault has status %d: want 400 to 599", f.Status)
		}
	}
	switch f.Kind {
	case FaultStatus, FaultSlow, FaultStall, FaultCut, FaultReset, FaultStream, FaultBody, FaultAnswer, FaultQuota, FaultSpend, FaultFull, FaultHeaders:
		return nil
	}
	return fmt.Errorf("llmtest: unknown kind of fault %q", f.Kind)
}

// says reports whether the fault is an error whose status is optional.
func (f Fault) says() bool {
	switch f.Kind {
	case FaultStream, FaultBody, FaultAnswer, FaultFull:
		return true
	}
	return false
}

// problem returns the error that is answered instead, or nil if the fault is
// another one.
func (f Fault) problem(stream bool) *problem {
	switch f.Kind {
	case FaultStatus:
		if f.Status == 0 {
			return nil
		}
		return &problem{reason: injected, status: f.Status, retryAfter: f.RetryAfter}
	case FaultStream:
		if stream {
			return nil
		}
		return f.event()
	case FaultFull:
		return &problem{reason: overloaded, status: f.Status, retryAfter: f.RetryAfter}
	case FaultQuota:
		return &problem{reason: outOfQuota, retryAfter: f.RetryAfter}
	case FaultSpend:
		return &problem{reason: spendLimited, retryAfter: f.RetryAfter}
	}
	return nil
}

// event returns the error of FaultStream, FaultBody and FaultAnswer.
func (f Fault) event() *problem {
	p := &problem{reason: injected, status: f.Status, retryAfter: f.RetryAfter, inside: f.Kind == FaultAnswer}
	if f.Status == 0 {
		p.reason = overloaded
	}
	return p
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

// A spoiler is a response whose rate limit headers are wrong.
type spoiler struct {
	http.ResponseWriter
	value string // empty removes them
}

func (s spoiler) WriteHeader(status int) {
	h := s.Header()
	for name := range h {
		if !strings.Contains(name, "Ratelimit") && !strings.HasPrefix(name, "Retry-After") {
			continue
		}
		if s.value == "" {
			delete(h, name)
		} else {
			h[name] = []string{s.value}
		}
	}
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController flush and hijack.
func (s spoiler) Unwrap() http.ResponseWriter { return s.ResponseWriter }

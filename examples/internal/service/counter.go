package service

import (
	"net/http"
	"sync/atomic"
)

// Counter is a transport that counts what the server says to each HTTP call, those
// that an SDK makes by itself included.
type Counter struct {
	base http.RoundTripper

	accepted, refused, overloaded, faults atomic.Int64
}

// Calls is how often the server answered how.
type Calls struct {
	Accepted   int64 // with a status below 300
	Refused    int64 // 429, a limit was broken
	Overloaded int64 // 503 or 529
	Faults     int64 // any other way, or not at all
}

// Calls counts the calls that are over.
func (c *Counter) Calls() Calls {
	return Calls{c.accepted.Load(), c.refused.Load(), c.overloaded.Load(), c.faults.Load()}
}

// statusOverloaded is Anthropic's own.
const statusOverloaded = 529

// RoundTrip makes the call.
func (c *Counter) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := c.base.RoundTrip(req)
	switch {
	case err != nil:
		c.faults.Add(1)
	case res.StatusCode == http.StatusTooManyRequests:
		c.refused.Add(1)
	case res.StatusCode == http.StatusServiceUnavailable, res.StatusCode == statusOverloaded:
		c.overloaded.Add(1)
	case res.StatusCode >= 300:
		c.faults.Add(1)
	default:
		c.accepted.Add(1)
	}
	return res, err
}

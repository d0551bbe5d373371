package llmhttp

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/llmqueue/llmqueue"
)

// Claim is llmqueue.Claim, for [WithClaim].
type Claim = llmqueue.Claim

// claimKey finds a Claim in a context.
type claimKey struct{}

// WithClaim says what the calls that are made with the context claim of a [QueueTransport]: a
// tenant, a priority, a bound on the wait. What c leaves out comes from the request: its model
// and an estimate. An ID is for one call alone.
func WithClaim(ctx context.Context, c Claim) context.Context {
	return context.WithValue(ctx, claimKey{}, c)
}

// ClaimHeaders names the headers of a request that say what it claims: see [WithClaimHeaders].
// An empty name stands for none.
type ClaimHeaders struct {
	ID       string
	Tenant   string
	Priority string // a whole number
	MaxWait  string // a duration such as "1m30s", or seconds such as "90"
}

// claim is what the request's context and headers say.
func (h ClaimHeaders) claim(r *http.Request) (Claim, error) {
	c, _ := r.Context().Value(claimKey{}).(Claim)
	if v := h.value(r, h.ID); v != "" {
		c.ID = v
	}
	if v := h.value(r, h.Tenant); v != "" {
		c.Tenant = v
	}
	if v := h.value(r, h.Priority); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return c, fmt.Errorf("%w: header %s is %q, give a whole number", llmqueue.ErrInvalidParams, h.Priority, v)
		}
		c.Priority = n
	}
	if v := h.value(r, h.MaxWait); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			seconds, bad := strconv.ParseFloat(v, 64)
			d, err = time.Duration(seconds*float64(time.Second)), bad
			if !(math.Abs(seconds) < math.MaxInt64/float64(time.Second)) {
				err = strconv.ErrRange
			}
		}
		if err != nil || d < 0 {
			return c, fmt.Errorf("%w: header %s is %q, give a duration such as 1m30s or seconds", llmqueue.ErrInvalidParams, h.MaxWait, v)
		}
		c.MaxWait = d
	}
	return c, nil
}

func (ClaimHeaders) value(r *http.Request, name string) string {
	if name == "" {
		return ""
	}
	return r.Header.Get(name)
}

// without is header without the claim's, header itself if it has none.
func (h ClaimHeaders) without(header http.Header) http.Header {
	if h == (ClaimHeaders{}) {
		return header
	}
	header = header.Clone()
	for _, name := range []string{h.ID, h.Tenant, h.Priority, h.MaxWait} {
		if name != "" {
			header.Del(name)
		}
	}
	return header
}

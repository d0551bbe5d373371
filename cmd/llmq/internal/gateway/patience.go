package gateway

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

// errLate ends a call at a model that did not answer in time, so that another one takes over.
var errLate = errors.New("llmq: the model did not serve the call within its max_wait")

// patience bounds how long a call stays at a model that others take over from: what is refused
// for now would wait there for as long as it takes. An attempt that is under way is not cut off.
type patience struct {
	mu     sync.Mutex // guards the rest
	timer  *time.Timer
	giveUp context.CancelCauseFunc
	trying bool // an attempt is under way, or was served
	late   bool
}

// begin returns the context of a call at the next model.
func (p *patience) begin(ctx context.Context) context.Context {
	ctx, giveUp := context.WithCancelCause(ctx) // let go with ctx
	p.mu.Lock()
	defer p.mu.Unlock()
	p.giveUp, p.trying, p.late = giveUp, false, false
	return ctx
}

// bound sets how long the call may stay.
func (p *patience) bound(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.giveUp == nil {
		return
	}
	p.unbind()
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.timer != timer {
			return // taken off meanwhile
		}
		if p.late = true; !p.trying {
			p.giveUp(errLate)
		}
	})
	p.timer = timer
}

// unbind takes the bound off. Callers hold the lock.
func (p *patience) unbind() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}

// has reports whether there is a bound.
func (p *patience) has() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.timer != nil
}

// tries notes that an attempt begins.
func (p *patience) tries() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trying = true
}

// failed notes that an attempt was not served.
func (p *patience) failed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trying = false; p.late {
		p.giveUp(errLate)
	}
}

// end takes the bound off, and reports whether the call was given up for it.
func (p *patience) end() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unbind()
	return p.late && !p.trying
}

// attempts sends what leaves the queues, and notes what becomes of it.
type attempts struct{ base http.RoundTripper }

func (a attempts) RoundTrip(r *http.Request) (*http.Response, error) {
	c := callOf(r.Context())
	if c == nil || !c.patience.has() {
		return a.base.RoundTrip(r)
	}
	c.patience.tries()
	res, err := a.base.RoundTrip(r)
	if err != nil || res.StatusCode >= http.StatusBadRequest {
		c.patience.failed()
	}
	return res, err
}

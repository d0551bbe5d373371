// Package bridge gives other packages of this module what package llmqueue keeps to
// itself. Package llmqueue sets the functions when it is initialized.
package bridge

import (
	"time"

	"github.com/llmqueue/llmqueue/internal/endpoint"
	"github.com/llmqueue/llmqueue/internal/engine"
)

// Plan is what a plan takes from a list of options.
type Plan struct {
	Engine   engine.Config
	Endpoint endpoint.Config // without Emit
	Limits   []string        // the names of Endpoint.Limits
	Epoch    time.Time
}

var (
	// PlanOf reads opts, a []llmqueue.Option, for a plan that begins at now, which is the
	// instant 1. An option that a plan does not take is ErrInvalidConfiguration.
	PlanOf func(now time.Time, opts any) (Plan, error)
	// CheckUsage says with ErrInvalidParams what is wrong with u, which is called what.
	CheckUsage func(u endpoint.Usage, what string) error
)

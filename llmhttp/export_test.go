package llmhttp

import (
	"context"

	"github.com/llmqueue/llmqueue"
)

// Overhear makes t tell the observations of attempts to f instead of the queue.
func (t *Transport) Overhear(f func(context.Context, llmqueue.Observation)) { t.observe = f }

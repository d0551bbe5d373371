package llmhttp

import (
	"context"

	"github.com/llmqueue/llmqueue"
)

// Overhear makes t tell the observations of attempts to f instead of the queue.
func (t *Transport) Overhear(f func(context.Context, llmqueue.Observation)) { t.observe = f }

// ParseRequestPieces is ParseRequest of a body that comes byte by byte.
func ParseRequestPieces(path string, body []byte) ModelCall {
	var s requestScanner
	for i := range body {
		_, _ = s.Write(body[i : i+1])
	}
	return s.call(path)
}

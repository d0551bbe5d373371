package llmhttp

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue"
)

// body hands an answer's bytes on as they arrive, and tells at its end what they said.
type body struct {
	src  io.ReadCloser
	ctx  context.Context
	sent time.Time

	// mu guards the rest, because Close may come while a Read waits. It is not held
	// while reading.
	mu   sync.Mutex
	scan *scanner // nil when the body cannot be understood
	over bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.src.Read(p)
	b.heed(p[:n], err)
	return n, err
}

// Close ends the observation before it closes, which may take long. Some readers
// close without ever seeing EOF.
func (b *body) Close() error {
	b.heed(nil, io.EOF)
	return b.src.Close()
}

// heed takes in what was read. The first error is the end.
func (b *body) heed(p []byte, err error) {
	b.mu.Lock()
	if b.over {
		b.mu.Unlock()
		return
	}
	if b.scan != nil {
		b.scan.write(p)
	}
	if err == nil {
		b.mu.Unlock()
		return
	}
	b.over = true
	o := llmqueue.Observation{SentAt: b.sent}
	if b.scan != nil {
		o = b.scan.observation(time.Now())
		o.SentAt = b.sent
		b.scan = nil
	}
	b.mu.Unlock()
	if err != io.EOF && o.Outcome == "" {
		o.Outcome = llmqueue.OutcomeRetryable
	}
	if o.Outcome != "" || o.Usage != (llmqueue.Usage{}) {
		llmqueue.Observe(b.ctx, o)
	}
}

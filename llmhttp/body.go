package llmhttp

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue"
)

// body hands an answer's bytes on as they arrive. It tells of each part that comes, and
// at the end what they said.
type body struct {
	src  io.ReadCloser
	ctx  context.Context // of an attempt
	from origin
	tell func(context.Context, llmqueue.Observation)
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
	b.end(nil)
	return b.src.Close()
}

// heed takes in what was read.
func (b *body) heed(p []byte, err error) {
	if b.output(p) {
		b.tell(b.ctx, llmqueue.Observation{SentAt: b.sent, Output: true})
	}
	if err != nil {
		b.end(err)
	}
}

// output reports whether p holds a part of the answer, and not only what keeps the
// connection open.
func (b *body) output(p []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over || len(p) == 0 {
		return false
	}
	if b.scan == nil {
		return true
	}
	b.scan.output = false
	b.scan.write(p)
	return b.scan.output
}

// end tells what the answer said, once. It ended with err, which is nil when its reader
// left it.
func (b *body) end(err error) {
	b.mu.Lock()
	if b.over {
		b.mu.Unlock()
		return
	}
	b.over = true
	var o llmqueue.Observation
	if b.scan != nil {
		o = b.scan.said(b.from, time.Now(), err != io.EOF)
		if o.Usage == (llmqueue.Usage{}) && !b.scan.stored {
			o.Usage = headerUsage(b.from.header)
		}
		b.scan.release()
		b.scan = nil
	}
	b.mu.Unlock()
	o.SentAt = b.sent
	if o.Outcome == "" && err != nil && err != io.EOF && !b.left(err) {
		o.Outcome = llmqueue.OutcomeRetryable
	}
	if o.Outcome != "" || o.Usage != (llmqueue.Usage{}) {
		b.tell(b.ctx, o)
	}
}

// left reports whether err only says that nobody wants the rest of the answer. A
// deadline is not meant: that of a client's own is a passing fault, and those of a
// request and of an attempt end it in any case.
func (b *body) left(err error) bool {
	return errors.Is(err, context.Canceled) || canceled(b.ctx)
}

// canceled reports whether ctx ended before its time.
func canceled(ctx context.Context) bool { return ctx.Err() == context.Canceled }

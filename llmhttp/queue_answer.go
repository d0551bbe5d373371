package llmhttp

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"

	"github.com/llmqueue/llmqueue"
)

// answerBody is the body of an answer that ends its attempt: whole ones before they are handed
// on, others when they were read to the end or closed.
type answerBody struct {
	call    *call
	ctx     context.Context // the attempt's
	src     io.ReadCloser   // what the observing transport hands on
	failure error           // the attempt's, when the status is one
	held    []byte          // was read, and not handed on
	err     error           // comes after held; nil when src goes on
	handed  bool            // what follows is read from src
}

// whole reads an answer that can be tried again as long as nothing of it is handed on. size is
// its length, or less than 0. It returns ErrTryAgain when it is.
func (b *answerBody) whole(size int64) error {
	limit := b.call.transport.options.replay
	b.held = make([]byte, 0, min(max(size, 0), limit)+512)
	for b.err == nil {
		if int64(len(b.held)) > limit {
			b.hand()
			return nil
		}
		b.hold()
	}
	return b.settle()
}

// begin waits for the first part of a stream. It returns ErrTryAgain when the stream ended before
// it and is tried again.
func (b *answerBody) begin() error {
	b.held = make([]byte, 0, 4<<10)
	for b.err == nil {
		b.hold()
		if b.err == nil && (llmqueue.Observed(b.ctx).Output || len(b.held) >= maxHeld) {
			b.hand()
			return nil
		}
	}
	return b.settle()
}

// maxHeld is how much of a stream is held that says nothing, such as comments, in bytes.
const maxHeld = 64 << 10

// hold reads what comes next and keeps it.
func (b *answerBody) hold() {
	if len(b.held) == cap(b.held) {
		b.held = append(b.held, 0)[:len(b.held)]
	}
	n, err := b.src.Read(b.held[len(b.held):cap(b.held)])
	b.held, b.err = b.held[:len(b.held)+n], err
}

// hand begins to hand on what still comes.
func (b *answerBody) hand() {
	b.handed = true
	llmqueue.Streamed(b.ctx)
}

// settle ends the attempt of an answer that has come to its end, nothing of which was handed on.
func (b *answerBody) settle() error {
	err := b.failure
	if err == nil && b.err != io.EOF {
		err = b.err
	}
	if err = b.call.done(b.ctx, err); err == llmqueue.ErrTryAgain {
		return err
	}
	return nil // the caller gets what came, as the provider sent it
}

func (b *answerBody) Read(p []byte) (int, error) {
	if len(b.held) > 0 {
		n := copy(p, b.held)
		b.held = b.held[n:]
		return n, nil
	}
	if !b.handed {
		return 0, b.err
	}
	n, err := b.src.Read(p)
	if err != nil {
		b.end(err)
	}
	return n, err
}

// Close ends the attempt, which was served, if its end has not come.
func (b *answerBody) Close() error {
	err := b.src.Close()
	if b.handed {
		b.end(io.EOF)
	}
	return err
}

// end ends the attempt of an answer that was handed on, once.
func (b *answerBody) end(err error) {
	if b.failure != nil {
		err = b.failure
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	_ = b.call.done(b.ctx, err)
}

// handsOn reports whether an answer is handed on as it comes: a stream, or sound and the like.
func (c *call) handsOn(h http.Header) bool {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || kind == "text/html" {
		return c.Stream && err != nil
	}
	of, _, _ := strings.Cut(kind, "/")
	return c.Stream || kind == "application/octet-stream" || strings.HasSuffix(kind, "stream") || strings.HasSuffix(kind, "jsonl") ||
		strings.HasSuffix(kind, "ndjson") || of == "audio" || of == "video" || of == "image"
}

// outputMeans are the mean numbers of output tokens of models' answers.
type outputMeans struct {
	mu    sync.Mutex // guards the rest
	means map[string]float64
}

const (
	firstOutput = 1000 // tokens of an answer, while none was seen
	meanOver    = 32   // the answers that a mean goes over, the latest above all
)

// of is the mean of a model, in tokens.
func (m *outputMeans) of(modelID string) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mean, ok := m.means[modelID]; ok {
		return int64(mean + 0.5)
	}
	return firstOutput
}

func (m *outputMeans) add(modelID string, tokens int64) {
	if tokens == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.means == nil {
		m.means = map[string]float64{}
	}
	mean, ok := m.means[modelID]
	if !ok {
		mean = float64(tokens)
	}
	m.means[modelID] = mean + (float64(tokens)-mean)/meanOver
}

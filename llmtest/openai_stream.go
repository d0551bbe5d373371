package llmtest

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// stream sends the answer as server-sent events, a token each: first the role,
// then the text, the finish reason, the usage if asked for, and [DONE].
func (a *answer) stream(ctx context.Context, clock *clock) (Verdict, int64) {
	if !clock.sleepUntil(ctx, a.reply.timing.first) {
		return Canceled, 0
	}
	a.w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	a.w.Header().Set("Cache-Control", "no-cache")
	events := events{w: a.w, chunk: a.completion("chat.completion.chunk")}
	if a.req.StreamOptions.IncludeUsage {
		events.chunk.Usage = json.RawMessage("null") // in every chunk but the last
	}
	empty := ""
	events.delta(message{"assistant", &empty}, nil)
	for i := range a.reply.tokens {
		due := a.reply.timing.due(i + 1)
		if due > time.Since(a.began) {
			events.flush() // only before a pause: tokens that are due together travel together
		}
		if !clock.sleepUntil(ctx, due) {
			return Canceled, i
		}
		word := a.reply.word(i)
		events.delta(message{Content: &word}, nil)
		if events.err != nil {
			return Canceled, i + 1
		}
	}
	events.delta(message{}, a.finishReason())
	if a.req.StreamOptions.IncludeUsage {
		events.chunk.Choices, events.chunk.Usage = []choice{}, a.usage()
		events.send()
	}
	events.write([]byte("data: [DONE]\n\n"))
	events.flush()
	if events.err != nil {
		return Canceled, a.reply.tokens
	}
	return Completed, a.reply.tokens
}

// events writes server-sent events. The first error stays and stops it.
type events struct {
	w     http.ResponseWriter
	chunk completion
	buf   []byte
	err   error
}

// delta sends a chunk with one choice.
func (e *events) delta(m message, finish *string) {
	e.chunk.Choices = []choice{{Delta: &m, FinishReason: finish}}
	e.send()
}

// send sends the chunk as it stands.
func (e *events) send() {
	data, err := json.Marshal(&e.chunk)
	if err != nil {
		e.err = err
		return
	}
	e.buf = append(e.buf[:0], "data: "...)
	e.buf = append(e.buf, data...)
	e.buf = append(e.buf, "\n\n"...)
	e.write(e.buf)
}

func (e *events) write(data []byte) {
	if e.err == nil {
		_, e.err = e.w.Write(data)
	}
}

func (e *events) flush() {
	if e.err == nil {
		e.err = http.NewResponseController(e.w).Flush()
	}
}

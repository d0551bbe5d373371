package llmtest

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"strconv"
	"time"
)

// What more than one dialect writes.

// writeJSON writes a JSON answer.
func writeJSON(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("llmtest: an answer is no JSON: %v", err)) // the dialects' types always are
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

// events writes the body of a stream. The first error stays and stops it.
type events struct {
	w      http.ResponseWriter
	buf    []byte
	err    error
	chunks bool // events go out as chunks of Amazon's event streams
}

// event sends a server-sent event; an empty name is left out.
func (e *events) event(name string, v any) {
	if e.chunks {
		e.chunk(v)
		return
	}
	e.buf = e.buf[:0]
	if name != "" {
		e.buf = append(append(append(e.buf, "event: "...), name...), '\n')
	}
	e.buf = append(e.buf, "data: "...)
	e.append(v)
	e.buf = append(e.buf, "\n\n"...)
	e.write(e.buf)
}

// line sends a line of JSON.
func (e *events) line(v any) {
	e.buf = e.buf[:0]
	e.append(v)
	e.buf = append(e.buf, '\n')
	e.write(e.buf)
}

func (e *events) append(v any) {
	data, err := json.Marshal(v)
	if err != nil && e.err == nil {
		e.err = err
	}
	e.buf = append(e.buf, data...)
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

const eventStream = "text/event-stream; charset=utf-8"

// wholeMillis rounds up to the millisecond, which is as fine as OpenAI's
// durations are. Rounding down would promise room too early.
func wholeMillis(d time.Duration) time.Duration { return roundUp(d, time.Millisecond) }

// wholeSeconds formats a duration in seconds, rounded up.
func wholeSeconds(d time.Duration) string {
	return strconv.FormatInt(int64(roundUp(d, time.Second)/time.Second), 10)
}

func roundUp(d, unit time.Duration) time.Duration {
	return (d + unit - 1) / unit * unit
}

// setRetryAfter sets the header in whole seconds, if there is a wait at all.
func setRetryAfter(h http.Header, d time.Duration) {
	if d > 0 {
		h.Set("Retry-After", wholeSeconds(d))
	}
}

func setInt(h http.Header, name string, n int64) { h.Set(name, strconv.FormatInt(n, 10)) }

// bytesToTokens estimates tokens from bytes of text, as one for four.
func bytesToTokens(n int) int64 { return (int64(n) + 3) / 4 }

// maxTokensBound is above any model's and far below an overflow.
const maxTokensBound = 1 << 40

// hash tells bodies apart.
func hash(data []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(data)
	return h.Sum64()
}

// method checks the method of a request for a path that is served.
func method(r *http.Request, want string) *problem {
	if r.Method == want {
		return nil
	}
	return &problem{reason: unknownMethod, message: "Not allowed to " + r.Method + " on " + r.URL.Path + "."}
}

// models lists the models that limits name, or else the given one.
func (s *Server) models(otherwise string) []string {
	var names []string
	seen := map[string]bool{"": true}
	for _, l := range s.config.limits {
		if !seen[l.Model] {
			seen[l.Model] = true
			names = append(names, l.Model)
		}
	}
	if names == nil {
		names = []string{otherwise}
	}
	return names
}

package gateway

import (
	"net/http"
	"sync"
	"time"
)

// answer writes to a client that must take each part in time, and keeps a stream that waits alive.
type answer struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration

	every time.Duration // 0 without comments
	timer *time.Timer

	// mu guards the rest, and the writer while comments are sent.
	mu      sync.Mutex
	quiet   bool // no more comments
	began   bool // a comment went out, and with it the headers
	written bool // what the upstream answered went out
}

func newAnswer(w http.ResponseWriter, timeout time.Duration) *answer {
	return &answer{ResponseWriter: w, control: http.NewResponseController(w), timeout: timeout}
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

var comment = []byte(": waiting\n\n")

// keepAlive sends a comment now and then, from now until hush.
func (a *answer) keepAlive(every time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.every, a.timer = every, time.AfterFunc(every, a.comment)
}

func (a *answer) comment() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.quiet {
		return
	}
	if !a.began {
		a.began = true
		h := a.Header()
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		a.ResponseWriter.WriteHeader(http.StatusOK)
	}
	a.extend()
	if _, err := a.ResponseWriter.Write(comment); err != nil || a.control.Flush() != nil {
		a.quiet = true // the client is gone: its context tells
		return
	}
	a.timer.Reset(a.every)
}

// hush ends the comments, and reports whether one was sent: then the status is 200 for good.
func (a *answer) hush() (began bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.quiet = true
	if a.timer != nil {
		a.timer.Stop()
	}
	return a.began
}

// extend gives the client time for the next part.
func (a *answer) extend() {
	_ = a.control.SetWriteDeadline(time.Now().Add(a.timeout)) // not every writer has deadlines
}

// WriteHeader sends the status, unless a comment has sent it.
func (a *answer) WriteHeader(status int) {
	a.mu.Lock()
	began := a.began
	if status >= 200 {
		a.quiet, a.written = true, true
	}
	a.mu.Unlock()
	if !began {
		a.extend()
		a.ResponseWriter.WriteHeader(status)
	}
}

// Write sends a part of the answer.
func (a *answer) Write(p []byte) (int, error) {
	if !a.written {
		a.WriteHeader(http.StatusOK)
	}
	a.extend()
	return a.ResponseWriter.Write(p)
}

package batch

import (
	"errors"
	"fmt"
	"os"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
)

// openInput opens the input. An interrupt ends the waiting for a pipe.
func (r *run) openInput(interrupts <-chan os.Signal) (err error) {
	r.source, err = requests.Open(r.Input, r.Stdin, interrupts)
	if errors.Is(err, requests.ErrStopped) {
		return fail(Interrupted, errNothingSent)
	}
	return fail(BadInput, err)
}

var errNothingSent = errors.New("interrupted before anything was sent")

// read reads the input, from its beginning.
func (r *run) read(yield func(*requests.Request) bool) error {
	return fail(BadInput, r.Format.ReadAll(r.source, yield))
}

// inputName is what messages call the input.
func (c *Config) inputName() string {
	if c.Input == "-" {
		return "stdin"
	}
	return c.Input
}

// runs reports whether a request runs of which the file holds so much. It is an error when
// the file holds that of another request.
func (r *run) runs(req *requests.Request, s results.State) (bool, error) {
	switch {
	case s != results.Failed && s != results.Done:
		return !r.Retry, nil
	case r.Retry && s == results.Failed:
		return true, nil // corrected, perhaps
	case r.known && !r.Changed:
		return false, nil // prepare has compared them
	}
	same, err := r.file.Answers(req.ID, results.HashOf(req.Path, req.Body))
	if err != nil {
		return false, fail(CannotWrite, err)
	}
	if !same && !r.Changed {
		return false, r.differs(req)
	}
	return !same, nil
}

func (c *Config) differs(req *requests.Request) error {
	return c.bad(req, fmt.Errorf("%s has the result of another request %q: --changed runs the requests again that have changed, --restart runs all of them into a new output", c.Output, req.ID))
}

func (c *Config) twice(req *requests.Request) error {
	return c.bad(req, fmt.Errorf("the id %q stands on an earlier line, too: give each request one of its own", req.ID))
}

func (c *Config) bad(req *requests.Request, err error) error {
	return fail(BadInput, &requests.LineError{File: c.inputName(), Line: req.Line, Err: err})
}

func (c *Config) overInput() error {
	return fail(BadInput, fmt.Errorf("%s is the output and the input: name another file with -o", c.Output))
}

// sameFile reports whether two names are of one file.
func sameFile(a, b string) bool {
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}

// Package wirerror writes errors as text and a code, and reads them back so that errors.Is still
// finds what the code names.
package wirerror

import "errors"

// Codes name errors. Order matters: the first that errors.Is finds is the one written.
type Codes []struct {
	Code string
	Err  error
}

// Of is the code of err, empty when none is in the list.
func (all Codes) Of(err error) string {
	for _, c := range all {
		if errors.Is(err, c.Err) {
			return c.Code
		}
	}
	return ""
}

// Decode is an error with that text, which wraps the one that the code names, if any.
func (all Codes) Decode(text, code string) error {
	e := &decoded{text: text}
	for _, c := range all {
		if c.Code == code {
			e.is = c.Err
		}
	}
	return e
}

type decoded struct {
	text string
	is   error
}

func (e *decoded) Error() string { return e.text }
func (e *decoded) Unwrap() error { return e.is }

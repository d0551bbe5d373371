package main

import (
	"strings"
	"testing"
	"testing/synctest"
)

// The example takes no network, so that its times are exact in a bubble.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		if err := run(t.Context(), nil, &out); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			`slow   completed: "greeting by slow"`,
			"an unknown model            refused: ErrModelNotRegistered",
			"params without a name       refused: ErrInvalidParams",
			"more tokens than the limit  refused: ErrRequestTooLarge",
			"ErrQueueTimeout",
			"the caller gives up         canceled: ErrCanceled, context.DeadlineExceeded",
			"the processor fails         failed: ProcessingError on attempt 1, the content was refused",
			"the processor panics        failed: PanicError, a bug in the processor",
			"busy on every attempt       failed: ProcessingError on attempt 3, the server is busy",
			`busy at first               completed on attempt 3: "poem by large"`,
			"report 3: canceled",
			`report 4: completed, "report 4 by slow"`,
			"asked again, report 1 is still completed",
		} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("the output lacks %q:\n%s", want, out.String())
			}
		}
	})
}

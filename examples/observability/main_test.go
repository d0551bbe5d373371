package main

import (
	"testing"

	"github.com/llmqueue/llmqueue/examples/internal/exampletest"
)

// The log tells what held requests up, and the table adds up: each attempt has a span, and
// each of a fire-and-forget request links to its caller.
func TestRun(t *testing.T) {
	out := exampletest.Output(t, run)
	exampletest.Wants(t, out, "request retried", "outcome=", `level=WARN msg="queue paused"`, `level=INFO msg="queue resumed"`, "level=ERROR msg=\"request failed\"")
	attempts := exampletest.Numbers(t, out, `^chat gpt-4.1-mini +\S+ +(\d+)`)
	metric := exampletest.Numbers(t, out, `^llmqueue.attempts +(\d+)`)[0][0]
	if n := exampletest.Sum(attempts, 0); n != metric || n < 50 {
		t.Errorf("%v spans of attempts, %v attempts\n%s", n, metric, out)
	}
	links := exampletest.Numbers(t, out, `^request gpt-4.1-mini +\S+ +(\d+) +\S+ +(\d+)`)[0]
	if links[0] != links[1] || links[0] < 40 {
		t.Errorf("%v fire-and-forget attempts have %v links\n%s", links[0], links[1], out)
	}
	ended := exampletest.Numbers(t, out, `^llmqueue.requests.ended +\w+ +(\d+)`)
	if n := exampletest.Sum(ended, 0); n != 50 {
		t.Errorf("%v of 50 requests ended\n%s", n, out)
	}
}

func TestBadInput(t *testing.T) {
	if out, err := exampletest.Run(t, run, 0, "-n", "0"); err == nil {
		t.Errorf("want an error\n%s", out)
	}
}

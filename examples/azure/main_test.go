package main

import (
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/examples/internal/exampletest"
	"github.com/llmqueue/llmqueue/examples/internal/service"
	"github.com/llmqueue/llmqueue/llmtest"
)

func TestRun(t *testing.T) {
	t.Setenv(keyVariable, "")
	out := exampletest.Output(t, run)
	exampletest.Wants(t, out,
		"Streamed after 2 attempts, ", // an error came in its middle
		"8 of 8 questions answered",
		"Calls: 10 accepted, 1 refused, 0 met an overloaded server, 0 failed")

	// A stream tells its usage when it is asked to.
	if streamed := exampletest.Numbers(t, out, `^Streamed after 2 attempts, (\d+) tokens`)[0][0]; streamed < 1 || streamed >= 200 {
		t.Errorf("the stream had %v tokens\n%s", streamed, out)
	}

	// What is refused is asked again when retry-after-ms says so.
	answers := exampletest.Numbers(t, out, ` (\d+) tokens, waited ([0-9.]+)s, (\d+) attempts?$`)
	again := 0
	for _, a := range answers {
		if wait := retryAfter.Seconds(); a[2] == 2 {
			again++
			if a[1] < wait || a[1] > wait+2 {
				t.Errorf("asked again after %vs, want %v\n%s", a[1], retryAfter, out)
			}
		}
	}
	total := exampletest.Numbers(t, out, `(\d+) input and (\d+) output tokens$`)[0]
	if len(answers) != 8 || again != 1 || exampletest.Sum(answers, 0) != total[1] || total[1] == 0 {
		t.Errorf("%d answers, %d asked again, %v tokens\n%s", len(answers), again, total, out)
	}

	// The queue was given no limit and knows both.
	limits := exampletest.Numbers(t, out, `^(?:rpm|tpm) +(\d+) used, +(\d+) left$`)
	for i, amount := range []float64{120, 20_000} {
		if len(limits) != 2 || limits[i][0]+limits[i][1] != amount || limits[i][0] == 0 {
			t.Fatalf("limits %v, want amounts of 120 and 20000, each used\n%s", limits, out)
		}
	}
}

// A key without an endpoint is a mistake that is told, and the key is not.
func TestEndpointIsMissing(t *testing.T) {
	t.Setenv(keyVariable, "hush-hush")
	t.Setenv(endpointVariable, "")
	from, err := service.Open(llmtest.AzureOpenAI(), nil, keyVariable)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(from); err == nil || !strings.Contains(err.Error(), endpointVariable) || strings.Contains(err.Error(), "hush") {
		t.Errorf("error %v", err)
	}
}

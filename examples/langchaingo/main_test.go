package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/tmc/langchaingo/llms"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/exampletest"
	"github.com/llmqueue/llmqueue/examples/internal/service"
	"github.com/llmqueue/llmqueue/llmtest"
)

func TestRun(t *testing.T) {
	out := exampletest.Output(t, run)
	exampletest.Wants(t, out,
		"12 of 12 questions answered",
		"Calls: 12 accepted, 0 refused, 0 met an overloaded server, 1 failed",
		"callback saw 13 calls begin and 12 end with an answer",
	)
	if used := exampletest.Numbers(t, out, `(\d+) input and (\d+) output tokens$`)[0]; used[0] == 0 || used[1] == 0 {
		t.Errorf("no usage was read from the answers\n%s", out)
	}
	limits := exampletest.Numbers(t, out, `^(?:rpm|tpm) +(\d+) used, +(\d+) left$`)
	for i, amount := range []float64{500, 30_000} {
		if len(limits) != 2 || limits[i][0]+limits[i][1] != amount {
			t.Fatalf("limits %v, want amounts of 500 and 30000, learned\n%s", limits, out)
		}
	}
}

// An answer that somebody reads as it is written is not begun anew when it breaks off.
func TestStreamIsNotRepeated(t *testing.T) {
	t.Setenv("OPENAI_API_KEY", "")
	synctest.Test(t, func(t *testing.T) {
		from, err := service.Open(llmtest.OpenAI(), []llmtest.Option{llmtest.WithFaultScript(llmtest.Fault{Kind: llmtest.FaultCut})}, "OPENAI_API_KEY")
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		llm, err := newOpenAI("m", from, &counter{})
		if err != nil {
			t.Fatal(err)
		}
		model, err := newModel("m", llm, llmqueue.WithLearnedLimits())
		if err != nil {
			t.Fatal(err)
		}
		defer model.queue.Shutdown(context.WithoutCancel(t.Context()))
		read := 0
		_, err = model.Call(t.Context(), "hello", llms.WithStreamingFunc(func(context.Context, []byte) error {
			read++
			return nil
		}))
		var failed *llmqueue.ProcessingError
		if !errors.As(err, &failed) || failed.Attempts != 1 || read == 0 {
			t.Errorf("after %d chunks: %v, want a failure after one attempt", read, err)
		}
		if got := from.Transport.Calls(); got != (service.Calls{Accepted: 1}) {
			t.Errorf("calls %+v, want the one", got)
		}
	})
}

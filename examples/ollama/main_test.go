package main

import (
	"testing"
	"testing/synctest"

	"github.com/llmqueue/llmqueue/examples/internal/exampletest"
	"github.com/llmqueue/llmqueue/examples/internal/service"
	"github.com/llmqueue/llmqueue/llmtest"
)

// While the other program's answer runs the server is busy; after that every question
// is answered, one at a time.
func TestRun(t *testing.T) {
	out := exampletest.Output(t, run)
	exampletest.Wants(t, out, "5 of 5 questions answered", "concurrent        0 used,       1 left")
	calls := exampletest.Numbers(t, out, `^Calls: (\d+) accepted, (\d+) refused, (\d+) met an overloaded server, (\d+) failed$`)[0]
	if calls[0] != 7 || calls[1] != 0 || calls[2] == 0 || calls[3] != 0 {
		t.Errorf("calls %v, want 7 accepted (the other program's and one that broke off among them), none refused or failed, some overloaded\n%s", calls, out)
	}
	answers := exampletest.Numbers(t, out, ` ran ([0-9.]+)s, (\d+) attempts? +(\d+) tokens:`)
	if attempts := exampletest.Sum(answers, 1); attempts != 6+calls[2] {
		t.Errorf("%v attempts, want one for each of %v calls\n%s", attempts, 6+calls[2], out)
	}
	total := exampletest.Numbers(t, out, `answered in ([0-9.]+)s, (\d+) input and (\d+) output tokens$`)[0]
	if got := exampletest.Sum(answers, 2); got != total[2] || total[1] == 0 {
		t.Errorf("the answers have %v tokens together, the total says %v\n%s", got, total, out)
	}
	if ran := exampletest.Sum(answers, 0); ran > total[0]+0.1*float64(len(answers)) { // they are rounded
		t.Errorf("the answers took %vs together within %vs: more than one ran at a time\n%s", ran, total[0], out)
	}
}

// The client's own error is nil for an answer that breaks off.
func TestHalfAnAnswerIsAnError(t *testing.T) {
	t.Setenv(hostVariable, "")
	synctest.Test(t, func(t *testing.T) {
		from, err := service.Open(llmtest.Ollama(), []llmtest.Option{
			llmtest.WithOutputTokens(40, 0), llmtest.WithFaultScript(llmtest.Fault{Kind: llmtest.FaultCut}),
		}, hostVariable)
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		client, err := newClient(from)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []error{errHalf, nil} {
			words := 0
			if err := chat(t.Context(), client, "m", "Name a river.", func(string) { words++ }); err != want || words == 0 {
				t.Errorf("%d pieces and error %v, want some and %v", words, err, want)
			}
		}
	})
}

func TestHost(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1":              "http://127.0.0.1:11434",
		"gpu:8080":               "http://gpu:8080",
		"http://gpu":             "http://gpu",
		"https://ollama.example": "https://ollama.example",
		"[::1]:11434":            "http://[::1]:11434",
	} {
		got, err := host(address)
		if err != nil || got.String() != want {
			t.Errorf("%s: %v, error %v; want %s", address, got, err, want)
		}
	}
	for _, address := range []string{"http://", "a b", ":11434"} {
		if got, err := host(address); err == nil {
			t.Errorf("%q: %v, want an error", address, got)
		}
	}
}

package batch

import (
	"testing"

	"github.com/llmqueue/llmqueue"
)

// The snapshot names the model whose calls fail, and why.
func TestHeldOut(t *testing.T) {
	for want, e := range map[string]llmqueue.EndpointInfo{
		"":                         {RecentFailures: 1},
		"m: 401: the key is wrong": {HeldOut: true, HeldOutReason: "401: the key is wrong"},
		"m":                        {HeldOut: true},
	} {
		if got := heldOut(llmqueue.QueueInfo{ModelID: "m", Endpoints: []llmqueue.EndpointInfo{{}, e}}); got != want {
			t.Errorf("of %+v it says %q, want %q", e, got, want)
		}
	}
}

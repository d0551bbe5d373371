package spool

import (
	"fmt"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
)

// TestABatchHoldsTheBoundOfEmbeddingInputs of 50,000 over all its requests, where a list of
// numbers is one input. Requests for anything else have no such bound.
func TestABatchHoldsTheBoundOfEmbeddingInputs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path, input string
		want        int // requests that fit
	}{
		"texts":            {"/v1/embeddings", "[" + strings.TrimSuffix(strings.Repeat(`"a",`, 20_000), ",") + "]", 2},
		"lists of numbers": {"/v1/embeddings", "[" + strings.TrimSuffix(strings.Repeat(`[1,2],`, 25_000), ",") + "]", 2},
		"numbers":          {"/v1/embeddings", "[" + strings.TrimSuffix(strings.Repeat(`1,`, 20_000), ",") + "]", 4},
		"a text":           {"/v1/embeddings", `"a"`, 4},
		"a response":       {"/v1/responses", "[" + strings.TrimSuffix(strings.Repeat(`"a",`, 20_000), ",") + "]", 4},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := New(t.TempDir(), "host", "m", c.path)
			if err != nil {
				t.Fatal(err)
			}
			req := &requests.Request{ID: "a", Path: c.path, Body: fmt.Appendf(nil, `{"model":"m","input":%s}`, c.input)}
			for b.Requests < 4 && b.Fits(req, 10, 1<<30) {
				if err := b.Add(req, 0); err != nil {
					t.Fatal(err)
				}
			}
			if b.Requests != c.want {
				t.Errorf("%d requests fit, want %d", b.Requests, c.want)
			}
			if err := b.Abandon(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

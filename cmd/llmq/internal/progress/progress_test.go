package progress

import (
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/batch"
)

// Who watches a run sees that a model's calls fail, and why, on the one line there is, whatever
// the provider wrote.
func TestDetailsSayWhyCallsFail(t *testing.T) {
	if got := Details(batch.Snapshot{}); strings.Contains(got, "fail") {
		t.Errorf("all is well, and it says %q", got)
	}
	if got := Details(batch.Snapshot{Failing: "the provider answered 400"}); !strings.HasSuffix(got, "calls fail: the provider answered 400") {
		t.Errorf("all fail, and it says %q", got)
	}
	got := Details(batch.Snapshot{HeldOut: "m: 401: the key\nis wrong\x1b[31m"})
	if want := "calls fail: m: 401: the key is wrong [31m"; !strings.HasSuffix(got, want) {
		t.Errorf("it says %q, want %q in the end", got, want)
	}
	if got := Details(batch.Snapshot{HeldOut: strings.Repeat("ä", 5000)}); len([]rune(got)) > 150 {
		t.Errorf("the line is %d letters long", len([]rune(got)))
	}
}

// A number of tokens is shown where a limit counts them.
func TestDetailsOfTokens(t *testing.T) {
	if got := Details(batch.Snapshot{Limits: []batch.LimitUse{{Kind: "rpm", Used: 1, Amount: 5}}}); strings.Contains(got, "tokens") {
		t.Errorf("nothing counts tokens, and it says %q", got)
	}
	if got := Details(batch.Snapshot{Limits: []batch.LimitUse{{Kind: "tpm", Amount: 500}}}); !strings.HasPrefix(got, "0/500 tokens/min") {
		t.Errorf("of a limit of tokens it says %q", got)
	}
}

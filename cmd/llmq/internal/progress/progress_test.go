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
	got := Details(batch.Snapshot{HeldOut: "m: 401: the key\nis wrong\x1b[31m"})
	if want := "calls fail: m: 401: the key is wrong [31m"; !strings.HasSuffix(got, want) {
		t.Errorf("it says %q, want %q in the end", got, want)
	}
	if got := Details(batch.Snapshot{HeldOut: strings.Repeat("ä", 5000)}); len([]rune(got)) > 150 {
		t.Errorf("the line is %d letters long", len([]rune(got)))
	}
}

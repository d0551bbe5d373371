package schema

import (
	"slices"
	"testing"
)

// TestTextsOfEachDialect finds what a model said, and nothing that it thought.
func TestTextsOfEachDialect(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		path, answer string
		want         []string
	}{
		{"/v1/chat/completions", `{"choices":[{"message":{"content":"a"}},{"message":{"content":"b"}}]}`, []string{"a", "b"}},
		{"/v1/chat/completions", `{"choices":[{"message":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"x"}]},{"type":"text","text":"a"},{"type":"text","text":"b"}]}}]}`, []string{"ab"}},
		{"/v1/chat/completions", `{"choices":[{"message":{"content":null,"tool_calls":[]}}]}`, []string{""}},
		{"/v1/completions", `{"choices":[{"text":"a"}]}`, []string{"a"}},
		{"/v1/responses", `{"output":[{"type":"reasoning","content":[{"text":"x"}]},{"type":"message","content":[{"text":"a"}]}]}`, []string{"a"}},
		{"/v1/messages", `{"content":[{"type":"thinking","thinking":"x"},{"type":"text","text":"a"},{"type":"text","text":"b"}]}`, []string{"ab"}},
		{"/v1beta/models/m:generateContent", `{"candidates":[{"content":{"parts":[{"thought":true,"text":"x"},{"text":"a"}]}}]}`, []string{"a"}},
		{"/model/m/converse", `{"output":{"message":{"content":[{"text":"a"}]}}}`, []string{"a"}},
		{"/v2/chat", `{"message":{"content":[{"type":"text","text":"a"}]}}`, []string{"a"}},
		{"/api/chat", `{"message":{"content":"a"}}`, []string{"a"}},
		{"/v1/embeddings", `{"data":[]}`, nil},
	} {
		if got := Texts(c.path, []byte(c.answer)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.path, got, c.want)
		}
	}
}

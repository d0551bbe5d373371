package answers

import (
	"encoding/json"
	"testing"
)

func TestWhatTheModelSaid(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"chat":             {`{"choices":[{"message":{"role":"assistant","content":"a <b>\nc"}}]}`, "a <b>\nc"},
		"choices":          {`{"choices":[{"message":{"content":"a"}},{"message":{"content":"b"}}]}`, "a\nb"},
		"parts":            {`{"choices":[{"message":{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}}]}`, "ab"},
		"refusal":          {`{"choices":[{"message":{"content":null,"refusal":"No."}}]}`, "No."},
		"tools":            {`{"choices":[{"message":{"content":null,"tool_calls":[{"id":"x","function":{"name":"f","arguments":"{\"a\":1}"}}]}}]}`, `f {"a":1}`},
		"completion":       {`{"choices":[{"text":"a"}]}`, "a"},
		"response":         {`{"output":[{"type":"reasoning","summary":[]},{"type":"message","content":[{"type":"output_text","text":"a"}]},{"type":"function_call","name":"f","arguments":"{}"}]}`, "a\nf {}"},
		"Anthropic":        {`{"content":[{"type":"thinking","thinking":"hm"},{"type":"text","text":"a"},{"type":"tool_use","name":"f","input":{"b":1}}]}`, "a\nf {\"b\":1}"},
		"Gemini":           {`{"candidates":[{"content":{"role":"model","parts":[{"text":"hm","thought":true},{"text":"a"},{"text":"b"}]}}]}`, "ab"},
		"Gemini, a call":   {`{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{}}}]}}]}`, `{"name":"f","args":{}}`},
		"Converse":         {`{"output":{"message":{"role":"assistant","content":[{"text":"a"}]}}}`, "a"},
		"Cohere":           {`{"message":{"role":"assistant","content":[{"type":"text","text":"a"}]}}`, "a"},
		"Ollama":           {`{"message":{"role":"assistant","content":"a"},"done":true}`, "a"},
		"embedding":        {`{"data":[{"embedding":[1,2]}]}`, ""},
		"something else":   {`{"choices":"x","output":7,"message":"m","content":{"a":1}}`, ""},
		"a part that fits": {`{"object":7,"choices":[{"index":"x","message":{"content":"a"}}]}`, "a"},
	} {
		var a answer
		_ = json.Unmarshal([]byte(c.body), &a)
		if got := a.text(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

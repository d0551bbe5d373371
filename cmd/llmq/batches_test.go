package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/llmtest"
)

// TestBatchesOfAnthropicAndGemini run at those providers, with their keys, limits and answers.
func TestBatchesOfAnthropicAndGemini(t *testing.T) {
	t.Parallel()
	const key = "key-of-the-test-0123456789"
	for name, c := range map[string]struct {
		provider llmtest.Provider
		line     string // with the number of the request
		flags    []string
		answer   string // a member of it
	}{
		"Anthropic": {llmtest.Anthropic(llmtest.RPM(100)), `{"custom_id":"r%d","params":{"model":"claude","max_tokens":20,"messages":[{"role":"user","content":"Hello"}]}}`,
			[]string{"--auth", "x-api-key"}, "content"},
		"Gemini": {llmtest.Gemini(llmtest.RPM(100)), `{"key":"r%d","request":{"contents":[{"role":"user","parts":[{"text":"Hello"}]}],"generationConfig":{"maxOutputTokens":20}}}`,
			[]string{"--auth", "x-goog-api-key", "--model", "gemini-2.5-flash"}, "candidates"},
		"Gemini with its model": {llmtest.Gemini(llmtest.RPM(100)), `{"key":"r%d","request":{"model":"models/gemini-2.5-flash","contents":[{"role":"user","parts":[{"text":"Hello"}]}]}}`,
			[]string{"--auth", "x-goog-api-key"}, "candidates"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, dir := llmtest.NewServer(t, c.provider, llmtest.WithKey(key)), t.TempDir()
			lines := make([]string, 5)
			for i := range lines {
				lines[i] = fmt.Sprintf(c.line, i)
			}
			write(t, dir, "in.jsonl", lines...)
			p := command(t, dir, []string{"LLMQ_API_KEY=" + key}, append([]string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "100"}, c.flags...)...)
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			if code := p.code(); code != 0 {
				t.Fatalf("exit code %d: %s", code, p.stderr.String())
			}
			list := readResults(t, dir, "out.jsonl")
			eachOnce(t, list, 5)
			for _, r := range list {
				var answer map[string]json.RawMessage
				if err := json.Unmarshal(r.Response.Body, &answer); err != nil || answer[c.answer] == nil {
					t.Errorf("no answer of that provider: %s", r.Response.Body)
				}
			}
			if st := srv.Stats(); st.Completed != 5 || st.OutputTokens == 0 {
				t.Errorf("the provider completed %d requests with %d tokens", st.Completed, st.OutputTokens)
			}
			_, stdout, _ := llmq(t, dir, "stats", "out.jsonl", "--json")
			if want := fmt.Sprintf(`"output_tokens":%d`, srv.Stats().OutputTokens); !strings.Contains(stdout, want) {
				t.Errorf("no %s in %s", want, stdout)
			}
		})
	}
}

func TestBadLinesOfBatches(t *testing.T) {
	t.Parallel()
	srv := record(t)
	for name, c := range map[string]struct{ line, want string }{
		"no id, Anthropic": {`{"params":{"model":"m","messages":[]}}`, `in.jsonl:1: no "custom_id" beside "params"`},
		"no id, Gemini":    {`{"custom_id":"a","request":{"contents":[]}}`, `in.jsonl:1: no "key" beside "request"`},
		"another field":    {`{"custom_id":"a","param":1,"params":{}}`, `unknown field "param" beside "params": a line of the Anthropic batch format has custom_id, params`},
		"no model":         {`{"key":"a","request":{"contents":[]}}`, `no "model": the lines of a Gemini batch name none, give --model`},
		"no name":          {`{"key":"a","request":{"model":"../x","contents":[]}}`, `the model "../x" is no name`},
		"no object":        {`{"key":"a","request":[]}`, `"request" is no JSON object`},
		"params, no model": {`{"custom_id":"a","params":{"messages":[]}}`, `no "model": add it to the line, or give --model`},
		"a text as bound":  {`{"model":"m","max_tokens":"100","messages":[]}`, `"max_tokens" is a string: want a number`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "in.jsonl", c.line)
			code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL)
			oneLine(t, code, 2, stderr, c.want)
		})
	}
	if len(srv.bodies) > 0 {
		t.Errorf("%d requests were sent", len(srv.bodies))
	}
}

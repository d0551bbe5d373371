package requests

import (
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue"
)

// one reads a single line.
func one(t *testing.T, line string) *Request {
	t.Helper()
	f := &Format{}
	var got *Request
	if err := f.Read("in", strings.NewReader(line), func(r *Request) bool { got = r; return true }); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestWhatARequestReserves(t *testing.T) {
	for name, c := range map[string]struct {
		line string
		want llmqueue.Usage
	}{
		"a chat":            {`{"model":"m","max_tokens":50,"messages":[{"role":"user","content":"12345678"}]}`, llmqueue.Usage{InputTokens: 2, OutputTokens: 50}},
		"the newer bound":   {`{"model":"m","max_tokens":50,"max_completion_tokens":60,"messages":[{"role":"user","content":"1"}]}`, llmqueue.Usage{InputTokens: 1, OutputTokens: 60}},
		"several choices":   {`{"model":"m","n":3,"max_tokens":50,"messages":[{"role":"user","content":"1"}]}`, llmqueue.Usage{InputTokens: 1, OutputTokens: 150}},
		"parts, an image":   {`{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"1234"},{"type":"image_url","image_url":{"url":"data:AAAAAAAAAAAAAAAAAAAA"}}]}]}`, llmqueue.Usage{InputTokens: 1}},
		"responses":         {`{"model":"m","instructions":"1234","input":"1234","max_output_tokens":9}`, llmqueue.Usage{InputTokens: 2, OutputTokens: 9}},
		"embeddings":        {`{"model":"embed","input":["1234","1234"]}`, llmqueue.Usage{InputTokens: 2}},
		"tokens as numbers": {`{"model":"embed","input":[[1,2,3],[4]]}`, llmqueue.Usage{InputTokens: 4}},
		"as a float":        {`{"model":"m","n":2.0,"max_tokens":100.0,"messages":[{"role":"user","content":"1"}]}`, llmqueue.Usage{InputTokens: 1, OutputTokens: 200}},
		"of Anthropic":      {`{"custom_id":"a","params":{"model":"m","max_tokens":1e2,"system":"1234","messages":[{"role":"user","content":"1234"}]}}`, llmqueue.Usage{InputTokens: 2, OutputTokens: 100}},
		"of Gemini":         {`{"key":"a","request":{"model":"m","systemInstruction":{"parts":[{"text":"1234"}]},"contents":[{"role":"user","parts":[{"text":"1234"}]}],"generationConfig":{"maxOutputTokens":9,"candidateCount":2}}}`, llmqueue.Usage{InputTokens: 2, OutputTokens: 18}},
		"of Gemini, schema": {`{"key":"a","request":{"model":"m","system_instruction":{"parts":[{"text":"1234"}]},"contents":[],"generation_config":{"max_output_tokens":9}}}`, llmqueue.Usage{InputTokens: 1, OutputTokens: 9}},
		"no bound":          {`{"model":"m","messages":[{"role":"user","content":"1"}]}`, llmqueue.Usage{InputTokens: 1}},
	} {
		if got := one(t, c.line).Estimate; got != c.want {
			t.Errorf("%s: reserves %+v, want %+v", name, got, c.want)
		}
	}
	if got := one(t, `{"model":"m","messages":[]}`).Guess(7).OutputTokens; got != 7 {
		t.Errorf("an answer without a bound is taken as %d tokens", got)
	}
	if got := one(t, `{"model":"embed","input":"x"}`).Guess(7).OutputTokens; got != 0 {
		t.Errorf("an embedding is taken to answer with %d tokens", got)
	}
}

// FuzzRead: no line panics, and each ends as a request or as an error with its number.
func FuzzRead(f *testing.F) {
	f.Add(`{"custom_id":"a","method":"POST","url":"/v1/x","body":{"model":"m","input":[1,[2],{"text":"x"}]}}`)
	f.Add("\xef\xbb\xbf{}")
	f.Add(`{"model":"m","messages":null}`)
	tmpl, err := ParseTemplate("{{.a}} {{json .}}")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, format := range []*Format{{}, {Model: "m", Template: tmpl, MaxTokensField: "max_tokens", MaxTokens: 1}} {
			err := format.Read("in", strings.NewReader(text), func(r *Request) bool {
				if r.ID == "" || r.Model == "" || r.Path == "" || len(r.Body) == 0 {
					t.Errorf("an incomplete request: %+v", r)
				}
				return true
			})
			if err != nil && !strings.HasPrefix(err.Error(), "in:") {
				t.Errorf("an error without its line: %v", err)
			}
		}
	})
}

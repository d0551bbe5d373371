package main

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sample is how a file of testdata/samples is run, and what the provider has to get of it.
type sample struct {
	flags []string
	ids   []string
	paths []string
	has   []string // in the bodies, as JSON
}

const samplesDir = "testdata/samples"

// samples has every file of the folder. Their sources are in its README.
var samples = map[string]sample{
	"humaneval.jsonl": {[]string{"--template", "Complete this function:\n\n{{.prompt}}", "--model", "m", "--id-field", "task_id", "--max-tokens", "500"},
		[]string{"HumanEval/0", "HumanEval/1"}, []string{"/v1/chat/completions"}, []string{`Complete this function:\n\nfrom typing import List\n\n\ndef is_sorted(`, `"max_tokens":500`}},
	"mt_bench.jsonl": {[]string{"--template", "{{index .turns 0}}", "--model", "m", "--id-field", "question_id"},
		[]string{"111", "81"}, []string{"/v1/chat/completions"}, []string{`"content":"Write a short letter to a neighbour whose dog barks at night."`}},
	"gsm8k.jsonl": {[]string{"--template", "{{.question}} End with #### and the number.", "--model", "m"},
		[]string{"line-1", "line-2"}, []string{"/v1/chat/completions"}, []string{`A ticket costs $7 and a drink $2.50. What do 2 tickets and 2 drinks cost? End with`}},
	"openai_cookbook_parallel.jsonl": {nil, []string{"line-1", "line-2"}, []string{"/v1/embeddings"}, []string{`"input":"0\n"`, `"metadata":{"row_id":1}`}},
	"openai_cookbook_batch.jsonl": {nil, []string{"task-0", "task-1"}, []string{"/v1/chat/completions"},
		[]string{`"response_format":{"type":"json_object"}`, `{"image_url":{"url":"https://example.com/chair.jpg"},"type":"image_url"}`, `"temperature":0.1`}},
	"vllm_batch.jsonl": {nil, []string{"request-1", "request-2", "request-3"}, []string{"/v1/chat/completions", "/v1/embeddings", "/v1/score"},
		[]string{`"max_completion_tokens":1000`, `"queries":"Where is Lima?"`}},
	"anthropic_batch.jsonl": {nil, []string{"my-first-request", "my-second-request"}, []string{"/v1/messages"},
		[]string{`"max_tokens":1024,"messages":[{"content":"Good morning","role":"user"}],"model":"claude-sonnet-4-5"`, `"cache_control":{"type":"ephemeral"}`}},
	"gemini_batch.jsonl": {[]string{"--model", "gemini-2.5-flash"}, []string{"request-1", "request-2"}, []string{"/v1beta/models/gemini-2.5-flash:generateContent"},
		[]string{`{"contents":[{"parts":[{"text":"How does bread rise?"}]}],"generation_config":{"temperature":0.7}}`}},
	"alpaca.json": {[]string{"--template", "{{.instruction}}{{if .input}}\n\n{{.input}}{{end}}", "--model", "m"},
		[]string{"line-1", "line-2"}, []string{"/v1/chat/completions"}, []string{`"content":"Give two tips for a good night's sleep."`, `"content":"Translate the sentence into Spanish.\n\nThe train leaves at noon."`}},
	"truthfulqa.csv": {[]string{"--template", `{{.Question}} ({{index . "Best Answer"}})`, "--model", "m"},
		[]string{"line-2", "line-3"}, []string{"/v1/chat/completions"}, []string{`"content":"Do goldfish forget everything after \"a few seconds\"? (No, they remember for months)"`}},
}

// TestTheFilesThatPeopleHave run as they are, and packed as some of them come.
func TestTheFilesThatPeopleHave(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(samplesDir, "*.[cj]s*"))
	if err != nil || len(files) != len(samples) {
		t.Fatalf("%d files in %s, and %d are run: %v", len(files), samplesDir, len(samples), err)
	}
	for name, s := range samples {
		for _, pack := range []string{"", ".gz", ".zst"} {
			t.Run(name+pack, func(t *testing.T) {
				t.Parallel()
				data, err := os.ReadFile(filepath.Join(samplesDir, name))
				if err != nil {
					t.Fatal(err)
				}
				srv, dir, content := record(t), t.TempDir(), string(data)
				switch pack {
				case ".gz":
					var b strings.Builder
					z := gzip.NewWriter(&b)
					_, _ = z.Write(data)
					if err := z.Close(); err != nil {
						t.Fatal(err)
					}
					content = b.String()
				case ".zst":
					content = packed(t, content)
				}
				raw(t, dir, name+pack, content)
				code, _, stderr := llmq(t, dir, append([]string{"run", name + pack, "-o", "out.jsonl", "--base-url", srv.URL, "-q"}, s.flags...)...)
				if code != 0 {
					t.Fatalf("exit code %d: %s", code, stderr)
				}
				var ids []string
				for _, r := range readResults(t, dir, "out.jsonl") {
					ids = append(ids, r.ID)
				}
				slices.Sort(ids)
				slices.Sort(srv.paths)
				if !slices.Equal(ids, s.ids) || !slices.Equal(slices.Compact(srv.paths), s.paths) {
					t.Errorf("the results are of %q, want %q; sent to %q, want %q", ids, s.ids, srv.paths, s.paths)
				}
				var sent strings.Builder
				encoder := json.NewEncoder(&sent)
				encoder.SetEscapeHTML(false)
				for _, body := range srv.bodies {
					_ = encoder.Encode(body)
				}
				for _, want := range s.has {
					if !strings.Contains(sent.String(), want) {
						t.Errorf("no %s was sent, but\n%s", want, sent.String())
					}
				}
				if code, _, stderr := llmq(t, dir, "view", "out.jsonl"); code != 0 {
					t.Errorf("exit code %d: %s", code, stderr)
				}
			})
		}
	}
}

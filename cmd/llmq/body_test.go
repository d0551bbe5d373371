package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMembersAreSetBesideATemplate sends each kind of value.
func TestMembersAreSetBesideATemplate(t *testing.T) {
	t.Parallel()
	srv, dir := record(t), t.TempDir()
	write(t, dir, "in.jsonl", `{"q":"Why?"}`)
	write(t, dir, "schema.json", `{`, `  "type": "json_object"`, `}`)
	write(t, dir, "tools.json", `[{"type":"function","function":{"name":"f"}}]`)
	code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--template", "{{.q}}", "--model", "m", "--max-tokens", "9",
		"--set", "temperature=0", "--set", "top_p=1e-1", "--set", "logprobs=true", "--set", "stop=a=b, c", "--set", "user=-", "--set", "max_tokens=7",
		"--set-json", "response_format=@schema.json", "--set-json", `seed=12345678901234567890`, "--tools", "@tools.json")
	if code != 0 || len(srv.bodies) != 1 {
		t.Fatalf("exit code %d, %d calls: %s", code, len(srv.bodies), stderr)
	}
	got, _ := json.Marshal(srv.bodies[0])
	var want map[string]any
	if err := json.Unmarshal([]byte(`{"model":"m","messages":[{"role":"user","content":"Why?"}],"max_tokens":7,"temperature":0,"top_p":0.1,"logprobs":true,"stop":"a=b, c","user":"-",
		"response_format":{"type":"json_object"},"seed":12345678901234567890,"tools":[{"type":"function","function":{"name":"f"}}]}`), &want); err != nil {
		t.Fatal(err)
	}
	if wanted, _ := json.Marshal(want); string(got) != string(wanted) {
		t.Errorf("sent\n%s, want\n%s", got, wanted)
	}
}

func TestMembersThatCannotBeSetAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "in.jsonl", `{"q":"Why?"}`)
	write(t, dir, "bad.json", `{"a":`)
	template := []string{"--template", "{{.q}}", "--model", "m"}
	for name, c := range map[string]struct {
		flags []string
		want  string
	}{
		"no template": {[]string{"--set", "a=1"}, "go with --template"},
		"no value":    {append(template, "--set", "a"), `--set "a": want NAME=VALUE`},
		"no JSON":     {append(template, "--set-json", "a=b"), "--set-json a: not valid JSON"},
		"a bad file":  {append(template, "--set-json", "a=@bad.json"), "--set-json a: bad.json is not valid JSON"},
		"no file":     {append(template, "--tools", "@none.json"), "--tools: open none.json"},
		"twice":       {append(template, "--set", "a=1", "--set-json", "a=2"), "--set-json a: that member is set twice"},
		"the model":   {append(template, "--set", "model=x"), "--set model: that member is made of"},
		"no such field": {append(template, "--keep", "lable"),
			`in.jsonl:1: no field "lable" to keep, there are q`},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", "http://127.0.0.1:9"}, c.flags...)
			code, _, stderr := llmq(t, dir, args...)
			oneLine(t, code, 2, stderr, c.want)
		})
	}
}

// TestFieldsAreKeptInTheResults, of every form of line, of failures, too, and beside a config file's flags.
func TestFieldsAreKeptInTheResults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		line   string
		flags  []string
		status int
	}{
		"template":  {`{"q":"Why?","label":"x","metadata":{"n":12345678901234567890}}`, []string{"--template", "{{.q}}", "--model", "m"}, 200},
		"batch":     {`{"custom_id":"a","label":"x","metadata":{"n":12345678901234567890},"url":"/v1/chat/completions","body":{"model":"m","messages":[]}}`, nil, 200},
		"plain":     {`{"model":"m","messages":[],"label":"x","metadata":{"n":12345678901234567890}}`, nil, 200},
		"a failure": {`{"model":"m","messages":[],"label":"x","metadata":{"n":12345678901234567890}}`, nil, 400},
	} {
		t.Run(name, func(t *testing.T) {
			srv, dir := replying(t, c.status, `{"choices":[{"message":{"content":"x"}}]}`), t.TempDir()
			write(t, dir, "in.jsonl", c.line)
			write(t, dir, "llmq.yaml", "keep: [label, metadata]")
			_, _, stderr := llmq(t, dir, append([]string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--config", "llmq.yaml"}, c.flags...)...)
			data, err := os.ReadFile(filepath.Join(dir, "out.jsonl"))
			if want := `"kept":{"label":"x","metadata":{"n":12345678901234567890}}`; err != nil || !strings.Contains(string(data), want) {
				t.Errorf("no %s in %s: %v, %s", want, data, err, stderr)
			}
		})
	}
}

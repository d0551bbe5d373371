package main

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// recorder is a provider that keeps what it was sent.
type recorder struct {
	*httptest.Server
	mu     sync.Mutex
	paths  []string
	bodies []map[string]any
	heads  []http.Header
}

func record(t *testing.T) *recorder {
	r := &recorder{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		data, _ := io.ReadAll(req.Body)
		var body map[string]any
		_ = json.Unmarshal(data, &body)
		r.mu.Lock()
		r.paths, r.bodies, r.heads = append(r.paths, req.URL.Path), append(r.bodies, body), append(r.heads, req.Header.Clone())
		r.mu.Unlock()
		_, _ = io.WriteString(w, `{"choices":[{"message":{"content":"x"}}],"output":[],"data":[{"embedding":[1]}],"content":[],"candidates":[1],"usage":{"prompt_tokens":3,"completion_tokens":2}}`)
	}))
	t.Cleanup(r.Close)
	return r
}

// TestEveryFormOfInput sends each form and looks at what arrives.
func TestEveryFormOfInput(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		line  string
		flags []string
		path  string
		body  string // as JSON
		id    string
	}{
		"batch":            {`{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}`, nil, "/v1/chat/completions", `{"model":"m","messages":[]}`, "a"},
		"batch, no model":  {`{"custom_id":"a","url":"/v1/responses","body":{"input":"x"}}`, []string{"--model", "n"}, "/v1/responses", `{"model":"n","input":"x"}`, "a"},
		"Anthropic batch":  {`{"custom_id":"a","params":{"model":"m","x":1,"messages":[]}}`, []string{"--endpoint", "/v1/responses"}, "/v1/messages", `{"model":"m","messages":[],"x":1}`, "a"},
		"Gemini batch":     {`{"key":"k","request":{"contents":[1]}}`, []string{"--model", "m"}, "/v1/v1beta/models/m:generateContent", `{"contents":[1]}`, "k"},
		"tuned Gemini":     {`{"key":"k","request":{"model":"tunedModels/m","contents":[1]}}`, nil, "/v1/v1beta/tunedModels/m:generateContent", `{"model":"tunedModels/m","contents":[1]}`, "k"},
		"params of a chat": {`{"model":"m","params":{},"messages":[]}`, nil, "/v1/chat/completions", `{"model":"m","params":{},"messages":[]}`, "line-1"},
		"chat":             {`{"model":"m","messages":[{"role":"user","content":"x"}]}`, nil, "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"x"}]}`, "line-1"},
		"chat with id":     {`{"custom_id":"b","model":"m","messages":[]}`, nil, "/v1/chat/completions", `{"model":"m","messages":[]}`, "b"},
		"responses":        {`{"model":"m","input":"x"}`, nil, "/v1/responses", `{"model":"m","input":"x"}`, "line-1"},
		"embeddings":       {`{"model":"text-embedding-3-small","input":["x","y"]}`, nil, "/v1/embeddings", `{"model":"text-embedding-3-small","input":["x","y"]}`, "line-1"},
		"other endpoint":   {`{"model":"m","input":"x"}`, []string{"--endpoint", "/v1/rerank"}, "/v1/rerank", `{"model":"m","input":"x"}`, "line-1"},
		"template":         {`{"question":"Why?","n":12345678901234567890}`, []string{"--template", "Q{{.n}}: {{.question}}", "--model", "m", "--max-tokens", "9"}, "/v1/chat/completions", `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Q12345678901234567890: Why?"}]}`, "line-1"},
		"template, system": {`{"k":7,"q":"Why?"}`, []string{"--template", "{{.q}}", "--model", "m", "--system", "Be brief.", "--id-field", "k"}, "/v1/chat/completions", `{"model":"m","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Why?"}]}`, "7"},
		"template to responses": {`{"q":"Why?"}`, []string{"--template", "{{.q}}", "--model", "m", "--endpoint", "/v1/responses", "--max-tokens", "9"}, "/v1/responses",
			`{"model":"m","input":"Why?","max_output_tokens":9}`, "line-1"},
	} {
		t.Run(name, func(t *testing.T) {
			srv, dir := record(t), t.TempDir()
			write(t, dir, "in.jsonl", c.line)
			code, _, stderr := llmq(t, dir, append([]string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL + "/v1"}, c.flags...)...)
			if code != 0 || len(srv.bodies) != 1 {
				t.Fatalf("exit code %d, %d calls: %s", code, len(srv.bodies), stderr)
			}
			got, _ := json.Marshal(srv.bodies[0])
			var want any
			if err := json.Unmarshal([]byte(c.body), &want); err != nil {
				t.Fatal(err)
			}
			wanted, _ := json.Marshal(want)
			if srv.paths[0] != c.path || string(got) != strings.ReplaceAll(string(wanted), " ", " ") {
				t.Errorf("sent %s to %s, want %s to %s", got, srv.paths[0], wanted, c.path)
			}
			if list := readResults(t, dir, "out.jsonl"); list[0].ID != c.id {
				t.Errorf("the id is %q, want %q", list[0].ID, c.id)
			}
		})
	}
}

func TestGzipAndStdin(t *testing.T) {
	t.Parallel()
	srv, dir := record(t), t.TempDir()
	f, err := os.Create(filepath.Join(dir, "in.gz"))
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	_, _ = io.WriteString(z, "\xef\xbb\xbf"+strings.Join(chats(5, 5), "\r\n\n"))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if code, _, stderr := llmq(t, dir, "run", "in.gz", "-o", "a.jsonl", "--base-url", srv.URL); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	eachOnce(t, readResults(t, dir, "a.jsonl"), 5)
	for range 2 { // the second time nothing is left to do
		p := command(t, dir, nil, "run", "-", "-o", "b.jsonl", "--base-url", srv.URL)
		if p.Stdin, err = os.Open(f.Name()); err != nil {
			t.Fatal(err)
		}
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		if code := p.code(); code != 0 {
			t.Fatalf("exit code %d: %s", code, p.stderr.String())
		}
		eachOnce(t, readResults(t, dir, "b.jsonl"), 5)
	}
	if len(srv.bodies) != 10 {
		t.Errorf("%d calls, want 10", len(srv.bodies))
	}
}

func TestOrderedResultsHaveTheOrderOfTheInput(t *testing.T) {
	t.Parallel()
	srv := serve(t, nil, llmtest.WithLatency(llmtest.Latency{FirstToken: 5 * time.Millisecond, Spread: 2}))
	dir := t.TempDir()
	lines := chats(200, 10)
	write(t, dir, "some.jsonl", slices.Concat(lines[150:], lines[:20])...)
	write(t, dir, "in.jsonl", lines...)
	for _, in := range []string{"some.jsonl", "in.jsonl"} {
		if code, _, stderr := llmq(t, dir, "run", in, "-o", "out.jsonl", "--base-url", srv.URL(), "--ordered"); code != 0 {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
	}
	list := readResults(t, dir, "out.jsonl")
	eachOnce(t, list, 200)
	for i := 1; i < len(list); i++ {
		if list[i].Run.Line < list[i-1].Run.Line && list[i].Run.Line > 70 {
			t.Fatalf("line %d comes after line %d", list[i].Run.Line, list[i-1].Run.Line)
		}
	}
}

func TestRetryRunsTheFailedOnesAndNoOthers(t *testing.T) {
	t.Parallel()
	failing := serve(t, nil, llmtest.WithFaultShare(0.3, llmtest.Fault{Status: 400}))
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(50, 10)...)
	args := []string{"in.jsonl", "-o", "out.jsonl", "--base-url"}
	code, _, stderr := llmq(t, dir, append([]string{"run"}, append(args, failing.URL())...)...)
	failed := failures(readResults(t, dir, "out.jsonl"))
	if code != 1 || len(failed) == 0 || !strings.Contains(stderr, "llmq retry") {
		t.Fatalf("exit code %d, %d failures: %s", code, len(failed), stderr)
	}
	if r := readResults(t, dir, "out.jsonl"); true {
		for _, f := range r {
			if f.Error != nil && (f.Error.Code != "http_400" || f.Response == nil || f.Response.Status != 400 || !strings.Contains(f.Error.Message, "a fault was injected")) {
				t.Errorf("a failure without its reason: %+v", f)
			}
		}
	}
	good := serve(t, nil)
	if code, _, stderr = llmq(t, dir, append([]string{"retry"}, append(args, good.URL())...)...); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if got := int(good.Stats().Accepted); got != len(failed) {
		t.Errorf("%d requests ran again, %d had failed", got, len(failed))
	}
	list := readResults(t, dir, "out.jsonl")
	eachOnce(t, list, 50)
	if left := failures(list); left != nil {
		t.Errorf("still failed: %v", left)
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
)

const schemaFile = `{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}`

// answering is a provider that answers the calls in turn with these texts, the last one for
// ever, and keeps what it was sent.
func answering(t *testing.T, texts ...string) (srv *httptest.Server, sent func() []string) {
	t.Helper()
	var mu sync.Mutex
	var bodies []string
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		text, _ := json.Marshal(texts[min(len(bodies), len(texts)-1)])
		bodies = append(bodies, string(body))
		if strings.HasSuffix(r.URL.Path, "/responses") {
			fmt.Fprintf(w, `{"status":"completed","output":[{"type":"reasoning","content":[{"type":"reasoning_text","text":"Hm."}]},{"type":"message","content":[{"type":"output_text","text":%s}]}],"usage":{"input_tokens":10,"output_tokens":2}}`, text)
			return
		}
		fmt.Fprintf(w, `{"choices":[{"message":{"role":"assistant","content":%s}}],"usage":{"prompt_tokens":10,"completion_tokens":2}}`, text)
	}))
	t.Cleanup(srv.Close)
	return srv, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return bodies
	}
}

// TestAnAnswerThatDoesNotFitIsAskedForOnceMore, with what it lacks.
func TestAnAnswerThatDoesNotFitIsAskedForOnceMore(t *testing.T) {
	t.Parallel()
	chat := `{"model":"m","temperature":0,"messages":[{"role":"user","content":"How many?"}]}`
	asked := `{"role":"user","content":"How many?"},{"role":"assistant","content":"%s"},{"role":"user","content":"That answer does not fit the JSON schema: %s. Answer again with JSON that fits, and nothing else."}`
	for name, c := range map[string]struct {
		line  string
		wrong string
		again []string // what the second body has
	}{
		"chat":      {chat, `{"n":"two"}`, []string{`"temperature":0`, fmt.Sprintf(asked, `{\"n\":\"two\"}`, "at '/n': got string, want integer")}},
		"a text":    {chat, "Two.", []string{`"role":"assistant","content":"Two."`, "its text is not valid JSON"}},
		"responses": {`{"model":"m","input":"How many?"}`, `{}`, []string{`"input":[` + fmt.Sprintf(asked, `{}`, "at '': missing property 'n'") + `]`}},
		"nothing":   {chat, " ", []string{`"messages":[{"role":"user","content":"How many?"}]`}},
	} {
		t.Run(name, func(t *testing.T) {
			srv, sent := answering(t, c.wrong, `{"n":2}`)
			dir := t.TempDir()
			write(t, dir, "in.jsonl", c.line)
			write(t, dir, "schema.json", schemaFile)
			args := []string{"run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--schema", "schema.json", "--attempts", "1"}
			code, _, stderr := llmq(t, dir, args...)
			bodies := sent()
			if code != 0 || len(bodies) != 2 || !strings.Contains(stderr, "1 asked once more for the schema; 0 refused") {
				t.Fatalf("exit code %d, %d calls: %s", code, len(bodies), stderr)
			}
			for _, want := range c.again {
				if !strings.Contains(bodies[1], want) {
					t.Errorf("asked with\n%s, want in it\n%s", bodies[1], want)
				}
			}
			r := readResults(t, dir, "out.jsonl")[0]
			if !strings.Contains(string(r.Response.Body), `{\"n\":2}`) || r.Run.Attempts != 2 || r.Run.Input != 20 || r.Run.Output != 4 {
				t.Errorf("recorded as %+v: %s", r.Run, r.Response.Body)
			}
			// To the next run it is the answer to the line.
			if code, _, stderr := llmq(t, dir, args...); code != 0 || len(sent()) != 2 {
				t.Errorf("it ran again: exit code %d, %s", code, stderr)
			}
		})
	}
}

// TestWhatNeverFitsIsAFailure that is counted, keeps its answer, and is retried.
func TestWhatNeverFitsIsAFailure(t *testing.T) {
	t.Parallel()
	for reask, calls := range map[string]int{"0": 3, "1": 6, "3": 12} {
		t.Run(reask, func(t *testing.T) {
			srv, sent := answering(t, `{"m":2}`)
			dir := t.TempDir()
			write(t, dir, "in.jsonl", chats(3, 10)...)
			write(t, dir, "schema.json", schemaFile)
			code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--schema", "schema.json", "--reask", reask)
			if code != 1 || len(sent()) != calls || !strings.Contains(stderr, "0 answers and 3 failures") || !strings.Contains(stderr, "3 do not fit it") {
				t.Errorf("exit code %d, %d calls, want %d: %s", code, len(sent()), calls, stderr)
			}
			list := readResults(t, dir, "out.jsonl")
			eachOnce(t, list, 3)
			if e := list[0].Error; e == nil || e.Code != "schema_mismatch" || !strings.Contains(e.Message, "missing property 'n'") || !strings.Contains(string(list[0].Response.Body), `{\"m\":2}`) {
				t.Errorf("recorded as %+v, %+v", list[0].Error, list[0].Response)
			}
			if _, stdout, _ := llmq(t, dir, "stats", "out.jsonl"); !strings.Contains(stdout, "3  schema_mismatch: ") {
				t.Errorf("it is not counted:\n%s", stdout)
			}
			good, _ := answering(t, `{"n":1}`)
			if code, _, stderr := llmq(t, dir, "retry", "in.jsonl", "-o", "out.jsonl", "--base-url", good.URL, "--schema", "schema.json"); code != 0 {
				t.Errorf("retried: exit code %d: %s", code, stderr)
			}
		})
	}
}

// TestAReaskThatIsTooLargeKeepsTheAnswer: under the limits it could never start.
func TestAReaskThatIsTooLargeKeepsTheAnswer(t *testing.T) {
	t.Parallel()
	srv, sent := answering(t, `{"m":"`+strings.Repeat("long ", 100)+`"}`)
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(1, 10)...)
	write(t, dir, "schema.json", schemaFile)
	code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--schema", "schema.json", "--reask", "2", "--tpm", "60")
	r := readResults(t, dir, "out.jsonl")[0]
	if code != 1 || len(sent()) != 1 || r.Error == nil || r.Error.Code != "schema_mismatch" || r.Run.Attempts != 1 || r.Run.Input != 10 || r.Response == nil {
		t.Errorf("exit code %d, %d calls, %+v: %s", code, len(sent()), r, stderr)
	}
}

// TestAnInterruptedReaskIsNoFailure: the next run asks again.
func TestAnInterruptedReaskIsNoFailure(t *testing.T) {
	t.Parallel()
	asked, release := make(chan struct{}, 1), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked <- struct{}{}
		<-release
		_, _ = io.WriteString(w, `{"choices":[{"message":{"content":"{}"}}]}`)
	}))
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(1, 10)...)
	write(t, dir, "schema.json", schemaFile)
	p := command(t, dir, nil, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL, "--schema", "schema.json")
	var out syncBuffer
	p.Stderr = &out
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	_ = p.Process.Signal(os.Interrupt)
	eventually(t, "it says that it finishes", func() bool { return strings.Contains(out.String(), "finishing what is in flight") })
	close(release)
	if code := p.code(); code != 130 {
		t.Errorf("exit code %d: %s", code, out.String())
	}
	if list := readResults(t, dir, "out.jsonl"); list != nil {
		t.Errorf("recorded: %+v", list)
	}
}

func TestASchemaThatCannotBeUsedIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(1, 10)...)
	write(t, dir, "embed.jsonl", `{"model":"embed","input":"x"}`)
	write(t, dir, "good.json", schemaFile)
	write(t, dir, "wrapped.json", `{"type":"json_schema","json_schema":{"schema":{}}}`)
	write(t, dir, "wrong.json", `{"type":"objekt"}`)
	write(t, dir, "torn.json", `{`)
	for _, c := range [][]string{
		{"in.jsonl", "wrapped.json", `wrapped.json is no schema but has one in its "json_schema"`},
		{"in.jsonl", "wrong.json", "at '/type': value must be one of 'array'"},
		{"in.jsonl", "torn.json", "torn.json is not valid JSON"},
		{"in.jsonl", "none.json", "--schema: open none.json"},
		{"embed.jsonl", "good.json", "embed.jsonl:1: --schema cannot check answers of /v1/embeddings"},
	} {
		code, _, stderr := llmq(t, dir, "run", c[0], "-o", "out.jsonl", "--base-url", "http://127.0.0.1:9", "--schema", c[1])
		oneLine(t, code, 2, stderr, c[2])
	}
}

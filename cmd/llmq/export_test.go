package main

import (
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/llmqueue/llmqueue/llmtest"
)

func TestExportWritesEveryResultOnce(t *testing.T) {
	t.Parallel()
	srv := serve(t, nil, llmtest.WithFaultShare(0.3, llmtest.Fault{Status: 400}))
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(40, 10)...)
	write(t, dir, "prices.yaml", "m: {input: 1000, output: 2000}")
	if code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "100"); code != 1 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	list := readResults(t, dir, "out.jsonl")
	failed := len(failures(list))
	for name, comma := range map[string]rune{"out.csv": ',', "out.tsv": '\t'} {
		if code, stdout, stderr := llmq(t, dir, "export", "out.jsonl", "-o", name, "--prices", "prices.yaml"); code != 0 || stdout != "" {
			t.Fatalf("exit code %d: %s%s", code, stdout, stderr)
		}
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		table := csv.NewReader(f)
		table.Comma = comma
		rows, err := table.ReadAll()
		if err != nil || len(rows) != 41 {
			t.Fatalf("%d rows: %v", len(rows), err)
		}
		at := map[string]int{}
		for i, name := range rows[0] {
			at[name] = i
		}
		var output int64
		var cost float64
		for i, row := range rows[1:] {
			if row[at["custom_id"]] != list[i].ID || row[at["line"]] != strconv.FormatInt(list[i].Run.Line, 10) || row[at["text"]] == "" {
				t.Errorf("%q is not the result %+v", row, list[i])
			}
			if row[at["failure"]] != "" {
				failed--
			}
			n, _ := strconv.ParseInt(row[at["output_tokens"]], 10, 64)
			usd, _ := strconv.ParseFloat(row[at["cost_usd"]], 64)
			output, cost = output+n, cost+usd
		}
		if failed != 0 {
			t.Errorf("%d failures too few", failed)
		}
		failed = len(failures(list))
		if want := srv.Stats().OutputTokens; output != want {
			t.Errorf("%d tokens, the provider made %d", output, want)
		}
		_, stdout, _ := llmq(t, dir, "stats", "out.jsonl", "--prices", "prices.yaml")
		if want := fmt.Sprintf("$%.4f", cost); !strings.Contains(stdout, want) {
			t.Errorf("it costs %s; stats says\n%s", want, stdout)
		}
	}
	code, stdout, _ := llmq(t, dir, "export", "out.jsonl", "--format", "text")
	if code != 0 || strings.Count(stdout, "=== r") != 40 || strings.Count(stdout, "failed: http_400") != failed || !strings.Contains(stdout, " · m · ") {
		t.Errorf("exit code %d:\n%s", code, stdout)
	}
}

// batchOutput is a file as OpenAI's Batch API writes it, after
// platform.openai.com/docs/guides/batch.
const batchOutput = `{"id":"batch_req_1","custom_id":"a","response":{"status_code":200,"request_id":"x","body":{"model":"gpt-4.1-mini-2025-04-14","choices":[{"message":{"role":"assistant","content":"Two, \"2\".\nYes."}}],"usage":{"prompt_tokens":22,"completion_tokens":2}}},"error":null}
{"id":"batch_req_2","custom_id":"b","response":{"status_code":400,"request_id":"y","body":{"error":{"message":"Too long."}}},"error":null}
{"id":"batch_req_3","custom_id":"c","response":null,"error":{"code":"batch_expired","message":"This request could not be executed before the completion window expired."}}`

func TestExportReadsFilesOfTheBatchAPI(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "batch.jsonl", batchOutput, `{"id":"batch_req_4","custom_id":"c","resp`)
	write(t, dir, "prices.yaml", "gpt-4.1-mini: {input: 1, output: 1}")
	code, stdout, stderr := llmq(t, dir, "export", "batch.jsonl", "--prices", "prices.yaml")
	want := `a,,gpt-4.1-mini-2025-04-14,,"Two, ""2"".
Yes.",22,2,0,0.000024,0,0,
b,,,http_400,Too long.,0,0,0,,0,0,
c,,,batch_expired,This request could not be executed before the completion window expired.,0,0,0,,0,0,
`
	if _, rows, _ := strings.Cut(stdout, "\n"); code != 0 || rows != want {
		t.Errorf("exit code %d, %s:\n%s\nwant\n%s", code, stderr, rows, want)
	}
}

func TestExportKeepsWhatIsThereUntilAllIsWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "batch.jsonl", batchOutput)
	write(t, dir, "bad.jsonl", batchOutput, "rubbish", batchOutput)
	kept := func(name string) {
		t.Helper()
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != "kept\n" {
			t.Errorf("%s holds %q: %v", name, data, err)
		}
	}
	write(t, dir, "a.csv", "kept")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"bad.jsonl", "-o", "a.csv"}, 2, "bad.jsonl:4: no line of results"},
		{[]string{"nowhere.jsonl", "-o", "a.csv"}, 2, "cannot read the results: open nowhere.jsonl"},
		{[]string{"batch.jsonl", "-o", "batch.jsonl"}, 2, "batch.jsonl is the file of results itself"},
		{[]string{"batch.jsonl", "-o", "nowhere/a.csv"}, 5, "the output cannot be written"},
		{[]string{"batch.jsonl", "--format", "xls"}, 2, `--format "xls": want csv, tsv, text`},
		{[]string{"batch.jsonl", "--prices", "nowhere"}, 2, "cannot read the prices"},
		{nil, 2, "no results: name the file"},
	} {
		code, _, stderr := llmq(t, dir, append([]string{"export"}, c.args...)...)
		oneLine(t, code, c.code, stderr, c.want)
		kept("a.csv")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".llmq-*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
	if err := os.Chmod(filepath.Join(dir, "batch.jsonl"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := llmq(t, dir, "export", "batch.jsonl", "-o", "new.txt"); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if info, err := os.Stat(filepath.Join(dir, "new.txt")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("answers that were private are not: %v, %v", info.Mode(), err)
	}
}

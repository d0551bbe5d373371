package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// own is a line as llmq writes it.
func own(id string) string {
	return `{"id":"batch_req_00000000000000aa","custom_id":"` + id + `","response":{"status_code":200,"request_id":"","body":{"choices":[{"message":{"content":"x"}}]}},"error":null,"llmq":{"line":1,"model":"m","latency_ms":1,"attempts":1,"input_tokens":1,"output_tokens":1,"charged_tokens":2}}`
}

// TestAFileThatIsNotLlmqsStaysAsItIs: the wrong name behind -o costs nobody a file.
func TestAFileThatIsNotLlmqsStaysAsItIs(t *testing.T) {
	t.Parallel()
	srv := serve(t, nil)
	for name, content := range map[string]string{
		"notes":                 "remember the milk",
		"notes of two lines":    "remember\nthe milk\n",
		"a table":               "id,question\n1,Why?\n",
		"JSON over lines":       "{\n  \"custom_id\": \"a\",\n  \"response\": null\n}\n",
		"other JSON":            `{"custom_id":"a"}` + "\n",
		"another's results":     `{"id":"batch_req_1","custom_id":"r0","response":{"status_code":200,"body":{}},"error":null}` + "\n",
		"zeros":                 strings.Repeat("\x00", 4096),
		"an empty line":         "\n",
		"a note behind results": own("r0") + "\nremember the milk",
		"a note within results": own("r0") + "\nremember the milk\n" + own("r1") + "\n",
		"a broken line within":  own("r0") + "\n" + `{"id":"batch_req_00000000000000ab","cust` + "\n" + own("r1") + "\n",
		"zeros within":          own("r0") + "\n\x00\x00\n" + own("r1") + "\n",
		"a broken line, ended":  own("r0") + "\n" + `{"id":"batch_req_00000000000000ab","cust` + "\n",
		"the beginning of one":  `{"id":"batch_req_00000000000000ab","cust`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "in.jsonl", chats(3, 10)...)
			path := filepath.Join(dir, "out")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, more := range []string{"--quiet", "--dry-run"} {
				code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out", "--base-url", srv.URL(), more)
				oneLine(t, code, 2, stderr, "out:", "no line of results", "the file stays as it is: name another with -o")
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != content {
				t.Errorf("the file was changed, it had %d bytes and has %d: %v", len(content), len(after), err)
			}
			if _, err := os.Stat(path + ".llmq"); err == nil {
				t.Error("a folder is left beside it")
			}
		})
	}
	t.Run("the input", func(t *testing.T) {
		dir := t.TempDir()
		path := write(t, dir, "in.jsonl", chats(3, 10)...)
		before, _ := os.ReadFile(path)
		for _, more := range []string{"--quiet", "--dry-run"} {
			code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "./in.jsonl", "--base-url", srv.URL(), more)
			oneLine(t, code, 2, stderr, "./in.jsonl is the output and the input: name another file with -o")
		}
		if after, _ := os.ReadFile(path); string(after) != string(before) {
			t.Errorf("the input was changed, it had %d bytes and has %d", len(before), len(after))
		}
	})
	if n := srv.Stats().Accepted; n > 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// TestAResultWithoutItsLineEndIsKept, as an editor may leave it.
func TestAResultWithoutItsLineEndIsKept(t *testing.T) {
	t.Parallel()
	srv, dir := serve(t, nil), t.TempDir()
	write(t, dir, "in.jsonl", chats(3, 10)...)
	path := filepath.Join(dir, "out.jsonl")
	content := own("r0") + "\n" + own("r1")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL()); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	eachOnce(t, readResults(t, dir, "out.jsonl"), 3)
	if after, _ := os.ReadFile(path); !strings.HasPrefix(string(after), content+"\n") {
		t.Error("what was there is changed")
	}
	if n := srv.Stats().Accepted; n != 1 {
		t.Errorf("%d requests were sent, want the one that had no result", n)
	}
}

// TestTwoRunsOnOneOutputAreRefused, by whatever name the second one knows it.
func TestTwoRunsOnOneOutputAreRefused(t *testing.T) {
	t.Parallel()
	srv := serve(t, nil, llmtest.WithLatency(llmtest.Latency{FirstToken: time.Minute}))
	dir := t.TempDir()
	write(t, dir, "in.jsonl", chats(1, 10)...)
	if err := os.Symlink("out.jsonl", filepath.Join(dir, "symlink.jsonl")); err != nil {
		t.Fatal(err)
	}
	p := command(t, dir, nil, "run", "in.jsonl", "-o", "symlink.jsonl", "--base-url", srv.URL())
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first run sends its request", func() bool { return srv.Stats().Accepted == 1 })
	names := []string{"out.jsonl", "symlink.jsonl", "./out.jsonl"}
	if runtime.GOOS != "windows" {
		names = append(names, "hardlink.jsonl")
		if err := os.Link(filepath.Join(dir, "out.jsonl"), filepath.Join(dir, "hardlink.jsonl")); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		p := command(t, dir, nil, "run", "in.jsonl", "-o", name, "--base-url", srv.URL())
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		late := time.AfterFunc(20*time.Second, func() { _ = p.Process.Kill() }) // it runs
		code := p.code()
		late.Stop()
		oneLine(t, code, 5, p.stderr.String(), "another llmq writes this file")
	}
	_ = p.Process.Kill()
	p.code()
}

// TestAnOutputThatIsTakenAwayEndsTheRun: what has no place is not paid for, and a file that
// stands there instead is not written.
func TestAnOutputThatIsTakenAwayEndsTheRun(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(path string) error
		want   string
	}{
		"removed": {os.Remove, "was removed"},
		"replaced": {func(path string) error {
			if err := os.WriteFile(path+".other", []byte("other\n"), 0o600); err != nil {
				return err
			}
			return os.Rename(path+".other", path)
		}, "was replaced by another file"},
		"cut short": {func(path string) error { return os.Truncate(path, 0) }, "was cut short"},
		"written": {func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("other\n")
			return err
		}, "was written by something else"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := serve(t, nil, llmtest.WithLatency(llmtest.Latency{FirstToken: 20 * time.Millisecond}))
			dir := t.TempDir()
			write(t, dir, "in.jsonl", chats(1000, 10)...)
			p := command(t, dir, nil, "run", "in.jsonl", "-o", "out.jsonl", "--base-url", srv.URL(), "--rpm", "100000", "--concurrency", "2", "-q")
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "out.jsonl")
			eventually(t, "some are recorded", func() bool { data, _ := os.ReadFile(path); return bytes.Count(data, []byte("\n")) > 3 })
			if err := c.change(path); err != nil {
				t.Fatal(err)
			}
			after, _ := os.ReadFile(path)
			oneLine(t, p.code(), 6, p.stderr.String(), "out.jsonl "+c.want+" while the run wrote it: ", "put it back and run the same command again")
			if now, _ := os.ReadFile(path); name == "replaced" && !bytes.Equal(now, after) {
				t.Errorf("it was written nevertheless, %d bytes: %.60q", len(now), now)
			}
			if n := srv.Stats().Accepted; n > 900 {
				t.Errorf("%d requests were sent", n)
			}
		})
	}
}

// TestOrderedKeepsTheFileWhatItIs: who may read it, and where a link leads.
func TestOrderedKeepsTheFileWhatItIs(t *testing.T) {
	t.Parallel()
	srv := serve(t, nil, llmtest.WithLatency(llmtest.Latency{FirstToken: 5 * time.Millisecond, Spread: 2}))
	dir := t.TempDir()
	for _, mode := range []os.FileMode{0o600, 0o666} {
		name := "out-" + mode.String()
		path, link := filepath.Join(dir, name), filepath.Join(dir, "link-"+mode.String())
		if err := errors.Join(os.WriteFile(path, []byte(own("r9")+"\n"), mode), os.Chmod(path, mode), os.Symlink(name, link)); err != nil {
			t.Fatal(err)
		}
		write(t, dir, "in.jsonl", chats(10, 10)...)
		write(t, dir, name+".new", "somebody's")
		if code, _, stderr := llmq(t, dir, "run", "in.jsonl", "-o", filepath.Base(link), "--base-url", srv.URL(), "--ordered"); code != 0 {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		list := readResults(t, dir, name)
		eachOnce(t, list, 10)
		if list[1].Run.Line > list[9].Run.Line {
			t.Errorf("it is not in order: %+v", list)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != mode {
			t.Errorf("the mode is %v, was %v (%v)", info.Mode(), mode, err)
		}
		if data, err := os.ReadFile(path + ".new"); string(data) != "somebody's\n" {
			t.Errorf("a file beside it is changed: %q, %v", data, err)
		}
		if to, err := os.Readlink(link); err != nil || to != name {
			t.Errorf("the link is none anymore: %q, %v", to, err)
		}
	}
}

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAPipeIsReadOnceAndRunsWhole: a shell's <(…), a named pipe and /dev/stdin.
func TestAPipeIsReadOnceAndRunsWhole(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/fd"); err != nil {
		t.Skipf("pipes have no names here: %v", err)
	}
	srv, content := serve(t, nil), strings.Join(chats(20, 10), "\n")+"\n"
	for _, command := range []string{"run", "retry"} {
		t.Run(command, func(t *testing.T) {
			for name, c := range map[string]struct {
				input string
				feed  func(t *testing.T, dir string, p *process)
			}{
				"/dev/stdin": {"/dev/stdin", func(_ *testing.T, _ string, p *process) { p.Stdin = strings.NewReader(content) }},
				"<(…)": {"/dev/fd/3", func(t *testing.T, _ string, p *process) {
					r, w, err := os.Pipe()
					if err != nil {
						t.Fatal(err)
					}
					p.ExtraFiles = []*os.File{r}
					t.Cleanup(func() { _ = r.Close() })
					go func() { _, _ = w.WriteString(content); _ = w.Close() }()
				}},
				"a named pipe": {"pipe", func(t *testing.T, dir string, _ *process) {
					path := filepath.Join(dir, "pipe")
					if out, err := exec.Command("mkfifo", path).CombinedOutput(); err != nil {
						t.Skipf("no named pipe can be made: %v, %s", err, out)
					}
					go func() { _ = os.WriteFile(path, []byte(content), 0) }()
				}},
			} {
				t.Run(name, func(t *testing.T) {
					dir := t.TempDir()
					if command == "retry" {
						write(t, dir, "out.jsonl", failedLine)
					}
					p := commandIn(t, dir, command, c.input, srv.URL())
					c.feed(t, dir, p)
					if err := p.Start(); err != nil {
						t.Fatal(err)
					}
					if code := p.code(); code != 0 {
						t.Fatalf("exit code %d: %s", code, p.stderr.String())
					}
					list := readResults(t, dir, "out.jsonl")
					if command == "run" {
						eachOnce(t, list, 20)
					} else if len(list) != 1 || failures(list) != nil {
						t.Errorf("the failed request did not run: %+v", list)
					}
				})
			}
		})
	}
}

const failedLine = `{"id":"batch_req_00000000000000aa","custom_id":"r7","response":null,"error":{"code":"timeout","message":"x"},"llmq":{"line":8,"model":"m"}}`

func commandIn(t *testing.T, dir, name, input, url string) *process {
	return command(t, dir, []string{"TMPDIR=" + dir}, name, input, "-o", "out.jsonl", "--base-url", url, "-q")
}

// TestAPipeThatNobodyWritesCanBeLeft with Ctrl-C.
func TestAPipeThatNobodyWritesCanBeLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p := commandIn(t, dir, "run", "/dev/fd/3", "http://127.0.0.1:9")
	p.ExtraFiles = []*os.File{r}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	eventually(t, "it has begun", func() bool { _, err := os.Stat(filepath.Join(dir, "out.jsonl.llmq", "journal")); return err == nil })
	if _, err := w.WriteString(chats(1, 1)[0]); err != nil {
		t.Fatal(err)
	}
	_ = p.Process.Signal(os.Interrupt)
	oneLine(t, p.code(), 130, p.stderr.String(), "interrupted before anything was sent")
	if left, _ := filepath.Glob(filepath.Join(dir, "llmq-requests-*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

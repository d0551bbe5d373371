package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// The tests run llmq as a process: this test binary, which is llmq when asqMain is set.
const asMain = "LLMQ_TEST_AS_MAIN"

// full asks for the large versions: LLMQ_TEST_FULL=1 go test ./...
var full = os.Getenv("LLMQ_TEST_FULL") != ""

func TestMain(m *testing.M) {
	if os.Getenv(asLoop) != "" {
		if err := loop(os.Args[1], os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if to := os.Getenv(asProxy); to != "" {
		fmt.Fprintln(os.Stderr, bareProxy(to))
		os.Exit(1)
	}
	if os.Getenv(asMain) != "" {
		main()
	}
	// Where the tests run under nohup, a llmq that they start would respect that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	os.Exit(m.Run())
}

// process is a running llmq.
type process struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
}

// command prepares llmq in a folder, with no key in its environment but those of env.
func command(t testing.TB, dir string, env []string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.CommandContext(t.Context(), self, args...)}
	p.Dir = dir
	p.Env = append([]string{asMain + "=1", "HOME=" + dir, "TMPDIR=" + os.TempDir()}, env...)
	p.Stdout, p.Stderr = &p.stdout, &p.stderr
	return p
}

// code waits for the process and returns its exit code, -1 when a signal ended it.
func (p *process) code() int {
	_ = p.Wait()
	return p.ProcessState.ExitCode()
}

// llmq runs a command to its end.
func llmq(t *testing.T, dir string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	p := command(t, dir, nil, args...)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	code = p.code()
	return code, p.stdout.String(), p.stderr.String()
}

// simulator starts llmq simulate. stop ends it as Ctrl-C does and returns what it printed.
func simulator(t *testing.T, args ...string) (url string, stop func() string) {
	t.Helper()
	p := command(t, t.TempDir(), nil, append([]string{"simulate", "--listen", "127.0.0.1:0"}, args...)...)
	p.Stdout = nil
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	first, err := lines.ReadString('\n')
	if err != nil {
		_ = p.Wait()
		t.Fatalf("the simulator did not start: %v, %s", err, p.stderr.String())
	}
	url = strings.TrimSpace(first[strings.Index(first, "http://"):])
	return url, func() string {
		_ = p.Process.Signal(os.Interrupt)
		var rest bytes.Buffer
		_, _ = lines.WriteTo(&rest)
		_ = p.Wait()
		return rest.String()
	}
}

var refusedRow = regexp.MustCompile(`(?m)^\s*refused\s+(\d+)`)

// refusedIn is how many requests a simulator's report says that it refused.
func refusedIn(t *testing.T, report string) string {
	t.Helper()
	m := refusedRow.FindStringSubmatch(report)
	if m == nil {
		t.Fatalf("the simulator reported nothing:\n%s", report)
	}
	return m[1]
}

// write writes lines into a file of a folder.
func write(t *testing.T, dir, name string, lines ...string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// chats are n requests in the Batch format, with ids r0, r1, …
func chats(n int, maxTokens int) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf(`{"custom_id":"r%d","method":"POST","url":"/v1/chat/completions","body":{"model":"m","max_tokens":%d,"messages":[{"role":"user","content":"Question %d: what is %d times %d?"}]}}`, i, maxTokens, i, i, i+1)
	}
	return lines
}

// result is what the tests read of a line of results.
type result struct {
	ID       string `json:"custom_id"`
	Response *struct {
		Status int             `json:"status_code"`
		Body   json.RawMessage `json:"body"`
	} `json:"response"`
	Error *struct{ Code, Message string } `json:"error"`
	Run   struct {
		Line     int64 `json:"line"`
		Attempts int   `json:"attempts"`
		Input    int64 `json:"input_tokens"`
		Output   int64 `json:"output_tokens"`

		FromCache bool `json:"from_cache"`
	} `json:"llmq"`
}

// readResults reads a file of results, of which every line has to be one.
func readResults(t testing.TB, dir, name string) (list []result) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		if line == "" {
			continue
		}
		var r result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("line %d of the results is none: %v: %s", i+1, err, line)
		}
		list = append(list, r)
	}
	return list
}

// eachOnce checks that the results have each of n ids once.
func eachOnce(t *testing.T, list []result, n int) {
	t.Helper()
	seen := map[string]int{}
	for _, r := range list {
		seen[r.ID]++
	}
	for i := range n {
		if id := fmt.Sprintf("r%d", i); seen[id] != 1 {
			t.Errorf("the request %s has %d results, want 1", id, seen[id])
		}
	}
	if len(list) != n {
		t.Errorf("%d results, want %d", len(list), n)
	}
}

// failures are the ids of the failed ones.
func failures(list []result) (ids []string) {
	for _, r := range list {
		if r.Error != nil {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// serve starts a provider inside the test, which can be asked what it has seen.
func serve(t *testing.T, limits []llmtest.Limit, opts ...llmtest.Option) *llmtest.Server {
	t.Helper()
	return llmtest.NewServer(t, llmtest.OpenAI(limits...), opts...)
}

// eventually waits until a condition holds that another process brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not in 20 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// oneLine checks that a command ended with a code and one line that says what is wanted.
func oneLine(t *testing.T, code, wantCode int, stderr string, want ...string) {
	t.Helper()
	if code != wantCode {
		t.Errorf("exit code %d, want %d: %s", code, wantCode, stderr)
	}
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	last := lines[len(lines)-1]
	for _, w := range want {
		if !strings.Contains(last, w) {
			t.Errorf("no %q in %q", w, last)
		}
	}
	if !strings.HasPrefix(last, "llmq: ") {
		t.Errorf("not llmq's line: %q", last)
	}
}

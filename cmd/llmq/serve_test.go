package main

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/llmqueue/llmqueue/llmtest"
)

// gatewayProcess is a running llmq serve.
type gatewayProcess struct {
	*process
	url   string
	lines *bufio.Reader // of stderr
}

// startGateway starts llmq serve on a free port.
func startGateway(t testing.TB, dir string, env []string, args ...string) *gatewayProcess {
	t.Helper()
	p := command(t, dir, env, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	p.Stdout, p.Stderr = nil, nil
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	log, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	g := &gatewayProcess{process: p, lines: bufio.NewReader(log)}
	first, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		text, _ := io.ReadAll(g.lines)
		_ = p.Wait()
		t.Fatalf("llmq serve did not start: %v, %s", err, text)
	}
	g.url = strings.TrimSpace(first[strings.Index(first, "http://"):])
	return g
}

// says waits until a line of the log has a text.
func (g *gatewayProcess) says(t testing.TB, text string) {
	t.Helper()
	var all strings.Builder
	for {
		line, err := g.lines.ReadString('\n')
		all.WriteString(line)
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			t.Fatalf("llmq serve ended without saying %q:\n%s", text, &all)
		}
	}
}

const chatBody = `{"model":"m","max_tokens":16,"messages":[{"role":"user","content":"Why is the sky blue?"}]}`

// ask makes a call through a gateway, on a goroutine of its own.
func ask(t testing.TB, url string) <-chan int {
	status := make(chan int, 1)
	go func() {
		res, err := http.Post(url+"/v1/chat/completions", "application/json", strings.NewReader(chatBody))
		if err != nil {
			t.Error(err)
			status <- 0
			return
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		status <- res.StatusCode
	}()
	return status
}

// SIGHUP raises a limit: what waits for it goes on, and SIGTERM finishes it before the end.
func TestServeReloadsAndDrains(t *testing.T) {
	t.Parallel()
	srv := llmtest.NewServer(t, llmtest.OpenAI())
	dir := t.TempDir()
	config := func(rpm string) {
		write(t, dir, "llmq.yaml", "upstreams: [{dialect: openai, base_url: '"+srv.URL()+"'}]", "models: {m: {rpm: "+rpm+"}}")
	}
	config("1")
	g := startGateway(t, dir, nil, "--config", "llmq.yaml", "--verbose")
	if status := <-ask(t, g.url); status != http.StatusOK {
		t.Fatalf("the first call was answered %d", status)
	}
	waits := ask(t, g.url)
	g.says(t, "msg=\"request queued\"")
	g.says(t, "msg=\"request queued\"")

	write(t, dir, "llmq.yaml", "models: {m: {rpm: no}}")
	hangup(t, g)
	g.says(t, "not reloaded, all stays as it was")
	if n := srv.Stats().Accepted; n != 1 {
		t.Fatalf("%d calls went upstream before the limit was raised, want 1", n)
	}

	config("3")
	hangup(t, g)
	g.says(t, "msg=reloaded")
	if status := <-waits; status != http.StatusOK {
		t.Fatalf("the call that waited was answered %d", status)
	}
	go func() { _, _ = io.Copy(io.Discard, g.lines) }()
	_ = g.Process.Signal(syscall.SIGTERM)
	if code := g.code(); code != 0 {
		t.Errorf("llmq serve ended with %d, want 0", code)
	}
}

func hangup(t testing.TB, g *gatewayProcess) {
	t.Helper()
	if err := g.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

func TestServeTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "typo.yaml", "models:", "  m:", "    rmp: 5")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"beyond loopback without keys": {[]string{"--listen", "0.0.0.0:0"}, "--client-keys-env or --client-keys-file"},
		"a misspelt setting":           {[]string{"--config", "typo.yaml"}, "typo.yaml: line 3"},
		"no such file":                 {[]string{"--config", "none.yaml"}, "none.yaml"},
		"both ways":                    {[]string{"--config", "typo.yaml", "--rpm", "5"}, "set it in typo.yaml"},
		"a key in a flag":              {[]string{"--base-url", "http://127.0.0.1:1/v1", "--key-env", "sk-abcdef"}, "not the key"},
		"a password in a flag":         {[]string{"--redis", "redis://:secret@127.0.0.1:1/0"}, "LLMQ_REDIS_PASSWORD"},
		"a dialect":                    {[]string{"--dialect", "klingon"}, "openai, anthropic, gemini, ollama"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, _, stderr := llmq(t, dir, append([]string{"serve"}, c.args...)...)
			if code != 2 || !strings.Contains(stderr, c.want) || strings.Contains(stderr, "secret") || strings.Contains(stderr, "sk-abcdef") || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit code %d and %q, want 2 and a line with %q", code, stderr, c.want)
			}
		})
	}
}

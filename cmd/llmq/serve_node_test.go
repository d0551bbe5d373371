package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/llmqueue/llmqueue/llmtest"
)

// noNetwork is how npm says that it reaches no registry.
var noNetwork = regexp.MustCompile(`ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EAI_AGAIN|ENETUNREACH|ERR_SOCKET_TIMEOUT`)

// nodeClients installs the SDKs of testdata/node and returns the program that uses them.
func nodeClients(t *testing.T) (node, program string) {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("there is no node: the official SDKs for it were not tried")
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("there is no npm to install the official SDKs with: they were not tried")
	}
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "client.mjs"} {
		data, err := os.ReadFile(filepath.Join("testdata", "node", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	install := exec.CommandContext(t.Context(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	install.Dir = dir
	if out, err := install.CombinedOutput(); noNetwork.Match(out) && err != nil {
		t.Skipf("npm reaches no registry, the official SDKs for node were not tried: %s", bytes.TrimSpace(out))
	} else if err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	return node, filepath.Join(dir, "client.mjs")
}

// Fifty programs that know nothing of each other, or of any limit, use the official SDKs of OpenAI
// and Anthropic and the ai package, in streams and not. The limits let three quarters of their calls
// through at once, and one call in twenty fails: nobody sees a failure, and nothing is refused.
func TestOfficialClientsNeverFail(t *testing.T) {
	if testing.Short() {
		t.Skip("50 processes of node take more than a minute: not in short tests")
	}
	node, program := nodeClients(t)
	const programs, rounds = 50, 1
	const ofOpenAI, ofAnthropic = programs * rounds * 4, programs * rounds * 2 // see client.mjs
	faults := []llmtest.Option{
		llmtest.WithFaultShare(0.02, llmtest.Fault{Status: 503}),
		llmtest.WithFaultShare(0.02, llmtest.Fault{Status: 500}),
		llmtest.WithFaultShare(0.01, llmtest.Fault{Kind: llmtest.FaultReset}),
	}
	openai := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(ofOpenAI*3/4), llmtest.TPM(100_000)), faults...)
	anthropic := llmtest.NewServer(t, llmtest.Anthropic(llmtest.RPM(ofAnthropic*3/4), llmtest.ITPM(50_000), llmtest.OTPM(20_000)), faults...)
	dir := t.TempDir()
	write(t, dir, "llmq.yaml", "upstreams:",
		"  - {dialect: openai, base_url: '"+openai.URL()+"'}",
		"  - {dialect: anthropic, base_url: '"+anthropic.URL()+"'}")
	g := startGateway(t, dir, nil, "--config", "llmq.yaml")
	var log bytes.Buffer
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		_, _ = g.lines.WriteTo(&log)
	}()

	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		made int
	)
	for range programs {
		wg.Go(func() {
			var stdout, stderr strings.Builder
			client := exec.CommandContext(t.Context(), node, program, g.url, strconv.Itoa(rounds))
			client.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "AI_SDK_LOG_WARNINGS=false"}
			client.Stdout, client.Stderr = &stdout, &stderr
			err := client.Run()
			n, _ := strconv.Atoi(strings.TrimSpace(stdout.String()))
			mu.Lock()
			defer mu.Unlock()
			made += n
			if err != nil {
				t.Errorf("a program failed: %v\n%s", err, &stderr)
			}
		})
	}
	wg.Wait()
	if made != ofOpenAI+ofAnthropic {
		t.Errorf("the programs made %d calls, want %d", made, ofOpenAI+ofAnthropic)
	}
	for name, srv := range map[string]*llmtest.Server{"OpenAI": openai, "Anthropic": anthropic} {
		s := srv.Stats()
		t.Logf("%s: %d accepted, %d completed, %d failed, %d refused", name, s.Accepted, s.Completed, s.Failed, s.Refused)
		if s.Refused != 0 || s.Invalid != 0 || s.Failed == 0 {
			t.Errorf("%s refused %d, found %d invalid and failed %d: want 0, 0 and some", name, s.Refused, s.Invalid, s.Failed)
		}
	}
	_ = g.Process.Signal(os.Interrupt)
	<-logged
	if code := g.code(); code != 0 || t.Failed() {
		t.Errorf("llmq serve ended with %d, want 0:\n%s", code, &log)
	}
}

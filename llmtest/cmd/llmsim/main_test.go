package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// output is what a command prints, readable while it runs.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
	url chan string // gets the base URL once it is printed
}

var baseURL = regexp.MustCompile(`at (http://\S+)\n`)

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Write(p)
	if m := baseURL.FindSubmatch(p); m != nil {
		o.url <- string(m[1])
	}
	return len(p), nil
}

// start runs the command and returns its base URL, and a function that stops it
// as Ctrl-C does and returns all that it printed.
func start(t *testing.T, key string, args ...string) (url string, stop func() string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out := &output{url: make(chan string, 1)}
	done := make(chan error, 1)
	go func() { done <- run(ctx, append([]string{"-listen", "127.0.0.1:0"}, args...), key, out) }()
	select {
	case url = <-out.url:
	case err := <-done:
		t.Fatal(err)
	}
	return url, func() string {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		return out.buf.String()
	}
}

func ask(t *testing.T, url, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(data)
}

// TestServesEveryProvider asks each provider once in its own words, then again
// above its limit.
func TestServesEveryProvider(t *testing.T) {
	const chat = `{"model":"m","messages":[{"role":"user","content":"Hello"}],"max_tokens":1}`
	for name, tt := range map[string]struct{ path, body, hint string }{
		"openai":    {"/chat/completions", chat, "OPENAI_BASE_URL=http://127.0.0.1:"},
		"azure":     {"/openai/deployments/d/chat/completions", chat, "AZURE_OPENAI_ENDPOINT=http://127.0.0.1:"},
		"anthropic": {"/v1/messages", chat, "ANTHROPIC_BASE_URL=http://127.0.0.1:"},
		"bedrock":   {"/model/m/converse", `{"messages":[{"role":"user","content":[{"text":"Hello"}]}]}`, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME=http://127.0.0.1:"},
		"cohere":    {"/v2/chat", chat, "CO_API_URL=http://127.0.0.1:"},
		"gemini":    {"/v1beta/models/m:generateContent", `{"contents":[{"parts":[{"text":"Hello"}]}]}`, "GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:"},
		"groq":      {"/chat/completions", chat, "/openai/v1"},
		"mistral":   {"/chat/completions", chat, "OPENAI_BASE_URL=http://127.0.0.1:"},
		"ollama":    {"/api/chat", chat, "OLLAMA_HOST=http://127.0.0.1:"},
	} {
		t.Run(name, func(t *testing.T) {
			url, stop := start(t, "", "-provider", name, "-rpd", "1", "-strategy", "sliding", "-latency", "0", "-per-token", "0", "-timeline", "1h")
			for _, want := range []int{200, 429} {
				if status, body := ask(t, url+tt.path, tt.body); status != want {
					t.Errorf("status %d, want %d: %s", status, want, body)
				}
			}
			out := stop()
			for _, want := range []string{tt.hint, "accepted", "requests per day (RPD)", "1 refused", "tokens charged  then running"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
		})
	}
}

func TestTheKeyIsNeverShown(t *testing.T) {
	url, stop := start(t, "hush-hush", "-faults", "1:503", "-every", "1ms")
	const chat = `{"model":"m","messages":[{"role":"user","content":"Hello"}]}`
	for key, want := range map[string]int{"wrong": 401, "hush-hush": 503} {
		if status, body := ask(t, url+"/chat/completions", chat, "Authorization", "Bearer "+key); status != want {
			t.Errorf("status %d with the key %s, want %d: %s", status, key, want, body)
		}
	}
	if out := stop(); strings.Contains(out, "hush") || !strings.Contains(out, "LLMSIM_KEY") {
		t.Errorf("printed\n%s", out)
	}
}

func TestBadInputGetsOneLine(t *testing.T) {
	for args, want := range map[string]string{
		"-provider nobody":           "unknown provider \"nobody\": want one of anthropic, azure, bedrock,",
		"-rpm many":                  "invalid value",
		"-rpm -5":                    "amount -5",
		"-strategy x":                "unknown strategy",
		"-faults 503":                "want SHARE:FAULT",
		"-faults 0.1:nothing":        "want a status or one of slow,",
		"-faults 0.1:200":            "status 200",
		"-faults 2:503":              "at most 1",
		"-listen nowhere":            "want an address such as",
		"-listen 0.0.0.0:0":          "set LLMSIM_KEY",
		"-listen 127.0.0.1:99999":    "cannot listen",
		"-output 0":                  "output of 0 tokens",
		"-latency=-1s":               "latency",
		"-capacity -1":               "load",
		"-nonsense":                  "not defined: -nonsense",
		"serve":                      "all settings are flags",
		"-provider openai -listen x": "want an address",
	} {
		var out bytes.Buffer
		err := run(t.Context(), strings.Fields(args), "", &out)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || out.Len() > 0 {
			t.Errorf("%s: error %v and output %q; want %q", args, err, out.String(), want)
		}
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-help"}, "", &out); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("error %v", err)
	}
	for _, want := range []string{"-provider", "-listen", "-rpm", "-otpm", "-seed", "-faults", "LLMSIM_KEY"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
}

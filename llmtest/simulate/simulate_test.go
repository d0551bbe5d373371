package simulate

import (
	"bytes"
	"context"
	"flag"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// watched tells the base URL as soon as it is printed.
type watched struct {
	bytes.Buffer
	url chan string
}

var baseURL = regexp.MustCompile(`at (http://\S+)\n`)

func (w *watched) Write(p []byte) (int, error) {
	if m := baseURL.FindSubmatch(p); m != nil {
		w.url <- string(m[1])
	}
	return w.Buffer.Write(p)
}

// TestAMinuteIsAsLongAsThePeriod: the second request within a limit of one per minute is
// refused at once, and told to come back within the scaled minute. The daily limit keeps
// its day.
func TestAMinuteIsAsLongAsThePeriod(t *testing.T) {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	cmd := New(fs)
	if err := fs.Parse(strings.Fields("-listen 127.0.0.1:0 -rpm 1 -rpd 10 -period 2h -strategy sliding -latency 0 -per-token 0")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out := &watched{url: make(chan string, 1)}
	done := make(chan error, 1)
	go func() { done <- cmd.Serve(ctx, out) }()
	url := <-out.url
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for i, want := range []int{200, 429} {
		res, err := client.Post(url+"/chat/completions", "application/json",
			strings.NewReader(`{"model":"m","messages":[{"role":"user","content":"Hello"}],"max_tokens":1}`))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("request %d: status %d, want %d: %s", i, res.StatusCode, want, body)
		}
		if reset, _ := time.ParseDuration(res.Header.Get("Retry-After") + "s"); want == 429 && (reset <= time.Hour || reset > 2*time.Hour) {
			t.Errorf("a minute of 2h is over in %v: %v", reset, res.Header)
		}
	}
	cancel()
	if err := <-done; err != nil || !strings.Contains(out.String(), "1 refused") {
		t.Errorf("error %v and\n%s", err, out.String())
	}
}

func TestAPeriodOfNothingIsRefused(t *testing.T) {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	cmd := New(fs)
	if err := fs.Parse([]string{"-period", "0"}); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Serve(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "-period 0s: want more than 0") {
		t.Errorf("error %v", err)
	}
}

// TestEveryProviderHasItsHint: a provider that is new here also needs a row in llmsim's test.
func TestEveryProviderHasItsHint(t *testing.T) {
	if len(dialects) != 9 {
		t.Errorf("%d providers: add the new one to TestServesEveryProvider of llmsim", len(dialects))
	}
	for name, d := range dialects {
		if !strings.Contains(d.hint, "%s") {
			t.Errorf("%s: the hint %q has no place for the URL", name, d.hint)
		}
	}
}

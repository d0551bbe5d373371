package llmprom_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// startPrometheus starts a real one that scrapes a page each second, and returns where
// to ask it.
func startPrometheus(t *testing.T, page string) string {
	t.Helper()
	bin, err := exec.LookPath(cmp.Or(os.Getenv("PROMETHEUS"), "prometheus"))
	if err != nil {
		t.Skip("skipped: there is no prometheus to ask; install it (Debian's package prometheus) or set PROMETHEUS to the binary")
	}
	target, err := url.Parse(page)
	require.NoError(t, err)
	config := filepath.Join(t.TempDir(), "prometheus.yml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil,
		"global: {scrape_interval: 1s}\nscrape_configs: [{job_name: llmqueue, static_configs: [{targets: [%q]}]}]\n", target.Host), 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, bin, "--config.file="+config, "--storage.tsdb.path="+t.TempDir(), "--web.listen-address=127.0.0.1:0")
	log, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	address := make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		listening := regexp.MustCompile(`Listening on.*address"?[=:]"?(127\.0\.0\.1:[0-9]+)`)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				address <- m[1]
			} else if strings.Contains(lines.Text(), "level=error") {
				t.Log(lines.Text())
			}
		}
		close(address)
	}()
	t.Cleanup(func() {
		cancel()
		<-read
		cmd.Wait()
	})
	at, ok := <-address
	require.True(t, ok, "prometheus ended before it listened")
	return "http://" + at
}

// query asks Prometheus; n is how many series of the answer have a number.
func query(ctx context.Context, prometheus, expr string) (n int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, prometheus+"/api/v1/query?query="+url.QueryEscape(expr), nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct{ Value [2]any }
		}
	}
	if resp.StatusCode == http.StatusServiceUnavailable {
		return 0, nil // it still starts
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return 0, err
	}
	if answer.Error != "" {
		return 0, fmt.Errorf("prometheus says %s", answer.Error)
	}
	for _, r := range answer.Data.Result {
		if r.Value[1] != "NaN" {
			n++
		}
	}
	return n, nil
}

// Each query of the Grafana dashboard, asked of a real Prometheus that scrapes a queue
// under load, answers something. Seen to fail with a misspelled value of a label.
func TestPrometheusAnswersTheDashboard(t *testing.T) {
	s := newService(t)
	reg := prometheus.NewRegistry()
	require.NoError(t, reg.Register(s.metrics))
	page := httptest.NewServer(promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	defer page.Close()
	server := startPrometheus(t, page.URL)

	ctx, stop := context.WithCancel(t.Context())
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		for ctx.Err() == nil {
			s.load(ctx, 20)
		}
	}()
	defer func() {
		stop()
		<-loaded
	}()

	inGrafana := strings.NewReplacer("$model", "gpt-4o|gpt-4o-mini", "$__rate_interval", "5s")
	// A patience that only a Prometheus that does not work exhausts.
	patience := time.After(time.Minute)
	asked := 0
	for _, p := range readGrafana(t).Panels {
		for _, q := range p.Targets {
			expr := inGrafana.Replace(q.Expr)
			asked++
			for {
				n, err := query(t.Context(), server, expr)
				if !assert.NoError(t, err, "panel %q: %s", p.Title, expr) || n > 0 {
					break
				}
				select {
				case <-patience:
					t.Fatalf("panel %q shows nothing: %s", p.Title, expr)
				case <-time.After(100 * time.Millisecond):
				}
			}
		}
	}
	t.Log("queries answered:", asked)
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// asProxy makes this test binary a bare httputil.ReverseProxy in front of the address that it holds.
const asProxy = "LLMQ_TEST_AS_PROXY"

func bareProxy(to string) error {
	target, err := url.Parse(to)
	if err != nil {
		return err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 256
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("Proxy at http://%s\n", ln.Addr())
	return http.Serve(ln, &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: transport})
}

// startProxy starts a bare proxy as a process.
func startProxy(b *testing.B, to string) (*exec.Cmd, string) {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{asProxy + "=" + to}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	first, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return cmd, strings.TrimSpace(first[strings.Index(first, "http://"):])
}

const answerBody = `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Because of Rayleigh scattering: air scatters the short waves of sunlight more than the long ones, and so blue light reaches the eye from everywhere."},"finish_reason":"stop"}],"usage":{"prompt_tokens":14,"completion_tokens":32,"total_tokens":46}}`

// BenchmarkServeAgainstABareProxy compares llmq serve, with limits that it keeps, with a bare
// httputil.ReverseProxy: each is a process of its own, 64 callers take turns with both in one run,
// and the provider answers at once. It reports the medians' ratio and that of the processor time
// of the two processes.
func BenchmarkServeAgainstABareProxy(b *testing.B) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answerBody)
	}))
	defer upstream.Close()
	proxy, proxyURL := startProxy(b, upstream.URL)
	gateway := startGateway(b, b.TempDir(), nil, "--quiet", "--base-url", upstream.URL+"/v1", "--rpm", "1000000000", "--tpm", "1000000000000")

	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	const callers, calls = 64, 6400
	turn := func(to string) (took []time.Duration) {
		var wg sync.WaitGroup
		var left atomic.Int64
		left.Store(calls)
		each := make([][]time.Duration, callers)
		for i := range callers {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					from := time.Now()
					res, err := client.Post(to+"/v1/chat/completions", "application/json", strings.NewReader(chatBody))
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
					if res.StatusCode != http.StatusOK {
						b.Errorf("status %d", res.StatusCode)
						return
					}
					each[i] = append(each[i], time.Since(from))
				}
			})
		}
		wg.Wait()
		return slices.Concat(each...)
	}
	turn(proxyURL)
	turn(gateway.url)
	var bare, served []time.Duration
	before := [2]time.Duration{processorTime(b, proxy.Process.Pid), processorTime(b, gateway.Process.Pid)}
	for b.Loop() {
		bare = append(bare, turn(proxyURL)...)
		served = append(served, turn(gateway.url)...)
	}
	used := [2]time.Duration{processorTime(b, proxy.Process.Pid) - before[0], processorTime(b, gateway.Process.Pid) - before[1]}
	_ = proxy.Process.Kill()
	_ = proxy.Wait()
	_ = gateway.Process.Kill()
	gateway.code()
	slices.Sort(bare)
	slices.Sort(served)
	p50 := [2]time.Duration{bare[len(bare)/2], served[len(served)/2]}
	b.ReportMetric(float64(p50[1])/float64(p50[0]), "×p50")
	b.ReportMetric(float64(used[1])/float64(used[0]), "×cpu")
	b.ReportMetric(float64(p50[1].Microseconds()), "µs-p50")
	b.ReportMetric(float64(used[1].Microseconds())/float64(len(served)), "µs-cpu/call")
	b.ReportMetric(0, "ns/op")
}

// status reads a field of /proc/PID/status, in its own unit.
func status(t testing.TB, pid int, field string) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("what a process takes is read from /proc, as Linux has it: %v", err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	t.Fatalf("no %s in /proc/%d/status", field, pid)
	return 0
}

// processorTime is what a process has used, in steps of 10 ms.
func processorTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Skipf("what a process takes is read from /proc, as Linux has it: %v", err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:])) // from the third on: see proc(5)
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// BenchmarkServeWaiting measures how much memory llmq serve takes while 10,000 clients wait.
func BenchmarkServeWaiting(b *testing.B) {
	const clients = 10_000
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done() // keeps the one slot there is
	}))
	defer up.Close()
	for b.Loop() {
		gateway := startGateway(b, b.TempDir(), nil, "--quiet", "--base-url", up.URL+"/v1", "--rpm", "1000000", "--concurrency", "1")
		ctx, leave := context.WithCancel(b.Context())
		address := strings.TrimPrefix(gateway.url, "http://")
		for range clients {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			if err != nil {
				b.Fatalf("%v: raise the bound on open files (ulimit -n)", err)
			}
			defer conn.Close()
			if _, err := fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(chatBody), chatBody); err != nil {
				b.Fatal(err)
			}
		}
		for pending := 0; pending < clients-1; {
			res, err := http.Get(gateway.url + "/metrics")
			if err != nil {
				b.Fatal(err)
			}
			data, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			for line := range strings.Lines(string(data)) {
				if strings.HasPrefix(line, "llmqueue_pending_requests{") {
					f, _ := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(strings.TrimSpace(line), ' '):]), 64)
					pending = int(f)
				}
			}
		}
		b.ReportMetric(float64(status(b, gateway.Process.Pid, "VmRSS"))/1024, "MB-RSS")
		b.ReportMetric(float64(status(b, gateway.Process.Pid, "VmHWM"))/1024, "MB-peak")
		b.ReportMetric(0, "ns/op")
		leave()
		_ = gateway.Process.Kill()
		gateway.code()
	}
}

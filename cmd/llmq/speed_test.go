package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// asLoop makes this test binary the bare loop that llmq is measured against.
const asLoop = "LLMQ_TEST_AS_LOOP"

// loop sends each line of a file as a body over http.Client and writes id and answer to a file:
// what a script does that knows nothing of limits, retries or resuming.
func loop(url, in, out string) error {
	input, err := os.Open(in)
	if err != nil {
		return err
	}
	defer input.Close()
	output, err := os.Create(out)
	if err != nil {
		return err
	}
	defer output.Close()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = loopCalls
	client := &http.Client{Transport: transport}
	type line struct {
		n    int
		body []byte
	}
	lines := make(chan line, loopCalls)
	w := bufio.NewWriter(output)
	var mu sync.Mutex // guards w
	var wg sync.WaitGroup
	for range loopCalls {
		wg.Go(func() {
			for l := range lines {
				res, err := client.Post(url+"/v1/chat/completions", "application/json", bytes.NewReader(l.body))
				if err != nil {
					panic(err)
				}
				answer, err := io.ReadAll(res.Body)
				if err != nil {
					panic(err)
				}
				_ = res.Body.Close()
				record, err := json.Marshal(map[string]any{"custom_id": fmt.Sprint("line-", l.n), "response": json.RawMessage(answer)})
				if err != nil {
					panic(err)
				}
				mu.Lock()
				_, _ = w.Write(append(record, '\n'))
				mu.Unlock()
			}
		})
	}
	scanner := bufio.NewScanner(input)
	scanner.Buffer(nil, 16<<20)
	for n := 1; scanner.Scan(); n++ {
		lines <- line{n, bytes.Clone(scanner.Bytes())}
	}
	close(lines)
	wg.Wait()
	return w.Flush()
}

const loopCalls = 64

// BenchmarkAgainstABareLoop runs many tiny lines, and lines with an image of 7 MB, by llmq and
// by a bare loop, in turns. x-time is how much longer llmq takes, and x-cpu how much more
// processor time; ms/line is what a line takes llmq. The server is in neither process.
func BenchmarkAgainstABareLoop(b *testing.B) {
	image := strings.Repeat("iVBORw0KGgoAAAANSUhEUgAAAAUA", 7<<20/28)
	for _, c := range []struct {
		name, content string
		lines         int
	}{
		{"tiny", `"question %d"`, 100_000},
		{"images", `[{"type":"text","text":"What is on picture %d?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,` + image + `"}}]`, 32},
	} {
		b.Run(c.name, func(b *testing.B) { againstALoop(b, c.lines, c.content) })
	}
}

func againstALoop(b *testing.B, lines int, content string) {
	dir := b.TempDir()
	in := filepath.Join(dir, "in.jsonl")
	f, err := os.Create(in)
	if err != nil {
		b.Fatal(err)
	}
	w := bufio.NewWriter(f)
	for i := range lines {
		fmt.Fprintf(w, `{"model":"m","messages":[{"role":"user","content":`+content+`}]}`+"\n", i)
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	const answer = `{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"yes"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}`
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer)
	}))
	defer srv.Close()
	measure := func(p *process) (wall, cpu time.Duration) {
		start := time.Now()
		if err := p.Start(); err != nil {
			b.Fatal(err)
		}
		if code := p.code(); code != 0 {
			b.Fatalf("exit %d: %s", code, p.stderr.String())
		}
		return time.Since(start), p.ProcessState.UserTime() + p.ProcessState.SystemTime()
	}
	var wall, cpu [2]time.Duration
	for i := 0; b.Loop(); i++ {
		for k := range 2 {
			out := filepath.Join(dir, fmt.Sprintf("out-%d-%d.jsonl", i, k))
			p := command(b, dir, nil, "run", in, "-o", out, "--base-url", srv.URL+"/v1", "--concurrency", fmt.Sprint(loopCalls), "--quiet")
			if k == 1 {
				p = command(b, dir, nil, srv.URL, in, out)
				p.Env = append(p.Env, asLoop+"=1")
			}
			t, c := measure(p)
			wall[k], cpu[k] = wall[k]+t, cpu[k]+c
			_ = os.Remove(out)
		}
	}
	b.ReportMetric(wall[0].Seconds()/wall[1].Seconds(), "x-time")
	b.ReportMetric(cpu[0].Seconds()/cpu[1].Seconds(), "x-cpu")
	b.ReportMetric(wall[0].Seconds()*1000/float64(b.N*lines), "ms/line")
}

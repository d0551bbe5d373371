//go:build unix

package llmtest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkServer measures chat completions over loopback: 16 keep-alive
// connections, one request at a time on each, server and client in one process.
// The client is as thin as can be, so that the figure is nearly the server's own.
// Run it with -cpu 1 for one core. What a core serves on a machine that has other
// things to do stands under requests/cpu-s: requests per second of processor
// time, the client's included.
func BenchmarkServer(b *testing.B) {
	s := NewServer(b, OpenAI(RPM(1<<40), TPM(1<<40), Concurrent(1000)), WithLatency(Latency{}))
	host := strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), "/v1")
	body := chat(100, 50)
	request := fmt.Appendf(nil, "POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", host, len(body), body)
	b.SetParallelism(16)
	b.ReportAllocs()
	before := cpuTime(b)
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", host)
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		for pb.Next() {
			if _, err := conn.Write(request); err != nil {
				b.Error(err)
				return
			}
			if err := skipAnswer(in); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
	b.ReportMetric(float64(b.N)/(cpuTime(b)-before).Seconds(), "requests/cpu-s")
	if st := s.Stats(); st.Completed != int64(b.N) {
		b.Errorf("%d of %d completed", st.Completed, b.N)
	}
}

// cpuTime returns the processor time that this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// skipAnswer reads an answer, which has to be 200.
func skipAnswer(in *bufio.Reader) error {
	length := 0
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("answered %q", line)
		}
		if n, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			for _, d := range bytes.TrimSpace(n) {
				length = length*10 + int(d-'0')
			}
		}
		if len(line) <= 2 {
			_, err := io.CopyN(io.Discard, in, int64(length))
			return err
		}
	}
}

// BenchmarkAdmit measures the decision about one request under two limits.
func BenchmarkAdmit(b *testing.B) {
	c, err := newConfig(OpenAI(RPM(1<<40), TPM(1<<40)), nil)
	if err != nil {
		b.Fatal(err)
	}
	e := newEnforcer(&c)
	call := call{model: "m", input: 100, maxTokens: 50}
	b.ReportAllocs()
	for b.Loop() {
		t := e.admit(&call)
		e.finish(&t, Completed, Fault{}, 50)
	}
}

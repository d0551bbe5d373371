package llmhttp_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// A call that waits costs its caller's goroutine, and at most 2 KiB beside its body.
func TestWaitingCallsAreSmall(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's own memory is not what is measured")
	}
	synctest.Test(t, func(t *testing.T) {
		const calls, most = 2000, 2 << 10
		m := newManager(t, llmqueue.WithLimits(llmqueue.Concurrent(1)))
		tr := llmhttp.NewQueueTransport(m, answers(says(200, jsonType, whole)))
		held, err := m.Acquire(t.Context(), llmqueue.Claim{ModelID: "m"})
		require.NoError(t, err)
		requests := make([]*http.Request, calls)
		for i := range requests {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			requests[i] = post(t, asksM).WithContext(ctx)
		}
		begin := make(chan struct{})
		var all sync.WaitGroup
		for _, r := range requests {
			all.Go(func() {
				grow(1 << 10) // the stack of a caller is the caller's
				<-begin
				res, err := tr.RoundTrip(r)
				if assert.NoError(t, err) {
					assert.NoError(t, res.Body.Close())
				}
			})
		}
		synctest.Wait()
		goroutines, before := runtime.NumGoroutine(), heap()
		close(begin)
		synctest.Wait()
		info, err := m.Info("m")
		require.NoError(t, err)
		require.Equal(t, calls, info.Pending)
		each := (heap() - before) / calls
		t.Logf("%d bytes a call", each)
		assert.LessOrEqual(t, each, int64(most), "bytes a call")
		assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines, "goroutines of ours")
		require.NoError(t, held.Done(nil))
		all.Wait()
	})
}

// grow makes the stack as large as a call needs it.
//
//go:noinline
func grow(n int) byte {
	var frame [1 << 4]byte
	if n == 0 {
		return frame[0]
	}
	return grow(n-1) + frame[n%len(frame)]
}

func heap() int64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// BenchmarkQueueTransport measures a call that does not wait, over a provider in memory, in turns
// with the observing transport: µs-more is what a call costs more.
func BenchmarkQueueTransport(b *testing.B) {
	for _, size := range []int{100, 10_000} {
		b.Run(fmt.Sprint(size, "B"), func(b *testing.B) {
			body := fmt.Sprintf(`{"model":"m","messages":[{"role":"user","content":%q}],"max_tokens":50}`, strings.Repeat("word ", size/5))
			p := provider(func(r *http.Request) (*http.Response, error) {
				_, err := io.Copy(io.Discard, r.Body)
				return says(200, jsonType, whole)(), err
			})
			m := newManager(b, llmqueue.WithLimits(llmqueue.RPM(1<<40), llmqueue.TPM(1<<40), llmqueue.Concurrent(64)))
			queued, observing := llmhttp.NewQueueTransport(m, p), llmhttp.NewTransport(p)
			held, err := newManager(b).Acquire(b.Context(), llmqueue.Claim{ModelID: "m"})
			require.NoError(b, err)
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			call := func(ctx context.Context, tr http.RoundTripper) {
				r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://provider.example/v1/chat/completions", bytes.NewReader([]byte(body)))
				if err != nil {
					b.Fatal(err)
				}
				res, err := tr.RoundTrip(r)
				if err != nil || res.StatusCode != 200 {
					b.Fatal(res, err)
				}
				if _, err = io.Copy(io.Discard, res.Body); err != nil {
					b.Fatal(err)
				}
				_ = res.Body.Close()
			}
			var took [2]float64
			for i := 0; b.Loop(); i++ {
				for j := range took {
					if (i+j)%2 == 0 {
						took[0] += seconds(func() { call(held.Context(), observing) })
					} else {
						took[1] += seconds(func() { call(ctx, queued) })
					}
				}
			}
			require.NoError(b, held.Done(nil))
			b.ReportMetric((took[1]-took[0])/float64(b.N)*1e6, "µs-more")
			b.ReportMetric(took[1]/took[0], "x-observing")
		})
	}
}

// BenchmarkQueueTransportStream measures how late the parts of a stream arrive that a provider
// over loopback sends, by a bare client and by one whose calls wait in a queue, in turns:
// µs-bare and µs-queued are the median lags, µs-more is their difference.
func BenchmarkQueueTransportStream(b *testing.B) {
	const parts, pause = 50, 500 * time.Microsecond
	begun := time.Now()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range parts {
			fmt.Fprintf(w, "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"delta\":{\"content\":\"%d\"}}]}\n\n", time.Since(begun))
			w.(http.Flusher).Flush()
			time.Sleep(pause)
		}
		_, _ = io.WriteString(w, lastPart)
	}))
	defer srv.Close()
	m := newManager(b, llmqueue.WithLimits(llmqueue.RPM(1<<40), llmqueue.TPM(1<<40), llmqueue.Concurrent(64)))
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	transports := [2]http.RoundTripper{base, llmhttp.NewQueueTransport(m, base)}
	var lags [2][]time.Duration
	sent := regexp.MustCompile(`"content":"(\d+)"`)
	stream := func(i int) {
		r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, srv.URL+"/v1/chat/completions", strings.NewReader(`{"model":"m","stream":true,"messages":[]}`))
		if err != nil {
			b.Fatal(err)
		}
		res, err := transports[i].RoundTrip(r)
		if err != nil {
			b.Fatal(err)
		}
		defer res.Body.Close()
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			now := time.Since(begun)
			if found := sent.FindSubmatch(lines.Bytes()); found != nil {
				at, err := strconv.ParseInt(string(found[1]), 10, 64)
				if err != nil {
					b.Fatal(err)
				}
				lags[i] = append(lags[i], now-time.Duration(at))
			}
		}
	}
	for i := 0; b.Loop(); i++ {
		stream(i % 2)
		stream(1 - i%2)
	}
	var medians [2]float64
	for i := range lags {
		slices.Sort(lags[i])
		medians[i] = float64(lags[i][len(lags[i])/2].Nanoseconds()) / 1000
	}
	b.ReportMetric(medians[0], "µs-bare")
	b.ReportMetric(medians[1], "µs-queued")
	b.ReportMetric(medians[1]-medians[0], "µs-more")
}

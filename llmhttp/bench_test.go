package llmhttp_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/llmqueue/llmqueue/llmhttp"
)

// BenchmarkLoopback measures a call over loopback within an attempt, with the
// transport and without, in turns, so that both meet the same machine. x-bare is how
// often longer the call takes with it.
func BenchmarkLoopback(b *testing.B) {
	var stream strings.Builder
	for range 200 {
		stream.WriteString("data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"}}],\"usage\":null}\n\n")
	}
	stream.WriteString("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":200}}\n\ndata: [DONE]\n\n")
	for _, c := range []struct{ name, contentType, body string }{
		{"unary", "application/json", recordings[0].body},
		{"stream", "text/event-stream", stream.String()},
	} {
		b.Run(c.name, func(b *testing.B) {
			events := strings.SplitAfter(c.body, "\n\n")
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h := w.Header()
				h.Set("Content-Type", c.contentType)
				for _, name := range []string{"requests", "tokens"} {
					h.Set("x-ratelimit-limit-"+name, "10000")
					h.Set("x-ratelimit-remaining-"+name, "9999")
					h.Set("x-ratelimit-reset-"+name, "6ms")
				}
				for _, e := range events {
					_, _ = io.WriteString(w, e)
					_ = http.NewResponseController(w).Flush()
				}
			}))
			defer srv.Close()
			bare := srv.Client().Transport
			clients := []*http.Client{{Transport: bare}, {Transport: llmhttp.NewTransport(bare)}}
			call := func(ctx context.Context, client *http.Client) {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
				if err != nil {
					b.Fatal(err)
				}
				res, err := client.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				if _, err = io.Copy(io.Discard, res.Body); err != nil {
					b.Fatal(err)
				}
				_ = res.Body.Close()
			}
			// The calls are made within one attempt, so that no queue is measured.
			var took [2]float64
			q := newQueue(b, func(ctx context.Context) (string, error) {
				for i := 0; b.Loop(); i++ {
					for j := range clients { // in turns, and not always in the same order
						k := (i + j) % 2
						took[k] += seconds(func() { call(ctx, clients[k]) })
					}
				}
				return "", nil
			})
			if _, err := q.Do(context.Background(), ""); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(took[1]/took[0], "x-bare")
			b.ReportMetric((took[1]-took[0])/float64(b.N)*1e6, "µs-more")
		})
	}
}

// BenchmarkScan measures reading usage out of large answers.
func BenchmarkScan(b *testing.B) {
	body, err := io.ReadAll(large(8, `{"data":"`, `"`))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if llmhttp.ParseUsage(body).OutputTokens != 4000 {
			b.Fatal("wrong usage")
		}
	}
}

func seconds(f func()) float64 {
	start := time.Now()
	f()
	return time.Since(start).Seconds()
}

// BenchmarkParseError measures what a refusal means, which asks all rules, and what a page of
// words means.
func BenchmarkParseError(b *testing.B) {
	for _, c := range []struct{ name, body string }{
		{"refusal", openAIRateLimit},
		{"page", strings.Repeat("the request message input prompt of your account ", 300)},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				llmhttp.ParseError(429, http.Header{}, []byte(c.body), now)
			}
		})
	}
}

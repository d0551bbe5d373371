package llmtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestCountingIsItsOwn keeps the server from being tested with the code that it
// is there to test: only the fakes know the queue.
func TestCountingIsItsOwn(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 10 {
		t.Fatalf("found %d files, %v", len(files), err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || name == "fakes.go" {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if path, _ := strconv.Unquote(i.Path.Value); strings.Contains(path, "llmqueue") || strings.Contains(path, ".") {
				t.Errorf("%s imports %s: the server uses the standard library only", name, path)
			}
		}
	}
}

func TestConcurrencyIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, OpenAI(Concurrent(3)), InMemory(), WithLatency(Latency{FirstToken: time.Second}))
		var wg sync.WaitGroup
		var mu sync.Mutex
		answers := map[int]int{}
		for i := range 8 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				res, _ := post(t, s, chat(1, 1))
				mu.Lock()
				answers[res.StatusCode]++
				mu.Unlock()
				if res.StatusCode == 429 && res.Header.Get("Retry-After") != "1" {
					t.Errorf("Retry-After %q", res.Header.Get("Retry-After"))
				}
			})
		}
		wg.Wait()
		if answers[200] != 3 || answers[429] != 5 {
			t.Errorf("answers %v, want 3 accepted and 5 refused", answers)
		}
		if res, _ := post(t, s, chat(1, 1)); res.StatusCode != 200 {
			t.Errorf("status %v although all slots are free again", res.Status)
		}
		st := s.Stats()
		if st.PeakConcurrent != 3 || st.Limits[0].Peak != 3 || st.Limits[0].Refused != 5 || st.Refused != 5 || st.Completed != 4 {
			t.Errorf("stats %+v", st)
		}
	})
}

// TestClientsThatGoAway covers clients that leave before the answer and in the
// middle of a stream: their slots are free at once.
func TestClientsThatGoAway(t *testing.T) {
	latency := WithLatency(Latency{FirstToken: 10 * time.Second, PerToken: time.Second})
	body := chat(1, 0)
	for name, body := range map[string]string{"unary": body, "stream": strings.TrimSuffix(body, "}") + `,"stream":true}`} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewServer(t, OpenAI(Concurrent(1)), InMemory(), latency, WithOutputTokens(100, 0))
				ctx, cancel := context.WithTimeout(t.Context(), 14500*time.Millisecond)
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, "POST", s.URL()+"/chat/completions", strings.NewReader(body))
				res, err := s.Client().Do(req)
				if err == nil {
					_, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("error %v", err)
				}
				synctest.Wait()
				if st := s.Stats(); st.Accepted != 1 || st.Canceled != 1 || st.OutputTokens != 5 {
					t.Errorf("stats %+v: want 1 canceled after 5 tokens", st)
				}
				if res, _ := post(t, s, chat(1, 1)); res.StatusCode != 200 {
					t.Errorf("status %v: the slot is still taken", res.Status)
				}
			})
		})
	}
}

// TestABrokenOffAnswerLooksBroken makes sure that nobody takes half an answer
// for a whole one.
func TestABrokenOffAnswerLooksBroken(t *testing.T) {
	s := NewServer(t, OpenAI(), InMemory())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	defer func() {
		if got := recover(); got != http.ErrAbortHandler {
			t.Errorf("the handler ended with %v, want http.ErrAbortHandler", got)
		}
	}()
	req := httptest.NewRequestWithContext(ctx, "POST", "/v1/chat/completions", strings.NewReader(chat(1, 1)))
	s.handle(httptest.NewRecorder(), req)
}

// TestCloseLeavesNothing closes a server with an answer half streamed, another
// not begun, idle connections and a client of its own. In the bubble anything
// left behind would be reported as a deadlock; on loopback the stacks tell.
func TestCloseLeavesNothing(t *testing.T) {
	use := func(t *testing.T, client func(*Server) *http.Client, opts ...Option) {
		s, err := Start(OpenAI(Concurrent(9)), append(opts, WithOutputTokens(1000, 0), WithLatency(Latency{PerToken: time.Hour}))...)
		if err != nil {
			t.Fatal(err)
		}
		c := client(s)
		defer c.CloseIdleConnections()
		if res, err := c.Get(s.URL() + "/models"); err != nil || res.Body.Close() != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		begun := make(chan struct{})
		wg.Go(func() {
			res, err := c.Post(s.URL()+"/chat/completions", "application/json", strings.NewReader(strings.TrimSuffix(chat(1, 0), "}")+`,"stream":true}`))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			lines := bufio.NewReader(res.Body)
			if _, err := lines.ReadString('\n'); err != nil {
				t.Error(err)
			}
			close(begun)
			if _, err := io.Copy(io.Discard, lines); err == nil {
				t.Error("the stream ended well although the server was closed")
			}
		})
		<-begun
		go s.Close()
		s.Close()
		s.Close()
		wg.Wait()
		if st := s.Stats(); st.Canceled != 1 || len(s.Arrivals()) != 1 {
			t.Errorf("stats after Close: %+v", st)
		}
		if _, err := c.Get(s.URL() + "/models"); err == nil {
			t.Error("a closed server answers")
		}
	}
	own := (*Server).Client
	t.Run("in memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { use(t, own, InMemory()) })
	})
	t.Run("loopback", func(t *testing.T) {
		use(t, own)
		use(t, func(*Server) *http.Client { return &http.Client{Transport: &http.Transport{}} })
		for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
			buf := make([]byte, 1<<20)
			stacks := string(buf[:runtime.Stack(buf, true)])
			if !strings.Contains(stacks, "net/http.") && !strings.Contains(stacks, "llmtest.(*Server)") {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("goroutines left:\n%s", stacks)
			}
		}
	})
}

func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, OpenAI(RPM(100)), InMemory(), WithFaultScript(Fault{Status: 503}, Fault{}, Fault{Status: 429, RetryAfter: 1500 * time.Millisecond}))
		var got strings.Builder
		for range 4 {
			res, body := post(t, s, chat(1, 1))
			code := ""
			if e := decode[apiError](t, body).Error; e.Code != nil {
				code = *e.Code
			}
			fmt.Fprintf(&got, "%d %s %s %s\n", res.StatusCode, code, res.Header.Get("Retry-After"), res.Header.Get("x-ratelimit-remaining-requests"))
		}
		if want := "503 server_is_overloaded  99\n200   98\n429 rate_limit_exceeded 2 97\n200   96\n"; got.String() != want {
			t.Errorf("got\n%swant\n%s", got.String(), want)
		}
		if st := s.Stats(); st.Accepted != 4 || st.Failed != 2 || st.Completed != 2 || st.Refused != 0 {
			t.Errorf("stats %+v", st)
		}
	})
}

// TestSameSeedSameAnswers sends the same requests in different orders: each
// body gets the same answers, latencies and faults, and another seed gives
// others.
func TestSameSeedSameAnswers(t *testing.T) {
	run := func(seed uint64, reversed bool) (all string) {
		synctest.Test(t, func(t *testing.T) {
			s := NewServer(t, OpenAI(), InMemory(), WithSeed(seed), WithLatency(TypicalLatency()),
				WithFaultShare(0.3, Fault{Status: 500}), WithFaultShare(0.2, Fault{Status: 503}))
			got := make([]string, 40)
			for i := range got {
				if reversed {
					i = len(got) - 1 - i
				}
				start := time.Now()
				for range 2 {
					res, body := post(t, s, chat(i, 0))
					_, text, _ := strings.Cut(body, `"choices"`)
					got[i] += fmt.Sprintln(res.StatusCode, time.Since(start), text)
				}
			}
			all = strings.Join(got, "")
			// 80 answers: each count is within four standard deviations.
			if n := strings.Count(all, "500 "); n < 8 || n > 40 {
				t.Errorf("%d of 80 failed with 500, want about 24", n)
			}
			if n := strings.Count(all, "503 "); n < 2 || n > 30 {
				t.Errorf("%d of 80 failed with 503, want about 16", n)
			}
		})
		return all
	}
	first := run(1, false)
	if run(1, true) != first {
		t.Error("the same seed gave different answers")
	}
	if run(2, false) == first {
		t.Error("another seed gave the same answers")
	}
	if lines := strings.Split(first, "\n"); lines[0] == lines[1] {
		t.Error("a repeated request got the same answer twice")
	}
}

func TestInvalidConfigurationIsRefused(t *testing.T) {
	for want, start := range map[string]func() (*Server, error){
		"amount 0":            func() (*Server, error) { return Start(OpenAI(RPM(0))) },
		"amount -1":           func() (*Server, error) { return Start(OpenAI(Concurrent(-1))) },
		"period 0s":           func() (*Server, error) { return Start(OpenAI(TPM(1).Per(0))) },
		"period 876000h0m1s":  func() (*Server, error) { return Start(OpenAI(TPM(1).Per(maxPeriod + time.Second))) },
		`kind of limit "x"`:   func() (*Server, error) { return Start(OpenAI(Limit{Kind: "x", Amount: 1})) },
		`strategy "x"`:        func() (*Server, error) { return Start(OpenAI(RPM(1).By("x"))) },
		"strategy is empty":   func() (*Server, error) { return Start(OpenAI(RPM(1)), WithStrategy("")) },
		"zero Provider":       func() (*Server, error) { return Start(Provider{}) },
		"fault has status 99": func() (*Server, error) { return Start(OpenAI(), WithFaultScript(Fault{Status: 99})) },
		"status 200":          func() (*Server, error) { return Start(OpenAI(), WithFaultShare(0.1, Fault{Status: 200})) },
		"fault share -1":      func() (*Server, error) { return Start(OpenAI(), WithFaultShare(-1, Fault{Status: 500})) },
		"add up to 1.5": func() (*Server, error) {
			return Start(OpenAI(), WithFaultShare(1, Fault{Status: 500}), WithFaultShare(.5, Fault{Status: 503}))
		},
		"latency":            func() (*Server, error) { return Start(OpenAI(), WithLatency(Latency{FirstToken: -1})) },
		"output of 0 tokens": func() (*Server, error) { return Start(OpenAI(), WithOutputTokens(0, 0)) },
	} {
		s, err := start()
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "llmtest: ") {
			t.Errorf("error %v, want one that says %q", err, want)
		}
	}
}

package llmhttp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

// workerEnv makes this test binary a worker: it says where the provider is, and as
// what the worker asks.
const workerEnv = "LLMHTTP_TEST_WORKER"

// work asks the provider whatever the queue lets through until stdin ends. It knows no
// limit but from the answers' headers.
func work(where string) error {
	url, name, _ := strings.Cut(where, " ")
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	client := &http.Client{Transport: llmhttp.NewTransport(&http.Transport{MaxIdleConnsPerHost: 256})}
	q, err := llmqueue.NewQueue(name, func(ctx context.Context, r llmqueue.Request[int]) (int, error) {
		body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"question %d"}],"max_tokens":20}`, name, r.Params)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/chat/completions", strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		res, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("answered %s", res.Status)
		}
		_, err = io.Copy(io.Discard, res.Body)
		return r.Params, err
	}, llmqueue.WithLearnedLimits(), llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 1000}))
	if err != nil {
		return err
	}
	backlog := func(yield func(llmqueue.Request[int]) bool) {
		for i := 0; yield(llmqueue.Request[int]{Params: i}); i++ {
		}
	}
	for res, err := range q.SubmitAll(ctx, backlog) {
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("request %s: %w", res.RequestID, err)
		}
	}
	return nil
}

// Two and four processes with one key, which know of each other from headers alone: no
// configured limit and no shared store. The time is real, so that what is asserted has
// much more room than what is measured.
func TestProcessesShareAKeyByHeaders(t *testing.T) {
	const (
		limit   = 120
		period  = 4 * time.Second
		windows = 5
	)
	for _, processes := range []int{2, 4} {
		t.Run(fmt.Sprint(processes), func(t *testing.T) {
			t.Parallel()
			srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(limit).Per(period)), llmtest.WithDraftHeaders(), // a period that can be learned
				llmtest.WithStrategy(llmtest.SlidingWindow), llmtest.WithLatency(llmtest.Latency{FirstToken: 50 * time.Millisecond, PerToken: time.Millisecond}))
			ended := make(chan error, processes)
			var stop []io.Closer
			for i := range processes {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s worker-%d", workerEnv, srv.URL(), i))
				cmd.Stderr = os.Stderr
				in, err := cmd.StdinPipe()
				require.NoError(t, err)
				require.NoError(t, cmd.Start())
				stop = append(stop, in)
				go func() { ended <- cmd.Wait() }()
			}
			time.Sleep((windows + 3) * period) // what is measured takes that long, however it goes
			for _, in := range stop {
				_ = in.Close()
			}
			for range processes {
				require.NoError(t, <-ended)
			}

			arrivals := srv.Arrivals()
			first := make(map[string]time.Time)
			for _, a := range arrivals {
				if first[a.Model].IsZero() {
					first[a.Model] = a.At
				}
			}
			require.Len(t, first, processes, "processes that asked anything")
			var begin time.Time
			for _, at := range first {
				if at.After(begin) {
					begin = at
				}
			}
			begin = begin.Add(period) // the first window together
			var accepted, refused [windows]int
			shares := make(map[string]int)
			for _, a := range arrivals {
				w := int(a.At.Sub(begin) / period)
				switch {
				case a.At.Before(begin) || w >= windows:
				case a.Verdict == llmtest.Refused:
					refused[w]++
				default:
					accepted[w]++
					shares[a.Model]++
				}
			}
			served, rejected := 0, 0
			for w := range windows {
				served, rejected = served+accepted[w], rejected+refused[w]
			}
			t.Logf("%d processes, by window of %d: accepted %v, refused %v; in all %d and %d, by process %v",
				processes, limit, accepted, refused, served, rejected, shares)
			// Processes that heed no header have all but nothing served, as what is refused counts.
			assert.LessOrEqual(t, rejected, served/2, "refused after the first window together")
			assert.GreaterOrEqual(t, served, windows*limit*2/5, "served after it")
		})
	}
}

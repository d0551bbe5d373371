package llmhttp_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

// Against a provider that enforces: what a queue does that knows nothing but what the
// transport reads from the answers.

// chatter asks srv for a chat completion, streaming or not, over the transport.
func chatter(srv *llmtest.Server, stream bool) llmqueue.Processor[string, string] {
	client := &http.Client{Transport: llmhttp.NewTransport(srv.Client().Transport)}
	return func(ctx context.Context, r llmqueue.Request[string]) (string, error) {
		body := fmt.Sprintf(`{"model":"gpt-4o-mini","messages":[{"role":"user","content":%q}],"max_completion_tokens":100,"stream":%v,"stream_options":{"include_usage":true}}`, r.Params, stream)
		if !stream {
			body = strings.Replace(body, `,"stream_options":{"include_usage":true}`, "", 1)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL()+"/chat/completions", strings.NewReader(body))
		if err != nil {
			return "", err
		}
		res, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return "", errors.New(res.Status)
		}
		if !stream {
			answer, err := io.ReadAll(res.Body)
			return string(answer), err
		}
		var answer strings.Builder
		for lines := bufio.NewScanner(res.Body); ; {
			if !lines.Scan() {
				return answer.String(), lines.Err()
			}
			answer.WriteString(lines.Text())
			if lines.Text() == "data: [DONE]" {
				return answer.String(), nil
			}
		}
	}
}

func submitMany(t *testing.T, q *llmqueue.Queue[string, string], n int) {
	t.Helper()
	for i := range n {
		_, err := q.Submit(t.Context(), llmqueue.Request[string]{Params: fmt.Sprint("question ", i), NoWait: true})
		require.NoError(t, err)
	}
}

// Limits hold for streams as they do for whole answers, learned from the first one.
func TestLearnedLimitsHoldForStreams(t *testing.T) {
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprint("stream=", stream), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(60), llmtest.TPM(4000)), llmtest.InMemory(),
					llmtest.WithStrategy(llmtest.SlidingWindow), llmtest.WithLatency(llmtest.TypicalLatency()))
				q, err := llmqueue.NewQueue("gpt-4o-mini", chatter(srv, stream), llmqueue.WithLearnedLimits(),
					llmqueue.WithEstimator(func(r llmqueue.Request[string]) llmqueue.Usage {
						return llmqueue.Usage{InputTokens: llmqueue.EstimateTokens(r.Params), OutputTokens: 100}
					}),
					// The simulator charges max_tokens and gives nothing back.
					llmqueue.WithMiddleware(func(ctx context.Context, a llmqueue.Attempt, next func(context.Context) error) error {
						llmqueue.ReportUsage(ctx, a.Estimate)
						return next(ctx)
					}))
				require.NoError(t, err)
				submitMany(t, q, 300)
				require.NoError(t, q.Shutdown(t.Context()))
				stats := srv.Stats()
				assert.EqualValues(t, 300, q.Info().Completed)
				assert.EqualValues(t, 300, stats.Accepted)
				assert.Zero(t, stats.Refused, "after the first answer nothing is refused")
			})
		})
	}
}

// A slot and what was reserved are held until a stream ends, and freed when its reader
// goes away; then the call upstream ends as well.
func TestStreamHoldsItsSlotUntilItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(1000), llmtest.Concurrent(1)), llmtest.InMemory(),
			llmtest.WithLatency(llmtest.Latency{FirstToken: time.Second, PerToken: time.Second}), llmtest.WithOutputTokens(20, 0))
		q, err := llmqueue.NewQueue("m", chatter(srv, true), llmqueue.WithLimits(llmqueue.RPM(100), llmqueue.TPM(1000), llmqueue.Concurrent(1)))
		require.NoError(t, err)
		estimate := llmqueue.Usage{InputTokens: 10, OutputTokens: 100}
		first, err := q.Submit(t.Context(), llmqueue.Request[string]{NoWait: true, Params: "tell", Estimate: estimate})
		require.NoError(t, err)
		time.Sleep(10 * time.Second) // half of the stream is there
		info := q.Info()
		assert.Equal(t, 1, info.Processing)
		assert.EqualValues(t, 110, info.Limits[1].Used, "reserved until it is known")
		res, err := q.Wait(t.Context(), first.RequestID)
		require.NoError(t, err)
		assert.EqualValues(t, 20, res.Usage.OutputTokens, "from the stream's last chunk")
		assert.Equal(t, res.Usage.Total(), q.Info().Limits[1].Used, "settled at its end")

		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err = q.Submit(ctx, llmqueue.Request[string]{Params: "tell more", Estimate: estimate})
		require.ErrorIs(t, err, llmqueue.ErrCanceled)
		synctest.Wait()
		assert.Zero(t, q.Info().Abandoned, "its slot is free")
		begin := time.Now()
		_, err = q.Submit(t.Context(), llmqueue.Request[string]{Params: "again", Estimate: estimate})
		require.NoError(t, err, "and so is the provider's: the call upstream ended")
		assert.Less(t, time.Since(begin), 30*time.Second)
		assert.Zero(t, srv.Stats().Refused)
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// Five hundred requests at once against a server that enforces its minute by the
// second.
func TestManyAtOnceAgainstSlicesOfASecond(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit llmqueue.Option
		most  int64 // refused
	}{
		{"told", llmqueue.WithLimits(llmqueue.RPM(600).WithBurst(1)), 0},
		{"untold", llmqueue.WithLimits(llmqueue.RPM(600)), 256}, // those in flight at the first refusal
		{"learning", llmqueue.WithLearnedLimits(), 30},          // 1%
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(600).Quantized(time.Second)), llmtest.InMemory(),
					llmtest.WithLatency(llmtest.TypicalLatency()), llmtest.WithRefusedFree())
				q, err := llmqueue.NewQueue("m", chatter(srv, false), c.limit,
					llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 20}))
				require.NoError(t, err)
				submitMany(t, q, 500)
				time.Sleep(10 * time.Second)
				early := srv.Stats().Refused
				submitMany(t, q, 2500)
				require.NoError(t, q.Shutdown(t.Context()))
				assert.EqualValues(t, 3000, q.Info().Completed)
				refused := srv.Stats().Refused
				t.Logf("%d refused in the first ten seconds, %d of 3000 in all", early, refused)
				assert.LessOrEqual(t, refused, c.most)
			})
		})
	}
}

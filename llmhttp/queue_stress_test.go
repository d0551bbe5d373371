package llmhttp_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/accounting"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

// Clients that read, leave in the middle or give up while they wait, against a provider that
// enforces limits and fails in every way: no call is refused for a limit, each ends once, and in
// the end nothing is held.
func TestEveryCallEndsOnce(t *testing.T) {
	faults := []llmtest.Fault{
		{Status: 500}, {Status: 400}, {Kind: llmtest.FaultReset}, {Kind: llmtest.FaultCut},
		{Kind: llmtest.FaultStream, Status: 529}, {Kind: llmtest.FaultBody}, {Kind: llmtest.FaultAnswer},
		{Kind: llmtest.FaultFull}, {Kind: llmtest.FaultStall, Delay: time.Second}, {Kind: llmtest.FaultSlow, Delay: time.Second},
	}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := []llmtest.Option{
					llmtest.InMemory(), llmtest.WithStrategy(llmtest.SlidingWindow), llmtest.WithSeed(seed), llmtest.WithLatency(llmtest.TypicalLatency()),
				}
				for _, f := range faults {
					opts = append(opts, llmtest.WithFaultShare(0.02, f))
				}
				srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(240), llmtest.TPM(60_000)), opts...)
				m := newManager(t, llmqueue.WithLimits(llmqueue.RPM(240), llmqueue.TPM(60_000), llmqueue.Concurrent(16)), llmqueue.WithAccounting(accounting.Policy{NoRefund: true}))
				tr := llmhttp.NewQueueTransport(m, srv.Client().Transport, llmhttp.WithDefaultModel("m"))
				const calls = 200
				var all sync.WaitGroup
				for i := range calls {
					all.Go(func() {
						random := rand.New(rand.NewPCG(seed, uint64(i)))
						ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
						defer cancel()
						if random.IntN(8) == 0 { // gives up
							time.AfterFunc(time.Duration(random.IntN(60))*time.Second, cancel)
						}
						body := fmt.Sprintf(`{"model":"gpt-4o-mini","messages":[{"role":"user","content":"question %d"}],"max_completion_tokens":100,"stream":%v}`, i, random.IntN(2) == 0)
						r, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL()+"/chat/completions", strings.NewReader(body))
						if !assert.NoError(t, err) {
							return
						}
						if random.IntN(2) == 0 {
							r.GetBody = nil
						}
						res, err := tr.RoundTrip(r)
						if err != nil {
							return
						}
						if assert.NotEqual(t, 429, res.StatusCode); random.IntN(8) == 0 { // leaves
							_, _ = res.Body.Read(make([]byte, 10))
						} else {
							_, _ = io.Copy(io.Discard, res.Body)
						}
						assert.NoError(t, res.Body.Close())
					})
				}
				all.Wait()
				assert.Zero(t, srv.Stats().Refused)
				info, err := m.Info("m")
				require.NoError(t, err)
				assert.Zero(t, info.Processing)
				assert.Zero(t, info.Pending)
				assert.EqualValues(t, calls, info.Accepted)
				assert.EqualValues(t, calls, info.Completed+info.Failed+info.Canceled)
				assert.Greater(t, info.Completed, int64(calls*3/4))
			})
		})
	}
}

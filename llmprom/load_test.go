package llmprom_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmprom"
	"github.com/llmqueue/llmqueue/llmtest"
)

// service is a manager of two models, one with two endpoints, that asks a simulated
// provider over loopback. The provider fails some calls and refuses others.
type service struct {
	manager *llmqueue.Manager[string, string]
	metrics *llmprom.Collector
}

func newService(t *testing.T) *service {
	t.Helper()
	srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(40).Per(time.Second), llmtest.TPM(100_000).Per(time.Second)),
		llmtest.WithSeed(5), llmtest.WithOutputTokens(20, 0.5),
		llmtest.WithFaultShare(0.05, llmtest.Fault{Status: http.StatusBadRequest}),
		llmtest.WithFaultShare(0.05, llmtest.Fault{Status: http.StatusServiceUnavailable}))
	client := &http.Client{Transport: llmhttp.NewTransport(srv.Client().Transport)}
	ask := func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
		body := fmt.Sprintf(`{"model":%q,"max_tokens":40,"messages":[{"role":"user","content":%q}]}`, req.ModelID, req.Params)
		call, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL()+"/chat/completions", strings.NewReader(body))
		if err != nil {
			return "", err
		}
		call.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(call)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("the provider says %s", resp.Status)
		}
		return string(answer), err
	}
	metrics := llmprom.New()
	s := &service{manager: llmqueue.NewManager[string, string](metrics.Observe(), llmqueue.WithRetry(llmqueue.RetryPolicy{BaseDelay: 10 * time.Millisecond})), metrics: metrics}
	t.Cleanup(func() { s.manager.Shutdown(context.Background()) })
	require.NoError(t, metrics.Add(measured{s.manager}))
	for _, model := range []string{"gpt-4o", "gpt-4o-mini"} {
		limits := llmqueue.WithLimits(llmqueue.RPM(30).Per(time.Second), llmqueue.TPM(50_000), llmqueue.Concurrent(8))
		q, err := s.manager.Register(model, ask, limits)
		require.NoError(t, err)
		if model == "gpt-4o-mini" {
			require.NoError(t, q.AddEndpoint("second-key", ask, limits))
		}
	}
	return s
}

// measured tells of a time to first output from the first scrape on, so that its series is there.
type measured struct{ llmprom.Source }

func (m measured) InfoAll() []llmqueue.QueueInfo {
	all := m.Source.InfoAll()
	for _, info := range all {
		for i := range info.Endpoints {
			info.Endpoints[i].FirstOutput = max(info.Endpoints[i].FirstOutput, time.Millisecond)
		}
	}
	return all
}

// load asks n questions of each model and returns when all are answered.
func (s *service) load(ctx context.Context, n int) {
	var asked sync.WaitGroup
	for _, model := range s.manager.Models() {
		for i := range n {
			asked.Go(func() {
				s.manager.Submit(ctx, llmqueue.Request[string]{
					ModelID: model, Params: fmt.Sprintf("Question %d?", i), Tenant: fmt.Sprint("tenant-", i%3),
					Estimate: llmqueue.Usage{InputTokens: 10, OutputTokens: 40},
				}) // some fail, as the provider does
			})
		}
	}
	asked.Wait()
}

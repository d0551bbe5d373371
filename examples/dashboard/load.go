package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/chat"
	"github.com/llmqueue/llmqueue/llmtest"
)

// summary is the other manager's result: a page takes managers of any types.
type summary struct{ Text string }

// models are the queues behind the page and the simulators behind the queues.
type models struct {
	chat      *llmqueue.Manager[string, string]
	summaries *llmqueue.Manager[int, summary]
	providers []*chat.Provider
}

const (
	large = "gpt-4.1"
	small = "gpt-4.1-mini"
	local = "summaries"
)

func openModels() (*models, error) {
	m := &models{
		chat:      llmqueue.NewManager[string, string](llmqueue.WithMaxQueued(2000)),
		summaries: llmqueue.NewManager[int, summary](llmqueue.WithMaxQueued(2000)),
	}
	if err := m.register(); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func (m *models) register() error {
	primary, err := m.simulator(
		llmtest.RPM(150).For(large), llmtest.TPM(40_000).For(large),
		llmtest.RPM(300).For(small), llmtest.TPM(60_000).For(small))
	if err != nil {
		return err
	}
	second, err := m.simulator(llmtest.RPM(120).For(small), llmtest.TPM(30_000).For(small))
	if err != nil {
		return err
	}
	if _, err := m.chat.Register(large, asks(primary), llmqueue.WithLimits(
		llmqueue.RPM(140), llmqueue.TPM(38_000), llmqueue.RPD(20_000), llmqueue.Concurrent(12))); err != nil {
		return err
	}
	q, err := m.chat.Register(small, asks(primary), llmqueue.WithLimits(
		llmqueue.RPM(290), llmqueue.TPM(58_000), llmqueue.Concurrent(16)))
	if err != nil {
		return err
	}
	if err := q.AddEndpoint("second-key", asks(second), llmqueue.WithLimits(
		llmqueue.RPM(110), llmqueue.TPM(28_000), llmqueue.Concurrent(8))); err != nil {
		return err
	}
	_, err = m.summaries.Register(local, summarize, llmqueue.WithLimits(llmqueue.Concurrent(4)))
	return err
}

// simulator starts a provider that sometimes is overloaded and sometimes refuses.
func (m *models) simulator(limits ...llmtest.Limit) (*chat.Provider, error) {
	provider, err := chat.Simulate(chat.Simulator{Limits: limits, Options: []llmtest.Option{
		llmtest.WithOutputTokens(120, 0.5), llmtest.WithLatency(llmtest.TypicalLatency()),
		llmtest.WithFaultShare(0.03, llmtest.Fault{Status: 503}),
		llmtest.WithFaultShare(0.02, llmtest.Fault{Status: 400}),
	}})
	if err == nil {
		m.providers = append(m.providers, provider)
	}
	return provider, err
}

func asks(p *chat.Provider) llmqueue.Processor[string, string] {
	return func(ctx context.Context, req llmqueue.Request[string]) (string, error) {
		reply, err := p.Ask(ctx, req.ModelID, req.Params, 200)
		if err != nil {
			return "", err
		}
		llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: reply.Usage.InputTokens, OutputTokens: 200}) // as OpenAI charges
		return reply.Text, nil
	}
}

// summarize stands in for a model on this machine, which knows no rate but few slots.
func summarize(ctx context.Context, req llmqueue.Request[int]) (summary, error) {
	llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: int64(req.Params), OutputTokens: 80})
	return llmtest.FakeDelay(time.Duration(req.Params)*time.Millisecond, llmtest.FakeReply[int](summary{"short"}))(ctx, req)
}

// load submits requests until ctx ends: a steady stream for each model, somewhat above
// what its limits allow at times and below at others, so that a line forms and clears.
func (m *models) load(ctx context.Context) *sync.WaitGroup {
	var load sync.WaitGroup
	for _, model := range []string{large, small} {
		perSecond := map[string]float64{large: 2.7, small: 7}[model]
		load.Go(func() {
			tenants := []string{"web", "web", "mobile", "reports"}
			arrive(ctx, perSecond, func(n int) {
				tenant := tenants[rand.IntN(len(tenants))]
				m.chat.Submit(ctx, llmqueue.Request[string]{
					ID: fmt.Sprintf("%s-%d", tenant, n), ModelID: model, NoWait: true, Tenant: tenant,
					Priority: map[string]int{"web": 10, "mobile": 10}[tenant],
					Params:   fmt.Sprintf("Question %d of %s: what is there to see?", n, tenant),
					Estimate: llmqueue.Usage{InputTokens: 15, OutputTokens: 200},
				}) // a full queue refuses: the demonstration goes on
			})
		})
	}
	load.Go(func() {
		arrive(ctx, 4, func(n int) {
			m.summaries.Submit(ctx, llmqueue.Request[int]{
				ID: fmt.Sprintf("document-%d", n), ModelID: local, NoWait: true, Tenant: "archive",
				Params: 400 + rand.IntN(1400),
			})
		})
	})
	return &load
}

// arrive calls submit so often a second on average, twice as often in every other
// half minute.
func arrive(ctx context.Context, perSecond float64, submit func(n int)) {
	begin := time.Now()
	for n := 1; ; n++ {
		rate := perSecond * 0.7
		if int(time.Since(begin)/(30*time.Second))%2 == 0 {
			rate *= 2
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(rand.ExpFloat64() / rate * float64(time.Second))):
			submit(n)
		}
	}
}

// report prints what the queues did.
func (m *models) report(stdout io.Writer) {
	for _, info := range append(m.chat.InfoAll(), m.summaries.InfoAll()...) {
		fmt.Fprintf(stdout, "%-13s %5d completed, %3d failed, %4d waiting\n", info.ModelID, info.Completed, info.Failed, info.Pending)
	}
}

// close gives up what still waits and stops the simulators.
func (m *models) close() {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	m.chat.Shutdown(now)
	m.summaries.Shutdown(now)
	for _, srv := range m.providers {
		srv.Close()
	}
}

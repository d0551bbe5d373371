package llmotel_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmotel"
)

// collect reads all metrics as lines: name, attributes, value; of a histogram count and sum.
func (k *sdk) collect(t testing.TB) (lines []string) {
	var all metricdata.ResourceMetrics
	require.NoError(t, k.reader.Collect(t.Context(), &all))
	add := func(name string, set attribute.Set, value string) {
		lines = append(lines, name+" "+set.Encoded(attribute.DefaultEncoder())+" "+value)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, fmt.Sprint(p.Value))
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, fmt.Sprint(p.Value))
				}
			case metricdata.Histogram[int64]:
				for _, p := range data.DataPoints {
					add(m.Name, p.Attributes, fmt.Sprintf("n=%d sum=%d", p.Count, p.Sum))
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					assert.InDelta(t, 0.01, p.Bounds[0], 0)
					assert.Greater(t, p.Bounds[len(p.Bounds)-1], 600.0, "10 minutes have a bucket")
					add(m.Name, p.Attributes, fmt.Sprintf("n=%d sum=%g", p.Count, p.Sum))
				}
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// The figures of a small load, while it runs and afterwards.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newSDK(t, llmotel.WithProvider("openai"))
		q, err := llmqueue.NewQueue("m", ask, k.option, llmqueue.WithLimits(llmqueue.RPM(10), llmqueue.Concurrent(1)),
			llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 2}))
		require.NoError(t, err)
		for _, params := range []string{"ok", "slow down", "fail", "ok"} {
			_, err := q.Submit(t.Context(), llmqueue.Request[string]{ID: params + fmt.Sprint(q.Len()), Params: params, NoWait: true})
			require.NoError(t, err)
		}
		time.Sleep(s / 2)
		const m = "gen_ai.operation.name=chat,gen_ai.provider.name=openai,gen_ai.request.model=m"
		lines := k.collect(t)
		for _, want := range []string{
			"llmqueue.requests.waiting " + m + " 3",
			"llmqueue.requests.running " + m + " 1",
			"llmqueue.attempts " + m + " 1",
			"llmqueue.paused " + m + " 0",
			"llmqueue.limit.amount " + m + ",llmqueue.endpoint=m,llmqueue.limit=rpm 10",
			"llmqueue.limit.used " + m + ",llmqueue.endpoint=m,llmqueue.limit=rpm 1",
			"llmqueue.limit.used " + m + ",llmqueue.endpoint=m,llmqueue.limit=concurrent 1",
		} {
			assert.Contains(t, lines, want)
		}
		time.Sleep(3 * s) // the second was refused
		assert.Contains(t, k.collect(t), "llmqueue.paused "+m+" 1")
		time.Sleep(time.Minute)
		lines = k.collect(t)
		for _, want := range []string{
			"gen_ai.client.operation.duration " + m + ",llmqueue.endpoint=m n=2 sum=2",
			"gen_ai.client.operation.duration error.type=*errors.errorString," + m + ",llmqueue.endpoint=m n=1 sum=1",
			"gen_ai.client.operation.duration error.type=rate_limited," + m + ",llmqueue.endpoint=m n=1 sum=1",
			"gen_ai.client.operation.duration error.type=fatal," + m + ",llmqueue.endpoint=m n=1 sum=1",
			"gen_ai.client.token.usage " + m + ",gen_ai.token.type=input,llmqueue.endpoint=m n=2 sum=200",
			"gen_ai.client.token.usage " + m + ",gen_ai.token.type=output,llmqueue.endpoint=m n=2 sum=40",
			"llmqueue.requests.ended " + m + ",llmqueue.status=completed 2",
			"llmqueue.requests.ended " + m + ",llmqueue.status=failed 2",
			"llmqueue.requests.ended " + m + ",llmqueue.status=canceled 0",
			"llmqueue.attempts " + m + " 5",
			"llmqueue.retries " + m + " 1",
			"llmqueue.refusals " + m + " 1",
			"llmqueue.requests.waiting " + m + " 0",
			"llmqueue.events.dropped " + m + " 0",
		} {
			assert.Contains(t, lines, want)
		}
		assert.Equal(t, 5, waits(lines), "a wait before each attempt")
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

// waits counts what the histogram of waits holds.
func waits(lines []string) (n int) {
	for _, line := range lines {
		var rest string
		if _, err := fmt.Sscanf(line, "llmqueue.wait.duration %s n=%d", &rest, &n); err == nil {
			return n
		}
	}
	return 0
}

// One option serves several queues; what is read of one goes with it when it is shut down.
func TestSeveralQueuesWithOneOption(t *testing.T) {
	k := newSDK(t)
	gone, err := llmqueue.NewQueue("gone", ask, k.option, llmqueue.WithUnlimited())
	require.NoError(t, err)
	m := llmqueue.NewManager[string, int](k.option, llmqueue.WithUnlimited())
	for _, model := range []string{"a", "b"} {
		_, err := m.Register(model, ask)
		require.NoError(t, err)
	}
	require.ErrorIs(t, m.RegisterAll([]llmqueue.ModelConfig{{ModelID: "c"}, {ModelID: "c"}}, ask), llmqueue.ErrInvalidConfiguration)
	for model, want := range map[string]bool{"gone": true, "a": true, "b": true, "c": false} {
		assert.Equal(t, want, slices.Contains(k.collect(t), "llmqueue.attempts gen_ai.operation.name=chat,gen_ai.request.model="+model+" 0"), model)
	}
	require.NoError(t, gone.Shutdown(t.Context()))
	require.NoError(t, m.Unregister(t.Context(), "a"))
	for model, want := range map[string]bool{"gone": false, "a": false, "b": true} {
		assert.Equal(t, want, slices.Contains(k.collect(t), "llmqueue.attempts gen_ai.operation.name=chat,gen_ai.request.model="+model+" 0"), model)
	}
	require.NoError(t, m.Shutdown(t.Context()))
	assert.Empty(t, k.collect(t))
}

// brokenMeter cannot register a callback.
type brokenMeter struct{ noop.Meter }

func (brokenMeter) RegisterCallback(metric.Callback, ...metric.Observable) (metric.Registration, error) {
	return nil, errBoom
}

// What is wrong is an error, of New or of NewQueue.
func TestErrors(t *testing.T) {
	_, err := llmotel.New(llmotel.WithMeterProvider(nil))
	require.ErrorIs(t, err, llmqueue.ErrInvalidConfiguration)
	_, err = llmotel.New(llmotel.WithTracerProvider(nil))
	require.ErrorIs(t, err, llmqueue.ErrInvalidConfiguration)
	option, err := llmotel.New(llmotel.WithMeterProvider(provider{}))
	require.NoError(t, err)
	_, err = llmqueue.NewQueue("m", ask, llmqueue.WithUnlimited(), option)
	require.ErrorIs(t, err, llmqueue.ErrInvalidConfiguration)
	require.ErrorContains(t, err, "boom")
	option, err = llmotel.New() // the global providers, which do nothing here
	require.NoError(t, err)
	q, err := llmqueue.NewQueue("m", func(context.Context, llmqueue.Request[string]) (int, error) { return 5, nil }, llmqueue.WithUnlimited(), option)
	require.NoError(t, err)
	got, err := q.Do(t.Context(), "")
	require.NoError(t, err)
	assert.Equal(t, 5, got)
	require.NoError(t, q.Shutdown(t.Context()))
}

// provider is one whose meters refuse callbacks.
type provider struct{ noop.MeterProvider }

func (provider) Meter(string, ...metric.MeterOption) metric.Meter { return brokenMeter{} }

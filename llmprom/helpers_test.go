package llmprom_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

type (
	manager = llmqueue.Manager[time.Duration, string]
	job     = llmqueue.Request[time.Duration]
)

// process runs for as long as the params say; with negative ones it then fails.
func process(ctx context.Context, r job) (string, error) {
	llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 10, OutputTokens: 3, CachedInputTokens: 4})
	select {
	case <-time.After(max(r.Params, -r.Params)):
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if r.Params < 0 {
		return "", errors.New("negative")
	}
	return "done", nil
}

// newManager has one model with the limits given.
func newManager(t *testing.T, model string, opts ...llmqueue.Option) *manager {
	t.Helper()
	m := llmqueue.NewManager[time.Duration, string](append([]llmqueue.Option{llmqueue.WithMargin(0)}, opts...)...)
	register(t, m, model)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		m.Shutdown(ctx)
	})
	return m
}

func register(t *testing.T, m *manager, model string, opts ...llmqueue.Option) {
	t.Helper()
	_, err := m.Register(model, process, opts...)
	require.NoError(t, err)
}

func do(t *testing.T, m *manager, model string, params time.Duration) {
	t.Helper()
	_, err := m.Submit(t.Context(), job{ModelID: model, Params: params})
	if params >= 0 {
		require.NoError(t, err)
	}
}

// registered is a registry that has the collector.
func registered(t *testing.T, c prometheus.Collector) *prometheus.Registry {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	require.NoError(t, reg.Register(c))
	return reg
}

// figures are all series of a scrape, each as it would be written in a query:
// name{label="value",…}, with labels that are empty left out.
type figures map[string]float64

func gather(t *testing.T, g prometheus.Gatherer) figures {
	t.Helper()
	families, err := g.Gather()
	require.NoError(t, err, "a scrape would have failed")
	return read(families)
}

func read(families []*dto.MetricFamily) figures {
	all := figures{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				if l.GetValue() != "" {
					labels = append(labels, l.GetName()+`="`+l.GetValue()+`"`)
				}
			}
			slices.Sort(labels)
			in := "{" + strings.Join(labels, ",") + "}"
			switch {
			case m.Histogram != nil:
				all[f.GetName()+"_count"+in] = float64(m.Histogram.GetSampleCount())
				all[f.GetName()+"_sum"+in] = m.Histogram.GetSampleSum()
			case m.Counter != nil:
				all[f.GetName()+in] = m.Counter.GetValue()
			default:
				all[f.GetName()+in] = m.Gauge.GetValue()
			}
		}
	}
	return all
}

// with are the figures of series whose text contains part.
func (f figures) with(part string) figures {
	some := maps.Clone(f)
	maps.DeleteFunc(some, func(series string, _ float64) bool { return !strings.Contains(series, part) })
	return some
}

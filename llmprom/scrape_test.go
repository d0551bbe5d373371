package llmprom_test

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// scrape reads a page of metrics as Prometheus does.
func scrape(ctx context.Context, url string) (figures, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New("the scrape failed: " + resp.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	return read(slices.Collect(maps.Values(families))), err
}

// A queue under load, scraped over HTTP by two at a time: no scrape contradicts itself
// or the one before, and at the end each figure is what Info says.
//
// Faults seen to fail here: figures of metrics.go exchanged (retries and
// coalesced, input and output tokens, used and available, attempts and accepted); retried attempts left out of the histogram.
func TestScrapesUnderLoadEqualInfo(t *testing.T) {
	s := newService(t)
	reg := prometheus.NewRegistry()
	require.NoError(t, reg.Register(s.metrics))
	page := httptest.NewServer(promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	defer page.Close()

	done := make(chan struct{})
	go func() {
		defer close(done)
		s.load(t.Context(), 70)
	}()
	models := s.manager.Models()
	scrapers := make(chan int)
	for range 2 {
		go func() {
			scrapes, before := 0, figures{}
			for loaded := false; !loaded; scrapes++ {
				select {
				case <-done:
					loaded = true
				default:
				}
				now, err := scrape(t.Context(), page.URL)
				if err != nil {
					t.Error(err)
					break
				}
				for series, was := range before {
					if is, ok := now[series]; isCounter(series) && (!ok || is < was) {
						t.Errorf("%s went down from %v to %v", series, was, is)
					}
				}
				for _, m := range models {
					in := `{model="` + m + `"}`
					accepted := now["llmqueue_accepted_requests_total"+in]
					sum := now["llmqueue_pending_requests"+in] + now["llmqueue_processing_requests"+in] + now["llmqueue_forwarded_requests"+in]
					for _, n := range now.with(`llmqueue_finished_requests_total{model="` + m + `"`) {
						sum += n
					}
					if accepted != sum {
						t.Errorf("%s: %v requests accepted, but %v wait, run or ended", m, accepted, sum)
					}
				}
				before = now
			}
			scrapers <- scrapes
		}()
	}
	t.Log("scrapes:", <-scrapers, "and", <-scrapers)

	// Observers end with the queue, having seen everything.
	require.NoError(t, s.manager.Shutdown(t.Context()))
	got, err := scrape(t.Context(), page.URL)
	require.NoError(t, err)
	for _, info := range s.manager.InfoAll() {
		require.EqualValues(t, 70, info.Accepted)
		for _, n := range []int64{info.Completed, info.Failed, info.Retries, info.Usage.InputTokens, info.Usage.OutputTokens} {
			require.Positive(t, n, "the load was too tame to show anything: %+v", info)
		}
		in := `{model="` + info.ModelID + `"}`
		for name, want := range map[string]int64{
			"accepted_requests_total": info.Accepted, "attempts_total": info.Attempts, "retries_total": info.Retries,
			"refused_calls_total": info.Refused, "coalesced_requests_total": info.Coalesced, "fallbacks_total": info.Fallbacks,
			"dropped_events_total": info.Dropped, "cached_input_tokens_total": info.Usage.CachedInputTokens,
			"pending_requests": int64(info.Pending), "processing_requests": int64(info.Processing), "forwarded_requests": int64(info.Forwarded),
			"abandoned_processors": int64(info.Abandoned), "slots": info.Slots, "closed": 1, "paused": 0,
			"wait_seconds_count": info.Attempts,
		} {
			assert.EqualValues(t, want, got["llmqueue_"+name+in], name+in)
		}
		assert.InDelta(t, info.Waited.Seconds(), got["llmqueue_wait_seconds_sum"+in], 1e-6)
		var attempts, seconds float64
		for _, n := range got.with(`llmqueue_processing_seconds_count{`).with(`model="` + info.ModelID + `"`) {
			attempts += n
		}
		for _, n := range got.with(`llmqueue_processing_seconds_sum{`).with(`model="` + info.ModelID + `"`) {
			seconds += n
		}
		assert.EqualValues(t, info.Attempts, attempts)
		assert.InDelta(t, info.Worked.Seconds(), seconds, 1e-6)
		for status, want := range map[string]int64{"completed": info.Completed, "failed": info.Failed, "canceled": info.Canceled} {
			assert.EqualValues(t, want, got[`llmqueue_finished_requests_total{model="`+info.ModelID+`",status="`+status+`"}`], status)
		}
		for direction, want := range map[string]int64{"input": info.Usage.InputTokens, "output": info.Usage.OutputTokens} {
			assert.EqualValues(t, want, got[`llmqueue_tokens_total{direction="`+direction+`",model="`+info.ModelID+`"}`], direction)
		}
		for _, e := range info.Endpoints {
			of := `{endpoint="` + e.Name + `",model="` + info.ModelID + `"}`
			assert.EqualValues(t, e.Slots, got["llmqueue_endpoint_slots"+of])
			assert.EqualValues(t, e.Processing, got["llmqueue_endpoint_processors"+of])
			for _, l := range e.Limits {
				if l.Limit.Kind != llmqueue.KindTPM { // whose minute is not over yet
					continue
				}
				of := `{endpoint="` + e.Name + `",limit="tpm",model="` + info.ModelID + `",period="1m",scope="own"}`
				assert.EqualValues(t, l.Limit.Amount, got["llmqueue_limit_amount"+of])
				assert.EqualValues(t, l.Used, got["llmqueue_limit_used"+of])
				assert.EqualValues(t, l.Available, got["llmqueue_limit_available"+of])
				assert.InDelta(t, time.Until(l.ResetAt).Seconds(), got["llmqueue_limit_reset_seconds"+of], 30)
			}
		}
	}
}

func isCounter(series string) bool {
	name, _, _ := strings.Cut(series, "{")
	return strings.HasSuffix(name, "_total") || strings.HasSuffix(name, "_count") || strings.HasSuffix(name, "_sum")
}

package llmqueue

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue/accounting"
)

// What each provider's limit holds while a call runs, and after it: the estimate is
// 100 tokens in, of them 40 cached, and 300 out; used are 90 in, of them 50 cached, and
// 20 out.
func TestAccountingOfProviders(t *testing.T) {
	for _, c := range []struct {
		provider    string
		start, end  int64 // of all tokens
		second, out int64 // at the start of the second call, and its output alone
	}{
		{"", 400, 110, 110 + 400, 20 + 300},
		{"gemini", 400, 110, 110 + 400, 20 + 300},
		{"mistral", 400, 110, 110 + 400, 20 + 300},
		{"openai", 300, 300, 600, 400},
		{"azure", 400, 400, 800, 600},
		{"groq", 360, 60, 60 + 360, 20 + 300},
		{"anthropic", 360, 60, 60 + 60 + 20, 20 + 20},
		{"bedrock", 400, 60, 60 + 400, 20 + 300},
		{"bedrock-claude", 400, 140, 140 + 400, 100 + 300},
		{"bedrock-claude-5", 400, 240, 240 + 400, 200 + 300},
	} {
		t.Run(c.provider, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, err := accounting.ByName(c.provider)
				require.NoError(t, err)
				q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
					time.Sleep(time.Second)
					ReportUsage(ctx, Usage{InputTokens: 90, CachedInputTokens: 50, OutputTokens: 20})
					return 0, nil
				}, WithLimits(TPM(10_000), OTPM(10_000)), WithAccounting(a))
				held := func(i int) int64 { return q.Info().Limits[i].Used }
				ask := Request[int]{Estimate: Usage{InputTokens: 100, CachedInputTokens: 40, OutputTokens: 300}}
				id := post(t, q, ask)
				assert.Equal(t, c.start, held(0), "while it runs")
				r, err := q.Wait(t.Context(), id)
				require.NoError(t, err)
				assert.Equal(t, c.end, held(0), "after it")
				assert.Equal(t, Usage{InputTokens: 90, CachedInputTokens: 50, OutputTokens: 20}, r.Usage, "what was used stays what was used")
				post(t, q, ask)
				assert.Equal(t, c.second, held(0), "while the second runs")
				assert.Equal(t, c.out, held(1), "output, while the second runs")
			})
		})
	}
}

func TestAccountingOfOnesOwn(t *testing.T) {
	for _, c := range []struct {
		a          accounting.Policy
		start, end int64
	}{
		{accounting.Policy{Reserve: accounting.ReserveInput}, 100, 520},
		{accounting.Policy{Reserve: accounting.ReserveInput, NoRefund: true}, 100, 520},
		{accounting.Policy{Reserve: accounting.ReserveMean}, 400, 520},
		{accounting.Policy{Reserve: accounting.ReserveAll, OutputFactor: 2}, 400, 1020},
	} {
		synctest.Test(t, func(t *testing.T) {
			q := newQueue(t, func(ctx context.Context, _ Request[int]) (int, error) {
				time.Sleep(time.Second)
				ReportUsage(ctx, Usage{InputTokens: 20, OutputTokens: 500})
				return 0, nil
			}, WithLimits(TPM(10_000)), WithAccounting(c.a))
			id := post(t, q, Request[int]{Estimate: Usage{InputTokens: 100, OutputTokens: 300}})
			assert.Equal(t, c.start, q.Info().Limits[0].Used)
			_, err := q.Wait(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, c.end, q.Info().Limits[0].Used)
		})
	}
}

// What can never fit is judged by what would be reserved.
func TestAccountingAndWhatNeverFits(t *testing.T) {
	q := newQueue(t, echo, WithLimits(TPM(300)), WithAccounting(accounting.OpenAI))
	_, err := q.Submit(t.Context(), Request[int]{Estimate: Usage{InputTokens: 200, OutputTokens: 300}})
	require.NoError(t, err, "the larger of the two fits")
	_, err = q.Submit(t.Context(), Request[int]{Estimate: Usage{InputTokens: 200, OutputTokens: 301}})
	require.ErrorIs(t, err, ErrRequestTooLarge)
}

func TestAccountingByName(t *testing.T) {
	var models []ModelConfig
	require.NoError(t, json.Unmarshal([]byte(`[{"model_id":"m","accounting":"azure","rate_limiters":[{"type":"tpm","limit":1000}]}]`), &models))
	m := NewManager[int, int]()
	require.NoError(t, m.RegisterAll(models, func(ctx context.Context, _ Request[int]) (int, error) {
		ReportUsage(ctx, in(1))
		return 0, nil
	}))
	_, err := m.Submit(t.Context(), Request[int]{ModelID: "m", Estimate: in(70)})
	require.NoError(t, err)
	info, err := m.Info("m")
	require.NoError(t, err)
	assert.EqualValues(t, 70, info.Limits[0].Used, "nothing is given back")
	require.NoError(t, m.Shutdown(t.Context()))
	require.ErrorIs(t, json.Unmarshal([]byte(`{"model_id":"m","accounting":"acme"}`), &models[0]), ErrInvalidConfiguration)
	require.ErrorIs(t, json.Unmarshal([]byte(`{"model_id":"m","accounting":7}`), &models[0]), ErrInvalidConfiguration)
	err = NewManager[int, int]().RegisterAll([]ModelConfig{{ModelID: "m", Limits: []Limit{RPM(1)}, Accounting: "acme"}}, echo)
	require.ErrorIs(t, err, ErrInvalidConfiguration)
	assert.Contains(t, err.Error(), "anthropic", "the names that there are")
	assert.Contains(t, err.Error(), `llmqueue: model "m": invalid configuration`)
}

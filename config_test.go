package llmqueue

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestModelConfigFromJSON(t *testing.T) {
	const file = `[
		{"model_id": "small", "rate_limiters": [
			{"type": "rpm", "limit": 500},
			{"type": "TPM", "limit": 200000, "time_period": "90s"},
			{"type": "itpm", "limit": 7, "time_period": 10},
			{"type": "otpm", "limit": 8, "time_period": 0.5},
			{"type": "rpd", "limit": 1000, "resets": "America/Los_Angeles"},
			{"type": "tpd", "limit": 9, "burst": 3, "time_period": null},
			{"type": "concurrent", "limit": 32}]},
		{"model_id": "plain"}]`
	var models []ModelConfig
	require.NoError(t, json.Unmarshal([]byte(file), &models))
	pacific, err := time.LoadLocation("America/Los_Angeles")
	require.NoError(t, err)
	assert.Equal(t, []ModelConfig{
		{ModelID: "small", Limits: []Limit{
			RPM(500), TPM(200000).Per(90 * time.Second), ITPM(7).Per(10 * time.Second),
			OTPM(8).Per(500 * time.Millisecond), RPD(1000).Daily(pacific), TPD(9).WithBurst(3), Concurrent(32),
		}},
		{ModelID: "plain"},
	}, models)

	written, err := json.Marshal(models)
	require.NoError(t, err)
	var again []ModelConfig
	require.NoError(t, json.Unmarshal(written, &again))
	for i, l := range again[0].Limits {
		assert.Equal(t, models[0].Limits[i].String(), l.String())
		assert.Equal(t, models[0].Limits[i].period(), l.period())
	}
}

// What is wrong with a configuration is said by the name that the field has in
// the file.
func TestModelConfigErrorsNameTheField(t *testing.T) {
	limit := func(s string) string { return `{"model_id":"m","rate_limiters":[{"type":"rpm","limit":1},` + s + `]}` }
	for _, c := range []struct{ name, file, says string }{
		{"not an object", `[]`, "want an object with model_id"},
		{"null", `null`, "want an object with model_id"},
		{"no model", `{"rate_limiters":[]}`, "model_id: missing"},
		{"empty model", `{"model_id":""}`, "model_id: missing"},
		{"model is a number", `{"model_id":3}`, "model_id: want a string"},
		{"limits are no list", `{"model_id":"m","rate_limiters":{}}`, `model "m": invalid configuration: rate_limiters: want a list`},
		{"misspelt key", `{"model_id":"m","rate_limits":[]}`, "rate_limits: unknown field, use model_id, rate_limiters"},
		{"limit is no object", limit(`7`), `rate_limiters[1].want an object`},
		{"misspelt limit key", limit(`{"type":"tpm","limit":1,"period":"60s"}`), "rate_limiters[1].period: unknown field"},
		{"unknown kind", limit(`{"type":"rps","limit":1}`), `rate_limiters[1].type: unknown kind "rps"`},
		{"no kind", limit(`{"limit":1}`), `rate_limiters[1].type: unknown kind ""`},
		{"kind is a number", limit(`{"type":1,"limit":1}`), "rate_limiters[1].type: want a string"},
		{"no amount", limit(`{"type":"tpm"}`), "rate_limiters[1].limit: 0 is out of range"},
		{"negative amount", limit(`{"type":"tpm","limit":-4}`), "rate_limiters[1].limit: -4 is out of range"},
		{"fractional amount", limit(`{"type":"tpm","limit":1.5}`), "rate_limiters[1].limit: want a whole number, got 1.5"},
		{"amount as text", limit(`{"type":"tpm","limit":"5"}`), "rate_limiters[1].limit: want a whole number"},
		{"enormous amount", limit(`{"type":"tpm","limit":9223372036854775807}`), "rate_limiters[1].limit:"},
		{"amount beyond int64", limit(`{"type":"tpm","limit":1e30}`), "rate_limiters[1].limit: want a whole number"},
		{"period is no duration", limit(`{"type":"tpm","limit":1,"time_period":"soon"}`), `rate_limiters[1].time_period: "soon" is no positive duration`},
		{"negative period", limit(`{"type":"tpm","limit":1,"time_period":"-1s"}`), "rate_limiters[1].time_period:"},
		{"zero period", limit(`{"type":"tpm","limit":1,"time_period":0}`), "rate_limiters[1].time_period: 0 is no positive number"},
		{"negative seconds", limit(`{"type":"tpm","limit":1,"time_period":-60}`), "rate_limiters[1].time_period: -60"},
		{"enormous period", limit(`{"type":"tpm","limit":1,"time_period":1e300}`), "rate_limiters[1].time_period: 1e+300"},
		{"period of two years", limit(`{"type":"tpm","limit":1,"time_period":"17520h"}`), "rate_limiters[1].time_period: 17520h0m0s is out of range"},
		{"period is a list", limit(`{"type":"tpm","limit":1,"time_period":[]}`), "rate_limiters[1].time_period: [] is neither"},
		{"negative burst", limit(`{"type":"tpm","limit":1,"burst":-1}`), "rate_limiters[1].burst: -1 is out of range"},
		{"burst is text", limit(`{"type":"tpm","limit":1,"burst":"x"}`), "rate_limiters[1].burst: want a whole number"},
		{"unknown zone", limit(`{"type":"rpd","limit":1,"resets":"Mars/Olympus"}`), `rate_limiters[1].resets: unknown time zone "Mars/Olympus"`},
		{"zone is a number", limit(`{"type":"rpd","limit":1,"resets":8}`), "rate_limiters[1].resets: want a string"},
		{"minute that resets", limit(`{"type":"tpm","limit":1,"resets":"UTC"}`), "rate_limiters[1].resets: only a limit per day"},
		{"daily burst", limit(`{"type":"rpd","limit":9,"burst":3,"resets":"UTC"}`), "rate_limiters[1].burst: a limit that resets at midnight has no burst"},
		{"concurrent with period", limit(`{"type":"concurrent","limit":1,"time_period":"1s"}`), "rate_limiters[1].time_period: a concurrent limit has no period"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ModelConfig{ModelID: "untouched"}
			err := json.Unmarshal([]byte(c.file), &got)
			if c.name == "null" {
				err = got.UnmarshalJSON([]byte(c.file)) // package json skips null
			}
			require.ErrorIs(t, err, ErrInvalidConfiguration)
			assert.ErrorContains(t, err, c.says)
			assert.Equal(t, "untouched", got.ModelID, "a refused configuration changes nothing")
			assert.NotContains(t, err.Error(), "\n")
		})
	}
	var l Limit
	err := json.Unmarshal([]byte(`{"type":"rpm"}`), &l)
	require.ErrorIs(t, err, ErrInvalidConfiguration)
	assert.ErrorContains(t, err, "limit: 0 is out of range")
}

func TestLimitString(t *testing.T) {
	for want, l := range map[string]Limit{
		"500 rpm":                         RPM(500),
		"20 rpm per 10s":                  RPM(20).Per(10 * time.Second),
		"20 rpm":                          RPM(20).Per(time.Minute),
		"9 tpd burst 3":                   TPD(9).WithBurst(3),
		"4 concurrent":                    Concurrent(4),
		"7 rpd resetting at midnight UTC": RPD(7).Daily(nil),
	} {
		assert.Equal(t, want, l.String())
	}
}

// Whatever is wrong with the options is told by NewQueue, never by a panic.
func TestInvalidConfiguration(t *testing.T) {
	unlimited := WithUnlimited()
	for name, opts := range map[string][]Option{
		"nothing that limits":     nil,
		"no limits":               {WithLimits()},
		"limits twice":            {WithLimits(RPM(1)), WithLimits(TPM(1))},
		"the same limits twice":   {WithLimits(RPM(1)), WithMargin(0), WithLimits(RPM(1))},
		"limits in two bundles":   {WithOptions(WithLimits(RPM(1))), WithOptions(WithLimits(TPM(1)))},
		"limits and none":         {WithLimits(RPM(1)), WithUnlimited()},
		"none and limits":         {WithUnlimited(), WithLimits(RPM(1))},
		"unknown kind":            {WithLimits(Limit{Kind: "rps", Amount: 1})},
		"zero amount":             {WithLimits(RPM(0))},
		"negative amount":         {WithLimits(TPM(-1))},
		"enormous amount":         {WithLimits(TPM(math.MaxInt64))},
		"negative period":         {WithLimits(RPM(1).Per(-time.Second))},
		"endless period":          {WithLimits(RPM(1).Per(math.MaxInt64))},
		"negative burst":          {WithLimits(RPM(1).WithBurst(-1))},
		"the same limit twice":    {WithLimits(RPM(1), RPM(2))},
		"the same period twice":   {WithLimits(RPM(1), RPM(2).Per(time.Minute))},
		"two concurrent":          {WithLimits(Concurrent(1), Concurrent(2))},
		"concurrent with period":  {WithLimits(Concurrent(1).Per(time.Second))},
		"rpm that resets":         {WithLimits(RPM(1).Daily(time.UTC))},
		"negative timeout":        {unlimited, WithTimeout(-1)},
		"negative bound":          {unlimited, WithMaxQueued(-1)},
		"negative history":        {unlimited, WithHistory(-1, time.Hour)},
		"history without time":    {unlimited, WithHistory(1, 0)},
		"negative grace":          {unlimited, WithShutdownGrace(-1)},
		"nothing outstanding":     {unlimited, WithMaxOutstanding(0)},
		"negative attempts":       {unlimited, WithRetry(RetryPolicy{MaxAttempts: -1})},
		"negative delay":          {unlimited, WithRetry(RetryPolicy{BaseDelay: -1})},
		"delays the wrong way":    {unlimited, WithRetry(RetryPolicy{BaseDelay: 2, MaxDelay: 1})},
		"nil middleware":          {unlimited, WithMiddleware(nil)},
		"nil observer":            {unlimited, WithObserver(nil)},
		"nil shared limits":       {WithSharedLimits(nil)},
		"empty shared limits":     {WithSharedLimits(NewSharedLimits())},
		"wrong shared limits":     {WithSharedLimits(NewSharedLimits(RPM(0)))},
		"estimator of other type": {unlimited, WithEstimator(func(Request[string]) Usage { return Usage{} })},
		"nil estimator":           {unlimited, WithEstimator[int](nil)},
	} {
		t.Run(name, func(t *testing.T) {
			var q *Queue[int, int]
			var err error
			require.NotPanics(t, func() { q, err = NewQueue("m", echo, opts...) })
			assert.Nil(t, q)
			require.ErrorIs(t, err, ErrInvalidConfiguration)
			assert.ErrorContains(t, err, `model "m"`)
			assert.NotContains(t, err.Error(), "\n")

			_, err = NewManager[int, int](opts...).Register("m", echo)
			assert.ErrorIs(t, err, ErrInvalidConfiguration)
		})
	}
	_, err := NewQueue("", echo, unlimited)
	assert.ErrorIs(t, err, ErrInvalidConfiguration)
	_, err = NewQueue[int, int]("m", nil, unlimited)
	assert.ErrorIs(t, err, ErrInvalidConfiguration)
	_, err = NewQueue("m", echo, unlimited, Option{})
	assert.NoError(t, err, "the zero Option does nothing")
}

// A queue's options override its manager's and the last of a kind wins; middleware,
// observers and shared limits add up.
func TestOptionsOverrideOrAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		layer := func(name string) Middleware {
			return func(ctx context.Context, _ Attempt, next func(context.Context) error) error {
				order = append(order, name)
				return next(ctx)
			}
		}
		var first, second int
		family, organisation := NewSharedLimits(RPM(50)), NewSharedLimits(RPM(60))
		m := NewManager[int, int](
			WithLimits(RPM(1)), WithTimeout(time.Hour), WithMaxQueued(3),
			WithMiddleware(layer("manager")), WithObserver(func(Event) { first++ }), WithSharedLimits(organisation),
		)
		q, err := m.Register("m", echo,
			WithLimits(RPM(7), Concurrent(2)), WithMaxQueued(2), WithMaxQueued(4),
			WithMiddleware(layer("outer"), layer("inner")), WithObserver(func(Event) { second++ }),
			WithSharedLimits(family), WithSharedLimits(family),
		)
		require.NoError(t, err)
		other, err := m.Register("other", echo)
		require.NoError(t, err)

		_, err = q.Do(t.Context(), 1)
		require.NoError(t, err)
		synctest.Wait()
		assert.Equal(t, []string{"manager", "outer", "inner"}, order)
		assert.Equal(t, 3, first, "queued, started, completed")
		assert.Equal(t, 3, second)

		info := q.Info()
		require.Len(t, info.Limits, 2)
		assert.Equal(t, RPM(7), info.Limits[0].Limit)
		require.Len(t, info.Endpoints[0].Shared, 2, "a set given twice counts once")
		assert.EqualValues(t, 1, organisation.Info()[0].Used)
		assert.EqualValues(t, 1, family.Info()[0].Used)
		require.Len(t, other.Info().Limits, 1)
		assert.Equal(t, RPM(1), other.Info().Limits[0].Limit)
		assert.Len(t, other.Info().Endpoints[0].Shared, 1)

		order = nil
		_, err = other.Do(t.Context(), 1)
		require.NoError(t, err)
		assert.Equal(t, []string{"manager"}, order)
		require.NoError(t, m.Shutdown(t.Context()))
	})
}

// Options are copied: a caller that reuses its slice changes no queue.
func TestOptionsAreCopied(t *testing.T) {
	limits := []Limit{RPM(3)}
	o := WithLimits(limits...)
	limits[0] = RPM(9)
	q := newQueue(t, echo, o)
	assert.Equal(t, RPM(3), q.Info().Limits[0].Limit)
	given := []Limit{RPM(4)}
	require.NoError(t, q.SetLimits(given...))
	given[0] = RPM(9)
	assert.Equal(t, RPM(4), q.Info().Limits[0].Limit)
}

// A restart does not exceed the limits: what an earlier process started counts.
func TestPriorUsageCountsAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var prior iter.Seq2[time.Time, Usage] = func(yield func(time.Time, Usage) bool) {
			_ = yield(begin.Add(time.Hour), Usage{}) && // the future counts as now
				yield(begin.Add(-20*time.Second), Usage{InputTokens: -5, OutputTokens: 30}) &&
				yield(begin.Add(-time.Hour), Usage{InputTokens: 1000}) &&
				yield(begin.Add(-50*time.Second), Usage{InputTokens: 60})
		}
		q, err := NewQueue("m", echo, WithLimits(RPM(3), TPM(100)), WithMargin(0), WithPriorUsage(prior))
		require.NoError(t, err)
		info := q.Info()
		assert.EqualValues(t, 3, info.Limits[0].Used)
		assert.EqualValues(t, 90, info.Limits[1].Used)
		for _, want := range []time.Duration{10 * time.Second, 40 * time.Second} {
			r, err := q.Submit(t.Context(), Request[int]{Estimate: Usage{InputTokens: 20}})
			require.NoError(t, err)
			assert.Equal(t, want, r.StartedAt.Sub(begin))
		}
		require.NoError(t, q.Shutdown(t.Context()))
	})
}

func TestRetryPolicyDefaults(t *testing.T) {
	p := RetryPolicy{}.withDefaults()
	assert.Equal(t, RetryPolicy{MaxAttempts: 5, BaseDelay: 500 * time.Millisecond, MaxDelay: time.Minute, Budget: 0.2}, p)
	assert.Equal(t, time.Hour, RetryPolicy{BaseDelay: time.Hour}.withDefaults().MaxDelay)
}

func TestMarks(t *testing.T) {
	base := errors.New("base")
	assert.NoError(t, Retryable(nil))
	assert.NoError(t, Permanent(nil))
	assert.Error(t, RateLimited(nil, 0))
	for _, err := range []error{Retryable(base), Permanent(base), RateLimited(base, 1)} {
		assert.ErrorIs(t, err, base)
		assert.EqualError(t, err, "base")
	}
	assert.Equal(t, OutcomeFatal, OutcomeOf(t.Context(), Permanent(RateLimited(base, 7))), "the outermost mark wins")
	assert.Equal(t, OutcomeRateLimited, OutcomeOf(t.Context(), RateLimited(Permanent(base), 7)))
	assert.Equal(t, OutcomeRetryable, OutcomeOf(t.Context(), errors.Join(errors.New("other"), Retryable(base))))
}

// Limits stand once in a list of options. Those of a later list replace an earlier one's.
func TestLimitsOncePerList(t *testing.T) {
	twice := []Option{WithLimits(RPM(1)), WithLimits(TPM(1))}
	m := newManager[int, int](t, twice...)
	_, err := m.Register("m", echo)
	require.ErrorIs(t, err, ErrInvalidConfiguration, "of the manager's two, one was dropped silently")
	assert.Contains(t, err.Error(), "WithLimits and then WithLimits")
	_, err = m.Register("m", echo, WithLimits(RPM(2)))
	require.ErrorIs(t, err, ErrInvalidConfiguration, "and so when the queue has limits of its own")

	m = newManager[int, int](t, WithLimits(RPM(1)))
	_, err = m.Register("m", echo, twice...)
	require.ErrorIs(t, err, ErrInvalidConfiguration)
	q, err := m.Register("own", echo, WithLimits(TPM(7)))
	require.NoError(t, err, "a queue's limits replace its manager's")
	assert.Equal(t, TPM(7), q.Info().Limits[0].Limit)
	_, err = m.Register("none", echo, WithUnlimited(), WithUnlimited())
	require.NoError(t, err, "nothing is lost by saying it twice")
	require.NoError(t, m.RegisterAll([]ModelConfig{{ModelID: "file", Limits: []Limit{RPM(9)}}}, echo, WithLimits(RPM(3))), "nor by a file's limits")
	info, err := m.Info("file")
	require.NoError(t, err)
	assert.Equal(t, RPM(9), info.Limits[0].Limit)

	require.ErrorIs(t, q.AddEndpoint("b", echo, twice...), ErrInvalidConfiguration)
	require.NoError(t, q.AddEndpoint("b", echo, WithLimits(RPM(1))))
}

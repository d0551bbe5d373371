package llmqueue

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// When nothing ever reports usage nothing is reserved after the first, and the log says
// so once.
func TestNoUsageIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		q := newQueue(t, sleeper, WithLimits(TPM(1000)), WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		for range 20 {
			post(t, q, Request[int]{Params: 1})
		}
		assert.Equal(t, 1, q.Info().Processing)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, 19, q.Info().Processing)
		require.NoError(t, q.Shutdown(t.Context()))
		assert.Equal(t, 1, strings.Count(log.String(), "\n"), log.String())
		assert.Contains(t, log.String(), "level=WARN")
		assert.Contains(t, log.String(), "ReportUsage")
	})
}

// What has an estimate is charged with that. That estimates alone hold the limits is said once,
// when enough calls were served to be sure, and not where anything reported.
func TestEstimatesAloneAreLoggedOnce(t *testing.T) {
	for name, c := range map[string]struct {
		requests int
		limits   Option
		process  Processor[int, int]
		then     Usage // the estimate of one request more
		said     string
	}{
		"few calls":                   {9, WithLimits(TPM(1000)), sleeper, in(10), ""},
		"enough calls":                {10, WithLimits(TPM(1000)), sleeper, in(10), "estimates alone"},
		"far more calls":              {50, WithLimits(TPM(1000)), sleeper, in(10), "estimates alone"},
		"one without an estimate":     {50, WithLimits(TPM(1000)), sleeper, Usage{}, "estimates alone"},
		"one without, before enough":  {5, WithLimits(TPM(1000)), sleeper, Usage{}, "without an estimate"},
		"no limit on tokens":          {50, WithLimits(RPM(1000)), sleeper, in(10), ""},
		"usage of the third":          {50, WithLimits(TPM(1000)), reportsOnly(3), in(10), ""},
		"calls that fail say nothing": {50, WithLimits(TPM(1000)), func(context.Context, Request[int]) (int, error) { return 0, errBoom }, in(10), ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				var told []error
				q := newQueue(t, c.process, c.limits, WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))),
					WithObserver(func(e Event) {
						if e.Type == EventNoUsage {
							told = append(told, e.Err)
						}
					}))
				for range c.requests - 1 {
					_, _ = q.Submit(t.Context(), Request[int]{Estimate: in(10)})
				}
				_, _ = q.Submit(t.Context(), Request[int]{Estimate: c.then})
				require.NoError(t, q.Shutdown(t.Context()))
				if c.said == "" {
					assert.Empty(t, told)
					assert.NotContains(t, log.String(), "token limits")
					return
				}
				require.Len(t, told, 1)
				assert.ErrorContains(t, told[0], c.said)
				assert.Equal(t, 1, strings.Count(log.String(), "ReportUsage"), log.String())
				assert.Contains(t, log.String(), c.said)
			})
		})
	}
}

// reportsOnly is a processor whose nth call alone reports what it used.
func reportsOnly(n int) Processor[int, int] {
	return func(ctx context.Context, _ Request[int]) (int, error) {
		if n--; n == 0 {
			ReportUsage(ctx, in(10))
		}
		return 0, nil
	}
}
